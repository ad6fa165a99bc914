"""The values that a configuration may have: of plain keys they stand here, of others in the signatures of the code."""

import re
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from itertools import chain
from typing import Annotated, Any, Literal

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datasets.values import check_value, hints

UNKNOWN = object()
ABSENT = "absent"  # the value of an option that the run does not have
TEXTS = ("target", "name", "file", "folder")  # options whose value is a user's own word, `absent` too
PLAIN = re.compile(r"\$\{(?:(option|recipe_row|whole):)?([a-z_][\w.]*)\}")  # interpolations, alike wherever they stand
Text = Annotated[str, "[1, inf)"]
Whole = Annotated[int, "[1, inf)"]
Positive = Annotated[float, "(0, inf)"]
NotNegative = Annotated[float, "[0, inf)"]
Share = Annotated[float, "(0, 1)"]
Mean, Std = tuple[float, float, float], tuple[Positive, Positive, Positive]
Absent = Literal["absent"]
Class = str | int
Target = Class | list[Class]
Optimizer = Literal["sgd", "adam", "adamw"]
Checkpoint, Averaging = Literal["last", "best_test"], Literal["per_sample", "per_batch"]
ImportanceOrder = Literal["class_sorted", "retain_shuffled", "shuffled"]
Resolve = Callable[[Any, Any, Any], Any]  # (raw value, node, key) -> the value; see `benchmark.cell.Contents`
Option = tuple[str, Any, Any]  # key, value, annotation
SeedValue = int | float | str  # `whole_number` says which, of a budget `seconds_of`

BESIDE = ("about", "other")  # keys of a node that are no option of what it builds
ABOUT = {"label": Text, "latex": Text, "order": float | None, "unit": str, "scale": Positive, "needs": list[Text],
         "decimals": Annotated[int, "[0, inf)"], "ranked": bool, "named": bool, "retain_batch_size": Whole}  # fmt: skip
TRAINING = {"optimizer": Optimizer, "lr": Positive, "weight_decay": NotNegative}
REQUESTS = {"targets": list[Target] | None, "n": str | int | None}
PROTOCOL = {
    "name": Text, "mean": Mean | None, "std": Std | None, "checkpoint": Checkpoint, "train_seed": SeedValue,
    "forget_n": Whole, "accuracy": Averaging, "accuracy_order": Literal["data", "by_class", "absent"],
    "pins_split": Literal["none", "stratified"], "pins_crop": Literal["augmented", "resized"],
    "search_held_out": Share | None,
    "importance": {"reduction": Literal["per_sample", "batch_mean"], "order": ImportanceOrder,
                   "requests": Literal["kept", "refreshed"]},
    "retrain": {"reset": Literal["all", "head"]},
    "bad_teacher": {"incompetent": Literal["all", "head"]},
    "unsir": {"noise_images": Whole, "noise_mode": Literal["train", "eval"], "stale_gradient": bool | Absent},
    "vit": {**TRAINING, "linear_init": bool | Absent, "layer_norm_eps": Positive | Absent},
}  # fmt: skip
KEYS: dict[str, Any] = {  # a mapping for a node, * for any name; what a `_target_` builds is checked by its signature
    "method_seed": SeedValue, "split_seed": SeedValue, "train_seed": SeedValue,
    "plugins": list[Text], "budget": SeedValue | None,
    "data_dir": Text, "output_dir": Text, "stage": Literal["original", "retrained", "outputs", "record"],
    "force": bool, "reuse": bool, "save_model": Text | None, "switched": Text, "switches": {"*": str},
    "original": {"checkpoint": Checkpoint},
    "preprocessing": {"mean": Mean | None, "std": Std | None, "size": Whole | None},
    "table": {"title": Text, "metrics": list[Text], "pool_targets": bool, "first_block": bool, "note": Text | None,
              "ensemble": list[Literal["rmia", "ulira", "klom"]], "rmia_a": Annotated[float, "[0, 1]"],
              "breaks_below": Positive | None, "derived": {"*": ABOUT}},
    "protocol": PROTOCOL, "strict": PROTOCOL,
    "profile": {"name": Text, "rows": Text, "train_images": Whole | None, "test_images": Whole | None,
                "models": Text, "seeds": str | int, "retrained": Text},
    "dataset": {
        "name": Text, "rows": Text, "label": Text, "fingerprint": Text | None, "root": Text, "file": Text,
        "mean": Mean | None, "std": Std | None,
        "subset": {"train_images": Whole | None, "test_images": Whole | None, "seed": int, "held_out": Share | None,
                   "validation": Share | None},
        "recipes": {"*": {"epochs": Whole, "milestones": list[Whole]}},
        "targets": {"*": Target}, "requests": {"class": REQUESTS, "subclass": REQUESTS},
        "sizes_of": {"*": {"stored": Whole | Absent, "crop": Whole | Absent, "input": Whole | None}},
        "judged": Text, "judged_on": {"*": Text},
    },
    "model": {"name": Text, "rows": Text, "timm_name": Text, "image_size": Whole | None, "mean": Mean | None,
              "std": Std | None, "training": TRAINING, "pretrained": bool, "weights": Text | None,
              "eval_batch_size": Whole, "untrained": {"pretrained": bool, "weights": Text | None}},
    "task": {"name": Text, "target": Target, "level": Literal["class", "subclass"] | None, "labels": Text,
             "requests": REQUESTS, "batch_size": Whole, "importance_order": ImportanceOrder,
             "accuracy_order": Literal["data", "by_class", "absent"], "n": Whole, "pool": Whole | Absent, "file": Text,
             "relabels": bool},
    "method": {"about": ABOUT, "other": {"method_seed": SeedValue, "train_seed": SeedValue}},
    "reference": {"about": ABOUT}, "baseline": {"about": ABOUT},
    "metric": {"*": {"about": ABOUT}},
    "relearn": {"margin": Share, "every": Whole},
    "requests": {"name": Text, "targets": list[Target] | None, "n": Whole | None},
    "compute": {"device": Text, "precision": Literal["float32", "bfloat16"], "channels_last": bool, "tf32": bool,
                "compile": bool | Literal["auto"], "fused": bool | Literal["auto"],
                "eval_batch_size": Whole | None, "threads": Whole | None,
                "progress_seconds": NotNegative | None},
    "search": {"name": Text, "n_trials": Whole, "seed": Annotated[int, "[0, 4294967295]"], "seeds": Whole,
               "storage": Text | None, "held_out": Share | None, "max_failures": Whole,
               "objective": {"name": Text, "direction": Literal["minimize", "maximize"], "needs_reference": bool,
                             "metrics": list[Text]}},
}  # fmt: skip


