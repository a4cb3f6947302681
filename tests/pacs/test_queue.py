"""The durable queue: what is kept, in which state, over ends at any moment and full disks."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from viscera.core.errors import ConfigError
from viscera.pacs.jobs import Admission, Arrival, Job, QueueFullError, QueueLimits, State
from viscera.pacs.queue import SeriesQueue

IMAGE = b"x" * 100


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[SeriesQueue]:
    made = make(tmp_path, clock)
    yield made
    made.close()


def make(folder: Path, clock: Clock, **limits: float) -> SeriesQueue:
    settings = {"quiet_seconds": 10.0, "keep_seconds": 1000.0, **limits}
    return SeriesQueue(folder / "spool", QueueLimits(**settings), clock=clock)


def arrival(instance: str, series: str = "1.2", *, announced: int | None = None, data: bytes = IMAGE) -> Arrival:
    return Arrival(
        study_uid="1",
        series_uid=series,
        instance_uid=instance,
        size_bytes=len(data),
        announced=announced,
        write=lambda path: path.write_bytes(data) and None,
    )


def complete(queue: SeriesQueue, clock: Clock, series: str = "1.2", images: int = 3) -> int:
    for number in range(images):
        _, key = queue.admit(arrival(f"{series}.{number}", series))
    clock.now += 10
    assert queue.close_quiet() == [key]
    return key


def claimed(queue: SeriesQueue, state: State = State.WORKING) -> Job:
    found = queue.claim()
    assert found is not None
    assert found[0] is state
    return found[1]


def with_results(queue: SeriesQueue, clock: Clock) -> tuple[Job, Path]:
    complete(queue, clock)
    job = claimed(queue)
    job.results.mkdir()
    (job.results / "seg.dcm").write_bytes(b"r" * 50)
    queue.segmented(job, [job.results / "seg.dcm"])
    return claimed(queue, State.SENDING), job.results / "seg.dcm"


def states(queue: SeriesQueue) -> dict[str, int]:
    return {state: count for state, count in queue.counts().items() if count}


def test_a_series_from_its_first_image_to_its_end(queue: SeriesQueue, clock: Clock) -> None:
    assert queue.admit(arrival("1.2.0"))[0] is Admission.STORED
    assert states(queue) == {"receiving": 1}
    assert queue.close_quiet() == []
    clock.now += 9
    queue.admit(arrival("1.2.1"))
    clock.now += 9.9
    assert queue.close_quiet() == []
    clock.now += 0.1
    assert len(queue.close_quiet()) == 1
    job = claimed(queue)
    assert states(queue) == {"working": 1}
    assert sorted(path.read_bytes() for path in job.images.iterdir()) == [IMAGE, IMAGE]
    job.results.mkdir()
    result = job.results / "seg.dcm"
    result.write_bytes(b"r")
    queue.segmented(job, [result])
    job = claimed(queue, State.SENDING)
    assert queue.unsent(job, "A@h:1") == [result]
    queue.acknowledged(job, result, "A@h:1")
    assert queue.unsent(job, "A@h:1") == []
    assert queue.unsent(job, "B@h:1") == [result]
    queue.finish(job)
    assert states(queue) == {"done": 1}
    assert not job.images.exists()
    assert queue.used_bytes() == 0
    assert queue.claim() is None


def test_a_series_that_is_being_sent_is_not_complete(queue: SeriesQueue, clock: Clock) -> None:
    _, number = queue.admit(arrival("1.2.0"))
    clock.now += 100
    assert queue.close_quiet({number}) == []
    queue.touch({number})  # the association has ended: the quiet time begins
    clock.now += 9
    assert queue.close_quiet() == []
    clock.now += 1
    assert queue.close_quiet() == [number]


def test_all_that_was_announced_needs_no_quiet_time(queue: SeriesQueue) -> None:
    queue.admit(arrival("1.2.0", announced=2))
    assert queue.close_quiet() == []
    _, number = queue.admit(arrival("1.2.1", announced=2))
    assert queue.close_quiet() == [number]


def test_less_than_announced_is_refused_after_a_long_time_and_taken_up_when_the_rest_comes(
    queue: SeriesQueue, clock: Clock
) -> None:
    queue.admit(arrival("1.2.0", announced=2))
    clock.now += 99
    assert queue.close_quiet() == []
    assert states(queue) == {"receiving": 1}
    clock.now += 1
    assert queue.close_quiet() == []
    assert states(queue) == {"refused": 1}
    _, number = queue.admit(arrival("1.2.1", announced=2))
    assert queue.close_quiet() == [number]
    assert len(list(claimed(queue).images.iterdir())) == 2


def test_a_repeated_image_is_stored_once(queue: SeriesQueue, clock: Clock) -> None:
    queue.admit(arrival("1.2.0"))
    assert queue.admit(arrival("1.2.0", data=b"other"))[0] is Admission.KNOWN
    clock.now += 10
    queue.close_quiet()
    (image,) = claimed(queue).images.iterdir()
    assert image.read_bytes() == IMAGE
    assert queue.used_bytes() == len(IMAGE)


def test_a_done_series_knows_its_images_and_takes_no_others(queue: SeriesQueue, clock: Clock) -> None:
    job, _ = with_results(queue, clock)
    queue.finish(job)
    assert queue.admit(arrival("1.2.0"))[0] is Admission.KNOWN
    assert queue.admit(arrival("1.2.99"))[0] is Admission.CLOSED
    assert states(queue) == {"done": 1}


def test_an_image_for_a_waiting_series_makes_it_wait_for_more(queue: SeriesQueue, clock: Clock) -> None:
    complete(queue, clock)
    assert queue.admit(arrival("1.2.99"))[0] is Admission.STORED
    assert states(queue) == {"receiving": 1}
    assert queue.claim() is None


def test_a_done_series_is_forgotten_in_the_end(queue: SeriesQueue, clock: Clock) -> None:
    job, _ = with_results(queue, clock)
    queue.finish(job)
    clock.now += 999
    assert queue.forget() == 0
    clock.now += 1
    assert queue.forget() == 1
    assert queue.admit(arrival("1.2.0"))[0] is Admission.STORED


def test_two_series_may_share_an_instance_uid(queue: SeriesQueue) -> None:
    _, first = queue.admit(arrival("9", "1.2"))
    admission, second = queue.admit(arrival("9", "1.3"))
    assert admission is Admission.STORED
    assert first != second


# Failures.


def test_segmenting_is_tried_again_later_and_not_for_ever(queue: SeriesQueue, clock: Clock) -> None:
    complete(queue, clock)
    for attempt, wait in ((1, 5), (2, 10)):
        job = claimed(queue)
        assert job.attempt == attempt
        assert queue.retry(job, "broken") is State.WAITING
        clock.now += wait - 0.1
        assert queue.claim() is None
        clock.now += 0.1
    assert queue.retry(claimed(queue), "broken") is State.FAILED
    assert queue.claim() is None


def test_sending_again_sends_what_is_not_acknowledged(queue: SeriesQueue, clock: Clock) -> None:
    job, result = with_results(queue, clock)
    queue.acknowledged(job, result, "A@h:1")
    assert queue.retry(job, "B is away") is State.SENDING
    clock.now += 5
    job = claimed(queue, State.SENDING)
    assert queue.unsent(job, "A@h:1") == []
    assert queue.unsent(job, "B@h:1") == [result]


def test_a_failed_series_that_is_sent_again_is_tried_again(queue: SeriesQueue, clock: Clock) -> None:
    complete(queue, clock)
    queue.refuse(claimed(queue), "no organ")
    assert queue.admit(arrival("1.2.0"))[0] is Admission.KNOWN
    clock.now += 10
    queue.close_quiet()
    assert len(list(claimed(queue).images.iterdir())) == 3


def test_results_that_could_not_be_sent_are_kept_when_the_same_series_comes_again(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock, sends=1)
    job, result = with_results(queue, clock)
    assert queue.retry(job, "away") is State.FAILED
    queue.admit(arrival("1.2.0"))
    assert queue.unsent(claimed(queue, State.SENDING), "A@h:1") == [result]
    queue.close()


def test_the_identity_tells_series_and_images_apart(tmp_path: Path, clock: Clock) -> None:
    def identity(series: str, images: int) -> str:
        queue = make(tmp_path / f"{series}_{images}", clock)
        complete(queue, clock, series, images)
        job = claimed(queue)
        queue.close()
        return job.identity

    assert len({identity("1.2", 3), identity("1.2", 4), identity("1.3", 3)}) == 3


# Limits.


def test_no_more_series_than_allowed(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock, series=2)
    queue.admit(arrival("1", "1.1"))
    queue.admit(arrival("2", "1.2"))
    with pytest.raises(QueueFullError, match="2 unfinished series"):
        queue.admit(arrival("3", "1.3"))
    assert queue.admit(arrival("4", "1.2"))[0] is Admission.STORED
    queue.close()


def test_no_more_images_than_allowed(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock, images=2)
    queue.admit(arrival("1"))
    queue.admit(arrival("2"))
    with pytest.raises(QueueFullError, match="2 images"):
        queue.admit(arrival("3"))
    queue.close()


def test_no_more_disk_than_allowed_and_it_is_free_again_afterwards(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock, disk_bytes=399)
    complete(queue, clock)
    with pytest.raises(QueueFullError, match="399 bytes"):
        queue.admit(arrival("9", "1.9"))
    queue.finish(claimed(queue))
    assert queue.admit(arrival("9", "1.9"))[0] is Admission.STORED
    queue.close()


def test_a_refused_series_gives_way_when_the_disk_is_full(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock, disk_bytes=399)
    complete(queue, clock)
    job = claimed(queue)
    queue.refuse(job, "no organ")
    assert job.images.is_dir()
    queue.admit(arrival("9", "1.9"))
    assert not job.images.exists()
    assert states(queue) == {"receiving": 1}
    queue.close()


def test_a_refused_series_stays_if_giving_way_would_not_help(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock, disk_bytes=399)
    complete(queue, clock)
    job = claimed(queue)
    queue.refuse(job, "no organ")
    with pytest.raises(QueueFullError):
        queue.admit(arrival("9", "1.9", data=b"y" * 400))
    assert len(list(job.images.iterdir())) == 3
    assert states(queue) == {"refused": 1}
    queue.close()


def test_an_image_that_cannot_be_written_leaves_nothing(queue: SeriesQueue) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    broken = Arrival(study_uid="1", series_uid="1.2", instance_uid="1", size_bytes=9, write=fail)
    with pytest.raises(QueueFullError, match="No space left"):
        queue.admit(broken)
    assert [path for path in queue.folder.rglob("*") if path.is_file() and "queue" not in path.name] == []
    assert states(queue) == {}
    assert queue.admit(arrival("1"))[0] is Admission.STORED


# Ends and beginnings.


def test_work_begun_is_taken_up_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock)
    complete(queue, clock)
    job = claimed(queue)
    job.results.mkdir()
    (job.results / "half.dcm").write_bytes(b"half")
    queue.close()
    again = make(tmp_path, clock)
    assert states(again) == {"waiting": 1}
    job = claimed(again)
    assert job.attempt == 2
    assert list(job.results.iterdir()) == []
    again.close()


def test_a_series_that_ends_the_process_is_not_tried_for_ever(tmp_path: Path, clock: Clock) -> None:
    for attempt in (1, 2, 3):
        queue = make(tmp_path, clock)
        if attempt == 1:
            complete(queue, clock)
        claimed(queue)
        queue.close()
    last = make(tmp_path, clock)
    assert states(last) == {"failed": 1}
    last.close()


def test_a_stop_on_purpose_is_not_an_attempt(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock)
    complete(queue, clock)
    queue.release(claimed(queue))
    assert claimed(queue).attempt == 1
    queue.close()


def test_a_series_half_received_gets_its_quiet_time_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock)
    queue.admit(arrival("1"))
    queue.close()
    clock.now += 1000
    again = make(tmp_path, clock)
    assert again.close_quiet() == []
    clock.now += 10
    assert len(again.close_quiet()) == 1
    again.close()


def test_a_clock_put_back_does_not_stop_the_queue(queue: SeriesQueue, clock: Clock) -> None:
    queue.admit(arrival("1"))
    clock.now -= 10_000
    assert queue.close_quiet() == []
    clock.now += 10
    assert len(queue.close_quiet()) == 1


def test_files_the_database_does_not_know_are_removed_at_the_start(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock)
    _, number = queue.admit(arrival("1"))
    folder = tmp_path / "spool" / "series" / str(number) / "images"
    known = next(folder.iterdir())
    (folder / "unrecorded.dcm").write_bytes(b"renamed, and then the process ended")
    (tmp_path / "spool" / "incoming" / "a.part").write_bytes(b"half")
    queue.close()
    make(tmp_path, clock).close()
    assert list(folder.iterdir()) == [known]
    assert list((tmp_path / "spool" / "incoming").iterdir()) == []


def test_names_on_the_disk_are_hashes(queue: SeriesQueue) -> None:
    hostile = "../../../etc/passwd"
    queue.admit(Arrival(**{**vars(arrival("1")), "instance_uid": hostile, "series_uid": hostile}))
    files = [path.relative_to(queue.folder).as_posix() for path in queue.folder.rglob("*.dcm")]
    assert len(files) == 1
    assert "passwd" not in files[0]


def test_only_the_owner_can_look_into_the_queue(queue: SeriesQueue) -> None:
    queue.admit(arrival("1"))
    assert queue.folder.stat().st_mode & 0o077 == 0
    assert (queue.folder / "queue.sqlite").stat().st_mode & 0o077 == 0


def test_a_second_process_is_told_that_the_folder_is_in_use(tmp_path: Path, clock: Clock) -> None:
    queue = make(tmp_path, clock)
    program = "import sys; from pathlib import Path; from viscera.pacs.queue import SeriesQueue;"
    program += "SeriesQueue(Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "spool")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "ConfigError: opening the queue" in done.stderr
    assert "another listener uses" in done.stderr
    queue.close()


def test_a_queue_of_another_layout_is_refused(tmp_path: Path, clock: Clock) -> None:
    make(tmp_path, clock).close()
    database = sqlite3.connect(tmp_path / "spool" / "queue.sqlite")
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(ConfigError, match="layout 7"):
        make(tmp_path, clock)
