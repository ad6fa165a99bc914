"""What the models of all seeds tell together: offline RMIA, U-LiRA and KLOM, from the margins beside the records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from benchmark.records import RunRecord, read_lines
from benchmark.report import attacks
from benchmark.report.query import RECORDS, Query
from benchmark.report.statistics import half_width
from benchmark.report.table import columns_of, different, references
from benchmark.report.typeset import BLOCK, HEADS, KEY, Grid, by, escape, span, ways

MARGINS = "margins.safetensors"
RETAINED = 500  # images of the training set whose margins a folder keeps, evenly spaced
Tensors = Mapping[str, np.ndarray]
Seeds = tuple[tuple[str, int], ...]  # by name
Number = tuple[float, float, float]  # with the ends of its interval; NaN: not defined
UNDEFINED: Number = (np.nan, np.nan, np.nan)
HEAD = {"rmia_auc": "RMIA", "rmia_tpr": "RMIA TPR", "ulira_accuracy": "U-LiRA", "ulira_tpr": "U-LiRA TPR",
        "klom_forget": "KLOM D_f", "klom_retain": "KLOM D_r", "klom_test": "KLOM test"}  # fmt: skip
HOW = {
    "rmia": "RMIA: AUC of D_f against unseen images in percent, mean over the models with its 95 % t-interval; "
    "references are the other retrained models that lack the image, a = {a:g} unless the head says another. Ideal: the "
    "retrained model's.",
    "ulira": "U-LiRA: accuracy in percent of telling the method's models from retrained ones by the margin of a "
    "forgotten image, with Gaussians per image (below T = 32 one variance for all) that leave the two out, and a 95 % "
    "bootstrap interval over models. Ideal: 50.",
    "klom": "KLOM: KL divergence of the margins over the models, in nats, mean and 95th percentile over images. Ideal: "
    "that of another retrained model, since few models alone give more than 0.",
}
TPR = "TPR: at 1 % FPR, ideal 1 for U-LiRA."
LACKING = (
    "Not defined here: {}. A TPR needs 1000 unseen images, or images times models; U-LiRA 16 models of different "
    "train seeds; KLOM 50 models per image."
)


@dataclass(frozen=True)
class Ensemble:
    """The margins of one method's models, a row per record; see `attacks` for the arrays."""

    records: Sequence[RunRecord]
    kept: Sequence[Tensors]

    @property
    def seeds(self) -> list[Seeds]:
        return [tuple(sorted(record.seeds.items())) for record in self.records]

    @cached_property
    def forget(self) -> np.ndarray:
        """Of D_f, a column per image of the training set."""
        sizes = self.records[0].sizes
        margins = np.full((len(self.kept), sizes["forget_train"] + sizes["retain_train"]), np.nan)
        for row, x in zip(margins, self.kept, strict=True):
            row[x["rows"]] = x["forget_train"]
        return margins

    @property
    def retain(self) -> np.ndarray:
        return self.part("retain_train")

    @property
    def test(self) -> np.ndarray:
        names = ["retain_test", *(["forget_test"] if "forget_test" in self.kept[0] else [])]
        return np.concatenate([self.part(name) for name in names], axis=1)

    @property
    def unseen(self) -> np.ndarray:
        """Of test images of D_f's distribution: those of the forgotten classes; all, if D_f has none of its own."""
        return self.part("forget_test" if "forget_test" in self.kept[0] else "retain_test")

    def part(self, name: str) -> np.ndarray:
        return np.array([x[name] for x in self.kept], dtype=float)

    def shares(self, other: Self) -> bool:
        """Return whether a model is among those of `other`, with the same margins on the same D_f."""
        ours, theirs = ({x["forget_train"].tobytes() for x in ensemble.kept} for ensemble in (self, other))
        return not ours.isdisjoint(theirs)

    def of(self, seeds: Sequence[Seeds]) -> np.ndarray:
        """Return `forget` of these seeds, in their order."""
        return self.forget[[self.seeds.index(seed) for seed in seeds]]


def ensemble_files(query: Query) -> dict[str, str | bytes]:
    """Return ensemble.csv, .md, .tex, and the margins that all follow from, as the folder keeps them."""
    from safetensors.numpy import save

    kept = margins_of(query)
    values = make_values(query, kept)
    text, title = caption(query, values), f"{query.title}: all seeds together"
    return {
        "ensemble.csv": values.to_csv(index=False, float_format="%.4f"),
        "ensemble.md": f"**{title}.** {text}\n\n{to_grid(values, query).markdown()}",
        "ensemble.tex": to_grid(values, query, latex=True).latex(title, text),
        MARGINS: save({f"{run_id}/{name}": x for run_id, part in sorted(kept.items()) for name, x in part.items()}),
    }


