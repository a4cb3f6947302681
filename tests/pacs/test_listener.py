"""The C-STORE listener against real callers, decent and hostile ones."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE

from viscera.core import files as write
from viscera.core.errors import ConfigError
from viscera.pacs.jobs import QueueLimits
from viscera.pacs.queue import SeriesQueue
from viscera.pacs.scp import Listener, ListenerConfig

from .conftest import send, wait_for

# pynetdicom leaves some sockets of callers to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

ROWS = 8


def image(number: int = 1, series: str = "1.2.3.1", **changes: Any) -> Dataset:
    """The least a CT image must be to be taken."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, f"{series}.{number}"
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", series
    one.PatientName = "Secret^Person"
    one.Rows = one.Columns = ROWS
    one.BitsAllocated = 16
    one.PixelData = bytes(ROWS * ROWS * 2)
    for name, value in changes.items():
        setattr(one, name, value)
    return one


class Running:
    """A listener in this process."""

    def __init__(self, folder: Path, limits: QueueLimits, **config: Any) -> None:
        self.queue = SeriesQueue(folder / "spool", limits)
        self.listener = Listener(self.queue, ListenerConfig(**{"aet": "VISCERA", "port": 0, **config}))
        self.port = self.listener.start()

    def stop(self) -> None:
        self.listener.stop()
        self.queue.close()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, ending: Callable[[Callable[[], None]], None]) -> Iterator[Start]:
    running: list[Running] = []

    def begin(limits: QueueLimits | None = None, **config: Any) -> Running:
        running.append(Running(tmp_path / str(len(running)), limits or QueueLimits(quiet_seconds=0.2), **config))
        return running[-1]

    yield begin
    for one in running:
        ending(one.stop)


