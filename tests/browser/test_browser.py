"""The page in a real browser: `make test-report` finds or installs Chromium, Playwright and axe.

Without them the tests skip; REPORT_TEST=required makes that a failure. Screenshots go to .browser/screenshots.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.records import read_lines
from benchmark.report.page.build import PAGE, page_of

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SCREENSHOTS = ROOT / ".browser" / "screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
FOLDER = "table2-paper-narrow"


def lacking(what: str) -> None:
    """Skip, or fail if the tests have to run."""
    if os.environ.get("REPORT_TEST") == "required":
        pytest.fail(f"Expected {what}, but found none; run make test-report.")
    pytest.skip(f"no {what}: make test-report")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        lacking("Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("Playwright")
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed results."""
    path: Path = tmp_path_factory.mktemp("report") / PAGE
    path.write_text(page_of(RESULTS), "utf-8")
    return path


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Open]:
    """options of a browser context -> the page in it; at the end nothing was asked from elsewhere, nothing failed."""
    contexts, faults, asked = [], [], []

    def call(fragment: str = "", *, strict: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        if strict:
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{file.as_uri()}{fragment}")
        return page

    yield call
    for context in contexts:
        context.close()
    assert faults == []
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} <= {file.as_uri()}


@pytest.fixture(scope="module")
def run_id() -> str:
    return read_lines(RESULTS / FOLDER / "records.jsonl")[-1].run_id


def test_a_probe_is_blocked_by_the_policy(opened: Open) -> None:
    page = opened(strict=False)
    blocked = page.evaluate("""async () => {
        const blocked = [];
        addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.probe = 1";
        const image = document.createElement("img");
        image.src = "http://127.0.0.1:9/probe.png";
        document.body.append(script, image);
        await fetch("http://127.0.0.1:9/probe").catch(() => 0);
        await new Promise((resolve) => setTimeout(resolve, 200));
        return [window.probe === undefined, ...blocked.sort()];
    }""")
    assert blocked == [True, "connect-src", "img-src", "script-src-elem"]


def test_a_table_is_sorted_by_mouse_and_by_keyboard(opened: Open) -> None:
    page = opened()
    region = page.locator(f'[role="region"][aria-label="{FOLDER}"]')
    head = region.locator("thead th", has_text="MIA")

    def column() -> list[float]:
        at = head.evaluate("(cell) => cell.cellIndex")
        texts = [row.split("\t") for row in region.locator("tbody tr").all_inner_texts()]
        cells = region.locator(f"tbody tr > :nth-child({at + 1})").all_inner_texts()
        assert len(texts) == len(cells)
        return [float(text.split()[0]) for text in cells]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    page.keyboard.press("Enter")  # the button has the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    region.locator("thead button").first.click()
    assert page.locator("[aria-sort]").count() == 1
    assert head.get_attribute("aria-sort") is None


def test_records_are_filtered_by_words_and_by_choice(opened: Open) -> None:
    page = opened()
    rows, shown = page.locator("#all tbody tr:visible"), page.get_by_role("status")
    form = page.locator("#filter")
    n = rows.count()
    form.get_by_label("Words").fill(f"SSD {FOLDER}")
    assert 0 < rows.count() < n
    assert all("SSD" in text and FOLDER in text for text in rows.all_inner_texts())
    assert shown.inner_text() == f"{rows.count()} of {n} records"
    form.get_by_label("Words").press("Enter")  # sends nothing
    form.get_by_label("Words").fill("")
    form.get_by_label("Folder").select_option(FOLDER)
    form.get_by_label("Method").select_option("UNSIR")
    assert shown.inner_text() == f"6 of {n} records"


