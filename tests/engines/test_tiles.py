"""Slabs along an axis: laws for any depth, and one case worked out by hand."""

from hypothesis import given
from hypothesis import strategies as st

from viscera.engines.tiles import Slab, covering_slabs

DEPTHS = st.integers(1, 200)
PLANES = st.integers(1, 60)
HALOS = st.integers(0, 20)


def test_slabs_worked_out_by_hand() -> None:
    assert covering_slabs(20, 8, 2) == (
        Slab(start=0, stop=8, low=0, high=12),  # nothing before it: four planes more behind it instead
        Slab(start=8, stop=16, low=6, high=18),
        Slab(start=16, stop=20, low=8, high=20),
    )


@given(DEPTHS, PLANES, HALOS)
def test_slabs_give_every_plane_once(depth: int, planes: int, halo: int) -> None:
    found = [plane for slab in covering_slabs(depth, planes, halo) for plane in range(depth)[slab.given]]
    assert found == list(range(depth))


@given(DEPTHS, PLANES, HALOS)
def test_slabs_all_read_equally_many_planes(depth: int, planes: int, halo: int) -> None:
    lengths = {slab.high - slab.low for slab in covering_slabs(depth, planes, halo)}
    assert lengths == {min(depth, planes + 2 * halo)}


@given(DEPTHS, PLANES, HALOS)
def test_slabs_read_the_halo_wherever_there_is_one(depth: int, planes: int, halo: int) -> None:
    for slab in covering_slabs(depth, planes, halo):
        assert 0 <= slab.low <= max(0, slab.start - halo)
        assert min(depth, slab.stop + halo) <= slab.high <= depth


@given(DEPTHS, PLANES, HALOS)
def test_what_is_kept_of_what_was_read_is_what_is_given(depth: int, planes: int, halo: int) -> None:
    for slab in covering_slabs(depth, planes, halo):
        assert list(range(depth))[slab.read][slab.kept] == list(range(depth))[slab.given]


@given(st.integers(1, 50), st.integers(1, 15), st.integers(0, 5), st.integers(1, 4))
def test_coarser_slabs_are_slabs_of_the_coarser_planes(depth: int, planes: int, halo: int, factor: int) -> None:
    fine = covering_slabs(factor * depth, factor * planes, factor * halo)
    assert tuple(slab.coarser(factor) for slab in fine) == covering_slabs(depth, planes, halo)
