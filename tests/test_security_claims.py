"""What SECURITY.md says, tried on real processes: no network unasked, no pickles, no names, loopback only."""

import contextlib
import gzip
import importlib.metadata
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from viscera.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
RUN = [sys.executable, "-m", "viscera"]
LONG_SECONDS = 120

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")

# Runs command lines one after the other and says what was asked of the network and of pickle meanwhile.
WATCHED = """
import json, sys
events, watched = [], ("socket.", "pickle.find_class", "http.", "urllib.", "ftplib.", "smtplib.", "webbrowser.")
def hook(event, arguments):
    if event.startswith(watched):
        events.append(f"{event} {arguments!r:.200}")
sys.addaudithook(hook)
from viscera.cli.main import main
for line in json.loads(sys.argv[1]):
    if code := main(line):
        raise SystemExit(f"exit code {code}: {line}")
reporting = [name for name in sys.modules if "telemetry" in name or name.startswith("openvino.tools.ovc")]
print(json.dumps({"events": events, "reporting": reporting}))
"""


def command_lines(folder: Path, bundle: Path) -> list[list[str]]:
    """The verbs that one may run without a network, from a scan to a report."""
    scan, labels, run = (str(folder / name) for name in ("ct.nii.gz", "labels.nii.gz", "run.json"))
    machinery = ["--bundle", str(bundle), "--device", "cpu", "--threads", "1"]
    size = ["--shape", "20", "24", "28", "--spacing", "12", "11", "10"]
    everything = ["--preview", "--statistics", "--report", run]
    dicom = ["-f", "nifti", "-f", "dicom-seg", "-f", "rtstruct"]
    return [
        ["phantom", "-o", scan, *size],
        ["phantom", "--dicom", "-o", str(folder / "series"), *size],
        ["segment", scan, "-o", labels, *machinery, *everything],
        ["segment", str(folder / "series"), "-o", str(folder / "more"), *machinery, *dicom],
        ["batch", scan, "-o", str(folder / "batch"), *machinery],
        ["evaluate", labels, labels],
        ["report", scan, labels, "-o", str(folder / "report.html"), "--run", run],
        ["info"],
    ]


def ran(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG_SECONDS)


@pytest.fixture(scope="module")
def seen(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What the verbs asked for; an audit hook stays for ever, so they run in a process of their own."""
    pytest.importorskip("highdicom")
    lines = command_lines(tmp_path_factory.mktemp("watched"), tiny_bundle)
    done = ran([sys.executable, "-c", WATCHED, json.dumps(lines)])
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(**json.loads(done.stdout.splitlines()[-1]))


# A claim of viscera batch bears the host's name, which the system knows. Where requests is installed, pydicom imports
# it, and that tries out whether this machine may have an address ::1.
HARMLESS = ("socket.gethostname", "socket.__new__", "socket.bind")


def test_no_verb_asks_the_network_for_anything(seen: SimpleNamespace) -> None:
    asked = [event for event in seen.events if not event.startswith(("pickle.", *HARMLESS))]
    assert asked == []
    assert all("('::1', 0)" in event for event in seen.events if event.startswith("socket.bind"))


def test_nothing_is_unpickled(seen: SimpleNamespace) -> None:
    assert [event for event in seen.events if event.startswith("pickle.")] == []


def test_openvino_does_not_report_home(seen: SimpleNamespace) -> None:
    assert seen.reporting == []


def test_native_code_asks_the_network_for_nothing_either(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    strace, told = shutil.which("strace"), tmp_path / "told"
    if strace is None or ran([strace, "-f", "-o", str(told), "-e", "trace=connect", "true"]).returncode:
        pytest.skip("needs strace")
    verb = ["segment", str(tiny_scan), "-o", str(tmp_path / "out.nii.gz"), "--bundle", str(tiny_bundle), "--preview"]
    done = ran([strace, "-f", "-o", str(told), "-e", "trace=connect,sendto,sendmsg", *RUN, *verb, "--device", "cpu"])
    assert done.returncode == 0, done.stderr
    assert "exited with 0" in told.read_text()
    assert "AF_INET" not in told.read_text()


def test_a_machine_without_any_network_will_do(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or ran([unshare, "-n", "true"]).returncode:
        pytest.skip("needs unshare and root")
    options = ["-o", str(tmp_path / "out"), "--bundle", str(tiny_bundle), "--device", "cpu"]
    done = ran([unshare, "-n", *RUN, "batch", str(tiny_scan), *options])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "ct.nii.gz").is_file()


# Dependencies


def bounds() -> dict[str, str]:
    """The lowest version of each package that pyproject.toml accepts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for some in project["optional-dependencies"].values() for one in some)]
    found = (re.match(r"([A-Za-z0-9_-]+)>=([0-9.]+)", one) for one in wanted)
    return {match[1].lower(): match[2] for match in found if match}


def named_bounds() -> dict[str, str]:
    """The package and version of each row of SECURITY.md's table of known holes; a row may have several."""
    table = re.search(r"\| at least \|.*?\n\n", TEXT, re.DOTALL)
    assert table is not None
    cells = [row.split("|")[1] for row in table[0].splitlines()[2:] if row]
    return dict(re.findall(r"([a-z0-9-]+) ([0-9.]+[0-9])", " ".join(cells)))


def test_the_table_of_known_holes_is_read() -> None:
    assert {"pydicom", "python-gdcm", "pillow", "torch", "urllib3"} <= named_bounds().keys()


