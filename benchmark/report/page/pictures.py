"""Figures inside the page: SVG that only draws, else PNG."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
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
REFERENCE = re.compile(r"(?:url\(|^\s*)#([\w.-]+)")  # in the value of an attribute
FINE = re.compile(r"\d+\.\d{3,}")  # matplotlib writes millionths of a point


def png(path: Path, alt: str) -> Markup:
    """Return an image with its bytes inside."""
    data = b64encode(path.read_bytes()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, data)


def svg(path: Path, alt: str) -> Markup:
    """Return the file's drawing as an element: no script, no link to elsewhere, no inline style, ids of its own.

    What draws nothing is left out: names and groups without a use, space between elements, digits that nobody sees.

    Raises:
        ValueError: for a file that is no SVG.
    """
    try:
        root = ElementTree.fromstring(path.read_text("utf-8"))
    except ElementTree.ParseError as error:
        raise ValueError(f"Expected {path} to be SVG, but it is not ({error}); draw it again.") from error
    values = [value for element in root.iter() for value in element.attrib.values()]
    names = dict.fromkeys(name for value in values for name in REFERENCE.findall(value))
    clean(root, {name: f"{path.parent.name}-{path.stem}-{n}" for n, name in enumerate(names)})
    if width := re.fullmatch(r"([\d.]+)pt", root.attrib.pop("width", "")):
        root.set("width", f"{ENLARGED * float(width[1]):g}pt")
    root.attrib.pop("height", None)
    root.attrib |= {"role": "img", "aria-label": alt}
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def clean(element: ElementTree.Element, ids: Mapping[str, str]) -> None:
    """Keep what draws, style properties as attributes of the same names, and the ids that something refers to.

    Args:
        ids: their names in the file -> on the page.
    """
    children: list[ElementTree.Element] = []
    for child in list(element):
        if isinstance(child.tag, str) and (tag := child.tag.removeprefix(f"{{{SVG}}}")) in DRAWS:
            clean(child, ids)
            children += [*child] if tag == "g" and not child.attrib else [child]
    element[:] = children
    if element.tag.removeprefix(f"{{{SVG}}}") not in ("text", "tspan"):
        element.text = None
        for child in children:
            child.tail = None
    style = element.attrib.pop("style", "")
    found = dict(part.strip().split(":", 1) for part in style.split(";") if ":" in part)
    if font := FONT.fullmatch(found.pop("font", "").strip()):
        first, *others = font[2].split(", ")
        found |= {"font-size": font[1], "font-family": ", ".join([first, *others[-1:]])}
    kept = {}
    for name, value in {**found, **element.attrib}.items():
        name, value = name.strip().replace(XLINK, ""), value.strip()
        if (
            name.startswith(("on", "{"))
            or name in ("class", "style")
            or (name == "id" and value not in ids)
            or value.startswith("rotate(-0 ")
            or (name == "href" and not LOCAL.fullmatch(value))
        ):
            continue
        if name == "id":
            value = ids[value]
        elif name == "href" and value[0] == "#":
            value = f"#{ids[value[1:]]}"
        elif name != "href":
            value = re.sub(r"url\(#([\w.-]+)", lambda found: f"url(#{ids[found[1]]}", value)
            value = FINE.sub(lambda found: f"{float(found[0]):.{2 if float(found[0]) >= 1 else 4}f}", value)
        kept[name] = value
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
