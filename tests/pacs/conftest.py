"""A synthetic CT as a DICOM series, a running Orthanc, and a listener with callers: real programs on free ports."""

import gc
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# Must never be seen in a log.
PATIENT_NAME, PATIENT_ID = "Secret^Person", "4711-0815"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `what` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def ct_objects(seed: int, folder: Path) -> "list[Dataset]":
    """A synthetic person's trunk in 40 slices of 56 x 56, as a scanner would write it, with a name to keep secret."""
    import pydicom

    from viscera.formats.dicom.ct_write import write_ct_series
    from viscera.synthesis.phantom import PhantomConfig, make_phantom

    config = PhantomConfig(shape_zyx=(40, 56, 56), spacing_zyx_mm=(9.6, 7.5, 8.0))
    write_ct_series(make_phantom(seed, config=config).volume, folder, name=f"P{seed}")
    objects = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    for one in objects:
        one.PatientName, one.PatientID = PATIENT_NAME, PATIENT_ID
    return objects


def save_objects(objects: "Sequence[Dataset]", folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(objects):
        one.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


def send(
    objects: "Sequence[Dataset]", port: int, *, called: str = "VISCERA", calling: str = "CALLER"
) -> list[int | None]:
    """The status of each object, sent in one association; None where no answer came."""
    pynetdicom = pytest.importorskip("pynetdicom")
    entity = pynetdicom.AE(ae_title=calling)
    for one in {(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in objects}:
        entity.add_requested_context(*one)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    assert association.is_established
    answers = [association.send_c_store(one).get("Status") for one in objects]
    association.release()
    return answers


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    http_port: int
    dicom_port: int

    @property
    def dicomweb(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def file(self, instance: str, path: Path) -> Path:
        url = f"http://127.0.0.1:{self.http_port}/instances/{instance}/file"
        with urllib.request.urlopen(url, timeout=10) as answer:
            path.write_bytes(answer.read())
        return path

    def results(self, modality: str, study: str) -> list[str]:
        """Orthanc's own identifiers of the objects of that modality in a study."""
        query = {"Level": "Series", "Query": {"Modality": modality, "StudyInstanceUID": study}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/tools/find", data=json.dumps(query).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            series = json.loads(answer.read())
        return [one for uid in series for one in self.get(f"/series/{uid}")["Instances"]]


class ListenerProcess:
    """`viscera pacs listen` as a process of its own."""

    def __init__(self, folder: Path, forward: str, *more: str, quiet_seconds: float = 0.5) -> None:
        self.folder = folder
        self.log = folder / "log"
        options = ["--aet", "VISCERA", "--port", "0", "--forward", forward, "--quiet-seconds", str(quiet_seconds)]
        options += ["--spool", str(folder / "spool"), "--device", "cpu", "--threads", "1", "--no-cache", *more]
        self.started_at = len(self.text())
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "viscera", "pacs", "listen", *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.port = int(self.wait_for(r"listening as VISCERA at 127\.0\.0\.1 port (\d+)").group(1))

    def text(self) -> str:
        """All that it, and those before it in the folder, have said."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, pattern: str, seconds: float = 60.0) -> "re.Match[str]":
        """What it says after its start, as soon as it says it."""

        def said() -> "re.Match[str] | None":
            found = re.search(pattern, self.text()[self.started_at :])
            assert found or self.process.poll() is None, self.text()
            return found

        return wait_for(said, seconds)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@pytest.fixture
def listen(tmp_path: Path) -> "Iterator[Callable[..., ListenerProcess]]":
    """Starts listeners, one after the other, on one spool."""
    pytest.importorskip("pynetdicom")
    pytest.importorskip("highdicom")
    pytest.importorskip("contourpy")
    started: list[ListenerProcess] = []

    def begin(forward: str, *more: str, **options: float) -> ListenerProcess:
        started.append(ListenerProcess(tmp_path, forward, *more, **options))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture(scope="session")
def ending() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Calls something in a thread and waits for it at the very end: pynetdicom's servers take half a second to stop."""
    threads: list[threading.Thread] = []

    def begin(stop: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=stop))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()


@pytest.fixture(autouse=True)
def _sockets_end_with_their_test() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Debian's Orthanc with its DICOMweb plug-in, empty at first."""
    if ORTHANC is None or not DICOMWEB_PLUGIN.is_file():
        pytest.skip("Debian's packages orthanc and orthanc-dicomweb are not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    running = Orthanc(http_port=free_port(), dicom_port=free_port())
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": running.http_port,
        "DicomPort": running.dicom_port,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "UnknownSopClassAccepted": True,
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado", "Ssl": False},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text(errors="replace")
        try:
            return bool(running.get("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    try:
        wait_for(answers)
        yield running
    finally:
        process.kill()
        process.wait()
