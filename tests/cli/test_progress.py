"""The progress display: what stands on a terminal, and that the terminal is left as it was."""

import io
from collections.abc import Callable

import pytest

from viscera.cli.console import Console
from viscera.cli.progress import Progress


class Terminal(io.StringIO):
    """Keeps what is written to it, and says it is a terminal; `lost` after so many writes."""

    lost_after = 10**9

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.lost_after -= 1
        if self.lost_after < 0:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_it_names_the_stage_its_share_and_the_time(terminal: Terminal, screen: Callable[[str], list[str]]) -> None:
    now = iter([100.0, 173.0, *[173.0] * 9])
    with Progress(shown=True, stream=terminal, clock=lambda: next(now)) as progress:
        progress.reach(3, of=8)
        progress.begin("case7: crop")
        (row,) = screen(terminal.getvalue())
        assert row.endswith(" 38 %  1:13  case7: crop")
        assert row.startswith("━" * 9)
    assert set(screen(terminal.getvalue())) == {""}


def test_long_names_are_cut_at_the_terminals_edge(terminal: Terminal, screen: Callable[[str], list[str]]) -> None:
    with Progress(shown=True, stream=terminal) as progress:
        progress.begin("x" * 100)
        (row,) = screen(terminal.getvalue())
    assert len(row) == 60
    assert row.endswith("x…")


def test_a_line_printed_meanwhile_stands_alone(terminal: Terminal, screen: Callable[[str], list[str]]) -> None:
    with Progress(shown=True, stream=terminal) as progress:
        progress.show("a", "worker 1", "worker 2", now=True)
        progress.pause()
        terminal.write("a result\n")
        progress.show("b", "worker 1", "worker 2", now=True)
        assert screen(terminal.getvalue()) == ["a result", "b", "worker 1", "worker 2"]
    assert [row for row in screen(terminal.getvalue()) if row] == ["a result"]


@pytest.mark.parametrize("writes", [0, 1, 3, 10])
def test_a_terminal_that_goes_is_no_error(writes: int, terminal: Terminal) -> None:
    terminal.lost_after = writes
    with Progress(shown=True, stream=terminal) as progress:
        for step in range(20):
            progress.begin(f"case {step}")
            progress.reach(step, of=20)
            progress.pause()
        assert not progress.is_shown


def test_nothing_is_drawn_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress() as progress:
        progress.begin("case7: crop")
        progress.reach(3, of=8)
        progress.show("line", now=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("term", "quiet", "shown"), [("xterm", False, True), ("dumb", False, False), ("xterm", True, False)]
)
def test_it_is_shown_on_a_terminal_that_can(
    term: str, quiet: bool, shown: bool, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", terminal)
    assert Console(quiet=quiet).progress().is_shown == shown
