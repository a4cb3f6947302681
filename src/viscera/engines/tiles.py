"""Slabs along z in which a network is computed piece by piece: what each gives, and what it must read for that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Half-open ranges of planes: those a slab gives, and those it reads, which hold the former.

    Attributes:
        start, stop: What it gives.
        low, high: What it reads.
    """

    start: int
    stop: int
    low: int
    high: int

    @property
    def kept(self) -> slice:
        """What it gives, counted from the first plane it reads."""
        return slice(self.start - self.low, self.stop - self.low)

    @property
    def given(self) -> slice:
        """What it gives, counted from the first plane of all."""
        return slice(self.start, self.stop)

    @property
    def read(self) -> slice:
        """What it reads, counted from the first plane of all."""
        return slice(self.low, self.high)

    def coarser(self, factor: int) -> Slab:
        """The same slab of planes coarser by `factor`, which must divide its ends."""
        start, stop, low, high = (end // factor for end in (self.start, self.stop, self.low, self.high))
        return Slab(start=start, stop=stop, low=low, high=high)


def covering_slabs(depth: int, planes: int, halo: int) -> tuple[Slab, ...]:
    """The slabs that give all of `depth` planes, `planes` each and the last what is left.

    Each reads `halo` planes more on either side. At the border, where there are none, it reads more on the other side
    instead, so that all read equally many and one compiled network serves them all.
    """
    length = min(depth, planes + 2 * halo)
    return tuple(
        Slab(start=start, stop=min(start + planes, depth), low=low, high=low + length)
        for start in range(0, depth, planes)
        for low in [max(0, min(start - halo, depth - length))]
    )
