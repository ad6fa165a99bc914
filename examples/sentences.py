"""Forget sentences that a classifier learnt: python examples/sentences.py, offline. Needs Hugging Face transformers."""

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from dampening import check, unlearn

JUDGING = ("good", "great", "fine", "bad", "poor", "awful")
WORDS = ("[PAD]", *JUDGING, "the", "a", "this", "film", "plot", "actor", "scene", "was", "is", "very")
Sentence = tuple[list[int], int]


def sentences(n: int) -> list[Sentence]:
    """Return word numbers and label of random sentences: one judging word among others decides."""
    drawn = [(torch.randint(7, len(WORDS), (int(torch.randint(2, 8, ())),)), i % 2) for i in range(n)]
    return [([int(torch.randint(1, 4, ())) + 3 * label, *words.tolist()], label) for words, label in drawn]


def collate(batch: list[Sentence]) -> dict[str, torch.Tensor]:
    """Return what a tokenizer and a data collator return: padded, with a mask."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(words) for words, _ in batch], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([y for _, y in batch])}


torch.manual_seed(0)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
model = BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), num_labels=2, **sizes))
train, unseen = sentences(256), sentences(64)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for batch in [batch for _ in range(5) for batch in DataLoader(train, 32, shuffle=True, collate_fn=collate)]:
    optimizer.zero_grad()
    model(**batch).loss.backward()
    optimizer.step()

whole, *parts = (DataLoader(part, 32, collate_fn=collate) for part in (train, train[:16], train[16:], unseen))
print(check(model, *parts))
print(unlearn(model, parts[0], whole, alpha=4.0))  # batches are the model's named inputs and `labels`
print(check(model, *parts))
