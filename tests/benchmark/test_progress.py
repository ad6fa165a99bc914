"""The line about a long step."""

import io
from contextlib import nullcontext

import pytest
from rich.console import Console
from rich.text import Text

from benchmark import progress as module
from benchmark.progress import progress


@pytest.fixture
def _clock(monkeypatch):
    clock = iter([0.0, 4.0, 12.0, 16.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))


@pytest.mark.usefixtures("_clock")
def test_a_pipe_gets_a_line_every_ten_seconds(caplog):
    caplog.set_level("INFO")
    with progress("epochs of x", 10) as report:
        for epoch in (5, 6, 7):  # continued after epoch 4: two epochs in 12 s, four more to go
            report(epoch)
    assert caplog.messages == ["  epochs of x: 6 of 10, 24 s left"]


def test_a_terminal_gets_one_line_that_goes_again(monkeypatch, caplog):
    caplog.set_level("INFO")
    for seconds, says in ((0.0, True), (3600.0, False)):
        screen = io.StringIO()
        monkeypatch.setattr(module, "SECONDS", seconds)
        monkeypatch.setattr(module, "Console", lambda stderr, screen=screen: Console(file=screen, force_terminal=True))
        with pytest.raises(KeyboardInterrupt) if says else nullcontext(), progress("epochs of x", 2) as report:
            report(1)
            if says:
                raise KeyboardInterrupt
        shown = screen.getvalue()
        assert ("epochs of x" in shown) == says
        assert not says or shown.endswith("\x1b[2K")  # the line is cleared, the cursor shown
        assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")
    assert caplog.messages == []


def test_a_terminal_shows_how_far_the_grid_is_below_the_step(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr(module, "grid", module.Grid(8, 48, "about 2 h 20 min left"))
    with progress("epochs of x", 2) as report:
        report(1)
    step, cells, *_ = screen.getvalue().splitlines()
    assert "epochs of x" in step
    assert "8/48 about 2 h 20 min left" in Text.from_ansi(cells).plain
