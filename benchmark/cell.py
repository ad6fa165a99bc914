"""One cell of a grid: a composed configuration, its names and all that decides its numbers; no torch, no data."""

import copy
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark import resolvers
from benchmark.files import content_hash
from benchmark.passwords import without_passwords
from benchmark.schema import ABSENT, PLAIN, Target, check_literals, is_absent
from benchmark.sources import leaves, sources_of
from datasets.files import file_sha256, same_name
from datasets.targets import first_targets, joined, read_request

FORMER = {
    "benchmark.search.objective.gap_objective": "benchmark.objective.mean_absolute_gap",
    "benchmark.search.objective.score_objective": "benchmark.objective.weighted_score",
    "datasets.batches.Augmentation": "datasets.loading.Augmentation",
}
PATHS = ("data_dir", "folder", "file")  # keys that say where data lies; the fingerprint identifies it
SEEDS = ("train_seed", "split_seed", "method_seed")
OPEN = {  # nodes that take any key, and keys that a node need not have
    "about", "classes", "derived", "fingerprint", "fingerprint_of", "metric", "protocol", "recipes", "requests",
    "strict", "subset", "switches", "targets", "untrained",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cell:
    """A composed configuration; everything else follows from it, on first use.

    Attributes:
        overrides: those that compose it, if it comes from a sweep; without passwords.

    Raises:
        ValueError: a value is missing, or one that its key cannot have.
    """

    config: DictConfig
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", tuple(map(without_passwords, self.overrides)))
        raw: Any = OmegaConf.to_container(self.config)
        values = dict(leaves(raw))
        if missing := [path for path, value in values.items() if value == "???"]:
            raise ValueError(f"Expected a value for {', '.join(missing)}, but got none; set it as key=value.")
        check_literals(raw)
        for path, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"Expected {path} to be a finite number, but got {value}.")
            if isinstance(value, str) and (at_home := resolvers.home(value)) != value:
                OmegaConf.update(self.config, path, at_home)

    @cached_property
    def contents(self) -> "Contents":
        """The configuration's values, resolved on first use."""
        return Contents(self.config)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Names for people: of data set, model, task, target, method, protocol, its switched option and profile."""
        config = self.config
        names = {part: str(config[part].name) for part in ("dataset", "model", "task", "protocol", "profile")}
        target = joined(self.targets or self.target)
        return names | {"ablation": str(config.switched), "target": target, "method": method_name(config)}

    @property
    def seeds(self) -> dict[str, int]:
        """The three seeds as integers; ValueError for something else than a whole number."""
        seeds = {name: resolvers.whole_number(name, self.config[name]) for name in reversed(SEEDS)}
        return {name: seeds[name] for name in SEEDS}

    @cached_property
    def target(self) -> Target:
        """The forgotten class by its name (`rocket`, not 69), or a whole number if the data set has no names.

        Several classes are a sorted list, so that their order does not matter.
        """
        return self._named(content(self.config.task.target))

    @cached_property
    def targets(self) -> list[Target] | None:
        """The targets of several forget requests, oldest first; None for a single one."""
        targets, n = (content(self.config.requests[name]) for name in ("targets", "n"))
        return None if targets is None else [self._named(target) for target in first_targets(targets, n)]

    def _named(self, target: Any) -> Target:
        """Return the one spelling of a target; an unknown one as it is, the split knows all that there are."""
        if isinstance(target, list):
            several: list[Any] = sorted(map(self._named, target), key=lambda name: (isinstance(name, str), name))
            return several[0] if len(several) == 1 else several
        text = same_name(str(target))
        level = self.config.task.get("level")
        names = named_classes(OmegaConf.select(self.config, f"dataset.classes.{level}"))
        if text in names or not text.isdecimal():
            return text
        return names[int(text)] if int(text) < len(names) else int(text)

    @cached_property
    def scientific(self) -> dict[str, Any]:
        """The part of the configuration that decides the numbers: no paths, labels, launcher or device."""
        config, plain = self.config, self.contents
        load = {name: value for name, value in without_about(plain(config.dataset.load)).items() if name not in PATHS}
        model = without_about(plain(config.model.build))
        if model.get("weights"):
            path = Path(model["weights"])
            model["weights"] = file_sha256(path) if path.is_file() else str(path)
        task = without_about(plain(config.task.split))
        if "target" in task or self.targets is not None:
            task["target"] = self.target if self.targets is None else self.targets
        if "file" in task:  # a request is what its file says, wherever that lies
            names = instantiate(config.dataset.get("files_of")) or ()
            task["file"] = content_hash(list(read_request(task["file"], names)))
        original = without_about(plain(config.original))
        if config.task.get("relabels"):  # it learns the labels that the task gives the forget set
            original["task"] = task
        scientific = {
            "dataset": load | plain(config.dataset.subset),
            "model": model,
            "preprocessing": plain(config.preprocessing),
            "original": original,
            "task": task,
            "method": without_about(plain(config.method)),
            "reference": without_about(plain(config.get("reference"))),
            "metric": {name: node for name, node in self.metrics.items() if self.metric_about[name]["named"]},
            **self.seeds,
        }
        if self.relearns:
            scientific["relearn"] = without_about(plain(config.relearn))
        recorded: dict[str, Any] = as_recorded(scientific)
        return recorded

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Every metric of the record as it is built; one with `named: false` is no part of the run's name.

        It follows from the same outputs, so that a metric can be added without giving finished runs another name.
        """
        metrics: dict[str, Any] = without_about(self.contents(self.config.metric))
        return metrics

    @cached_property
    def scientific_hash(self) -> str:
        return content_hash(self.scientific)

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the data: declared in the data set's YAML, else found in the files by its `fingerprint_of`."""
        dataset = self.config.dataset
        if dataset.get("fingerprint") is not None:
            return str(dataset.fingerprint)
        if dataset.get("fingerprint_of") is None:
            raise ValueError(
                f"Expected dataset.fingerprint or dataset.fingerprint_of in the YAML file of {dataset.name}, but got "
                f"neither; add one."
            )
        return str(instantiate(without_about(dataset.fingerprint_of)))

    @cached_property
    def run_id(self) -> str:
        """The name of the run: the same scientific configuration on the same data has the same name."""
        return content_hash([self.scientific_hash, self.fingerprint])

    @property
    def model_file(self) -> Path | None:
        """The file for the unlearned model; None without `save_model`."""
        file = self.config.save_model
        if file is not None and (Path(file).suffix != ".safetensors" or self.config.stage != "record"):
            raise ValueError(
                f"Expected save_model to be a file name that ends in .safetensors, and stage to be record, but got "
                f"{file} and {self.config.stage}."
            )
        return None if file is None else Path(file)

    def sibling(self, node: str) -> "Cell | None":
        """The cell that differs in nothing but its method, that of `baseline` or `reference`; None if there is none."""
        if self.config.get(node) is None:
            return None
        config = copy.deepcopy(self.config)
        config.method, config.save_model, config.force = config[node], None, False
        shared = [word for word in self.overrides if not re.match(r"\+*(method[=.]|save_model=)", word)]
        return Cell(config, (*shared, f"method={method_name(config)}"))

    @cached_property
    def other(self) -> "Cell | None":
        """The cell whose outputs stand for this one's: that of the method under the seeds that it calls `other`."""
        if self.config.method.get("other") is None:
            return None
        config, seeds = copy.deepcopy(self.config), self.seeds | content(self.config.method.other)
        with open_dict(config):
            del config.method["other"]
            config.update(seeds)
        return Cell(config)

    @property
    def record_path(self) -> Path:
        return Path(self.config.output_dir) / "records" / f"{self.run_id}.json"

    @property
    def margins_path(self) -> Path:
        """The file for the margins of the true label, beside the record."""
        return self.record_path.with_suffix(".safetensors")

    @cached_property
    def original_key(self) -> dict[str, Any]:
        """All that the original model depends on."""
        scientific = self.scientific
        return {name: scientific[name] for name in ("dataset", "model", "preprocessing", "original", "train_seed")} | {
            "data_fingerprint": self.fingerprint
        }

    @property
    def outputs_key(self) -> dict[str, Any]:
        """All that the outputs of the unlearned model depend on; of `other` seeds, if the method names them."""
        method = dict(self.scientific["method"])
        seeds = self.scientific | method.pop("other", {})
        return self._key_of(method, seeds)

    @property
    def reference_key(self) -> dict[str, Any]:
        """All that the outputs of the retrained model depend on."""
        return self._key_of(self.scientific["reference"], self.scientific)

    def _key_of(self, method: Any, seeds: Mapping[str, Any]) -> dict[str, Any]:
        original = self.original_key | {"train_seed": seeds["train_seed"]}
        task = self.scientific["task"]
        return {"original": content_hash(original), "task": task, "method": method, "method_seed": seeds["method_seed"]}

    @cached_property
    def original_code(self) -> dict[str, str]:
        """Hashes of the code behind the original model, see `sources_of`; its key names the files."""
        return sources_of({name: self.scientific[name] for name in ("dataset", "model", "original")}, files=False)

    @cached_property
    def outputs_code(self) -> dict[str, str]:
        """Hashes of the code and the files behind the outputs of the unlearned model."""
        return self._code_of("method")

    @cached_property
    def reference_code(self) -> dict[str, str]:
        """Hashes of the code and the files behind the outputs of the retrained model."""
        return self._code_of("reference")

    def _code_of(self, method: str) -> dict[str, str]:
        task = sources_of({"task": self.scientific["task"]})
        return self.original_code | task | sources_of({"method": self.scientific[method]}, own=True)

    @cached_property
    def code(self) -> dict[str, str]:
        """Hashes of all code and files behind the record: of the metrics and the models that they look at too."""
        retrained = self.reference_code if "retrained" in self.metric_needs else {}
        return self.outputs_code | retrained | sources_of(self.metrics, own=True)

    @property
    def is_reference(self) -> bool:
        """Whether this cell's method is the retrained model that the others are compared with."""
        return bool(self.scientific["method"] == self.scientific["reference"])

    @property
    def method_about(self) -> dict[str, Any]:
        """How tables show the method: `name`, `label`, `order` of its column (None: after the others), `ranked`."""
        name = method_name(self.config)
        about = content(self.config.method.get("about")) or {}
        return {"label": readable(name), "order": None, "ranked": True} | about | {"name": name}

    @cached_property
    def metric_about(self) -> dict[str, dict[str, Any]]:
        """How tables show each metric and derived column: `label`, `latex`, `order`, `unit`, `scale`, `needs`,
        `named`."""
        nodes = {name: content(node.get("about")) for name, node in self.config.metric.items()}
        return {
            str(name): {"label": name, "latex": (about or {}).get("label", name), "order": None, "unit": "", "scale": 1,
                        "needs": [], "named": True} | (about or {})
            for name, about in (nodes | content(self.config.table.derived)).items()
        }  # fmt: skip

    @property
    def metric_needs(self) -> set[str]:
        """The other models that the metrics look at: `retrained`, `untrained`."""
        about = self.metric_about
        return {need for name in self.config.metric for need in about[str(name)]["needs"]}

    @property
    def relearns(self) -> bool:
        """Whether the time to relearn the forget set is measured."""
        return self.config.get("relearn") is not None

    def __str__(self) -> str:
        return named(self.labels, self.seeds)


