"""The shapes a phantom is made of, and the CT numbers they are filled with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Array = NDArray[np.float32]
Point = tuple[float, float, float]
Phase = Literal["native", "arterial", "portal", "late"]
PHASES: tuple[Phase, ...] = ("native", "arterial", "portal", "late")

# Mean HU per tissue and phase (native, arterial, portal venous, late) with the person-to-person SD in the last place:
# round figures in the middle of the ranges radiology textbooks give; they set contrast, not truth.
TISSUE_HU: dict[str, tuple[float, float, float, float, float]] = {
    "liver": (56, 66, 112, 94, 9),
    "spleen": (48, 118, 122, 98, 8),
    "renal cortex": (33, 170, 182, 160, 14),
    "renal medulla": (31, 72, 158, 168, 12),
    "pancreas": (42, 98, 92, 74, 8),
    "artery": (42, 320, 165, 118, 25),
    "vein": (41, 85, 168, 120, 15),
    "muscle": (54, 60, 66, 64, 5),
    "gut wall": (40, 75, 85, 75, 8),
    "blood": (41, 200, 160, 118, 15),
    "fat": (-104, -104, -102, -102, 6),
    "fluid": (8, 8, 9, 10, 6),
    "lung": (-860, -850, -845, -848, 30),
    "bone": (320, 330, 330, 330, 80),
    "cortical bone": (850, 850, 850, 850, 150),
    "brain": (34, 40, 42, 40, 3),
    "oral contrast": (260, 260, 260, 260, 90),
    "gas": (-960, -960, -960, -960, 20),
    "table": (-300, -300, -300, -300, 150),
}


@dataclass(frozen=True, kw_only=True)
class PhantomTissue:
    """One thing to draw over what is there already.

    Attributes:
        name: A key of `TISSUE_HU`.
        label: Organ index, 0 for none (drawing it clears a label below it).
        lower_xyz_mm, upper_xyz_mm: A box around the shape in the body frame.
        inside: Maps body-frame x, y, z of points to where the shape is.
    """

    name: str
    label: int = 0
    lower_xyz_mm: Point
    upper_xyz_mm: Point
    inside: Callable[[Array, Array, Array], Mask]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """An ellipsoid, or a box-like one with power 4, turned about its centre and dented by a few waves."""

    centre: Point
    radii: Point
    turn: NDArray[np.float32]
    waves: NDArray[np.float32]  # rows of kx, ky, kz (per mm), phase, depth
    power: int = 2

    def level(self, x: Array, y: Array, z: Array) -> Array:
        """Below 1 inside; grows with the squared (or fourth power of the) distance in radii."""
        offsets = (x - self.centre[0], y - self.centre[1], z - self.centre[2])
        total: Any = 0.0
        for row, radius in zip(self.turn, self.radii, strict=True):
            along = sum(part * np.float32(weight / radius) for part, weight in zip(offsets, row, strict=True))
            square = along * along
            total = total + (square if self.power == 2 else square * square)
        for kx, ky, kz, phase, depth in self.waves:
            total = total + depth * np.sin(kx * offsets[0] + ky * offsets[1] + kz * offsets[2] + phase)
        return np.asarray(total, dtype=np.float32)

    def scaled(self, factor: float) -> Self:
        """The blob with all radii times `factor`."""
        x, y, z = self.radii
        return replace(self, radii=(x * factor, y * factor, z * factor))

    def thinner(self, by_mm: float) -> Self:
        """The blob with all radii less `by_mm`, but at least 2 mm."""
        x, y, z = (max(2.0, radius - by_mm) for radius in self.radii)
        return replace(self, radii=(x, y, z))

    def tissue(self, name: str, label: int = 0) -> PhantomTissue:
        """The blob as a tissue."""
        reach = max(self.radii) * 1.35
        return PhantomTissue(
            name=name,
            label=label,
            lower_xyz_mm=_shifted(self.centre, -reach),
            upper_xyz_mm=_shifted(self.centre, reach),
            inside=lambda x, y, z: self.level(x, y, z) < 1.0,
        )


def tube(name: str, path: NDArray[np.float64], widths: NDArray[np.float64], label: int) -> PhantomTissue:
    """A tube through the points `path` (n, 3), n >= 2, with the radii `widths` (n): a chain of rounded cones."""
    points, radii = path.astype(np.float32), widths.astype(np.float32)

    def inside(x: Array, y: Array, z: Array) -> Mask:
        found: Any = False
        for start, end, thin, wide in zip(points, points[1:], radii, radii[1:], strict=False):
            along = end - start
            offsets = (x - start[0], y - start[1], z - start[2])
            t = sum(offset * part for offset, part in zip(offsets, along / (along @ along), strict=True))
            t = np.clip(t, 0, 1)
            away = sum((offset - t * part) ** 2 for offset, part in zip(offsets, along, strict=True))
            found = found | (away < (thin + t * (wide - thin)) ** 2)
        return np.asarray(found)

    reach = radii.max()
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    return PhantomTissue(name=name, label=label, lower_xyz_mm=tuple(low), upper_xyz_mm=tuple(high), inside=inside)


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """The rotation by `angles` about x, then y, then z (radians)."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn.astype(np.float32)


def _shifted(point: Point, by: float) -> Point:
    return point[0] + by, point[1] + by, point[2] + by
