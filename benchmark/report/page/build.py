"""results/ -> results/index.html: one file that needs no network; the same folders give the same bytes."""

import shlex
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.cli import counted
from benchmark.report.page import pictures, tables
from benchmark.report.page.folders import Folder, folders_of
from benchmark.report.page.markup import markdown, region, typeset
from benchmark.report.page.records import heads, rows_of
from benchmark.report.query import RESULTS, read_memory, write_files
from benchmark.report.typeset import Grid

PAGE, HERE = "index.html", Path(__file__).parent
MOST_BYTES = 3_500_000
MOST_ROWS = 500  # of a CSV file on the page; a longer one is a link
BEST_PROFILES = ("narrow", "full")  # the finding is the answer of the first that is there
SECTIONS = {
    "compared": "Ours beside the published numbers",
    "figures": "Figures",
    "claims": "Claims",
    "search": "Search",
    "requests": "Request sequence",
    "speed": "Speed",
    "tables": "More tables",
    "paper": "All published numbers",
}
FROM_NAMES = {  # folders whose name says how they are made: the word of the command, and the keys of the name's parts
    "claims": ("claims", "protocol", "profile"),
    "answer": ("", "answer", "experiment"),
    "distance": ("figure=distance", "protocol", "profile", "experiment"),
    "tradeoff": ("figure=tradeoff", "protocol", "profile", "experiment"),
}
GRIDS = {"compared": tables.compared, "tables": tables.plain, "requests": tables.requests}
ELSEWHERE = ("table.csv", "verdict.csv", "claims.csv", "answer.csv")  # CSV files that stand on the page in another form


@dataclass(frozen=True)
class Part:
    """A folder within a section: its grid and a note, its Markdown, its other CSV files (name, note, grid)."""

    folder: Folder
    note: str
    grid: Grid | None
    caption: Markup
    body: Markup
    csv: Sequence[tuple[str, str, Grid]]


@dataclass(frozen=True)
class Picture:
    """A figure; the page links to one without an image."""

    folder: Folder
    path: Path
    image: Markup

    @property
    def name(self) -> str:
        return f"{self.folder.name}/{self.path.name}"


def write_page() -> str:
    """Write the page and return one line about it."""
    page = page_of(RESULTS)
    write_files(RESULTS, {PAGE: page})
    return f"{RESULTS / PAGE}: {len(page.encode()) / 1000:.0f} kB, {counted(page.count('<tr id='), 'record')}"


def page_of(results: Path) -> str:
    """Return the page, with as many figures inside as fit; ValueError if it has MOST_BYTES or more without any."""
    folders = folders_of(results)
    paths = [(folder, path) for folder in folders for path in figures_of(folder)]
    values = content_of(folders)
    room = MOST_BYTES - len(render(values, [Picture(*found, Markup("")) for found in paths]).encode())
    if room <= 0:
        raise ValueError(
            f"Expected a page of less than {MOST_BYTES} bytes, but it has {MOST_BYTES - room} without figures; "
            f"take records out of {results} (drop=RUN_ID)."
        )
    shown = []
    for folder, path in paths:
        image = draw(folder, path)
        fits = len(image.encode()) < room
        room -= len(image.encode()) if fits else 0
        shown.append(Picture(folder, path, image if fits else Markup("")))
    return render(values, shown)


def content_of(folders: Sequence[Folder]) -> Mapping[str, object]:
    """Return all that the template shows but figures; sections without a folder are left out."""
    by_section = {name: [part_of(x) for x in folders if x.section == name] for name in ("answer", *SECTIONS)}
    found = tables.counts([part.folder for part in by_section["compared"]])
    rows, parts = rows_of(folders)
    return {
        "finding": finding(folders, tables.sentences(found)),
        "answers": by_section["answer"],
        "overview": tables.overview(found),
        "sections": [(name, title, by_section[name]) for name, title in SECTIONS.items()],
        "heads": heads(),
        "rows": rows,
        "parts": parts.listed(),
        "methods": sorted({row.cells[0] for row in rows}),
        "names": list(dict.fromkeys(row.cells[1] for row in rows)),
        "commands": [(folder.name, "\n".join(lines)) for folder in folders if (lines := commands_of(folder))],
    }


