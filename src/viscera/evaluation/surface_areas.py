"""Areas of the surface elements ("surfels") that marching cubes puts between eight neighbouring voxels.

A cell is the cube whose corners are the centres of 2x2x2 voxels. Corner (dz, dy, dx) of a cell has bit
4 * dz + 2 * dy + dx, and the cell's code is the sum of the bits of the corners inside the mask (0 to 255). The surface
cuts every cell edge with one inner and one outer corner in its middle. Three rules then give the triangles, and with
them the areas of Nikolov et al. (2018, arXiv 1809.04430), for which surface Dice is defined:

1. A cell and its complement have the same surface, so the smaller side (at most four corners) is the one cut off.
2. Corners of that side which no cell edge joins are cut off one by one: diagonal neighbours stay separate. The cut of
   each joined group is a single closed polygon.
3. Of all ways to divide a polygon into triangles, the one with the largest area for cubic voxels is taken, whatever the
   spacing. It leaves the planar parts of the polygon planar. Where two ways have the largest area, they have the
   same triangle normals up to their signs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from viscera.core.geometry import Vector

_Point = tuple[int, int, int]  # in half cell edges: corners are 0 or 2, edge middles hold one 1
_Triangle = tuple[int, int, int]

CODES = 256
_MOST_TRIANGLES = 4
_CORNERS: tuple[_Point, ...] = tuple(itertools.product((0, 2), (0, 2), (0, 2)))


def surfel_areas_mm2(spacing_zyx_mm: Vector) -> NDArray[np.float64]:
    """The area in mm2 of the surface inside a cell, for each of the 256 cell codes; 0 for codes 0 and 255."""
    depth, height, width = spacing_zyx_mm
    # A triangle's normal scales by the product of the two spacings across each axis.
    scale = np.array([height * width, depth * width, depth * height])
    areas: NDArray[np.float64] = np.linalg.norm(_normals() * scale, axis=2).sum(axis=1)
    return areas


@functools.cache
def _normals() -> NDArray[np.float64]:
    """(256, 4, 3): the triangles' normals in (z, y, x) for unit spacing, as long as the triangle is large."""
    normals = np.zeros((CODES, _MOST_TRIANGLES, 3))
    for code in range(CODES):
        inside = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
        cut_off = inside if len(inside) <= 4 else set(_CORNERS) - inside
        found = [normal for group in _joined(cut_off) for normal in _triangle_normals(_polygon(group))]
        normals[code, : len(found)] = np.reshape(found, (-1, 3)) / 8  # cross products: twice the area, in half edges
    normals.flags.writeable = False
    return normals


def _joined(corners: set[_Point]) -> Iterator[set[_Point]]:
    """The groups of corners connected by cell edges."""
    left = set(corners)
    while left:
        group = {left.pop()}
        while reached := {corner for corner in left if any(_share_edge(corner, other) for other in group)}:
            group |= reached
            left -= reached
        yield group


def _share_edge(one: _Point, other: _Point) -> bool:
    return sum(a != b for a, b in zip(one, other, strict=True)) == 1


def _polygon(group: set[_Point]) -> list[_Point]:
    """The middles of the edges that leave `group`, in order around it; empty if none does."""
    links: dict[_Point, list[_Point]] = {}
    for axis, side in itertools.product(range(3), (0, 2)):
        face = [corner for corner in _CORNERS if corner[axis] == side]
        cuts = [
            _middle(inner, outer)
            for inner, outer in itertools.product(face, face)
            if inner in group and outer not in group and _share_edge(inner, outer)
        ]
        if cuts:  # the surface crosses the face along one line, between two cut edges
            start, end = cuts
            links.setdefault(start, []).append(end)
            links.setdefault(end, []).append(start)
    path: list[_Point] = []
    step = min(links, default=None)
    while step is not None:
        path.append(step)
        step = next((point for point in links[step] if point not in path), None)
    return path


def _middle(one: _Point, other: _Point) -> _Point:
    z, y, x = ((a + b) // 2 for a, b in zip(one, other, strict=True))
    return z, y, x


def _triangle_normals(polygon: list[_Point]) -> NDArray[np.int64]:
    """(triangles, 3): the cross products of the triangles of the largest division."""
    points = np.array(polygon)
    divisions = [
        np.array([np.cross(points[b] - points[a], points[c] - points[a]) for a, b, c in triangles])
        for triangles in _divisions(0, len(points) - 1)
    ]
    return max(divisions, key=lambda normals: round(float(np.linalg.norm(normals, axis=1).sum()), 9))


def _divisions(first: int, last: int) -> Iterator[list[_Triangle]]:
    """Every division into triangles of the polygon with corners `first` to `last`."""
    if last - first < 2:
        yield []
        return
    for apex in range(first + 1, last):
        for before in _divisions(first, apex):
            for after in _divisions(apex, last):
                yield [*before, *after, (first, apex, last)]
