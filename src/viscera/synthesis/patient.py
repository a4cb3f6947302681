"""A virtual patient: an anatomy deformed as a whole and organ by organ, read at any point of space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.geometry import Grid, Vector
from viscera.synthesis.anatomy import DEPTH_UNIT_MM, SPACING_MM, Anatomy
from viscera.synthesis.config import BodyConfig
from viscera.synthesis.fields import stretched
from viscera.synthesis.tissues import Tissue

# Half the side of the cube that B-spline nodes cover; beyond it the outermost go on.
_REACH_MM = 420.0
# Displacements are computed at points so far apart and interpolated linearly between them.
_LATTICE_MM = 12.0
# An organ's own deformation fades like a Gaussian of so many of its standard deviations.
_FADING = 2.0
# That of an enlarged one by this many, times its factor; and where it starts from, in standard deviations (z, y, x),
# as a liver or a spleen leans on the wall and grows away from it.
_ENLARGED_FADING = 2.2
_LEANS = {Tissue.LIVER: (0.6, 0.5, -0.7), Tissue.SPLEEN: (0.4, 0.6, 0.7)}
_KIDNEYS = (Tissue.KIDNEY_LEFT, Tissue.KIDNEY_RIGHT)


class Tissues(NamedTuple):
    """What lies at the voxels of a grid: tissue (int64) and depth in mm (float32; see `Anatomy`), each (z, y, x)."""

    tissue: Tensor
    depth_mm: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class OrganChange:
    """The deformation of one organ by itself: centre and reach in voxels of the anatomy, matrix, shift in voxels."""

    centre: NDArray[np.float64]
    reach: NDArray[np.float64]
    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inflation:
    """A lesion that bulges an organ: which, where among the anatomy's voxels, and its radius once inflated."""

    tissue: Tissue
    centre: NDArray[np.float64]
    radius_mm: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Resection:
    """A removed part of the liver: all of it beyond a plane, `point` and outward `normal` in voxels of the anatomy."""

    point: NDArray[np.float64]
    normal: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """A deformed anatomy on a device.

    The origin of the patient's space is the middle of the organs; axes are canonical, points (z, y, x) in mm.

    Attributes:
        anatomy: Which.
        packed: int32, tissue + 256 * depth of every voxel of the anatomy, on the device.
        centre: The anatomy's voxel position (z, y, x) that lies in the origin.
        matrix: From patient mm to anatomy mm.
        nodes_mm: For each elastic scale its spacing and (3, n, n, n) displacements of B-spline nodes.
        changes: Of single organs, and the stretching around inflated lesions.
        inflations: Lesions that bulge an organ.
        resection: Of the liver, None if it is whole.
        replaced: What each tissue is drawn as: itself, or interior if it is missing.
    """

    anatomy: Anatomy
    packed: Tensor
    centre: NDArray[np.float64]
    matrix: NDArray[np.float64]
    nodes_mm: tuple[tuple[float, NDArray[np.float64]], ...]
    changes: tuple[OrganChange, ...]
    inflations: tuple[Inflation, ...]
    resection: Resection | None
    replaced: Tensor

    @classmethod
    def draw(
        cls, anatomy: Anatomy, config: BodyConfig, rng: np.random.Generator, device: torch.device | str = "cpu"
    ) -> Self:
        """Draw a virtual patient of this anatomy."""
        packed = anatomy.depth.astype(np.int32) * 256 + anatomy.tissues
        middles = [centre for centre, _ in anatomy.organs.values()]
        shape = np.array(anatomy.tissues.shape)
        centre = np.mean(middles, axis=0) if middles else (shape - 1) / 2
        turns = rng.uniform(-1, 1, 3) * (config.turn_rad, config.tilt_rad, config.tilt_rad)
        scale = rng.uniform(*config.scale) * rng.uniform(*config.axis_scale, 3)
        scale[1] *= rng.uniform(*config.depth_scale)
        nodes = []
        for spacing, deviation in zip(config.elastic_spacing_mm, config.elastic_mm, strict=True):
            count = math.ceil(2 * _REACH_MM / spacing) + 3
            nodes.append((spacing, rng.standard_normal((3, count, count, count)) * deviation))
        alone = rng.uniform() < config.organ_probability
        changes = tuple(_organ_change(*item, config, rng) for item in anatomy.organs.items() if alone)
        enlarged = _draw_enlargements(anatomy, config, rng)
        inflations, stretched = _draw_inflations(anatomy, config, rng)
        return cls(
            anatomy=anatomy,
            packed=torch.from_numpy(packed).to(device),
            centre=centre,
            # Points are taken back into the anatomy, so factors are inverted.
            matrix=rotation(turns) @ np.diag(1 / scale),
            nodes_mm=tuple(nodes),
            changes=changes + enlarged + stretched,
            inflations=inflations,
            resection=_draw_resection(anatomy, config, rng),
            replaced=_replaced(config, rng).to(device),
        )

    def positions(self, grid: Grid) -> list[Tensor]:
        """Voxel positions z, y and x in the anatomy of every voxel of `grid`, an upright one: float32 (z, y, x)."""
        first, last = corners_zyx_mm(grid)
        axes = [
            torch.linspace(low, high, max(2, math.ceil((high - low) / _LATTICE_MM) + 1), dtype=torch.float32)
            for low, high in zip(first, last, strict=True)
        ]
        lattice = self._deformed(axes).to(self.packed.device)
        # Lattice ends lie in the outer voxel centres.
        fine = stretched(lattice, grid.shape_zyx)
        return [fine[0], fine[1], fine[2]]

    def tissues(self, grid: Grid) -> Tissues:
        """What lies at the voxel centres of an upright `grid`.

        Above and below the anatomy its last slices go on, at its sides the outside, at growing depth.
        """
        z, y, x = (position.round_().long() for position in self.positions(grid))
        depth, height, width = self.packed.shape
        inner_y, inner_x = y.clamp(0, height - 1), x.clamp(0, width - 1)
        packed = self.packed.flatten()[(z.clamp_(0, depth - 1) * height + inner_y) * width + inner_x]
        further = ((y - inner_y).square() + (x - inner_x).square()).float().sqrt_()
        tissue = self.replaced[packed & 255].masked_fill_(further > 0, Tissue.OUTSIDE)
        if self.resection is not None:
            liver = (tissue == Tissue.LIVER).nonzero(as_tuple=True)
            point, normal = self.resection.point, self.resection.normal
            beyond = torch.stack([axis[liver] - p for axis, p in zip((z, y, x), point.tolist(), strict=True)])
            outside = _tensor(normal) @ beyond.cpu() > 0
            tissue[liver] = torch.where(outside.to(tissue.device), int(Tissue.INTERIOR), int(Tissue.LIVER))
        return Tissues(tissue, (packed >> 8).float() * DEPTH_UNIT_MM + further * SPACING_MM)

    def covered_z_mm(self) -> tuple[float, float]:
        """From where to where the anatomy reaches along the body's axis through the origin."""
        height = len(self.anatomy.tissues)
        stretch = float(self.matrix[0, 0])
        return (
            (-0.5 - self.centre[0]) * SPACING_MM / stretch,
            (height - 0.5 - self.centre[0]) * SPACING_MM / stretch,
        )

    def _deformed(self, axes: list[Tensor]) -> Tensor:
        """Anatomy voxel positions (3, z, y, x) of a lattice of points."""
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        moved = torch.tensordot(_tensor(self.matrix), points, dims=([1], [0]))
        for spacing, nodes in self.nodes_mm:
            weights = [_spline_weights(axis, spacing, nodes.shape[1]) for axis in axes]
            moved += torch.einsum("cijk,zi,yj,xk->czyx", _tensor(nodes), *weights)
        q = moved / SPACING_MM + _tensor(self.centre).reshape(3, 1, 1, 1)
        step = torch.zeros_like(q)
        for change in self.changes:
            away = q - _tensor(change.centre).reshape(3, 1, 1, 1)
            fading = torch.exp(-0.5 * (away / _tensor(change.reach).reshape(3, 1, 1, 1)).square().sum(0))
            turned = torch.tensordot(_tensor(change.matrix), away, dims=([1], [0]))
            step += fading * (turned + _tensor(change.shift).reshape(3, 1, 1, 1))
        deformed: Tensor = q + step
        return deformed


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).float()


