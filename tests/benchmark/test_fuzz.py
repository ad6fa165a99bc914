"""Random valid configurations on the digits: each ends in a record, or in the reason why there is none."""

import random
from collections import Counter

import pytest
from command_line import make_cells
from omegaconf import OmegaConf

from benchmark.compose import choices
from benchmark.records import RunRecord
from benchmark.run import run_cell

N = 200
SWITCHES = ("none", "normalisation", "checkpoint", "train_seed", "accuracy", "retrain_reset", "retrain", "unsir_noise",
            "importance_order", "importance_reduction", "unsir_gradient", "bad_teacher")  # fmt: skip


def recipe(draw: random.Random, node: str) -> list[str]:
    return [
        f"{node}.epochs={draw.randint(1, 2)}", f"{node}.lr={10 ** draw.uniform(-4, -2):.3g}",
        f"{node}.batch_size={draw.choice([5, 16, 64])}", f"{node}.optimizer={draw.choice(['sgd', 'adam', 'adamw'])}",
        f"{node}.weight_decay={draw.choice([0, 0.0005])}", f"{node}.momentum={draw.choice([0, 0.9])}",
        f"{node}.milestones={draw.choice([[], [1], [2]])}", f"{node}.warmup_epochs={draw.randint(0, 1)}",
    ]  # fmt: skip


def values(draw: random.Random, method: str) -> list[str]:
    """Return words for the method's own options."""
    match method:
        case "ssd":
            words = [f"alpha={10 ** draw.uniform(-1, 2):.3g}", f"lam={10 ** draw.uniform(-1, 1):.3g}"]
            words += [f"reduction={draw.choice(['per_sample', 'batch_mean'])}", f"batch_size={draw.choice([7, 64])}"]
        case "fisher":
            words = [f"tolerance={draw.choice([0, 0.001, 0.3])}", f"batch_size={draw.choice([9, 256])}"]
            words += [f"scale={10 ** draw.uniform(-9, -5):.3g}", f"forget_rows={draw.choice(['true', 'false'])}"]
        case "unsir":
            words = [f"noise_steps={draw.randint(0, 2)}", f"repetitions={draw.randint(1, 3)}", "noise_batch=32"]
            words += [f"samples_per_class={draw.randint(1, 5)}", f"noise_penalty={draw.choice([0, 0.1])}"]
        case "bad_teacher":
            words = [f"retain_fraction={draw.choice([0, 0.3, 1])}", f"temperature={draw.choice([0.5, 1, 4])}"]
        case _:
            words = []
    nodes = {"amnesiac": ["recipe"], "finetune": ["recipe"], "bad_teacher": ["recipe"], "unsir": ["impair", "repair"]}
    inner = [word for node in nodes.get(method, []) for word in recipe(draw, node)]
    return [f"method.{word}" for word in (*words, *inner)]


def configuration(draw: random.Random) -> list[str]:
    task, method = draw.choice(["class", "subclass", "random", "confusion"]), draw.choice(choices("method"))
    targets = {"class": draw.randrange(5), "subclass": draw.randrange(20), "confusion": draw.sample(range(20), 2)}
    target = targets.get(task, "random")
    words = [
        f"task={task}", f"task.target={target}", f"method={method}", *values(draw, method),
        f"protocol={draw.choice(choices('protocol'))}", f"switched={draw.choice(SWITCHES)}",
        f"method_seed={draw.randrange(3)}", f"split_seed={draw.randrange(3)}", f"train_seed={draw.randrange(2)}",
        f"profile={draw.choice(['full', 'quick'])}", f"compute.channels_last={draw.choice(['true', 'false'])}",
        f"dataset.augmentation={draw.choice(['null', '{padding: 2, flip: true}'])}",
        f"preprocessing.size={draw.choice(['null', '16'])}", f"dataset.subset.train_images={draw.choice([60, 100])}",
        f"compute.eval_batch_size={draw.choice(['null', '7'])}",
        *{"random": ["task.n=9"], "confusion": ["task.n=1"]}.get(task, []),
        *(["+dataset.subset.validation=0.34"] if method == "scrub_r" else []),
        *(["relearn=steps", "relearn.recipe.epochs=2", "relearn.every=1"] if draw.random() < 0.1 else []),
    ]  # fmt: skip
    if task in ("class", "subclass") and draw.random() < 0.2:
        targets = draw.sample(range(20), 2)
        words += ["requests=sequence", f"requests.targets={targets}"]
    elif task == "class" and draw.random() < 0.2:
        words[1] = f"task.target={draw.sample(range(20), 3)}"
    if draw.random() < 0.2:
        words += ["~method@reference"]
    return words


@pytest.mark.slow
def test_random_valid_configurations_end_in_a_record_or_a_reason(tmp_path):
    base = ["dataset.subset.test_images=30", "model.width=2", "recipe.epochs=1", "compute.progress_seconds=null"]
    ends = Counter()
    for seed in range(N):
        words = configuration(random.Random(seed))
        (cell,) = make_cells(tmp_path, *words, base=base)
        record = run_cell(cell)
        assert isinstance(record, RunRecord), words
        assert record.skipped or record.metrics["retain_accuracy"] is not None, words
        assert cell.record_path.is_file()
        ends["skipped" if record.skipped else str(OmegaConf.select(cell.config, "method.about.name"))] += 1
    assert sum(ends.values()) == N
    assert ends.keys() >= {*choices("method")}