def answer_to(port: int, change: Callable[[Any], None]) -> int | None:
    """The status of a C-STORE whose request or encoded data set `change` has spoilt."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    entity = AE(ae_title="CALLER")
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", port, ae_title="VISCERA")
    assert association.is_established
    one = image()
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    request.DataSet = BytesIO(encode(one, False, True) or b"")
    change(request)
    association._reactor_checkpoint.clear()  # the answer is ours to read
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    status = None if answer is None else int(answer.Status)
    association.abort()
    return status


def echo(port: int, calling: str = "CALLER", called: str = "VISCERA") -> int | None:
    """The status of a C-ECHO, None if there is no association for it."""
    entity = AE(ae_title=calling)
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    status = association.send_c_echo().Status
    association.release()
    return int(status)


def test_echo(start: Start) -> None:
    assert echo(start().port) == 0


def test_images_are_taken_and_their_series_completes_after_the_association(start: Start) -> None:
    running = start()
    assert send([image(1), image(2)], running.port) == [0, 0]
    assert running.queue.counts()["receiving"] == 1

    def closed() -> list[int]:
        busy, ended = running.listener.rounds()
        running.queue.touch(ended)
        return running.queue.close_quiet(busy)

    assert wait_for(closed) == [1]


def test_a_taken_image_is_a_dicom_file_with_what_was_sent(start: Start) -> None:
    import pydicom

    running = start()
    send([image()], running.port)
    (path,) = running.queue.folder.rglob("*.dcm")
    read = pydicom.dcmread(path)
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == "1.2.3.1.1"
    assert {element.tag: element.value for element in read} == {element.tag: element.value for element in image()}


def test_a_series_under_way_is_busy_until_its_association_ends(start: Start) -> None:
    running = start()
    entity = AE(ae_title="CALLER")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", running.port, ae_title="VISCERA")
    association.send_c_store(image())
    time.sleep(0.4)  # longer than the quiet time
    busy, ended = running.listener.rounds()
    assert (busy, ended) == ({1}, set())
    assert running.queue.close_quiet(busy) == []
    association.abort()
    assert wait_for(lambda: running.listener.rounds()[1]) == {1}


def test_a_repeated_image_is_acknowledged_and_stored_once(start: Start) -> None:
    running = start()
    assert send([image(), image(), image()], running.port) == [0, 0, 0]
    assert len(list(running.queue.folder.rglob("*.dcm"))) == 1


def test_another_image_under_a_known_identifier_is_refused(start: Start) -> None:
    """Not acknowledged as if it were the one that came before, whether that is still there or done with."""
    running = start()
    other = bytes(ROWS * ROWS * 2 - 1) + b"\1"
    assert send([image(), image(PixelData=other), image(RescaleIntercept="-24")], running.port) == [0, 0xC101, 0xC101]
    assert send([image(PatientName="Other^Name")], running.port) == [0]  # the same image, its patient renamed
    (path,) = running.queue.folder.rglob("*.dcm")
    assert path.read_bytes().endswith(bytes(ROWS * ROWS * 2))
    assert wait_for(running.queue.close_quiet) == [1]
    claimed = running.queue.claim()
    assert claimed is not None
    claimed[1].results.mkdir()
    running.queue.segmented(claimed[1], [])
    running.queue.finish(claimed[1])
    assert send([image(), image(PixelData=other)], running.port) == [0, 0xC101]


def test_the_same_image_in_the_default_encoding_is_known(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = start()
    again = image()
    again.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    packed = image()
    packed.file_meta.TransferSyntaxUID = RLELossless
    packed.PixelData = encapsulate([b"\2\0\0\0" + bytes(60)])
    packed["PixelData"].VR = "OB"
    with caplog.at_level("WARNING", "viscera.pacs"):
        assert send([image(), again], running.port) == [0, 0]
        assert caplog.text == ""
        assert send([packed], running.port) == [0]  # whether it is the same cannot be seen, which is told
    assert "encoded otherwise" in caplog.text


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Makes flushing fail with an error number, and has it told anew."""

    def begin(number: int) -> None:
        def fail(handle: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        write._report_not_flushed.cache_clear()

    yield begin
    write._report_not_flushed.cache_clear()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_share_that_cannot_flush_takes_images_and_says_so_once(
    start: Start, unflushed: Callable[[int], None], caplog: pytest.LogCaptureFixture, number: int
) -> None:
    unflushed(number)
    with caplog.at_level("WARNING"):
        running = start()
        assert send([image(1), image(2), image(3)], running.port) == [0, 0, 0]
    assert running.queue.image_count(1) == 3
    told = [one.getMessage() for one in caplog.records if one.name.startswith("viscera")]
    assert len(told) == len(set(told)) == 2  # one of files, one of folders
    assert all("cannot be flushed here" in one for one in told)


def test_a_disk_that_fails_to_flush_takes_nothing(start: Start, unflushed: Callable[[int], None]) -> None:
    running = start()
    unflushed(errno.EIO)
    assert send([image()], running.port) == [0xA700]


def test_a_database_on_a_share_that_cannot_flush_works(tmp_path: Path, program: Callable[[str], str]) -> None:
    """SQLite calls the system itself, past Python."""
    source, library = tmp_path / "flush.c", tmp_path / "flush.so"
    source.write_text(
        "#include <errno.h>\n"
        "int fsync(int fd) { (void)fd; errno = EINVAL; return -1; }\n"
        "int fdatasync(int fd) { (void)fd; errno = EINVAL; return -1; }\n"
    )
    subprocess.run([program("cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    code = (
        "import sys, pathlib; from viscera.pacs.queue import SeriesQueue\n"
        "from viscera.pacs.jobs import Arrival\n"
        "queue = SeriesQueue(pathlib.Path(sys.argv[1]))\n"
        "one = Arrival(study_uid='1', series_uid='2', instance_uid='3', size_bytes=1,"
        " write=lambda path: path.write_bytes(b'x'))\n"
        "print(queue.admit(one))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spool")],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "stored" in run.stdout.lower(), run.stderr
    assert run.stderr.count("cannot be flushed") == 2


def test_three_associations_at_once(start: Start) -> None:
    running = start()
    answers: dict[int, list[int | None]] = {}

    def call(number: int) -> None:
        answers[number] = send([image(one, f"1.2.3.{number}") for one in range(1, 11)], running.port)

    threads = [threading.Thread(target=call, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys((1, 2, 3), [0] * 10)
    assert [running.queue.image_count(number) for number in (1, 2, 3)] == [10, 10, 10]


def test_one_series_over_three_associations_at_once(start: Start) -> None:
    running = start()
    threads = [
        threading.Thread(target=send, args=([image(one) for one in range(1, 11)], running.port)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert running.queue.image_count(1) == 10
    assert len(list(running.queue.folder.rglob("*.dcm"))) == 10


def test_a_stop_ends_associations_and_half_open_connections(start: Start) -> None:
    running = start()
    entity = AE(ae_title="CALLER")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", running.port, ae_title="VISCERA")
    assert association.send_c_store(image()).Status == 0
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as peer:
        wait_for(lambda: len(running.listener._peers) == 2)
        running.listener.stop()
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(100) == b""
    wait_for(lambda: not association.is_established)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), timeout=10)
    assert running.queue.image_count(1) == 1


# Refusals.


def test_unknown_callers_are_rejected(start: Start) -> None:
    port = start(allowed_aets=("CT1", "CT2")).port
    assert echo(port, "CT2") == 0
    assert echo(port, "CT3") is None


def test_another_title_than_ours_is_rejected(start: Start) -> None:
    assert echo(start().port, called="OTHER") is None


@pytest.mark.parametrize("sop_class", [MRImageStorage, SecondaryCaptureImageStorage])
def test_other_objects_find_no_context(start: Start, sop_class: str) -> None:
    entity = AE(ae_title="CALLER")
    entity.add_requested_context(sop_class)
    association = entity.associate("127.0.0.1", start().port, ae_title="VISCERA")
    assert not association.is_established
    assert not association.is_rejected


def test_an_open_listener_without_a_list_of_callers_is_refused() -> None:
    with pytest.raises(ConfigError, match="--allow-aet"):
        ListenerConfig(aet="VISCERA", port=0, bind="0.0.0.0")
    ListenerConfig(aet="VISCERA", port=0, bind="0.0.0.0", allowed_aets=("CT1",))


def test_a_taken_port_is_told(start: Start, tmp_path: Path) -> None:
    port = start().port
    with pytest.raises(ConfigError, match=f"port {port}"):
        start(port=port)


def spoil_class(request: Any) -> None:
    request.AffectedSOPClassUID = MRImageStorage


def spoil_instance(request: Any) -> None:
    request.AffectedSOPInstanceUID = "1.2.3.1.999"


def cut(request: Any) -> None:
    from io import BytesIO

    request.DataSet = BytesIO(request.DataSet.getvalue()[:-10])


def cut_short(request: Any) -> None:
    from io import BytesIO

    request.DataSet = BytesIO(request.DataSet.getvalue()[:30])


def noise(request: Any) -> None:
    from io import BytesIO

    request.DataSet = BytesIO(bytes(range(256)) * 20)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about what is hostile here
@pytest.mark.parametrize(
    ("change", "status"),
    [(spoil_class, 0x0122), (spoil_instance, 0xA900), (cut, 0xC000), (cut_short, 0xC000), (noise, 0xC000)],
    ids=["class", "instance", "cut", "cut_short", "noise"],
)
def test_a_request_that_is_not_what_it_says(start: Start, change: Callable[[Any], None], status: int) -> None:
    running = start()
    assert answer_to(running.port, change) == status
    assert list(running.queue.folder.rglob("*.dcm")) == []
    assert running.listener.refused == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("uid", ["../../../tmp/x", "1.2/../3", "", "1" * 65, "1.2.\n3", "a.b"])
def test_identifiers_that_are_none(start: Start, uid: str) -> None:
    running = start()
    assert send([image(SeriesInstanceUID=uid)], running.port) == [0xC000]
    assert list(running.queue.folder.rglob("*.dcm")) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_megabyte_of_text_in_every_place(start: Start) -> None:
    running = start()
    long = "1" * 2**20
    assert send([image(PatientName=long, PatientID=long, ImageComments=long)], running.port) == [0]
    assert send([image(2, StudyInstanceUID=long)], running.port) == [0xC000]
    assert [path.name for path in running.queue.folder.rglob("*.dcm") if len(path.name) > 50] == []


def test_an_image_longer_than_allowed(start: Start) -> None:
    running = start(instance_bytes=1000)
    assert send([image(PixelData=bytes(2000))], running.port) == [0xA700]
    assert send([image()], running.port) == [0]


def test_an_endless_image_ends_the_association(start: Start) -> None:
    running = start(instance_bytes=1000)
    entity = AE(ae_title="CALLER")
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", running.port, ae_title="VISCERA")
    answer = association.send_c_store(image(PixelData=bytes(8 * 2**20)))
    assert "Status" not in answer
    wait_for(lambda: not association.is_established)
    assert echo(running.port) == 0


def test_an_announced_gigabyte_takes_no_memory(start: Start) -> None:
    port = start().port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.sendall(b"\x01\x00" + (2**30).to_bytes(4, "big") + b"\0" * 100)
        peer.settimeout(10)
        while peer.recv(100):  # it is told, and then closed, without waiting for the rest
            pass
    assert echo(port) == 0


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"\0" * 1000, b"\x04\x00\x00\x00\x00\x04\x00\x00\x00\x00"])
def test_what_is_no_dicom_does_no_harm(start: Start, data: bytes) -> None:
    port = start().port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.sendall(data)
    assert echo(port) == 0


def test_a_full_queue_says_that_it_is_out_of_resources(start: Start) -> None:
    running = start(QueueLimits(series=1))
    assert send([image(1, "1.2.3.1"), image(1, "1.2.3.2"), image(2, "1.2.3.1")], running.port) == [0, 0xA700, 0]


def test_a_full_disk_says_that_it_is_out_of_resources(start: Start) -> None:
    running = start(QueueLimits(disk_bytes=1000))
    answers = send([image(number) for number in range(1, 9)], running.port)
    assert answers[0] == 0
    assert answers[-1] == 0xA700
    assert running.queue.image_count(1) == answers.count(0)
    assert running.queue.used_bytes() <= 1000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB, which the queue alone needs some of."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("a small disk needs root and mount")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("this system lets nothing be mounted")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    running = Running(small_disk, QueueLimits(quiet_seconds=0.2))
    images = [image(number, PixelData=bytes(20_000)) for number in range(1, 41)]
    answers = send(images, running.port)
    assert answers[0] == 0
    assert answers[-1] == 0xA700
    assert set(answers) == {0, 0xA700}
    assert echo(running.port) == 0
    stored = list(running.queue.folder.rglob("*.dcm"))
    assert running.queue.image_count(1) == len(stored) == answers.count(0)
    assert all(path.stat().st_size > 20_000 for path in stored)

    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert set(send(images, running.port)) == {0}
    assert running.queue.image_count(1) == 40
    running.stop()


def test_an_image_for_a_closed_series_is_refused(start: Start) -> None:
    running = start()
    send([image(1)], running.port)
    time.sleep(0.3)
    assert running.queue.close_quiet() == [1]
    assert running.queue.claim() is not None
    assert send([image(1), image(2)], running.port) == [0, 0xC100]
