"""Connected components of an organ that only one of two label maps has: false organs and missed pieces, counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.core.components import connected_components


@dataclass(frozen=True, kw_only=True)
class ComponentCount:
    """How many components there are, and of how many voxels together."""

    count: int = 0
    voxels: int = 0


def components_apart(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> ComponentCount:
    """Count the connected components of `mask` that share no voxel with `other`; voxels may touch at a corner.

    Args:
        mask: (z, y, x).
        other: On the same grid.
    """
    components = connected_components(mask)
    if not components.count:
        return ComponentCount()
    shared = np.flatnonzero(mask & other)
    # A run holds a shared voxel if more of them lie before its end than before its start.
    stops = components.starts_vox + components.lengths_vox
    meets = np.searchsorted(shared, stops) > np.searchsorted(shared, components.starts_vox)
    apart = np.ones(components.count, dtype=bool)
    apart[components.parts[meets]] = False
    return ComponentCount(count=int(apart.sum()), voxels=int(components.sizes_vox[apart].sum()))
