"""The worker and the sender: every series once, whatever fails in between; a real receiver."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")

import pydicom
import pynetdicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage

from viscera.core.errors import ConfigError, ReadError, TransferError
from viscera.pacs.jobs import Arrival, Job, QueueLimits, State
from viscera.pacs.queue import SeriesQueue
from viscera.pacs.scu import Destination, application_title, send_objects
from viscera.pacs.worker import Worker

from .conftest import PATIENT_NAME, wait_for

# pynetdicom leaves the socket of a failed call to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

Answer = Callable[[str], int]


class Receiver:
    """An archive that takes SEG and answers as it is told; it keeps what it acknowledged."""

    def __init__(self, contexts: Sequence[str] = (SegmentationStorage,)) -> None:
        self.stored: list[str] = []
        self.answer: Answer = lambda uid: 0x0000
        entity = pynetdicom.AE(ae_title="ARCHIVE")
        for one in contexts:
            entity.add_supported_context(one)
        handlers = [(pynetdicom.evt.EVT_C_STORE, self._store)]
        self.server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.destination = Destination(aet="ARCHIVE", host="127.0.0.1", port=self.server.server_address[1])

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.answer(uid)
        if status in (0x0000, 0xB000):
            self.stored.append(uid)
        return status

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server = None


@pytest.fixture
def archive() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.stop()


def result(path: Path, uid: str, sop_class: str = SegmentationStorage) -> Path:
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = sop_class
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid
    one.save_as(path, enforce_file_format=True)
    return path


def queue_with(folder: Path, series: Sequence[str], **limits: Any) -> SeriesQueue:
    queue = SeriesQueue(folder / "spool", QueueLimits(**{"quiet_seconds": 1e-6, **limits}))
    for uid in series:
        queue.admit(Arrival(study_uid="1", series_uid=uid, instance_uid="9", size_bytes=1, write=touch))
    queue.close_quiet()
    return queue


def touch(path: Path) -> None:
    path.write_bytes(b"x")


def segment(job: Job) -> list[Path]:
    """Two results, as a SEG in two parts would be."""
    return [result(job.results / f"{part}.dcm", f"1.{job.number}.{part}") for part in (1, 2)]


def worker(queue: SeriesQueue, archive: Receiver, how: Callable[[Job], list[Path]] = segment) -> Worker:
    def send(paths: Sequence[Path], name: str) -> Iterator[Path]:
        return send_objects(paths, archive.destination, calling_aet="VISCERA")

    return Worker(queue, how, send, [str(archive.destination)])


def states(queue: SeriesQueue) -> dict[str, int]:
    return {state: count for state, count in queue.counts().items() if count}


def test_each_series_is_segmented_and_sent_once(tmp_path: Path, archive: Receiver) -> None:
    queue = queue_with(tmp_path, ["1.1", "1.2"])
    working = worker(queue, archive)
    steps = 0
    while working.step():
        steps += 1
    assert steps == 4
    assert archive.stored == ["1.1.1", "1.1.2", "1.2.1", "1.2.2"]
    assert states(queue) == {"done": 2}
    queue.close()


def test_what_is_not_acknowledged_is_sent_again_and_nothing_else(tmp_path: Path, archive: Receiver) -> None:
    clock = [0.0]
    queue = SeriesQueue(tmp_path / "spool", QueueLimits(quiet_seconds=1e-6), clock=lambda: clock[0])
    queue.admit(Arrival(study_uid="1", series_uid="1.1", instance_uid="9", size_bytes=1, write=touch))
    clock[0] += 1
    queue.close_quiet()
    working = worker(queue, archive)
    archive.answer = lambda uid: 0xA700 if uid.endswith(".2") else 0x0000
    working.step()
    working.step()
    assert archive.stored == ["1.1.1"]
    assert states(queue) == {"sending": 1}
    assert not working.step()  # not at once
    archive.answer = lambda uid: 0xB000  # a warning means that it was stored
    clock[0] += 5
    assert working.step()
    assert archive.stored == ["1.1.1", "1.1.2"]
    assert states(queue) == {"done": 1}
    queue.close()


def test_a_receiver_that_is_away_costs_nothing_but_time(tmp_path: Path, archive: Receiver) -> None:
    queue = queue_with(tmp_path, ["1.1"])
    archive.stop()
    working = worker(queue, archive)
    working.step()
    working.step()
    assert states(queue) == {"sending": 1}
    queue.close()
    back = Receiver()
    queue = SeriesQueue(tmp_path / "spool", QueueLimits(), clock=lambda: 1e12)
    assert worker(queue, back).step()
    assert back.stored == ["1.1.1", "1.1.2"]
    assert states(queue) == {"done": 1}
    queue.close()
    back.stop()


def test_a_scan_that_cannot_be_segmented_is_not_tried_again(tmp_path: Path, archive: Receiver) -> None:
    def refuse(job: Job) -> list[Path]:
        raise ReadError("reading", expected="a CT", got="Secret^Person", remedy="Give one")

    queue = queue_with(tmp_path, ["1.1"])
    working = worker(queue, archive, refuse)
    assert working.step()
    assert not working.step()
    assert states(queue) == {"refused": 1}
    queue.close()


def test_an_unforeseen_fault_is_tried_again_and_does_not_end_the_others(
    tmp_path: Path, archive: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(job: Job) -> list[Path]:
        if job.number == 1:
            raise ZeroDivisionError(PATIENT_NAME)
        return segment(job)

    caplog.set_level("DEBUG", "viscera.pacs")
    queue = queue_with(tmp_path, ["1.1", "1.2"], attempts=1)
    working = worker(queue, archive, fail)
    while working.step():
        pass
    assert states(queue) == {"done": 1, "failed": 1}
    assert "ZeroDivisionError" in caplog.text
    assert "Secret" not in caplog.text
    queue.close()


def test_an_interrupt_gives_the_series_back(tmp_path: Path, archive: Receiver) -> None:
    def interrupted(job: Job) -> list[Path]:
        raise KeyboardInterrupt

    queue = queue_with(tmp_path, ["1.1"])
    with pytest.raises(KeyboardInterrupt):
        worker(queue, archive, interrupted).step()
    assert states(queue) == {"waiting": 1}
    claimed = queue.claim()
    assert claimed is not None
    assert (claimed[0], claimed[1].attempt) == (State.WORKING, 1)
    queue.close()


def test_run_ends_when_told(tmp_path: Path, archive: Receiver) -> None:
    queue = queue_with(tmp_path, ["1.1"])
    stop = threading.Event()
    working = worker(queue, archive)
    thread = threading.Thread(target=working.run, args=(stop,))
    thread.start()
    while states(queue) != {"done": 1}:
        assert thread.is_alive()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    queue.close()


# The sender.


def test_one_object_that_is_refused_does_not_keep_the_others_back(tmp_path: Path, archive: Receiver) -> None:
    archive.answer = lambda uid: 0xC001 if uid == "1.1" else 0
    paths = [result(tmp_path / f"{number}.dcm", f"1.{number}") for number in (1, 2)]
    sent = []
    with pytest.raises(TransferError, match="status 0xC001"):
        sent.extend(iterated(send_objects(paths, archive.destination, calling_aet="V"), sent))
    assert sent == [paths[1]]


def iterated(paths: Iterator[Path], into: list[Path]) -> list[Path]:
    for path in paths:
        into.append(path)
    return []


def test_a_class_the_receiver_does_not_take_is_told(tmp_path: Path, archive: Receiver) -> None:
    paths = [
        result(tmp_path / "seg.dcm", "1.1"),
        result(tmp_path / "rt.dcm", "1.2", RTStructureSetStorage),
    ]
    sent: list[Path] = []
    refused = r"no context for its SOP class RT Structure Set Storage in Explicit .* or Implicit .*abstract syntax not"
    with pytest.raises(TransferError, match=refused):
        iterated(send_objects(paths, archive.destination, calling_aet="V"), sent)
    assert sent == [paths[0]]


def test_a_receiver_of_other_classes_only_is_told(tmp_path: Path) -> None:
    archive = Receiver([RTStructureSetStorage])
    with pytest.raises(TransferError, match="no context for its SOP class Segmentation Storage in Explicit"):
        list(send_objects([result(tmp_path / "1.dcm", "1.1")], archive.destination, calling_aet="V"))
    archive.stop()


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[Callable[..., Destination]]:
    """Starts DCMTK's receiver, which writes what comes to tmp_path / "got"."""
    # pynetdicom installs a program of the same name beside Python's.
    if (found := shutil.which("storescp", path="/usr/bin:/usr/local/bin")) is None:
        pytest.skip("Debian's package dcmtk is not installed")
    (tmp_path / "got").mkdir()
    started: list[subprocess.Popen[bytes]] = []

    def begin(*options: str) -> Destination:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        command = [found, "-od", str(tmp_path / "got"), *options, str(port)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for(lambda: listens(port))
        return Destination(aet="DCMTK", host="127.0.0.1", port=port)

    yield begin
    for one in started:
        one.kill()
        one.wait()


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("options", "syntax"), [(["+xi"], ImplicitVRLittleEndian), (["+xa"], ExplicitVRLittleEndian)], ids=["+xi", "any"]
)
def test_a_receiver_of_the_default_transfer_syntax_gets_all(
    tmp_path: Path, storescp: Callable[..., Destination], options: list[str], syntax: str
) -> None:
    """DICOM's default, which every device must accept and some accept alone."""
    paths = [result(tmp_path / "seg.dcm", "1.1"), result(tmp_path / "rt.dcm", "1.2", RTStructureSetStorage)]
    for number, path in enumerate(paths):
        one = pydicom.dcmread(path)
        one.SpecificCharacterSet, one.PatientName = "ISO_IR 192", "Müller^Ärzte"
        one.Rows, one.PixelData = 2, bytes([number, 1, 2, 3])
        one["PixelData"].VR = "OB"
        item = Dataset()
        item.ROIName, item.ROINumber = "liver", 1
        one.StructureSetROISequence = [item]
        one.save_as(path)
    assert list(send_objects(paths, storescp(*options), calling_aet="V")) == paths
    received = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, (tmp_path / "got").iterdir())}
    for path in paths:
        sent = pydicom.dcmread(path)
        got = received[sent.SOPInstanceUID]
        assert got.file_meta.TransferSyntaxUID == syntax
        # Bytes of one kind are OB in one encoding and OW in the other.
        assert {one.tag: one.value for one in got} == {one.tag: one.value for one in sent}