@pytest.mark.parametrize("package", sorted(named_bounds()))
def test_releases_with_known_holes_are_left_out(package: str) -> None:
    named = named_bounds()[package]
    assert bounds()[package] == named
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        assert numbers(importlib.metadata.version(package)) >= numbers(named)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[0-9.]*[0-9]", version)[0].split("."))  # type: ignore[index]


# Names and identifiers; the description of a series is shown, as SECURITY.md says

SECRETS = {
    "PatientName": "Geheim^Adelheid",
    "PatientID": "PID-4711-X",
    "PatientBirthDate": "19010203",
    "AccessionNumber": "ACC-0815",
    "ReferringPhysicianName": "Vertraulich^Otto",
    "InstitutionName": "Klinik Nirgendwo",
    "StudyDescription": "Bauch von Adelheid",
    "StudyID": "STUDY-2342",
}
WORDS = {
    *SECRETS.values(),
    *(part for value in SECRETS.values() for part in re.split(r"[\^ ]", value) if len(part) > 5),
}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT series of a person, and beside it one that is cut off and one whose slices contradict each other."""
    pydicom = pytest.importorskip("pydicom")
    folder = tmp_path_factory.mktemp("person")
    size = ["--shape", "20", "24", "28", "--spacing", "12", "11", "10"]
    assert main(["phantom", "-q", "--dicom", "-o", str(folder / "whole"), *size]) == 0
    for path in (folder / "whole").iterdir():
        one = pydicom.dcmread(path)
        for name, value in SECRETS.items():
            setattr(one, name, value)
        one.save_as(path)
    for name in ("cut", "odd"):
        shutil.copytree(folder / "whole", folder / name)
    first = min((folder / "cut").iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    one = pydicom.dcmread(min((folder / "odd").iterdir()))
    one.ImageOrientationPatient = [1, 0, 0, 0, 0.9, 0.1]
    one.save_as(min((folder / "odd").iterdir()))
    return folder


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Names and contents of all files but the DICOM outputs, which are the patient's; packed ones unpacked."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)), path.name
        if path.is_file() and path.suffix != ".dcm":
            raw = path.read_bytes()
            yield (
                str(path.relative_to(folder)),
                (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("latin-1"),
            )


@pytest.mark.parametrize("verb", ["segment", "batch"])
def test_no_output_but_dicom_names_the_patient(verb: str, series: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    options = ["--bundle", str(tiny_bundle), "--device", "cpu", "--threads", "1", "--preview", "-v"]
    options += ["-f", "nifti", "-f", "dicom-seg", "-f", "rtstruct"]
    if verb == "segment":
        options += ["--statistics", "--report", str(tmp_path / "run.json")]
    inputs = [str(series / name) for name in ("whole", "cut", "odd")]
    done = ran([*RUN, verb, *inputs, "-o", str(tmp_path / "out"), *options])
    assert done.returncode == 1, done.stderr  # two of the three series are damaged
    outputs = [*texts(tmp_path), ("stdout", done.stdout), ("stderr", done.stderr)]
    named = {(name, word) for name, text in outputs for word in WORDS if word in text}
    assert named == set()
    assert (tmp_path / "out" / "whole.nii.gz").is_file()
    seg = (tmp_path / "out" / "whole_seg.dcm").read_bytes().decode("latin-1")
    assert SECRETS["PatientName"] in seg, "a DICOM SEG is the patient's"


# Listening


def listening(pid: int) -> set[str]:
    """The addresses that a process and those it started listen at: 127.0.0.1, ::1 or as the system writes them."""
    pids, tree = [pid], set()
    while pids:
        tree.add(one := pids.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    sockets = set()
    for one in tree:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{one}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(str(entry.readlink()))
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, _, _, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.add(LOOPBACK.get(local.partition(":")[0], local))
    return found


LOOPBACK = {"0100007F": "127.0.0.1", "00000000000000000000000001000000": "::1"}


def listening_once(process: "subprocess.Popen[str]") -> set[str]:
    """Where the process listens, as soon as it does; it is ended then."""
    end = time.monotonic() + LONG_SECONDS
    found: set[str] = set()
    while not found and process.poll() is None and time.monotonic() < end:
        found = listening(process.pid)
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LONG_SECONDS)
    return found


def started(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_page_is_served_to_this_machine_alone(tiny_scan: Path) -> None:
    assert listening_once(started([*RUN, "view", "--no-browser", str(tiny_scan)])) == {"127.0.0.1"}


def test_the_listener_of_a_pacs_serves_this_machine_alone_unless_told(tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    options = ["--aet", "VISCERA", "--port", "0", "--forward", "A@127.0.0.1:104", "--spool", str(tmp_path / "spool")]
    assert listening_once(started([*RUN, "pacs", "listen", *options])) == {"127.0.0.1"}


def test_workers_of_a_batch_listen_to_this_machine_alone(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(2):
        shutil.copy(tiny_scan, scans / f"{number}.nii.gz")
    options = ["--workers", "2", "--bundle", str(tiny_bundle), "--device", "cpu"]
    process = started([*RUN, "batch", str(scans), "-o", str(tmp_path / "out"), *options])
    found: set[str] = set()
    end = time.monotonic() + LONG_SECONDS
    while process.poll() is None and time.monotonic() < end:
        found |= listening(process.pid)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=LONG_SECONDS)
    assert process.returncode == 0, errors
    assert found
    assert found <= {"127.0.0.1", "::1"}