def named(labels: Mapping[str, str], seeds: Mapping[str, int]) -> str:
    """Return the short name of a cell or record; the random task, which is its own target, stands there once."""
    parts = dict.fromkeys(labels[part] for part in ("dataset", "model", "task", "target", "method"))
    return f"{' '.join(parts)} seed {seeds['method_seed']}"


def readable(name: str) -> str:
    """Return a label for something that its YAML file gives none.

    >>> readable("head_noise")
    'Head noise'
    """
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def with_name(method: DictConfig, name: str) -> DictConfig:
    """Write the name of a method's file into its node, where `method_name` finds it."""
    OmegaConf.update(method, "about.name", name, force_add=True)
    return method


def check_added(config: DictConfig, keys: Iterable[str]) -> None:
    """Raise OmegaConf's error for an added key (`+key=value`) that nothing reads.

    Whatever is built from a node with a `_target_` says itself which keys it takes.
    """
    for key in keys:
        parts = key.split(".")
        nodes = [OmegaConf.select(config, ".".join(parts[:n])) for n in range(1, len(parts))]
        if OPEN & set(parts) or any("_target_" in node for node in nodes if isinstance(node, DictConfig)):
            continue
        rest = copy.deepcopy(config)
        OmegaConf.set_struct(rest, False)
        for n in reversed(range(len(parts))):
            parent, name = OmegaConf.select(rest, ".".join(parts[:n])) if n else rest, parts[n]
            del parent[name]
            if len(parent):
                break  # else the key made this node too
        OmegaConf.set_struct(rest, True)
        _ = parent[name]


