"""Figures inside the page: SVG that only draws, else PNG."""

import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup

DARK = "-dark"  # figure-dark.svg is figure.svg in the colours of the dark theme
ENLARGED = 1.6  # figures have the letters of a printed column
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}"
DRAWS = {"svg", "g", "defs", "path", "use", "text", "tspan", "rect", "circle", "ellipse", "line", "polyline", "polygon",
         "clipPath", "linearGradient", "radialGradient", "stop", "pattern", "image", "title", "desc"}  # fmt: skip
FONT = re.compile(r"(?:(?:normal|italic|oblique|bold|\d+)\s+)*([\d.]+(?:px|pt)?)\s+(.+)")
LOCAL = re.compile(r"#[\w.-]+|data:image/png;base64,[\w+/=\s]+")


def png(path: Path, alt: str) -> Markup:
    """Return an image with its bytes inside."""
    data = b64encode(path.read_bytes()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, data)


def svg(path: Path, alt: str) -> Markup:
    """Return the file's drawing as an element: no script, no link to elsewhere, no inline style, ids of its own.

    Raises:
        ValueError: for a file that is no SVG.
    """
    try:
        root = ElementTree.fromstring(path.read_text("utf-8"))
    except ElementTree.ParseError as error:
        raise ValueError(f"Expected {path} to be SVG, but it is not ({error}); draw it again.") from error
    clean(root, f"{path.parent.name}-{path.stem}-")
    has_links = any(element.tag == f"{{{SVG}}}a" for element in root.iter())
    if width := re.fullmatch(r"([\d.]+)pt", root.attrib.pop("width", "")):
        root.set("width", f"{ENLARGED * float(width[1]):g}pt")
    root.attrib.pop("height", None)
    root.attrib |= {"role": "group" if has_links else "img", "aria-label": alt}
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def clean(element: ElementTree.Element, prefix: str) -> None:
    """Keep what draws, style properties as attributes of the same names, and give ids a prefix."""
    for child in list(element):
        if isinstance(child.tag, str) and child.tag.removeprefix(f"{{{SVG}}}") in DRAWS:
            clean(child, prefix)
        else:
            element.remove(child)
    style = element.attrib.pop("style", "")
    found = dict(part.strip().split(":", 1) for part in style.split(";") if ":" in part)
    if font := FONT.fullmatch(found.pop("font", "").strip()):
        found |= {"font-size": font[1], "font-family": font[2]}
    kept = {}
    for name, value in {**found, **element.attrib}.items():
        name, value = name.strip().replace(XLINK, ""), value.strip()
        if (
            name.startswith(("on", "{"))
            or name in ("class", "style")
            or (name == "href" and not LOCAL.fullmatch(value))
        ):
            continue
        value = f"{prefix}{value}" if name == "id" else value.replace("url(#", f"url(#{prefix}")
        kept[name] = f"#{prefix}{value[1:]}" if name == "href" and value[0] == "#" else value
    element.attrib.clear()
    element.attrib |= kept


def dark_rules(paths: Sequence[Path]) -> str:
    """Return CSS that gives the figures the colours of their dark twins, if they have them.

    The selectors name no parent: what a <use> shows has none.
    """
    colours: dict[str, str] = {}
    for path in paths:
        twin = path.with_name(f"{path.stem}{DARK}{path.suffix}")
        if twin.is_file():
            pair = (COLOUR.findall(drawing.read_text("utf-8")) for drawing in (path, twin))
            colours |= {light: dark for light, dark in zip(*pair, strict=False) if light != dark}
    rules = [
        f'  [{part}="{light}"] {{ {part}: {dark}; }}\n'
        for light, dark in sorted(colours.items())
        for part in ("fill", "stroke")
    ]
    return f"@media screen and (prefers-color-scheme: dark) {{\n{''.join(rules)}}}\n" if rules else ""
