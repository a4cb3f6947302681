"""Leases on cases: one owner at a time, whatever happens to owners and clocks."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from viscera.batch.leases import Lease, Leases

STALE_SECONDS = 5.0
ELSEWHERE = {"host": "other", "pid": 1, "machine": "another boot/1", "started": 1}


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "ledger" / "claims", heartbeat_seconds=0.02, stale_seconds=STALE_SECONDS)


def none_recorded() -> int:
    return 0


def taken(leases: Leases, name: str = "a") -> Lease:
    lease = leases.take(name, none_recorded)
    assert lease is not None
    return lease


def left_by(owner: dict[str, object], leases: Leases, *, seconds_ago: float, name: str = "a") -> None:
    """Makes the lease of the first attempt on a case, last touched so long ago."""
    leases.folder.mkdir(parents=True, exist_ok=True)
    path = leases.folder / f"{name}.1"
    path.write_text(json.dumps(owner) if owner else "", encoding="utf-8")
    touched = path.stat().st_mtime - seconds_ago
    os.utime(path, (touched, touched))


def names_in(leases: Leases) -> set[str]:
    return {path.name for path in leases.folder.iterdir() if path.name[0] != "."}


def test_a_case_has_one_owner_until_it_is_given_back(leases: Leases) -> None:
    with taken(leases):
        assert leases.take("a", none_recorded) is None
        with taken(leases, "b"):
            assert names_in(leases) == {"a.1", "b.1"}
    assert names_in(leases) == set()
    assert taken(leases).number == 1


def test_a_lease_whose_process_has_ended_on_this_machine_is_taken_over_at_once(leases: Leases) -> None:
    program = (
        "import os, sys; from pathlib import Path; from viscera.batch.leases import Leases;"
        "lease = Leases(Path(sys.argv[1])).take('a', lambda: 0).__enter__(); os._exit(lease.number)"
    )
    leases.folder.mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", program, leases.folder], check=False, timeout=60)
    assert done.returncode == 1
    assert names_in(leases) == {"a.1"}
    with taken(leases) as lease:
        assert lease.number == 2
    assert names_in(leases) == set()


def test_another_machines_lease_is_respected_while_it_is_touched(leases: Leases) -> None:
    left_by(ELSEWHERE, leases, seconds_ago=0)
    assert leases.take("a", none_recorded) is None


def test_another_machines_lease_is_dead_when_it_is_no_longer_touched(leases: Leases) -> None:
    left_by(ELSEWHERE, leases, seconds_ago=2 * STALE_SECONDS)
    assert taken(leases).number == 2


def test_a_process_of_the_same_number_begun_later_does_not_own_a_lease(leases: Leases) -> None:
    with taken(leases):
        owner = json.loads((leases.folder / "a.1").read_text(encoding="utf-8"))
    (leases.folder / "a.1").write_text(json.dumps(owner | {"started": owner["started"] - 1}), encoding="utf-8")
    assert taken(leases).number == 2


def test_a_process_that_proc_does_not_show_may_be_alive(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    with taken(leases):
        owner = json.loads((leases.folder / "a.1").read_text(encoding="utf-8"))
    left_by(owner | {"pid": 2**22 + 1}, leases, seconds_ago=0)  # no process has so large a number

    def hidden(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", hidden)
        assert leases.take("a", none_recorded) is None
    assert taken(leases).number == 2


@pytest.mark.parametrize(("seconds_ago", "number"), [(0, None), (2 * STALE_SECONDS, 2)])
def test_a_lease_that_was_made_and_not_written_ages_like_any(
    leases: Leases, seconds_ago: float, number: int | None
) -> None:
    left_by({}, leases, seconds_ago=seconds_ago)
    lease = leases.take("a", none_recorded)
    assert (lease and lease.number) == number


@pytest.fixture(params=[-86400.0, 86400.0], ids=["behind", "ahead"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's clock is a day off from that of the disk."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + request.param)


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_does_not_take_a_live_lease(leases: Leases) -> None:
    left_by(ELSEWHERE, leases, seconds_ago=0)
    assert leases.take("a", none_recorded) is None


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_does_not_respect_a_dead_lease(leases: Leases) -> None:
    left_by(ELSEWHERE, leases, seconds_ago=2 * STALE_SECONDS)
    assert taken(leases).number == 2


@pytest.mark.usefixtures("wrong_clock")
def test_a_lease_is_touched_with_the_disks_time_while_it_is_held(leases: Leases) -> None:
    with taken(leases):
        path, end = leases.folder / "a.1", time.monotonic() + 60
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        other = leases.folder / ".other"
        other.touch()
        assert abs(other.stat().st_mtime - path.stat().st_mtime) < 3600


def test_an_owner_knows_that_its_lease_was_taken(leases: Leases) -> None:
    slow = Leases(leases.folder, heartbeat_seconds=3600)
    with taken(slow) as lease:
        assert not lease.lost
        path = leases.folder / "a.1"
        owner = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(owner | {"machine": "seen from another"}), encoding="utf-8")
        os.utime(path, (0, 0))
        with taken(leases) as other:
            assert (other.number, other.lost) == (2, False)
            assert lease.lost
        assert lease.lost


def test_of_many_that_find_a_dead_lease_one_takes_it(leases: Leases) -> None:
    names = [f"case{number}" for number in range(200)]
    for name in names:
        left_by({}, leases, name=name, seconds_ago=2 * STALE_SECONDS)
    barrier, found = threading.Barrier(8), []

    def take_all() -> None:
        for name in names:
            barrier.wait()
            if (lease := leases.take(name, none_recorded)) is not None:
                found.append((name, lease.number))

    threads = [threading.Thread(target=take_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((name, 2) for name in names)


def test_an_attempt_that_another_recorded_meanwhile_counts(leases: Leases) -> None:
    """The lease of that attempt was given back between the look at the ledger and the look at the leases."""
    told: Iterator[int] = iter([0, 1, 1, 1])
    lease = leases.take("a", lambda: next(told))
    assert lease is not None
    with lease:
        assert lease.number == 2
        assert names_in(leases) == {"a.2"}


def test_a_lease_left_by_a_process_that_had_recorded_its_attempt_goes(leases: Leases) -> None:
    left_by(ELSEWHERE, leases, seconds_ago=0)
    lease = leases.take("a", lambda: 1)
    assert lease is not None
    with lease:
        assert lease.number == 2
    assert names_in(leases) == set()
