"""Claims on cases: one owner at a time, whatever happens to owners and clocks."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from viscera.batch.leases import Claim, Claims

STALE_SECONDS = 5.0
ELSEWHERE = {"host": "other", "pid": 1, "machine": "another boot/1", "started": 1}


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "ledger" / "claims", beat_seconds=0.02, stale_seconds=STALE_SECONDS)


def none_recorded() -> int:
    return 0


def taken(claims: Claims, name: str = "a") -> Claim:
    claim = claims.take(name, none_recorded)
    assert claim is not None
    return claim


def left_by(owner: dict[str, object], claims: Claims, *, seconds_ago: float, name: str = "a") -> None:
    """Makes the claim of the first attempt on a case, last touched so long ago."""
    claims.folder.mkdir(parents=True, exist_ok=True)
    path = claims.folder / f"{name}.1"
    path.write_text(json.dumps(owner) if owner else "", encoding="utf-8")
    touched = path.stat().st_mtime - seconds_ago
    os.utime(path, (touched, touched))


def names_in(claims: Claims) -> set[str]:
    return {path.name for path in claims.folder.iterdir() if path.name[0] != "."}


def test_a_case_has_one_owner_until_it_is_given_back(claims: Claims) -> None:
    with taken(claims):
        assert claims.take("a", none_recorded) is None
        with taken(claims, "b"):
            assert names_in(claims) == {"a.1", "b.1"}
    assert names_in(claims) == set()
    assert taken(claims).number == 1


def test_a_claim_whose_process_has_ended_on_this_machine_is_taken_over_at_once(claims: Claims) -> None:
    program = (
        "import os, sys; from pathlib import Path; from viscera.batch.leases import Claims;"
        "claim = Claims(Path(sys.argv[1])).take('a', lambda: 0).__enter__(); os._exit(claim.number)"
    )
    claims.folder.mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", program, claims.folder], check=False, timeout=60)
    assert done.returncode == 1
    assert names_in(claims) == {"a.1"}
    with taken(claims) as claim:
        assert claim.number == 2
    assert names_in(claims) == set()


def test_another_machines_claim_is_respected_while_it_is_touched(claims: Claims) -> None:
    left_by(ELSEWHERE, claims, seconds_ago=0)
    assert claims.take("a", none_recorded) is None


def test_another_machines_claim_is_dead_when_it_is_no_longer_touched(claims: Claims) -> None:
    left_by(ELSEWHERE, claims, seconds_ago=2 * STALE_SECONDS)
    assert taken(claims).number == 2


def test_a_process_of_the_same_number_begun_later_does_not_own_a_claim(claims: Claims) -> None:
    with taken(claims):
        owner = json.loads((claims.folder / "a.1").read_text(encoding="utf-8"))
    (claims.folder / "a.1").write_text(json.dumps(owner | {"started": owner["started"] - 1}), encoding="utf-8")
    assert taken(claims).number == 2


def test_a_process_that_proc_does_not_show_may_be_alive(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    with taken(claims):
        owner = json.loads((claims.folder / "a.1").read_text(encoding="utf-8"))
    left_by(owner | {"pid": 2**22 + 1}, claims, seconds_ago=0)  # no process has so large a number

    def hidden(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", hidden)
        assert claims.take("a", none_recorded) is None
    assert taken(claims).number == 2


@pytest.mark.parametrize(("seconds_ago", "number"), [(0, None), (2 * STALE_SECONDS, 2)])
def test_a_claim_that_was_made_and_not_written_ages_like_any(
    claims: Claims, seconds_ago: float, number: int | None
) -> None:
    left_by({}, claims, seconds_ago=seconds_ago)
    claim = claims.take("a", none_recorded)
    assert (claim and claim.number) == number


@pytest.fixture(params=[-86400.0, 86400.0], ids=["behind", "ahead"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's clock is a day off from that of the disk."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + request.param)


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_does_not_take_a_live_claim(claims: Claims) -> None:
    left_by(ELSEWHERE, claims, seconds_ago=0)
    assert claims.take("a", none_recorded) is None


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_does_not_respect_a_dead_claim(claims: Claims) -> None:
    left_by(ELSEWHERE, claims, seconds_ago=2 * STALE_SECONDS)
    assert taken(claims).number == 2


@pytest.mark.usefixtures("wrong_clock")
def test_a_claim_is_touched_with_the_disks_time_while_it_is_held(claims: Claims) -> None:
    with taken(claims):
        path, end = claims.folder / "a.1", time.monotonic() + 60
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        other = claims.folder / ".other"
        other.touch()
        assert abs(other.stat().st_mtime - path.stat().st_mtime) < 3600


def test_an_owner_knows_that_its_claim_was_taken(claims: Claims) -> None:
    slow = Claims(claims.folder, beat_seconds=3600)
    with taken(slow) as claim:
        assert not claim.lost
        path = claims.folder / "a.1"
        owner = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(owner | {"machine": "seen from another"}), encoding="utf-8")
        os.utime(path, (0, 0))
        with taken(claims) as other:
            assert (other.number, other.lost) == (2, False)
            assert claim.lost
        assert claim.lost


def test_of_many_that_find_a_dead_claim_one_takes_it(claims: Claims) -> None:
    names = [f"case{number}" for number in range(200)]
    for name in names:
        left_by({}, claims, name=name, seconds_ago=2 * STALE_SECONDS)
    barrier, found = threading.Barrier(8), []

    def take_all() -> None:
        for name in names:
            barrier.wait()
            if (claim := claims.take(name, none_recorded)) is not None:
                found.append((name, claim.number))

    threads = [threading.Thread(target=take_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((name, 2) for name in names)


def test_an_attempt_that_another_recorded_meanwhile_counts(claims: Claims) -> None:
    """The claim of that attempt was given back between the look at the ledger and the look at the claims."""
    told: Iterator[int] = iter([0, 1, 1, 1])
    claim = claims.take("a", lambda: next(told))
    assert claim is not None
    with claim:
        assert claim.number == 2
        assert names_in(claims) == {"a.2"}


def test_a_claim_left_by_a_process_that_had_recorded_its_attempt_goes(claims: Claims) -> None:
    left_by(ELSEWHERE, claims, seconds_ago=0)
    claim = claims.take("a", lambda: 1)
    assert claim is not None
    with claim:
        assert claim.number == 2
    assert names_in(claims) == set()