def test_a_number_opens_the_dialog_of_its_record_again_and_again(opened: Open, run_id: str) -> None:
    page = opened()
    dialog = page.get_by_role("dialog")
    link = page.locator(f'article#{FOLDER} td a[href="#{FOLDER}--{run_id}"]').first
    for _ in range(2):
        before = page.evaluate("scrollY") if _ else None
        link.click()
        assert dialog.is_visible()
        assert f"Record {run_id}" in dialog.inner_text()
        assert dialog.evaluate("(element) => element.scrollTop") == 0
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert link.evaluate("(element) => element === document.activeElement")
        assert before in (None, page.evaluate("scrollY"))
    link.press("Enter")
    assert dialog.is_visible()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_the_dialog_shows_configuration_seeds_versions_device_and_commit(opened: Open, run_id: str) -> None:
    (record,) = [x for x in read_lines(RESULTS / FOLDER / "records.jsonl") if x.run_id == run_id]
    page = opened(f"#{FOLDER}--{run_id}")  # a link from elsewhere opens it
    text = page.get_by_role("dialog").inner_text()
    wanted = [record.provenance[name] for name in ("torch", "device", "commit")]
    seeds = "/".join(str(record.seeds[f"{name}_seed"]) for name in ("train", "split", "method"))
    wanted += ["original.checkpoint: best_test", f"train/split/method\n{seeds}", record.hyperparameters["_target_"]]
    assert [part for part in wanted if part not in text] == []
    page.evaluate("""(id) => { document.getElementById("record").close(); location.hash = id; }""", "s-speed")
    assert not page.get_by_role("dialog").is_visible()


def test_tab_goes_through_the_page_in_its_order(opened: Open) -> None:
    page = opened()
    places, names = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        place, name, visible = page.evaluate("""() => {
            const element = document.activeElement, box = element.getBoundingClientRect();
            const every = [...document.querySelectorAll("*")];
            return [every.indexOf(element), element.textContent, box.width > 0 && box.left >= 0];
        }""")
        assert visible, name
        places.append(place)
        names.append(name)
    assert names[:2] == ["Skip to the results", "Finding"]
    assert places == sorted(set(places))


def test_the_page_is_whole_without_javascript(opened: Open, run_id: str) -> None:
    page = opened(java_script_enabled=False)
    row = page.locator(f'[id="{FOLDER}--{run_id}"]')
    assert row.is_visible()
    row.locator("summary").click()
    assert "Finished" in row.inner_text()
    assert not page.locator("#filter").is_visible()
    assert page.locator("thead button").count() == 0
    assert "Ours beside the published numbers" in page.locator("main").inner_text()


def test_a_phone_needs_no_sideways_scrolling_and_tables_scroll_by_keyboard(opened: Open) -> None:
    page = opened(viewport=PHONE, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    region = page.locator(f'[role="region"][aria-label="{FOLDER}"]')
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(element) => element.scrollLeft > 0", arg=region.element_handle())
    page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_page_prints(opened: Open) -> None:
    printed = opened().pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert len(printed) > 100_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_violation(scheme: str, viewport: dict[str, int], opened: Open, run_id: str) -> None:
    axe = Path(os.environ.get("AXE") or ROOT / ".browser" / "axe.min.js")
    if not axe.is_file():
        lacking("axe-core")
    record = f"{FOLDER}--{run_id}"
    page = opened(color_scheme=scheme, viewport=viewport)

    def check(where: str = "html") -> None:
        found = page.evaluate("(where) => axe.run(where)", where)["violations"]
        assert [(x["id"], x["help"], [node["html"][:200] for node in x["nodes"][:3]]) for x in found] == []

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    name = f"{scheme}-{viewport['width']}"
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    for section in ("s-compared", "s-figures", "s-records"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.evaluate("(id) => document.getElementById(id).scrollIntoView()", section)
        page.screenshot(path=SCREENSHOTS / f"{name}-{section}.png")
    page.evaluate(axe.read_text("utf-8"))
    page.evaluate(
        """(kept) => document.querySelectorAll("tbody tr:nth-child(n + 7)").forEach((row) => {
        if (row.id !== kept) row.remove();  // rows of one table are alike, and axe takes minutes for all
    })""",
        record,
    )
    check()
    page.evaluate("(id) => { location.hash = id; }", record)
    page.get_by_role("dialog").wait_for()
    page.screenshot(path=SCREENSHOTS / f"{name}-dialog.png")
    check("dialog")
