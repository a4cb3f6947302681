"""Windows along an axis: laws for any depth, and one case worked out by hand."""

from hypothesis import given
from hypothesis import strategies as st

from viscera.engines.tiles import Window, covering_windows

DEPTHS = st.integers(1, 200)
PLANES = st.integers(1, 60)
HALOS = st.integers(0, 20)


def test_windows_worked_out_by_hand() -> None:
    assert covering_windows(20, 8, 2) == (
        Window(start=0, stop=8, low=0, high=12),  # nothing before it: four planes more behind it instead
        Window(start=8, stop=16, low=6, high=18),
        Window(start=16, stop=20, low=8, high=20),
    )


@given(DEPTHS, PLANES, HALOS)
def test_windows_give_every_plane_once(depth: int, planes: int, halo: int) -> None:
    found = [plane for window in covering_windows(depth, planes, halo) for plane in range(depth)[window.given]]
    assert found == list(range(depth))


@given(DEPTHS, PLANES, HALOS)
def test_windows_all_read_equally_many_planes(depth: int, planes: int, halo: int) -> None:
    lengths = {window.high - window.low for window in covering_windows(depth, planes, halo)}
    assert lengths == {min(depth, planes + 2 * halo)}


@given(DEPTHS, PLANES, HALOS)
def test_windows_read_the_halo_wherever_there_is_one(depth: int, planes: int, halo: int) -> None:
    for window in covering_windows(depth, planes, halo):
        assert 0 <= window.low <= max(0, window.start - halo)
        assert min(depth, window.stop + halo) <= window.high <= depth


@given(DEPTHS, PLANES, HALOS)
def test_what_is_kept_of_what_was_read_is_what_is_given(depth: int, planes: int, halo: int) -> None:
    for window in covering_windows(depth, planes, halo):
        assert list(range(depth))[window.read][window.kept] == list(range(depth))[window.given]


@given(st.integers(1, 50), st.integers(1, 15), st.integers(0, 5), st.integers(1, 4))
def test_coarser_windows_are_windows_of_the_coarser_planes(depth: int, planes: int, halo: int, factor: int) -> None:
    fine = covering_windows(factor * depth, factor * planes, factor * halo)
    assert tuple(window.coarser(factor) for window in fine) == covering_windows(depth, planes, halo)
