"""Memory limits as people write them, and what is refused."""

import numpy as np
import pytest

from viscera.core.errors import ConfigError, MemoryBudgetError
from viscera.core.memory import in_megabytes, parse_bytes, peak_bytes, require_memory, resident_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("1.2GB", 1_200_000_000),
        ("800MiB", 838_860_800),
        ("2g", 2_000_000_000),
        ("2Gi", 2_147_483_648),
        ("64k", 64_000),
        ("123456", 123_456),
        (" 7 B ", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "5TB", "0", "0.1", "1,5GB", "1e9", "500MBs", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as 500MB"):
        parse_bytes(text)


def test_the_peak_is_never_below_what_is_held() -> None:
    held, peak = resident_bytes(), peak_bytes()
    if held is None or peak is None:
        pytest.skip("the system does not tell")
    assert 10**6 < held <= peak


def test_what_is_held_grows_with_what_is_written_to() -> None:
    before = resident_bytes()
    if before is None:
        pytest.skip("the system does not tell")
    taken = np.ones(400_000_000, dtype=np.uint8)
    after = resident_bytes()
    assert after is not None
    assert after - before > 200_000_000
    assert taken[0] == 1


def test_what_just_fits_is_allowed() -> None:
    require_memory("working", 300, 1000, held=700)


def test_what_does_not_fit_is_refused_with_all_figures() -> None:
    with pytest.raises(MemoryBudgetError) as caught:
        require_memory("working", 301_000_000, 1_000_000_000, held=700_000_000)
    assert str(caught.value) == (
        "working: expected a memory limit of at least 1001 MB, got 1000 MB, where 301 MB are needed in addition "
        "to the 700 MB the process holds. Raise --memory-limit, or leave it out."
    )


def test_megabytes_are_rounded_up() -> None:
    assert [in_megabytes(size) for size in (1, 10**6, 10**6 + 1)] == ["1 MB", "1 MB", "2 MB"]
