"""Forget photos that a timm model was trained on: python examples/photos.py TRAIN FORGET UNSEEN CHECKPOINT [MODEL]

TRAIN and UNSEEN hold a folder of photos per class, FORGET is a text file with one path below TRAIN per line. Needs `pip
install .` and the packages timm and torchvision.
"""

import sys
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from dampening import check, unlearn


def main(train: str, forget: str, unseen: str, checkpoint: str, name: str = "resnet18") -> None:
    photos, others = ImageFolder(train), ImageFolder(unseen)
    if photos.classes != others.classes:
        raise SystemExit(f"Expected the classes {photos.classes} in {unseen}, but got {others.classes}.")
    model = timm.create_model(name, num_classes=len(photos.classes), checkpoint_path=checkpoint)
    photos.transform = others.transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    listed = {Path(train, line) for line in Path(forget).read_text().splitlines() if line}
    is_listed = torch.tensor([Path(path) in listed for path, _ in photos.samples])
    if is_listed.sum() != len(listed):
        raise SystemExit(f"Expected {len(listed)} photos of {forget} in {train}, but got {int(is_listed.sum())}.")
    forget_set, retain_set = (Subset(photos, part.nonzero().flatten().tolist()) for part in (is_listed, ~is_listed))
    whole, *parts = (DataLoader(part, batch_size=64) for part in (photos, forget_set, retain_set, others))

    print(check(model, *parts))
    print(unlearn(model, parts[0], whole))  # α by ASSD's rule
    print(check(model, *parts))
    torch.save(model.state_dict(), f"{checkpoint}.unlearned")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (5, 6) else sys.exit(__doc__)