def method_name(config: DictConfig) -> str:
    """Return the method's name: that of its YAML file, see `with_name`, else of the module that `_target_` names."""
    name = OmegaConf.select(config, "method.about.name")
    return str(name or str(config.method._target_).split(".")[-2])


def named_classes(node: DictConfig | str | None) -> tuple[str, ...]:
    """Return the class names that `module.NAME` holds, or that a function finds in the data; none for None."""
    names: tuple[str, ...] = (get_object(node) if isinstance(node, str) else instantiate(node)) or ()
    return names


def content(node: Any) -> Any:
    """Return a configuration node as plain, resolved Python values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


class Contents:
    """`content` of several nodes of one configuration, in a third of the time; leave the values as they are.

    An interpolation is resolved once, and the plain forms `${node}` and `${option:name}` do without OmegaConf's parser.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.known: dict[str, Any] = {}  # by interpolation

    def __call__(self, node: Any) -> Any:
        return self._plain(OmegaConf.to_container(node), node) if OmegaConf.is_config(node) else node

    def _plain(self, raw: Any, node: Any) -> Any:
        """Return the content of `node`, whose values stand in `raw`, not yet resolved."""
        if isinstance(raw, dict):
            return {key: self.item(item, node, key) for key, item in raw.items()}
        return [self.item(item, node, i) for i, item in enumerate(raw)]

    def item(self, raw: Any, node: Any, key: Any) -> Any:
        """Return the value `key` of a node, `raw` as it stands."""
        if isinstance(raw, dict | list):
            return self._plain(raw, node[key])
        if not isinstance(raw, str) or "${" not in raw:
            return raw
        if "${." in raw:  # relative to its place
            return self(node[key])
        if raw not in self.known:
            resolver, name = form.groups() if (form := PLAIN.fullmatch(raw)) else (None, None)
            if name is None:
                found = node[key]
            elif resolver is None:
                found = OmegaConf.select(self.config, name, default=ABSENT)
            else:
                found = getattr(resolvers, resolver)(name, _root_=self.config)
            self.known[raw] = self(node[key] if found is ABSENT else found)
        return self.known[raw]


def without_about(node: Any) -> Any:
    """Return a node as plain values, as it is built: presentation and absent options left out."""
    value = content(node)
    if isinstance(value, dict):
        return {k: without_about(item) for k, item in value.items() if k != "about" and not is_absent(k, item)}
    return [without_about(item) for item in value] if isinstance(value, list) else value


def as_recorded(value: Any) -> Any:
    """Return `value` with moved code under the names by which finished runs know it."""
    if isinstance(value, dict):
        return {name: as_recorded(item) for name, item in value.items()}
    return FORMER.get(value, value) if isinstance(value, str) else value
