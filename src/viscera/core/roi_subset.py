"""Some organs out of those a bundle knows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from viscera.core.errors import ConfigError
from viscera.core.organs import BACKGROUND, Organ, pair_name
from viscera.core.volume import LabelMap


def chosen_organs(organs: Sequence[Organ], names: Sequence[str]) -> tuple[Organ, ...]:
    """Return the organs called `names`, in the order of `organs`; all of them if no names are given.

    Where left and right are organs of their own, the name of the pair is both.

    Raises:
        ConfigError: If a name is none of theirs.
    """
    known = list(dict.fromkeys(name for organ in organs for name in (organ.name, pair_name(organ.name))))
    if unknown := [name for name in names if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        raise ConfigError(
            "choosing organs",
            expected=f"names out of {', '.join(known)}",
            got=", ".join(unknown),
            remedy=f"Give {near[0]}" if near else "Give some of these",
        )
    return tuple(organ for organ in organs if not names or {organ.name, pair_name(organ.name)} & {*names})


def keep_organs(label_map: LabelMap, organs: Sequence[Organ]) -> LabelMap:
    """Return the label map with every other label turned into background; the labels kept are the same numbers."""
    table = np.full(256, BACKGROUND, dtype=np.uint8)
    for organ in organs:
        table[organ.index] = organ.index
    return LabelMap(labels=table[label_map.labels], grid=label_map.grid, notes=label_map.notes)