def test_nobody_there_is_told(tmp_path: Path) -> None:
    away = Destination(aet="ARCHIVE", host="127.0.0.1", port=1)
    with pytest.raises(TransferError, match=r"calling ARCHIVE@127\.0\.0\.1:1"):
        list(send_objects([result(tmp_path / "1.dcm", "1.1")], away, calling_aet="V"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ORTHANC@127.0.0.1:4242", ("ORTHANC", "127.0.0.1", 4242)),
        ("MY ARCHIVE@pacs.example:104", ("MY ARCHIVE", "pacs.example", 104)),
        ("A@[::1]:104", ("A", "::1", 104)),
    ],
)
def test_destinations(text: str, parts: tuple[str, str, int]) -> None:
    destination = Destination.parse(text)
    assert (destination.aet, destination.host, destination.port) == parts
    assert str(destination) == text


@pytest.mark.parametrize(
    "text", ["", "A", "A@h", "A@h:0", "A@h:65536", "@h:1", "A@:1", "A@h:x", "A" * 17 + "@h:1", "A\\B@h:1", "A@::1:104"]
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(ConfigError):
        Destination.parse(text)


@pytest.mark.parametrize("text", ["", "   ", "A" * 17, "A\\B", "Ä", "A\nB"])
def test_what_is_no_title(text: str) -> None:
    with pytest.raises(ConfigError):
        application_title(text)
