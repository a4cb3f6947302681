"""A synthetic abdominal CT with known organs, of geometric shapes: example data and test data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError
from viscera.core.geometry import AIR_HU, Grid, Ranges, Size, Vector
from viscera.core.volume import LabelMap, Volume
from viscera.synthesis.phantom_anatomy import Anatomist, draw_physique
from viscera.synthesis.phantom_shapes import PHASES, TISSUE_HU, Array, PhantomTissue, Phase

# Heights of the scan's middle in the body frame (mm): where to point a scan at, or away from, the organs.
ABDOMEN_Z_MM = 10.0
HEAD_Z_MM = 480.0
THIGHS_Z_MM = -560.0

_WARP_WAVES = 3
_WARP_REACH_MM = 14.0
# Turns the body's warp into the faint unevenness of soft tissue: shorter waves, a fraction of an HU each.
_MOTTLE = np.array([9, 9, 9, 1, 0.1], dtype=np.float32)
_SLAB_VOXELS = 2_000_000
# A slice thicker than this is drawn from three sheets, so that edges show its thickness (partial volume).
_THIN_SLICE_MM = 2.5


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """What to scan and how.

    Attributes:
        shape_zyx: Voxels of the scan.
        spacing_zyx_mm: Their spacing.
        centre_z_mm: Height of the scan's middle in the body; see `ABDOMEN_Z_MM`, `HEAD_Z_MM`, `THIGHS_Z_MM`.
        phase: Contrast phase; None draws one.
        noise_hu: SD of the noise; None draws one between 4 and 35 HU.
    """

    shape_zyx: Size = (96, 176, 224)
    spacing_zyx_mm: Vector = (3.0, 2.0, 2.0)
    centre_z_mm: float = ABDOMEN_Z_MM
    phase: Phase | None = None
    noise_hu: float | None = None

    def __post_init__(self) -> None:
        if self.phase is not None and self.phase not in PHASES:
            raise ConfigError(
                "setting PhantomConfig.phase", expected=" or ".join(PHASES), got=self.phase, remedy="Choose one of them"
            )
        if self.noise_hu is not None and self.noise_hu < 0:
            raise ConfigError(
                "setting PhantomConfig.noise_hu", expected="0 HU or more", got=str(self.noise_hu), remedy="Raise it"
            )

    def grid(self) -> Grid:
        """The upright grid of this scan, centred on the body's axis."""
        steps, counts = np.asarray(self.spacing_zyx_mm), np.asarray(self.shape_zyx)
        middle = (self.centre_z_mm, 0.0, 0.0)
        z, y, x = (float(m - step * (count - 1) / 2) for m, step, count in zip(middle, steps, counts, strict=True))
        return Grid.from_axes(
            self.shape_zyx,
            spacing_zyx_mm=self.spacing_zyx_mm,
            direction_zyx=np.eye(3)[:, ::-1],
            origin_xyz_mm=(x, y, z),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Phantom:
    """A synthetic CT and the labels it was drawn from, on one grid."""

    volume: Volume
    label_map: LabelMap


def make_phantom(seed: int, *, config: PhantomConfig | None = None, grid: Grid | None = None) -> Phantom:
    """The phantom of `seed`: the same person, phase and noise every time.

    Args:
        seed: Chooses the person and the noise; the same on every grid.
        config: Scan settings; the defaults show the whole abdomen.
        grid: Any grid in the body frame (LPS mm, see `viscera.synthesis.phantom_anatomy`), oblique or mirrored ones
            included; replaces the config's shape, spacing and height.

    Returns:
        The CT (int16 HU) and its labels. Voxels of an organ are those whose centre lies in it.
    """
    config = config or PhantomConfig()
    grid = grid or config.grid()
    rng = np.random.default_rng([seed, 0])
    scene = _Scene.draw(rng, config)
    hu = np.empty(grid.shape_zyx, dtype=np.int16)
    labels = np.empty(grid.shape_zyx, dtype=np.uint8)
    depth = max(1, _SLAB_VOXELS // (grid.shape_zyx[1] * grid.shape_zyx[2]))
    for start in range(0, grid.shape_zyx[0], depth):
        part = slice(start, min(start + depth, grid.shape_zyx[0]))
        drawn, labels[part] = scene.scan(grid, part)
        for index in range(part.start, part.stop):  # noise by slice, so that it does not depend on the slabs
            noisy = drawn[index - start] + _noise(np.random.default_rng([seed, 1, index]), scene.noise_hu, hu.shape[1:])
            hu[index] = np.clip(np.rint(noisy), AIR_HU, 3071)
    return Phantom(volume=Volume(hu=hu, grid=grid), label_map=LabelMap(labels=labels, grid=grid))


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """A person ready to be scanned: tissues with their HU, the warp of the body, the noise level."""

    tissues: list[PhantomTissue]
    tissue_hu: list[float]
    waves: NDArray[np.float32]  # per body axis and wave: kx, ky, kz (per mm), phase, amplitude (mm)
    noise_hu: float

    @classmethod
    def draw(cls, rng: np.random.Generator, config: PhantomConfig) -> _Scene:
        drawn_phase, drawn_noise = PHASES[rng.integers(len(PHASES))], float(np.exp(rng.uniform(np.log(4), np.log(35))))
        column = PHASES.index(config.phase or drawn_phase)
        strength = rng.uniform(0.75, 1.2)
        means = {}
        for name, row in TISSUE_HU.items():
            means[name] = row[0] + strength * (row[column] - row[0]) + rng.normal(0, row[4])
        tissues = Anatomist(rng, draw_physique(rng)).tissues()
        tissue_hu = [means[tissue.name] + rng.normal(0, TISSUE_HU[tissue.name][4] / 3) for tissue in tissues]
        waves = np.zeros((3, _WARP_WAVES, 5), dtype=np.float32)
        for wave in waves.reshape(-1, 5):
            direction = rng.normal(size=3)
            wave[:3] = direction / np.linalg.norm(direction) * 2 * np.pi / rng.uniform(110, 350)
            wave[3:] = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1) * _WARP_REACH_MM / _WARP_WAVES
        noise = drawn_noise if config.noise_hu is None else config.noise_hu
        return cls(tissues=tissues, tissue_hu=tissue_hu, waves=waves, noise_hu=noise)

    def scan(self, grid: Grid, part: slice) -> tuple[Array, NDArray[np.uint8]]:
        """HU without noise and labels of the slices `part`."""
        if grid.spacing_zyx_mm[0] <= _THIN_SLICE_MM:
            return self._sheet(grid, part, 0.0)
        middle, labels = self._sheet(grid, part, 0.0)
        total = middle + self._sheet(grid, part, -1 / 3)[0] + self._sheet(grid, part, 1 / 3)[0]
        return total / np.float32(3), labels

    def _sheet(self, grid: Grid, part: slice, shift_vox: float) -> tuple[Array, NDArray[np.uint8]]:
        counts = (part.stop - part.start, *grid.shape_zyx[1:])
        x, y, z = _points(grid, part, shift_vox)
        warped = [base + _waves(rows, x, y, z) for base, rows in zip((x, y, z), self.waves, strict=True)]
        hu = np.full(counts, -1000.0, dtype=np.float32)
        labels = np.zeros(counts, dtype=np.uint8)
        for tissue, value in zip(self.tissues, self.tissue_hu, strict=True):
            where = _touched(tissue, grid, part)
            if where is not None:
                inside = tissue.inside(*(axis[where] for axis in warped))
                hu[where][inside] = value
                labels[where][inside] = tissue.label
        mottle = np.float32(4.0) * _waves(self.waves[0] * _MOTTLE, warped[0], warped[1], warped[2])
        return np.where(hu > -300, hu + mottle, hu), labels


def _points(grid: Grid, part: slice, shift_vox: float) -> list[Array]:
    """World x, y and z of the voxels of some slices, moved by a part of a slice."""
    counts = (part.stop - part.start, *grid.shape_zyx[1:])
    steps = [index.astype(np.float32) for index in np.ogrid[0 : counts[0], 0 : counts[1], 0 : counts[2]]]
    first = grid.world(np.array([part.start + shift_vox, 0.0, 0.0])).astype(np.float32)
    columns = grid.affine[:3, :3].astype(np.float32)
    return [first[axis] + row[0] * steps[0] + row[1] * steps[1] + row[2] * steps[2] for axis, row in enumerate(columns)]


def _touched(tissue: PhantomTissue, grid: Grid, part: slice) -> Ranges | None:
    """The voxels of the slab around a tissue's box, however the grid is turned; None if there are none."""
    low, high = np.array(tissue.lower_xyz_mm) - _WARP_REACH_MM, np.array(tissue.upper_xyz_mm) + _WARP_REACH_MM
    corners = np.array([[(low, high)[(c >> axis) & 1][axis] for axis in range(3)] for c in range(8)])
    positions = np.linalg.solve(grid.affine[:3, :3], (corners - grid.affine[:3, 3]).T).T - (part.start, 0, 0)
    counts = (part.stop - part.start, *grid.shape_zyx[1:])
    starts = np.maximum(np.floor(positions.min(axis=0)).astype(int), 0)
    stops = np.minimum(np.ceil(positions.max(axis=0)).astype(int) + 1, counts)
    if (starts >= stops).any():
        return None
    z, y, x = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    return z, y, x


def _waves(rows: NDArray[np.float32], x: Array, y: Array, z: Array) -> Array:
    """A sum of plane sine waves; each row holds kx, ky, kz (per mm), phase, amplitude."""
    total = sum(amplitude * np.sin(kx * x + ky * y + kz * z + phase) for kx, ky, kz, phase, amplitude in rows)
    return np.asarray(total, dtype=np.float32)


def _noise(rng: np.random.Generator, sd_hu: float, shape: tuple[int, ...]) -> Array:
    """Noise of one slice, correlated over neighbouring pixels as a reconstruction kernel leaves it."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = white + np.roll(white, 1, axis=0) + np.roll(white, 1, axis=1) + np.roll(white, (1, 1), axis=(0, 1))
    return smooth * np.float32(sd_hu / 2)
