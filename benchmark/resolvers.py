"""The resolvers `${name:…}` of the configuration files; a process that reads a configuration needs them."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

PARTS = ("dataset", "model", "task", "profile", "requests")  # whose names choose a row


def option(name: str, *, _root_: DictConfig) -> Any:
    """Return an option of the protocol, or of `strict`, or as a row says, if the row that `switched` names has it.

    Raises:
        ValueError: there is no such row of `switches`, or the protocol has no such option.
    """
    rows, switched = _root_.switches, str(_root_.switched)
    if switched not in rows:
        raise ValueError(f"Expected switched to be one of {', '.join(map(str, rows))}, but got {switched!r}.")
    values = dict(word.partition("=")[::2] for word in str(rows[switched]).split())
    if values.get(name):
        return yaml.safe_load(values[name])  # false is no word
    protocol = _root_.strict if name in values else _root_.protocol
    value = OmegaConf.select(protocol, name, default=option)
    if value is option:
        raise ValueError(f"Expected an option {name} in the YAML file of protocol={protocol.name}; add it.")
    return value


def choose(table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """Return the value of the last row that fits the run; see `fitting`."""
    key = fitting(table, _root_)
    if key is None:
        raise ValueError(f"Expected a row that fits {sorted(words(_root_))}, but there are {', '.join(table)}.")
    return table[key]


def recipe_row(name: str, *, _root_: DictConfig) -> Any:
    """Return epochs, milestones or augmentation of the original's recipe from the data set's row for this run.

    A row without milestones has none, one without augmentation has the data set's.
    """
    rows = _root_.dataset.get("recipes") or {}
    key = fitting(rows, _root_)
    if key is not None and name in rows[key]:
        return rows[key][name]
    if name == "epochs":
        data, model, profile = (_root_[part].name for part in ("dataset", "model", "profile"))
        raise ValueError(
            f"Expected a recipe for dataset={data}, model={model}, profile={profile}, but {data} has rows for "
            f"{', '.join(map(str, rows)) or 'none'}; set recipe.epochs=… or recipe=…, or add a row."
        )
    return _root_.dataset.get("augmentation") if name == "augmentation" else []


def fitting(table: Mapping[str, Any] | DictConfig, root: DictConfig) -> str | None:
    """Return the last key of `table` that is `default` or whose words, joined by +, all name parts of the run."""
    known = {"default"} | words(root)
    return next((key for key in reversed(list(table)) if set(str(key).split("+")) <= known), None)


def words(root: DictConfig) -> set[str]:
    """Return the names of data set, model, task, profile and requests; `rows` stands for a variant's own name."""
    parts = [root[part] for part in PARTS if root.get(part) is not None]
    return {str(part.get("rows") or part.get("name")) for part in parts}


def one_later(epochs: ListConfig) -> ListConfig:
    """Return milestones one epoch later."""
    return OmegaConf.create([epoch + 1 for epoch in epochs])


def other_seed(name: str, *, _root_: DictConfig) -> int:
    """Return the seed `name` of the run that differs in its method seed, by the one before it; of 0 it is 1.

    So the other runs of several seeds are among them.
    """
    own = whole("method_seed", _root_=_root_)
    config = copy.deepcopy(_root_)
    OmegaConf.update(config, "method_seed", own - 1 if own else 1)
    return whole(name, _root_=config)


def stem(path: str) -> str:
    """Return the last part of a path without its suffix: the name of a folder or a file of the user's."""
    return Path(home(path)).resolve().stem


def home(path: str) -> str:
    """Return a path, or the URL of a file, with the user's home folder for `~`.

    >>> home("~/faces") == str(Path.home() / "faces"), home("sqlite:///x.db")
    (True, 'sqlite:///x.db')
    """
    return re.sub(r"^((?:\w+:///)?)~(?=/|$)", lambda found: f"{found[1]}{Path.home()}", path)


def data_folder(path: str) -> str:
    """Return the path of the data with the user's home folder for `~`; ValueError if it is empty."""
    if not path:
        raise ValueError("Expected $UNLEARN_DATA_DIR to name a folder, but it is empty; unset it, or set data_dir=….")
    return home(path)


def whole(name: str, *, _root_: DictConfig) -> int:
    """Return a number of the configuration as an integer: 1, 1.0 and "1" are the same; see `whole_number`."""
    return whole_number(name, OmegaConf.select(_root_, name))


def whole_number(name: str, value: object) -> int:
    """Return `value` as an integer.

    >>> whole_number("seed", "1"), whole_number("seed", 1.0)
    (1, 1)

    Raises:
        ValueError: it is no whole number.
    """
    try:
        return int(str(value).removesuffix(".0"))
    except ValueError as error:
        raise ValueError(f"Expected {name} to be a whole number, but got {value!r}.") from error


for resolver in (option, choose, recipe_row, one_later, other_seed, stem, home, data_folder, whole):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