def rotation(angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product of rotations about z, y and x, in (z, y, x) order."""
    result = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def corners_zyx_mm(grid: Grid) -> tuple[Vector, Vector]:
    """Centres of the first and the last voxel of an upright grid, in mm of the patient's space."""
    first = np.array([grid.affine[2, 3], grid.affine[1, 3], grid.affine[0, 3]])
    last = first + np.array(grid.spacing_zyx_mm) * (np.array(grid.shape_zyx) - 1)
    return as_vector(first), as_vector(last)


def axes_mm(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The voxel centres of an upright grid along each axis in the patient's mm: (z, 1, 1), (1, y, 1), (1, 1, x)."""
    first, _ = corners_zyx_mm(grid)
    z, y, x = (
        start + step * torch.arange(count, device=device, dtype=torch.float32)
        for start, step, count in zip(first, grid.spacing_zyx_mm, grid.shape_zyx, strict=True)
    )
    return z[:, None, None], y[None, :, None], x[None, None, :]


def as_vector(values: NDArray[np.float64]) -> Vector:
    """Three numbers as plain ones."""
    z, y, x = (float(value) for value in values)
    return z, y, x


def _organ_change(
    organ: Tissue,
    place: tuple[NDArray[np.float64], NDArray[np.float64]],
    config: BodyConfig,
    rng: np.random.Generator,
) -> OrganChange:
    centre, radius = place
    kidney = organ in _KIDNEYS
    low, high = np.log(config.kidney_scale if kidney else config.organ_scale)
    scale = np.exp(rng.uniform(low, high) + rng.uniform(low, high, 3) / 4)
    turn = rotation(rng.uniform(-1, 1, 3) * config.organ_turn_rad)
    deviations = config.kidney_shift_mm if kidney else (config.organ_shift_mm,) * 3
    shift = rng.standard_normal(3) * deviations / SPACING_MM
    return OrganChange(centre=centre, reach=_FADING * radius, matrix=turn @ np.diag(1 / scale) - np.eye(3), shift=shift)


def _draw_enlargements(anatomy: Anatomy, config: BodyConfig, rng: np.random.Generator) -> tuple[OrganChange, ...]:
    changes = []
    for organ, lean in _LEANS.items():
        if organ not in anatomy.organs or rng.uniform() >= config.enlarged_probability:
            continue
        middle, radius = anatomy.organs[organ]
        low, high = np.log(config.enlargement_liver if organ == Tissue.LIVER else config.enlargement_spleen)
        scale = float(np.exp(rng.uniform(low, high)))
        changes.append(
            OrganChange(
                centre=middle + radius * lean,
                reach=_ENLARGED_FADING * scale * radius,
                matrix=(1 / scale - 1) * np.eye(3),
                shift=np.zeros(3),
            )
        )
    return tuple(changes)


def _draw_resection(anatomy: Anatomy, config: BodyConfig, rng: np.random.Generator) -> Resection | None:
    """The right part of the liver, or the left one, or what lies below or behind."""
    if Tissue.LIVER not in anatomy.organs or rng.uniform() >= config.resection_probability:
        return None
    middle, radius = anatomy.organs[Tissue.LIVER]
    main = ((0.0, 0.0, -1.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))[int(rng.integers(4))]
    normal = np.array(main) + rng.normal(0, 0.3, 3)
    return Resection(point=middle + rng.uniform(0.0, 1.2) * radius * main, normal=normal)


def _draw_inflations(
    anatomy: Anatomy, config: BodyConfig, rng: np.random.Generator
) -> tuple[tuple[Inflation, ...], tuple[OrganChange, ...]]:
    inflations, changes = [], []
    for tissue, (middle, radius) in anatomy.organs.items():
        if rng.uniform() >= config.inflation_probability:
            continue
        centre = middle + radius * rng.standard_normal(3)
        radius_mm = rng.uniform(*config.inflation_mm)
        z, y, x = np.clip(np.rint(centre).astype(int), 0, np.array(anatomy.tissues.shape) - 1)
        if anatomy.tissues[z, y, x] != tissue:
            continue
        reach = np.full(3, radius_mm / SPACING_MM)
        # Read nearer to the middle than one stands, what lies there looks larger.
        matrix = -rng.uniform(*config.inflation) * np.eye(3)
        inflations.append(Inflation(tissue=tissue, centre=centre, radius_mm=radius_mm))
        changes.append(OrganChange(centre=centre, reach=reach, matrix=matrix, shift=np.zeros(3)))
    return tuple(inflations), tuple(changes)


def _replaced(config: BodyConfig, rng: np.random.Generator) -> Tensor:
    table = torch.arange(256)
    chances = {
        Tissue.KIDNEY_LEFT: config.missing_kidney_probability,
        Tissue.KIDNEY_RIGHT: config.missing_kidney_probability,
        Tissue.SPLEEN: config.missing_spleen_probability,
        Tissue.GALLBLADDER: config.missing_gallbladder_probability,
    }
    for tissue, chance in chances.items():
        if rng.uniform() < chance:
            table[tissue] = Tissue.INTERIOR
            if tissue in _KIDNEYS:  # of which it is not known
                table[Tissue.CYST] = Tissue.INTERIOR
    return table


def _spline_weights(positions_mm: Tensor, spacing_mm: float, count: int) -> Tensor:
    """(positions, nodes) weights of a uniform cubic B-spline whose nodes begin at -_REACH_MM."""
    place = ((positions_mm + _REACH_MM) / spacing_mm).clamp(0, count - 1.001)
    first = place.floor().long()
    t = place - first
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = torch.zeros(len(place), count, dtype=torch.float32)
    rows = torch.arange(len(place))
    for offset, part in enumerate(parts):
        weights.index_put_((rows, (first - 1 + offset).clamp(0, count - 1)), part / 6, accumulate=True)
    return weights
