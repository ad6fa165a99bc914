"""Every record as a row; what many records share (configuration, versions, device) stands once, by a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from benchmark.records import RunRecord, flatten
from benchmark.report.about import ABOUT
from benchmark.report.page.folders import Folder
from benchmark.report.page.markup import LINK, anchor, lines, run_link, typeset
from benchmark.report.table import COMPARED, measured

LABELS = {"dataset": "Data set", "model": "Model", "task": "Task", "target": "Target", "protocol": "Protocol",
          "profile": "Profile", "ablation": "Switched"}  # fmt: skip
METRICS = (*COMPARED, "gap", "seconds")
SEEDS = ("train_seed", "split_seed", "method_seed")
APART = {"task", "metric", "method", *SEEDS}  # parts of the configuration that stand elsewhere


@dataclass(frozen=True)
class Row:
    """A record on the page: its id there, the cells, the facts in its dialog."""

    anchor: str
    link: Markup
    facts: Markup
    cells: Sequence[Markup]


class Parts:
    """Texts that several records share, each with a number and an id."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, Markup], int] = {}

    def link(self, kind: str, values: Mapping[str, Any]) -> Markup:
        """Return a link to the text of `values`."""
        return self.link_to(kind, text_of(lines(flatten(values))))

    def link_to(self, kind: str, content: Markup) -> Markup:
        """Return a link to `content`, which may hold links to other parts."""
        number = self.numbers.setdefault((kind, content), 1 + len(self.numbers))
        return LINK.format(f"p{number}", kind)

    def listed(self) -> list[tuple[int, str, Markup]]:
        """Return (number, kind, text), the kinds one after the other."""
        found = [(number, kind, text) for (kind, text), number in self.numbers.items()]
        return sorted(found, key=lambda part: (part[1], part[0]))


def heads() -> list[str]:
    """Return the heads of the table of records; the metrics' columns stand last."""
    metrics = [ABOUT.metric(name).label for name in METRICS]
    return ["Run", "Method", "Folder", *LABELS.values(), "Seeds: train/split/method", *metrics]


def rows_of(folders: Sequence[Folder]) -> tuple[list[Row], Parts]:
    """Return all records, folder by folder, and the parts that they share."""
    parts = Parts()
    return [row_of(folder.name, record, parts) for folder in folders for record in folder.records], parts


def row_of(folder: str, record: RunRecord, parts: Parts) -> Row:
    seeds = "/".join(str(record.seeds.get(name, "")) for name in SEEDS)
    labels = {**record.labels, "target": short(record.labels["target"])}
    names = [ABOUT.method(labels["method"]).label, folder, *(labels.get(x, "") for x in LABELS), seeds]
    numbers = [printed_metric(record, name) for name in METRICS]
    link = run_link(folder, record.run_id, record.run_id)
    cells = [typeset(text) for text in (*names, *numbers)]
    return Row(anchor(folder, record.run_id), link, facts(record, parts), cells)


def short(target: str) -> str:
    """Return a target; of more than three together the number and the newest.

    >>> short("rocket"), short("a+b+c+d")
    ('rocket', '4, last d')
    """
    names = target.split("+")
    return target if len(names) <= 3 else f"{len(names)}, last {names[-1]}"


def printed_metric(record: RunRecord, name: str) -> str:
    value = measured(record, name, ABOUT.metric(name).scale)
    return "" if value is None else f"{value:.{ABOUT.metric(name).decimals}f}"


def facts(record: RunRecord, parts: Parts) -> Markup:
    """Return what the cells do not show: other metrics, times, and links to the shared parts."""
    others = {name: printed_metric(record, name) for name in record.metrics if name not in METRICS}
    shown = [f"{ABOUT.metric(name).label} {text}" for name, text in others.items() if text and "." not in name]
    whole, provenance = record.scientific or {}, dict(record.provenance)
    finished = provenance.pop("finished", "unknown")
    request = {"task": whole["task"]} if "task" in whole else {}
    common = [parts.link("environment", provenance)]  # one setting stands for hundreds of records
    if whole:
        common.append(parts.link("metrics", {"metric": whole["metric"]}))
        common.append(parts.link("options", {name: value for name, value in whole.items() if name not in APART}))
    links = [
        parts.link("method", {"label": record.labels["method"], **record.hyperparameters}),
        parts.link("original", record.original),
        parts.link("data", {"fingerprint": record.data_fingerprint, **record.sizes, **request}),
        parts.link_to("setting", Markup(" ").join(common)),
    ]
    texts = {
        "Not run": record.skipped,
        "Other metrics": ", ".join(shown),
        "Seconds": ", ".join(f"{name} {seconds:.4g}" for name, seconds in record.seconds.items() if seconds),
        "Finished": str(finished)[:16].replace("T", " "),
    }
    items = [Markup("<b>{}</b> {}. ").format(name, typeset(text)) for name, text in texts.items() if text]
    return Markup("").join([*items, Markup("<b>Configuration</b> "), Markup(" ").join(links)])


def text_of(part: str) -> Markup:
    """Return the text of a part; quotes need no escape inside an element, and there are many."""
    return Markup(str(escape(part)).replace("&#34;", '"').replace("&#39;", "'"))
