"""Read the page back by the standard library's parser, as no part of the suite wrote it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

EMPTY = {"meta", "img", "input", "br", "path", "use", "rect", "circle", "line", "stop", "image", "polyline", "polygon"}


@dataclass
class Table:
    """A table: the label of its region, the article or section around it, and the text of its cells."""

    label: str
    article: str
    rows: list[list[str]] = field(default_factory=list)

    @property
    def body(self) -> list[dict[str, str]]:
        """One dictionary per row, by the words of the head."""
        return [dict(zip(self.rows[0], row, strict=True)) for row in self.rows[1:]]


class PageReader(HTMLParser):
    """The ids, links, scripts, text and tables of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.policy = ""
        self.styled: list[str] = []
        self.text: list[str] = []
        self.tables: list[Table] = []
        self.label = self.article = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.styled += [tag] if "style" in found else []
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag in self.inline:
            self.inline[tag].append("")
        if tag == "article":
            self.article = found["id"]
        if found.get("role") == "region":
            self.label = found["aria-label"]
        if tag == "table":
            self.tables.append(Table(self.label, self.article))
        if tag in ("tr", "td", "th"):
            self.end_implied("td", "th", *(["tr"] if tag == "tr" else []))
        if tag == "tr":
            self.tables[-1].rows.append([])
        if tag in ("td", "th"):
            self.tables[-1].rows[-1].append("")
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def end_implied(self, *tags: str) -> None:
        """Close elements whose end tag HTML lets out."""
        while self.open and self.open[-1] in tags:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        self.end_implied(*{"details": ["p"], "tbody": ["td", "th", "tr"], "tr": ["td", "th"]}.get(tag, []))
        if tag not in EMPTY:
            assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes another element"
        if tag == "article":
            self.article = ""

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        if where in self.inline:
            self.inline[where][-1] += data
            return
        if "pre" not in self.open and "code" not in self.open:
            self.text.append(data)
        if {"td", "th"} & {*self.open} and "details" not in self.open[self.open.index("tr") :]:
            self.tables[-1].rows[-1][-1] += data