def margins_of(query: Query) -> dict[str, Tensors]:
    """Return the margins of each run that has some, by run id: those that its folder keeps, else those of the run."""
    from safetensors.numpy import load_file

    committed = {record.run_id: record for record in read_lines(query.folder / RECORDS)}
    stored, runs = query.folder / MARGINS, Path(query.options.config.output_dir) / "records"
    known: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in load_file(stored).items() if stored.exists() else ():
        run_id, _, part = name.partition("/")
        known.setdefault(run_id, {})[part] = tensor
    found: dict[str, Tensors] = {}
    for record in query.records:
        if record.skipped is not None:
            continue
        path = runs / f"{record.run_id}.safetensors"
        if record.run_id in known and committed.get(record.run_id) == record:
            found[record.run_id] = known[record.run_id]
        elif path.exists() and "rows" in (margins := load_file(path)):
            found[record.run_id] = reduced(margins, record)
        else:
            raise ValueError(
                f"Expected the margins of run {record.run_id} in {stored} or {path}, but there are none; run it again "
                f"with force=true, or set table.ensemble=[]."
            )
    return found


def reduced(margins: Tensors, record: RunRecord) -> dict[str, np.ndarray]:
    """Return what a folder keeps of a run's margins, in half precision.

    Of `retain_train` those at `RETAINED` places of the training set: NaN for a forgotten image or one without a margin.
    """
    n, total = len(margins["retain_train"]), record.sizes["forget_train"] + record.sizes["retain_train"]
    places = np.delete(np.arange(total), margins["rows"])
    retain = np.full(total, np.nan)
    retain[places[np.arange(n) * len(places) // n]] = margins["retain_train"]
    if total > RETAINED:
        retain = retain[np.arange(RETAINED) * total // RETAINED]
    found = {**margins, "retain_train": retain}
    if np.array_equal(margins["forget_test"], margins["forget_train"]):  # D_f is measured on itself
        del found["forget_test"]
    return {name: x.astype(np.int32 if name == "rows" else np.float16) for name, x in found.items()}


def make_values(query: Query, kept: Mapping[str, Tensors]) -> pd.DataFrame:
    """Return one row per block, method and number: `value` with the ends of its interval, and how many models.

    Shares in percent, KLOM in nats; NaN if it is not defined, as all is without retrained models.
    """
    options = query.options.config.table
    blocks: dict[tuple[str, ...], dict[str, Ensemble]] = {}
    for (*block, method), places in columns_of(query).items():
        records = [x.record for x in places if x.record is not None and x.record.run_id in kept]
        if records:
            models = different(records)
            ensemble = Ensemble(models, [kept[record.run_id] for record in models])
            blocks.setdefault(tuple(block), {})[method] = ensemble
    rows: list[list[object]] = []
    for key, methods in blocks.items():
        for goal in references(query) & methods.keys():
            for method, ensemble in methods.items():
                itself = ensemble.shares(methods[goal])
                found = numbers(ensemble, methods[goal], options.ensemble, options.rmia_a, itself=itself)
                rows += [[*key, method, name, *number, len(ensemble.records)] for name, number in found.items()]
    return pd.DataFrame(rows, columns=[*KEY, "value", "low", "high", "models"])


def numbers(
    models: Ensemble, retrained: Ensemble, shown: Sequence[str], a: float, *, itself: bool
) -> dict[str, Number]:
    """Return each number of one method with its interval, by name.

    Args:
        itself: some of these are the retrained models: they are not compared with themselves.
    """
    found: dict[str, Number] = {}
    used = np.isfinite(retrained.forget).any(axis=0)
    if "rmia" in shown:
        has_unseen = all(record.metrics.get("auc", 0) is not None for record in models.records)
        sides = models.forget[:, used], models.unseen, retrained.forget[:, used], retrained.unseen
        for value in dict.fromkeys((a, 0.0, 1.0)):
            pairs = attacks.rmia(*sides, value) if has_unseen else []
            for n, name in enumerate(("auc", "tpr")):
                series = pd.Series([100 * x for pair in pairs if (x := pair[n]) is not None], dtype=float)
                mean, half = float(series.mean()), half_width(series)
                found[f"rmia_{name}_{value:g}"] = mean, mean - half, mean + half
    if "ulira" in shown:
        seeds = [seed for seed in models.seeds if seed in retrained.seeds]
        trained = {dict(seed)["train_seed"] for seed in seeds}
        fair = not itself and len(trained) == len(seeds)  # models of one original are not independent
        scores = attacks.ulira(models.of(seeds)[:, used], retrained.of(seeds)[:, used]) if fair else {}
        for name in ("accuracy", "tpr"):
            mean, low, high = scores.get(name) or UNDEFINED
            found[f"ulira_{name}"] = 100 * mean, 100 * low, 100 * high
    if "klom" in shown:
        for part in ("forget", "retain", "test"):
            pair = getattr(models, part), getattr(retrained, part)
            distances = np.array([]) if itself else attacks.klom(*pair)
            ends = (distances.mean(), np.percentile(distances, 95)) if len(distances) else (np.nan, np.nan)
            found |= {f"klom_{part}": (ends[0], np.nan, np.nan), f"klom_{part}_95": (ends[1], np.nan, np.nan)}
    return found


def caption(query: Query, values: pd.DataFrame) -> str:
    """Return protocol, sizes, the number of models, the device, how each number is made, and what is not defined."""
    records, names, options = query.records, query.options.labels, query.options.config.table
    forgotten, images = (
        span([sum(record.sizes[name] for name in part) for record in records], 0)
        for part in (["forget_train"], ["forget_train", "retain_train"])
    )
    pool = query.options.config.task.get("pool", "absent")
    drawn = "" if pool == "absent" else f" from a pool of {pool}, others under each seed"
    n_defined = values.groupby("metric", sort=False)["value"].count()
    lacking = dict.fromkeys(HEAD[kind_of(name)] for name in n_defined.index[n_defined == 0])
    parts = [
        f"Protocol {names['protocol']}, profile {names['profile']}. {forgotten} of {images} training images forgotten"
        f"{drawn}; T = {span(values['models'].tolist() or [0], 0)} models of a method, one per seed.",
        f"Device and training precision: {ways((x.device, x.provenance['precision']) for x in records)}.",
        *(HOW[name].format(a=options.rmia_a) for name in options.ensemble if n_defined.filter(like=name).any()),
        *([TPR] if n_defined.filter(like="tpr").any() else []),
        *([LACKING.format(", ".join(lacking))] if lacking else []),
    ]
    return " ".join(parts)


def kind_of(name: str) -> str:
    """Return the number without its a or percentile, one of `HEAD`."""
    return next(kind for kind in HEAD if name.startswith(kind))


def head_of(name: str, a: float) -> str:
    """Return the head of a column.

    >>> head_of("rmia_auc_1", 0.3), head_of("rmia_auc_0.3", 0.3), head_of("klom_forget_95", 0.3)
    ('RMIA, a = 1', 'RMIA', 'KLOM D_f 95 %')
    """
    kind = kind_of(name)
    rest = name.removeprefix(kind).removeprefix("_")
    more = "" if rest in ("", f"{a:g}") else f" {rest} %" if kind.startswith("klom") else f", a = {rest}"
    return f"{HEAD[kind]}{more}"


def to_grid(values: pd.DataFrame, query: Query, *, latex: bool = False) -> Grid:
    """Return a row per block and method, a column per number that is defined somewhere."""
    text, a = escape if latex else str, float(query.options.config.table.rmia_a)
    defined = values.dropna(subset="value")
    metrics = [name for name in dict.fromkeys(values["metric"]) if name in set(defined["metric"])]
    shown = [name for name in BLOCK if values[name].nunique() > 1]
    rows: list[list[str]] = []
    opens = set()
    for _, block in values.groupby(BLOCK, sort=False):
        opens.add(len(rows))
        found = by(block, "method", "metric")
        for method in query.about.sorted_methods(block["method"]):
            names = [str(block[name].iloc[0]) for name in shown]
            cells = [printed(found[method, name]) for name in metrics]
            rows.append([text(x) for x in (*names, query.about.method(method).label, *cells)])
    heads = [*(HEADS[name] for name in (*shown, "method")), *(head_of(name, a) for name in metrics)]
    align = "l" * (len(shown) + 1) + "r" * len(metrics)
    return Grid([text(head) for head in heads], rows, align, frozenset(opens if len(opens) > 1 else ()))


def printed(row: Mapping[str, float]) -> str:
    """Return a number with its interval, nothing if it is not defined."""
    if np.isnan(row["value"]):
        return ""
    digits = 2 if str(row["metric"]).startswith("klom") else 1
    ends = "" if np.isnan(row["low"]) else f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return f"{row['value']:.{digits}f}{ends}"