def check_literals(raw: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that its key cannot have, as far as that needs no import: plain keys, as they stand.

    Args:
        raw: plain values; interpolations are left out.
    """
    for name, value, kind in known(raw, raw, KEYS, "", lambda item, node, key: item):
        if not (isinstance(value, str) and "${" in value):
            check_value(name, value, kind)


def check(config: DictConfig, resolve: Resolve) -> None:
    """Raise ValueError for a value of a configuration that its key cannot have, in one line with the key."""
    for name, value, kind in options(config, resolve):
        check_value(name, value, kind)
    mean, std = config.preprocessing.mean, config.preprocessing.std
    if (mean is None) != (std is None):
        raise ValueError(f"Expected preprocessing.mean and preprocessing.std together, but got {mean} and {std}.")
    if (n := config.requests.n) is not None and config.requests.targets is None:
        raise ValueError(f"Expected requests.n with targets, but got {n} and no targets; add requests=sequence.")
    if (weights := config.model.get("weights")) is not None and not config.model.get("pretrained", True):
        raise ValueError(f"Expected model.pretrained=true beside model.weights={weights}, but got false.")


def options(config: DictConfig, resolve: Resolve) -> Iterator[Option]:
    """Yield every value that is checked, resolved, under the key by which a user sets it.

    Raises:
        ValueError: a function or a class that a node builds has no such option, or lacks one.
    """
    raw: Any = OmegaConf.to_container(config)

    def attempt(item: Any, node: Any, key: Any) -> Any:
        try:
            return resolve(item, node, key)
        except OmegaConfBaseException:  # of a value that it rests on, or of a node that this run does not use
            return UNKNOWN

    for key, value, kind in chain(known(raw, config, KEYS, "", attempt), called(raw, config, "", attempt)):
        if value is not UNKNOWN:
            yield source(key, raw), value, kind


def known(raw: Any, node: Any, schema: Mapping[str, Any], path: str, resolve: Resolve) -> Iterator[Option]:
    """Yield the values below a node that `schema` knows, under the keys where they stand."""
    for key, item in raw.items():
        kind, name = schema.get(key, schema.get("*")), f"{path}{key}"
        if kind is None:
            continue
        if not isinstance(kind, Mapping):
            yield name, resolve(item, node, key), kind
        elif isinstance(item, Mapping):
            yield from known(item, node[key], kind, f"{name}.", resolve)
        elif not (item is None or (isinstance(item, str) and "${" in item)):
            raise ValueError(f"Expected {name} to be a mapping of {', '.join(kind)}, but got {item!r}.")


def called(raw: Any, node: Any, path: str, resolve: Resolve) -> Iterator[Option]:
    """Yield the options of every function and class that a node below `raw` builds, under the keys where they stand."""
    for key, item in raw.items() if isinstance(raw, dict) else enumerate(raw):
        if isinstance(item, dict | list) and f"{path}{key}" != "figure":  # another command draws that
            yield from called(item, node[key], f"{path}{key}.", resolve)
    if not isinstance(raw, dict) or "_target_" not in raw:
        return
    target = get_method(raw["_target_"])
    parameters = signature(target).parameters
    kinds = hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    names = [name for name, one in parameters.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    given = {key: resolve(raw[key], node, key) for key in raw if not key.startswith("_") and key not in BESIDE}
    given = {key: value for key, value in given.items() if not is_absent(key, value)}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    if unknown := [key for key in given if key not in names and not takes_any]:
        raise ValueError(
            f"Expected an option of {path}_target_, but got {path}{unknown[0]}; it has {', '.join(names)}."
        )
    needed = [name for name in names if (one := parameters[name]).kind is one.KEYWORD_ONLY and one.default is one.empty]
    if lacking := [name for name in needed if name not in given]:
        raise ValueError(f"Expected a value for {path}{lacking[0]}, but got none; set it as key=value.")
    yield from ((f"{path}{key}", value, kinds[key]) for key, value in given.items() if key in kinds)


def is_absent(key: str, value: Any) -> bool:
    """Return whether a value says that the run does not have the option `key`."""
    return bool(value == ABSENT) and key not in TEXTS


def source(key: str, raw: Mapping[str, Any]) -> str:
    """Return the key that a user sets to change the value of `key`: the one that its interpolation names, if any."""
    value: Any = raw
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    found = PLAIN.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[1] == "recipe_row":
        return key
    return source(f"protocol.{found[2]}" if found[1] == "option" else found[2], raw)
