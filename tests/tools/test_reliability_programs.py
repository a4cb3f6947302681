"""The programs of tools/reliability, a few inputs, cases and kills of each; and that they see what goes wrong."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "tools" / "reliability"
MODULES = ("fuzz", "soak", "mutations", "seeds", "tables", "watching")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and open files are read from /proc")


def ran(name: str, *argv: object) -> "subprocess.CompletedProcess[str]":
    """A program of the folder, run to its end."""
    command = [sys.executable, str(FOLDER / name), *map(str, argv)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=environment)


def rows(out: str) -> list[list[str]]:
    """The cells of a printed table below its head."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_damaged_inputs() -> None:
    pytest.importorskip("SimpleITK")
    done = ran("fuzz.py", "--inputs", 200, "--seed", 7)
    assert done.returncode == 0, done.stdout + done.stderr
    total = rows(done.stdout)[-1]
    assert (total[0], total[1], total[4]) == ("all", "200", "0")


def test_hostile_inputs() -> None:
    pytest.importorskip("SimpleITK")
    done = ran("hostile.py", "--only", "claims")  # all take minutes
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row[-1] for row in rows(done.stdout)] == ["as it should"] * 3


def test_many_cases_in_one_process(tiny_bundle: Path) -> None:
    done = ran("soak.py", "--cases", 15, "--bundle", tiny_bundle)
    assert done.stderr == ""
    ((cases, _, _, _, slope, files, _),) = rows(done.stdout)
    # So few cases tell nothing of the slope: caches still fill, and the exit code with them.
    assert cases == "15"
    assert re.fullmatch(r"[+-]\d+\.\d ± \d+\.\d KiB", slope)
    first, last = map(int, files.split(" to "))
    assert last <= first


@pytest.mark.parametrize("verb", ["segment", "batch"])
def test_kills(verb: str, tiny_bundle: Path) -> None:
    done = ran("kill.py", "--kills", 2, "--verb", verb, "--seed", 3, "--bundle", tiny_bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    ((name, killed, *_),) = rows(done.stdout)
    assert (name, killed) == (verb, "2")


def test_faults(tiny_bundle: Path) -> None:
    chosen = (
        "segment: disk fills",
        "segment: disk turns read-only",
        "scan cut off",
        "clocks 5 h apart",
        "batch: three at once",
        "batch: SIGTERM",
        "networks exchanged",
    )
    done = ran("faults.py", "--bundle", tiny_bundle, *(part for text in chosen for part in ("--only", text)))
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = [row[-1] for row in rows(done.stdout)]
    assert len(verdicts) == 8
    assert set(verdicts) <= {"as it should", "not made"}  # the disks need root, the clocks faketime


# What the programs would say if something were wrong


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, ModuleType]]:
    """The programs as modules, beside those they import."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in ("fuzz", "soak")}
    sys.path.remove(str(FOLDER))
    for name in set(MODULES) - before:
        sys.modules.pop(name, None)


def reading(number: int, outcome: str) -> dict[str, object]:
    return {"number": number, "kind": "NIfTI", "outcome": outcome, "seconds": 0.5, "peak_bytes": 2**21, "trace": ""}


@pytest.mark.parametrize(("last", "code", "failed"), [("read", 0, "0"), ("!ValueError", 1, "1")])
def test_a_failed_input_fails_the_run(
    programs: dict[str, ModuleType],
    last: str,
    code: int,
    failed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally = programs["fuzz"].Tally()
    for number, outcome in enumerate(("read", "ReadError", last)):
        tally.add(reading(number, outcome))
    assert programs["fuzz"].report({"NIfTI": tally}, tmp_path) == code
    out = capsys.readouterr().out
    assert [row[4] for row in rows(out)] == [failed, failed]
    assert (str(tmp_path) in out) == bool(code)


@pytest.mark.parametrize(
    ("end", "outcome"),
    [("os.abort()", "!died with -6"), ("time.sleep(600)", "!no answer in 2 s"), ("sys.exit(0)", "!died with 0")],
)
def test_a_child_that_dies_or_hangs_counts_against_its_input(
    programs: dict[str, ModuleType], end: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A child that reads one input as it should, and ends at the next in its own way.
    child = tmp_path / "child.py"
    line = json.dumps(reading(4, "read"))
    child.write_text(f"import os, sys, time\nprint('ready')\nprint({line!r}, flush=True)\n{end}\n")
    monkeypatch.setattr(programs["fuzz"], "__file__", str(child))
    monkeypatch.setattr(programs["fuzz"], "LONGEST_SECONDS", 2.0)
    found = list(programs["fuzz"].readings_of_child(range(4, 9), [], tmp_path / "log"))
    assert [(one["number"], one["outcome"]) for one in found] == [(4, "read"), (5, outcome)]


# Readers that do what none may; what is said of each is looked at below.
MISDEEDS = {
    "raises": ("raise ValueError('unforeseen')", "!ValueError"),
    "ends": ("raise SystemExit(3)", "!SystemExit"),
    "says two lines": ("raise error('two\\nlines')", "!a message of several lines"),
    "looks outside": ("open(path.parent.parent / 'outside.raw', 'rb').close()", "!touched "),
    "writes": ("(path.parent / 'more').write_text('x')", "!touched "),
    "connects": ("socket.socket().connect_ex(('127.0.0.1', 9))", "!touched socket."),
    "starts a program": ("subprocess.run(['true'])", "!touched "),
    "takes memory": ("np.ones(2**30 + 2**27, np.uint8)", "!1"),
    "reads the canary": ("return Volume(hu=np.full((4, 9, 10), 0x1555, np.int16), grid=grid())", "!the file outside"),
    "is honest": ("raise ReadError('reading', expected='a', got='b', remedy='c')", "ReadError"),
}
WATCHED = """
import json, socket, subprocess, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {folder!r})
import watching
from seeds import grid, hu
from viscera.core.errors import ReadError, VisceraError
from viscera.core.volume import Volume
from viscera.formats.nifti_write import write_volume

