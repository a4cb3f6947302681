"""A command without a console, with a closed one or one that goes: the work is done, and nothing lands in its files."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from viscera.cli.batch_progress import BatchDisplay
from viscera.cli.console import Console, is_terminal, some_console
from viscera.cli.main import main

posix = pytest.mark.skipif(os.name != "posix", reason="descriptors are closed as a POSIX shell does")


def arguments(command: str, scan: Path, bundle: Path, folder: Path) -> list[str]:
    """Of `segment`, `batch` or `evaluate` (a scan's labels against themselves)."""
    if command == "evaluate":
        labels = folder / "reference.nii.gz"
        if not labels.exists():
            main(["segment", "-q", str(scan), "-o", str(labels), "--bundle", str(bundle), "--allow-empty"])
        return ["evaluate", str(labels), str(labels), "--csv", str(folder / "scores.csv")]
    out = folder / "labels" / "ct.nii.gz" if command == "segment" else folder / "labels"
    return [command, str(scan), "-o", str(out), "--bundle", str(bundle), "--allow-empty"]


def assert_done(command: str, folder: Path, scan: Path, bundle: Path) -> None:
    """The result is the one of a run with a console."""
    if command == "evaluate":
        assert (folder / "scores.csv").read_text(encoding="utf-8").startswith("case,")
        return
    expected = folder / "expected.nii.gz"
    main(["segment", "-q", str(scan), "-o", str(expected), "--bundle", str(bundle), "--allow-empty"])
    mine, theirs = (np.asarray(nib.load(file).dataobj) for file in (folder / "labels" / "ct.nii.gz", expected))
    np.testing.assert_array_equal(mine, theirs)


COMMANDS = pytest.mark.parametrize("command", ["segment", "batch", "evaluate"])


@posix
@COMMANDS
@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- >&- 2>&-", "2>&-"])
def test_with_descriptors_that_a_shell_has_closed(
    command: str, closed: str, tiny_scan: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    words = arguments(command, tiny_scan, tiny_bundle, tmp_path)
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "viscera", *words]
    done = subprocess.run(line, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0
    assert_done(command, tmp_path, tiny_scan, tiny_bundle)


@COMMANDS
@pytest.mark.parametrize(
    "gone",
    ["sys.stdout = sys.stderr = None", "sys.stdout.close(); sys.stderr.close()", "sys.stdout = sys.stderr = Bare()"],
    ids=["none", "closed", "a stand-in that can only write"],
)
def test_without_streams(command: str, gone: str, tiny_scan: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import os, sys
        from viscera.cli.main import main
        class Bare:
            def write(self, text): return len(text)
            def flush(self): pass
        if __name__ == "__main__":
            {gone}
            os._exit(main(sys.argv[1:]))
        """)
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    words = arguments(command, tiny_scan, tiny_bundle, tmp_path)
    done = subprocess.run([sys.executable, str(path), *words], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_done(command, tmp_path, tiny_scan, tiny_bundle)


@posix
def test_the_error_of_a_command_without_console_is_its_exit_code(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "viscera", "segment", str(tmp_path / "none.nii"), "-o", str(tmp_path / "out.nii")]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words], timeout=120, check=False)
    assert done.returncode == 1


@posix
def test_what_is_printed_without_console_lands_in_no_file(tmp_path: Path) -> None:
    """The file is opened first of all, when the descriptors of stdout and stderr would be the next free ones."""
    program = textwrap.dedent("""
        import os, sys
        from viscera.cli.console import some_console
        with some_console(), open(sys.argv[1], "wb") as file:
            file.write(b"labels")
            file.flush()
            os.write(1, b"a library's remark")
            os.write(2, b"a library's warning")
            print("a line")
        """)
    path = tmp_path / "labels.nii"
    line = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program, str(path)]
    assert subprocess.run(line, timeout=60, check=False).returncode == 0
    assert path.read_bytes() == b"labels"


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_results_that_cannot_be_printed_are_one_clear_line_and_the_work_is_done(
    tiny_scan: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "viscera", *arguments("batch", tiny_scan, tiny_bundle, tmp_path)]
    line = ["sh", "-c", 'exec "$@" > /dev/full', "sh", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("viscera: error: printing the results: expected a terminal or file")
    assert "Traceback" not in done.stderr
    assert_done("batch", tmp_path, tiny_scan, tiny_bundle)


class Gone(io.StringIO):
    """A terminal that is gone: it says that it is one, and takes nothing."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_goes_ends_neither_notes_nor_displays(monkeypatch: pytest.MonkeyPatch) -> None:
    from viscera.batch.scheduler import Tally

    monkeypatch.setattr("sys.stderr", Gone())
    monkeypatch.setenv("TERM", "xterm")
    console = Console()
    console.note("a remark")
    console.complain("a fault")
    console.stopped("interrupted")
    with BatchDisplay(console) as display:
        display.tick(Tally(["case", "other"]), {"worker": "case"})
    with console.progress() as progress:
        progress.begin("case: read")
        assert not progress.is_shown
    monkeypatch.setattr("sys.stdout", Gone())
    console.say("a result")
    assert console.lost is not None


def test_streams_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with some_console():
        print("a remark", file=sys.stderr)
        assert not is_terminal(sys.stderr)
    assert sys.stderr is None
    assert not is_terminal(None)