def render(values: Mapping[str, object], shown: Sequence[Picture]) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"typeset": typeset, "region": region}
    style, script = ((HERE / name).read_text("utf-8") for name in ("style.css", "page.js"))
    style += pictures.dark_rules([picture.path for picture in shown])
    policy = f"default-src 'none'; style-src {allowed(style)}; script-src {allowed(script)}; img-src data:"
    policy = Markup(f"{policy}; base-uri 'none'; form-action 'none'")
    inline = {"style": Markup(style), "script": Markup(script), "policy": policy, "pictures": shown}
    return environment.get_template("page.html").render(**values, **inline, most_rows=MOST_ROWS)


def allowed(text: str) -> str:
    """Return the hash by which the policy allows an inline style or script."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def finding(folders: Sequence[Folder], numbers: Sequence[str]) -> Markup:
    """Return the sentences of the best profile's answer, else how many of our numbers match the published ones."""
    answers = {folder.name: folder.text("sentences.md") for folder in folders}
    answer = next((text for profile in BEST_PROFILES if (text := answers.get(f"answer-{profile}"))), None)
    return markdown(answer or "".join(f"* {text}\n" for text in numbers) or "No table yet.", "Finding")


def part_of(folder: Folder) -> Part:
    """Return all that the page shows of a folder but its figures and records."""
    note, grid, caption = "", None, ""
    body = [without_title(path.read_text("utf-8"), folder.title) for path in folder.files(".md")]
    if folder.section in GRIDS:
        note, grid = tables.without_same(GRIDS[folder.section](folder))
        text, *notes = folder.text("table.md").split("\n\n")
        caption = folder.text("verdict.md").partition("\n\n")[0] or text.removesuffix("Bold: where a curve breaks.")
        body = [text] if folder.has("verdict.md") else []
        body += [note for note in notes if not note.lstrip().startswith("|")]
    elif folder.section == "answer":
        body = [without_title(folder.text("answer.md").replace(folder.text("sentences.md"), "", 1), folder.title)]
    csv = [(path.name, *tables.csv_grid(path)) for path in folder.files(".csv") if path.name not in ELSEWHERE]
    texts = (markdown(caption, folder.name), markdown("\n\n".join(body), folder.name, level=4))
    return Part(folder, note, grid, *texts, csv)


def without_title(text: str, title: str) -> str:
    """Return Markdown without the title, which stands above it already."""
    return text.removeprefix(f"# {title}\n").removeprefix(f"**{title}**\n\n")


def figures_of(folder: Folder) -> list[Path]:
    """Return each figure once, as SVG if there is one; that of the dark theme gives colours alone."""
    by_stem = {path.stem: path for ending in (".png", ".svg") for path in folder.files(ending)}
    return [path for stem, path in by_stem.items() if stem.removesuffix(pictures.DARK) not in by_stem.keys() - {stem}]


def draw(folder: Folder, path: Path) -> Markup:
    """Return the figure; its text for those who do not see it names the numbers behind it."""
    numbers = ", ".join(found.name for found in folder.files(".csv"))
    alt = f"{folder.title} ({path.stem})." + (f" The numbers are in {numbers} of {folder.name}." if numbers else "")
    return pictures.svg(path, alt) if path.suffix == ".svg" else pictures.png(path, alt)


def commands_of(folder: Folder) -> list[str]:
    """Return the commands that make a folder again."""
    kind, *names = folder.name.split("-", 3)
    if kind in FROM_NAMES:
        what, *keys = FROM_NAMES[kind]
        words = (f"{key}={name}" for key, name in zip(keys, names, strict=False))
        return [" ".join(["python -m benchmark.report", *filter(None, [what]), *words])]
    if not (memory := read_memory(folder.path)):
        return []
    kind, experiment, lines = memory["kind"], memory["experiment"], memory["overrides"]
    start, what = f"experiment={experiment}", kind if kind == "requests" else f"{kind}={experiment}"
    if kind == "sweep":
        start = what = "-m"
    return [
        *(shlex.join(["python", "-m", "benchmark.run", start, *line]) for line in lines),
        shlex.join(["python", "-m", "benchmark.report", what, *lines[0], f"out=results/{folder.name}"]),
    ]