class error(VisceraError):
    def __init__(self, text): Exception.__init__(self, text)

work, said = Path({work!r}), {{}}
watcher = watching.Watcher(work)
write_volume(Volume(hu=hu(), grid=grid()), watcher.inputs / "ct.nii")
watcher.read_path(watcher.inputs / "ct.nii", "volume")
for name, body in {bodies!r}.items():
    scope = dict(globals())
    exec("def reader(path):\\n    " + body + "\\n    return Volume(hu=hu(), grid=grid())", scope)
    watching.read_volume = scope["reader"]
    said[name] = watcher.read_path(watcher.inputs / "ct.nii", "volume").outcome
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said_of_misdeeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outcomes by misdeed; an audit hook stays for ever, so it is in a process of its own."""
    bodies = {name: body for name, (body, _) in MISDEEDS.items()}
    code = WATCHED.format(folder=str(FOLDER), work=str(tmp_path_factory.mktemp("watched")), bodies=bodies)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return outcomes


@pytest.mark.parametrize("name", MISDEEDS)
def test_what_a_reader_may_not_do_is_seen(name: str, said_of_misdeeds: dict[str, str]) -> None:
    assert said_of_misdeeds[name].startswith(MISDEEDS[name][1])


@pytest.mark.parametrize("growth_kib", [0.0, 40.0])
def test_the_slope_of_memory(programs: dict[str, ModuleType], growth_kib: float) -> None:
    noise_kib = np.random.default_rng(2).normal(0, 200, 400)
    resident = ((150_000 + growth_kib * np.arange(400) + noise_kib) * 1024).astype(np.int64)
    slope = programs["soak"].memory_slope(resident)
    assert abs(slope.kib - growth_kib) < slope.margin < 1.0


@pytest.mark.parametrize(("degrees", "point"), [(4, 2.776), (10, 2.228), (18, 2.101), (200, 1.972)])
def test_students_t(programs: dict[str, ModuleType], degrees: int, point: float) -> None:
    # From printed tables of the two-sided 5 % points.
    assert programs["soak"].student_t(degrees) == pytest.approx(point, rel=0.02)
