"""Text -> HTML, all of it escaped: symbols, Markdown, links to records, verdicts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from benchmark.report.style import SYMBOL
from benchmark.report.typeset import VERDICTS

LINK = Markup('<a href="#{}">{}</a>')


def typeset(text: str) -> Markup:
    """Return text as HTML, `D_f` with a subscript; HTML stays as it is.

    >>> typeset("D_f < 5")
    Markup('D<sub>f</sub> &lt; 5')
    """
    return text if isinstance(text, Markup) else Markup(SYMBOL.sub(r"\1<sub>\2</sub>", str(escape(text))))


def anchor(folder: str, run_id: str) -> str:
    """Return the id of a record on the page: one run may stand in two folders."""
    return f"{folder}--{run_id}"


def run_link(folder: str, run_id: str, text: str) -> Markup:
    return LINK.format(anchor(folder, run_id), typeset(text))


def badge(verdict: str) -> Markup:
    """Return a verdict as glyph and word; nothing for none."""
    if not verdict:
        return Markup("")
    mark = Markup('<span class="verdict {0}"><span aria-hidden="true">{1}</span> {0}</span>')
    return mark.format(verdict, VERDICTS[verdict][0] if verdict in VERDICTS else "")


def markdown(text: str, label: str, *, level: int = 3) -> Markup:
    """Return Markdown as HTML without inline styles; raw HTML shows as text.

    Args:
        label: names the regions in which tables scroll, with a number.
        level: of the text's first headings on the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("text", text_rule)
    parser.add_render_rule("code_inline", code_rule)
    parser.add_render_rule("image", lambda *_: "")  # pictures stand under Figures
    tokens = parser.parse(text)
    levels = [int(token.tag[1]) for token in tokens if token.type == "heading_open"]
    shift, tables = level - min(levels, default=level), 0
    for at, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
        elif token.type in ("th_open", "td_open"):
            if str(token.attrs.pop("style", "")).endswith("right"):  # the policy forbids inline styles
                token.attrs["class"] = "r"
            if token.type == "th_open" and not tokens[at + 1].content:
                token.tag = tokens[at + 2].tag = "td"  # a head without a word is none
        elif token.type == "table_open":
            tables += 1
            token.attrs["data-region"] = f"{label}, table {tables}"
    parser.add_render_rule("table_open", table_rule)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def text_rule(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: Any) -> str:
    return str(typeset(tokens[index].content))


def code_rule(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: Any) -> str:
    return str(Markup("<code>{}</code>").format(tokens[index].content))


def table_rule(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: Any) -> str:
    return f"{region(str(tokens[index].attrs['data-region']))}<table>\n"


def region(label: str) -> Markup:
    """Return the opening of an element that scrolls by itself, by keyboard too."""
    return Markup('<div class="scroll" role="region" tabindex="0" aria-label="{}">').format(label)


def lines(values: Mapping[str, object]) -> str:
    """Return `name: value` lines; names that start with an underscore but `_target_` go."""
    shown = {name: value for name, value in values.items() if not re.search(r"(^|\.)_(?!target_$)", name)}
    return "\n".join(f"{name}: {value}" for name, value in shown.items())
