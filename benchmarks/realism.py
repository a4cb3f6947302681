"""How far synthetic CTs are from real ones: HU, texture, surroundings, bodies and anatomy, each measured alike.

Run `python benchmarks/realism.py ANATOMIES [--count N] [--out FOLDER]`, with a folder that `viscera anatomies` wrote.
Scans are drawn with the settings of training (`--set synthesis...` changes them), a part around the organs as finely as
the segmentation network's samples are, the whole as coarsely as the localisation network's; then the same functions
measure them and the real CTs of a data folder, which is kept next to the repository and is not part of it. Tables are
printed in Markdown; with `--out` they and the figures behind them are written: realism.md, realism.json and PNGs.

What is compared: HU of the organs as the segmentation network reads them, a voxel within their surface; what lies 3 to
8 mm around them; how uneven the liver is at both networks' sampling and, by spatial frequency, in the scan itself; fat,
muscle, bone, and the body's width and height; and volumes and distances of organs that no border cuts. Real label maps
without CTs count for volumes and distances too. A value of a real scan beyond the synthetic ones' 1 to 99 % is what
ranges must be corrected for; a synthetic range that is wider than the real one is meant to be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import CASES, DATA, reference_of
from numpy.typing import NDArray
from realism_figures import figures
from scipy import ndimage
from scipy.stats import wasserstein_distance

from viscera.core.config import ModelConfig, StageConfig
from viscera.core.files import write_bytes, write_text
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.resample import axis_maps, nearest_labels
from viscera.core.volume import LabelMap, Volume
from viscera.crop import roi_grid
from viscera.preprocess import fitted_grid, network_input
from viscera.read import read_label_map, read_volume
from viscera.synthesis.acquisition import upright_grid
from viscera.synthesis.anatomy import Anatomy
from viscera.synthesis.build import donor_map, trunk_map
from viscera.synthesis.config import SynthesisConfig
from viscera.synthesis.scan import SyntheticScan, draw_scan, scan_image
from viscera.synthesis.tissues import ORGAN_LABELS, Tissue
from viscera.training.config import read_train_config
from viscera.training.data_sources import SyntheticData
from viscera.training.prepare import occupied

MODEL = ModelConfig()
# Bodies are measured on a grid of their own: fine enough for a wall, coarse enough for noise not to matter.
BODY = StageConfig(spacing_mm=4.0, sigma_mm=2.0, sizes_x_vox=(180,), sizes_y_vox=(140,), sizes_z_vox=(320,))
EDGES_HU: NDArray[np.float64] = np.arange(-200.0, 401.0, 5.0)
FREQUENCIES: NDArray[np.float64] = np.arange(0.0, 0.61, 0.04)  # per mm
PATCH_MM = 32.0
LEAST_VOXELS = 150
MANY_PATCHES = 80
MOST = 16
SOFT_HU = (-30.0, 150.0)
Array = NDArray[Any]
# Figures of bodies that no side of the scan cuts.
_OF_WHOLE_BODIES = ("width", "height", "outline")
PAIRS = (("liver", "spleen"), ("liver", "pancreas"), ("spleen", "pancreas"), ("right kidney", "left kidney"))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one scan.

    Attributes:
        name: Of the case, or the number of the synthetic scan.
        kind: Phase of a synthetic scan, "real" or "labels".
        figures: By what they are, with their unit.
        histograms: HU of each organ, counts between `EDGES_HU`.
        noise_power: HU**2 mm**2 in the liver, by `FREQUENCIES`; NaN beyond what the voxels resolve.
        slices: Windowed axial slice through the pancreas or the organs' middle, uint8 (y, x), to look at.
    """

    name: str
    kind: str
    figures: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[float]] = field(default_factory=dict)
    noise_power: list[float] = field(default_factory=list)
    slices: Array | None = None


def main() -> None:
    options = parsed_options()
    config = read_train_config(options.config, options.set).synthesis
    files = tuple(path for path in SyntheticData.open(options.anatomies).files.values())
    real = [*real_scans(options.data), *real_anatomies(options.data)]
    synthetic = []
    for number in range(options.count):
        synthetic.append(synthetic_scan(files, config, options.seed + number))
        print(f"{number + 1} of {options.count}", file=sys.stderr, flush=True)
    report = markdown(real, synthetic)
    print(report)
    if options.out:
        write_text(report, options.out / "realism.md")
        write_text(as_json([*real, *synthetic]), options.out / "realism.json")
        for name, picture in figures(real, synthetic, EDGES_HU, FREQUENCIES).items():
            write_bytes(picture, options.out / f"{name}.png")


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anatomies", metavar="ANATOMIES", type=Path, help="folder of anatomies")
    parser.add_argument("--count", metavar="N", type=int, default=60, help="synthetic scans (default: 60)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="which (default: 0)")
    parser.add_argument("--config", metavar="FILE.toml", type=Path, help="settings of a training; [synthesis] is used")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="one setting; repeatable")
    parser.add_argument("--data", metavar="FOLDER", type=Path, default=DATA, help="the data folder")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="write tables, JSON and PNGs there")
    options = parser.parse_args()
    if not (options.data / "real").is_dir():
        parser.error(f"no real CTs in {options.data}; name the folder that has real/ and labels/ with --data")
    return options


def real_scans(data: Path) -> Iterator[Measured]:
    """The labelled and unlabelled abdominal CTs of the data folder."""
    for case in CASES:
        if case.scan.startswith("real/"):
            volume = read_volume(data / case.scan)
            yield real_scan(case.case.name, volume, reference_of(case, volume, data, ORGANS))
    for path in sorted((data / "real2").glob("*_ct.nii.gz")):
        labels = path.with_name(path.name.replace("_ct.", "_labels."))
        reference = read_label_map(labels) if labels.exists() else None
        yield real_scan(path.name.removesuffix("_ct.nii.gz"), read_volume(path), reference)


def real_scan(name: str, volume: Volume, reference: LabelMap | None) -> Measured:
    """A real CT, with its organs if there is a reference."""
    print(name, file=sys.stderr, flush=True)
    volume = canonical(volume)
    labels = None if reference is None else turned(reference)
    values = body_figures(volume, labels)
    if labels is None:
        return Measured(name=name, kind="real", figures=values)
    values |= anatomy_figures(labels, cut_sides=True)
    return with_organs(Measured(name=name, kind="real", figures=values), (volume, labels), (volume, labels))


def real_anatomies(data: Path) -> Iterator[Measured]:
    """Volumes and distances of the label maps that come without CTs."""
    folder = data / "labels"
    names = {int(key): str(name) for key, name in json.loads((folder / "ts_classes.json").read_text()).items()}
    for path in sorted(folder.glob("*.nii.gz")):
        label_map = read_label_map(path)
        trunk = path.name.startswith("ts_")
        tissues = trunk_map(label_map, names) if trunk else donor_map(label_map)
        # A donor is cut to its organs, of which some end there; the maps themselves hold all of them.
        values = tissue_figures(np.pad(tissues, 1) if not trunk else tissues, 2.0)
        yield Measured(name=path.name.removesuffix(".nii.gz"), kind="labels", figures=values)


def synthetic_scan(files: Sequence[Path], config: SynthesisConfig, seed: int) -> Measured:
    """One scan, drawn as in training for segmentation."""
    rng = np.random.default_rng([seed, 11])
    anatomy = Anatomy.load(files[int(rng.integers(len(files)))])
    while not anatomy.organs:
        anatomy = Anatomy.load(files[int(rng.integers(len(files)))])
    scan = draw_scan(anatomy, config, rng)
    fine = config.paint_share * MODEL.segment.spacing_mm
    coarse = config.paint_share * MODEL.localise.spacing_mm
    assert scan.organs is not None
    lower, upper = (np.array(side) for side in scan.organs)
    reach = MODEL.margin_mm + 10
    near = painted(scan, lower - reach, upper + reach, fine, rng)
    whole = painted(scan, np.array(scan.lower_zyx_mm), np.array(scan.upper_zyx_mm), coarse, rng)
    values = body_figures(*whole) | tissue_figures(uncut_tissues(scan), BODY.spacing_mm)
    return with_organs(Measured(name=str(seed), kind=scan.appearance.phase, figures=values), near, whole)


def painted(
    scan: SyntheticScan,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    voxel_mm: float,
    rng: np.random.Generator,
) -> tuple[Volume, LabelMap]:
    sides = [(float(z), float(y), float(x)) for z, y, x in (lower, upper)]
    hu, labels, grid = scan_image(scan, sides[0], sides[1], voxel_mm, rng)
    return Volume(hu=hu.numpy().astype(np.int16), grid=grid), LabelMap(labels=labels.numpy(), grid=grid)


def uncut_tissues(scan: SyntheticScan) -> Array:
    """The whole person at `BODY`'s spacing, as far as the anatomy reaches."""
    low, high = scan.patient.covered_z_mm()
    step = BODY.spacing_mm
    count = int((high - low) / step)
    grid = upright_grid((count, 110, 130), (step,) * 3, (low + step / 2, -54.5 * step, -64.5 * step))
    return scan.tissues(grid).tissue.numpy().astype(np.uint8)


def canonical(volume: Volume) -> Volume:
    turn = volume.grid.to_canonical()
    return Volume(hu=np.ascontiguousarray(turn.apply(volume.hu)), grid=turn.apply_to_grid(volume.grid))


def turned(label_map: LabelMap) -> LabelMap:
    turn = label_map.grid.to_canonical()
    return LabelMap(labels=np.ascontiguousarray(turn.apply(label_map.labels)), grid=turn.apply_to_grid(label_map.grid))


def with_organs(measured: Measured, near: tuple[Volume, LabelMap], whole: tuple[Volume, LabelMap]) -> Measured:
    """The measures of a scan with what is measured of its organs added, both of canonical volumes."""
    volume, labels = near
    if not labels.labels.any():
        return measured
    target = roi_grid(volume.grid, volume.grid.box(occupied(labels.labels > 0)), MODEL)
    image, organs = sampled(volume, labels, target, MODEL.segment)
    values, histograms = organ_figures(image, organs, target.spacing_zyx_mm[0])
    values["liver: step between voxels, segmentation's sampling (HU)"] = step_hu(image, inside(organs == 1))
    low_resolution = fitted_grid(whole[0].grid, whole[0].grid.box(), MODEL.localise)
    coarse, coarse_organs = sampled(*whole, low_resolution, MODEL.localise)
    values["liver: step between voxels, localisation's sampling (HU)"] = step_hu(coarse, inside(coarse_organs == 1))
    power, noise = noise_power(volume, labels)
    middle = int(np.argmax(((organs == 4) if (organs == 4).any() else organs > 0).sum(axis=(1, 2))))
    return replace(
        measured,
        figures=measured.figures | values | noise,
        histograms=histograms,
        noise_power=power,
        slices=np.clip((image[middle] + 160) / 400 * 255, 0, 255).astype(np.uint8),
    )


def sampled(volume: Volume, labels: LabelMap, target: Grid, stage: StageConfig) -> tuple[Array, Array]:
    """HU as the stage's network reads them, and the nearest labels."""
    image = network_input(volume.hu, volume.grid, target, stage) * stage.hu_scale
    seen = nearest_labels(labels.labels, labels.grid, target)
    # Beyond the scan is no organ.
    z, y, x = (axis.inside for axis in axis_maps(volume.grid, target))
    organs = np.zeros_like(seen)
    organs[z, y, x] = seen[z, y, x]
    return image, organs


def inside(mask: Array) -> Array:
    """Without the outermost voxels."""
    result: Array = ndimage.binary_erosion(mask)
    return result


def organ_figures(image: Array, organs: Array, spacing_mm: float) -> tuple[dict[str, float], dict[str, list[float]]]:
    values: dict[str, float] = {}
    histograms: dict[str, list[float]] = {}
    for organ in ORGANS:
        mask = organs == organ.index
        inner = image[inside(mask)]
        if len(inner) < LEAST_VOXELS:
            continue
        values[f"{organ.name}: mean (HU)"] = float(inner.mean())
        values[f"{organ.name}: SD (HU)"] = float(inner.std())
        for percent in (5, 95):
            values[f"{organ.name}: {percent} % (HU)"] = float(np.percentile(inner, percent))
        histograms[organ.name] = np.histogram(np.clip(inner, -199, 399), EDGES_HU)[0].tolist()
        away = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
        shell = image[(away > 3) & (away <= 8) & (organs == 0)]
        values[f"around the {organ.name}: fat (share)"] = float(np.mean(shell < SOFT_HU[0]))
        soft = shell[(shell > SOFT_HU[0]) & (shell < SOFT_HU[1])]
        if len(soft) > LEAST_VOXELS:
            values[f"around the {organ.name}: soft tissue, median (HU)"] = float(np.median(soft))
            values[f"{organ.name}: mean above the soft tissue around (HU)"] = float(inner.mean() - np.median(soft))
    return values, histograms


def step_hu(image: Array, mask: Array) -> float:
    """Root mean square of the steps between neighbours along x by the root of 2: the deviation of white noise."""
    both = mask[:, :, 1:] & mask[:, :, :-1]
    steps = (image[:, :, 1:] - image[:, :, :-1])[both]
    return float(np.sqrt(np.mean(steps**2) / 2)) if len(steps) >= LEAST_VOXELS // 3 else float("nan")


def noise_power(volume: Volume, labels: LabelMap) -> tuple[list[float], dict[str, float]]:
    """The radially averaged noise power in the liver, in the plane, and its deviation and mean frequency."""
    step_mm = volume.grid.spacing_zyx_mm[2]
    side = round(PATCH_MM / step_mm)
    patches = [volume.hu[z, y : y + side, x : x + side] for z, y, x in patch_places(labels.labels == 1, side)]
    if len(patches) < 5:
        return [], {}
    residues = without_trend(np.array(patches, dtype=np.float64))
    power = (np.abs(np.fft.fft2(residues)) ** 2).mean(axis=0) * step_mm**2 / side**2
    axis = np.fft.fftfreq(side, step_mm)
    frequency = np.hypot(axis[:, None], axis[None])
    curve = []
    for low, high in pairwise(FREQUENCIES):
        ring = (frequency >= low) & (frequency < high) & (frequency > 0)
        curve.append(float(power[ring].mean()) if ring.any() and high <= 0.5 / step_mm else float("nan"))
    return curve, {
        "liver: SD of detrended patches of 32 mm (HU)": float(residues.std()),
        "liver: mean frequency of the noise (1/mm)": float((frequency * power).sum() / power.sum()),
        "liver: power below 0.1 / mm (share)": float(power[frequency < 0.1].sum() / power.sum()),
    }


def patch_places(liver: Array, side: int) -> list[tuple[int, int, int]]:
    """Corners of squares that lie wholly in the liver, at most `MANY_PATCHES`, evenly taken."""
    half = max(1, side // 2)
    counts = liver.astype(np.int32).cumsum(axis=1).cumsum(axis=2)
    counts = np.pad(counts, ((0, 0), (1, 0), (1, 0)))
    full = counts[:, side:, side:] - counts[:, :-side, side:] - counts[:, side:, :-side] + counts[:, :-side, :-side]
    places = np.argwhere(full[:, ::half, ::half] == side * side) * (1, half, half)
    chosen = places[:: max(1, len(places) // MANY_PATCHES)]
    return [(int(z), int(y), int(x)) for z, y, x in chosen]


def without_trend(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each patch (n, side, side) less its best quadratic surface."""
    side = patches.shape[1]
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2]).reshape(6, -1).T
    flat = patches.reshape(len(patches), -1).T
    residues = flat - terms @ np.linalg.lstsq(terms, flat, rcond=None)[0]
    result: NDArray[np.float64] = residues.T.reshape(patches.shape)
    return result


def body_figures(volume: Volume, labels: LabelMap | None) -> dict[str, float]:
    """Of the body in slices that show organs, or in all where no labels tell."""
    target = fitted_grid(volume.grid, volume.grid.box(), BODY)
    image = network_input(volume.hu, volume.grid, target, BODY) * BODY.hu_scale
    body = body_mask(image)
    shown: Array = np.ones_like(body)
    if labels is not None and labels.labels.any():
        shown = nearest_labels(labels.labels, labels.grid, target) > 0
    rows: Array = np.array([plane.any() and own.any() for plane, own in zip(shown, body, strict=True)])
    if not rows.any():
        return {}
    image, body = image[rows], body[rows]
    depth = ndimage.distance_transform_edt(np.pad(body, ((1, 1), (0, 0), (0, 0)), mode="edge"), sampling=4.0)[1:-1]
    fat = body & (image > -160) & (image < -40)
    wall = body & (depth > 6) & (depth < 45) & (image > 10) & (image < 90)
    values = {
        "body: fat, mode (HU)": mode_hu(image[fat & ndimage.binary_erosion(fat)]),
        "body: muscle of the wall, mode (HU)": mode_hu(image[wall]),
        "body: fat (share)": float(fat.sum() / body.sum()),
        "body: bone or contrast above 200 HU (share)": float((body & (image > 200)).sum() / body.sum()),
        "body: gas or lung below -500 HU (share)": float((body & (image < -500)).sum() / body.sum()),
    }
    for name, axis, mm in (("height", 1, 4.0), ("width", 2, 4.0)):
        extents = [extent(plane.any(axis=2 - axis)) for plane in body if plane.any()]
        values[f"body: {name} (mm)"] = float(np.median(extents)) * mm
    values["body: height by width"] = values["body: height (mm)"] / values["body: width (mm)"]
    if len(bone := image[body & (image > 150)]) >= LEAST_VOXELS:
        values["body: bone above 150 HU, median (HU)"] = float(np.median(bone))
    values["body: unevenness of the outline (mm)"] = unevenness_mm(body)
    inner = volume.grid.extent_zyx_mm
    cut = values["body: width (mm)"] > inner[2] - 6 or values["body: height (mm)"] > inner[1] - 6
    return {
        name: value for name, value in values.items() if not (cut and any(word in name for word in _OF_WHOLE_BODIES))
    }


def body_mask(image: Array) -> Array:
    """The largest solid part without the table, lungs and bowel filled slice by slice."""
    solid: Array = ndimage.binary_opening(image > -300, iterations=2)
    parts, count = ndimage.label(solid)
    if not count:
        return solid
    sizes = np.bincount(parts.ravel())[1:]
    largest = parts == int(np.argmax(sizes)) + 1
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


def unevenness_mm(body: Array) -> float:
    """How far, on average, the outline lies from that of the body smoothed by 12 mm in the plane."""
    smooth = ndimage.gaussian_filter(body.astype(np.float32), (0, 3, 3)) > 0.5
    edge = smooth & ~ndimage.binary_erosion(smooth, np.ones((1, 3, 3)))
    return float((smooth != body).sum() / max(1, edge.sum())) * BODY.spacing_mm


def mode_hu(values: Array) -> float:
    counts, edges = np.histogram(values, np.arange(-200, 201, 2.0))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 2.0)
    return float(edges[int(np.argmax(smooth))] + 1) if counts.sum() > LEAST_VOXELS else float("nan")


def extent(line: Array) -> int:
    places = np.flatnonzero(line)
    return int(places[-1] - places[0] + 1)


def anatomy_figures(labels: LabelMap, *, cut_sides: bool) -> dict[str, float]:
    """Volumes and distances of the organs of a label map of ours, left and right kidney apart."""
    middle = np.argwhere(labels.labels > 0).mean(axis=0)[2]
    tissues = np.select([labels.labels == index for index in (1, 3, 4)], [1, 3, 4], 0)
    kidney = labels.labels == 2
    left = np.arange(kidney.shape[2]) > middle
    tissues[kidney & left] = Tissue.KIDNEY_LEFT
    tissues[kidney & ~left] = Tissue.KIDNEY_RIGHT
    return tissue_figures(tissues.astype(np.uint8), labels.grid.spacing_zyx_mm, cut_sides=cut_sides)


def tissue_figures(
    tissues: Array, spacing_mm: float | tuple[float, float, float], *, cut_sides: bool = False
) -> dict[str, float]:
    """Volumes in ml and distances of middles in mm, of organs that do not touch the top, bottom or (asked) sides."""
    steps = np.ones(3) * spacing_mm
    values: dict[str, float] = {}
    middles = {}
    for tissue in np.flatnonzero(ORGAN_LABELS):
        name = Tissue(int(tissue)).name.lower()
        name = " ".join(reversed(name.split("_")))
        points = np.argwhere(tissues == tissue)
        axes = (0, 1, 2) if cut_sides else (0,)
        if not len(points) or any(
            points[:, axis].min() == 0 or points[:, axis].max() == tissues.shape[axis] - 1 for axis in axes
        ):
            continue
        values[f"anatomy: {name} (ml)"] = float(len(points) * steps.prod() / 1000)
        middles[name] = points.mean(axis=0) * steps
    for one, other in PAIRS:
        if one in middles and other in middles:
            values[f"anatomy: {one} to {other} (mm)"] = float(np.linalg.norm(middles[one] - middles[other]))
    if {"pancreas", "left kidney"} <= middles.keys():
        values["anatomy: pancreas above the left kidney (mm)"] = float(
            middles["pancreas"][0] - middles["left kidney"][0]
        )
    return values


def markdown(real: Sequence[Measured], synthetic: Sequence[Measured]) -> str:
    """Three tables: distances of histograms, every figure, and the figures that lie furthest out."""
    names = sorted({name for one in real for name in one.figures})
    lines = [f"# {len(synthetic)} synthetic CTs and {sum(one.kind == 'real' for one in real)} real ones", ""]
    lines += ["## Where they differ most", "", *difference_rows(real, synthetic, names), ""]
    lines += ["## HU of the organs", "", *histogram_rows(real, synthetic), "", "## Every figure", ""]
    lines += [
        "A real value is bold where it lies beyond the synthetic ones' 1 to 99 %.",
        "",
        "| figure | synthetic 1 % | 50 % | 99 % | real, median | real ones |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        drawn = [one.figures[name] for one in synthetic if np.isfinite(one.figures.get(name, np.nan))]
        seen = {one.name: one.figures[name] for one in real if np.isfinite(one.figures.get(name, np.nan))}
        if drawn and seen:
            lines.append(figure_row(name, drawn, seen))
    return "\n".join(lines) + "\n"


def difference_rows(real: Sequence[Measured], synthetic: Sequence[Measured], names: Sequence[str]) -> list[str]:
    """The figures whose medians lie furthest apart, by the spread of the synthetic ones."""
    rows = []
    for name in names:
        drawn, seen = (
            np.array([one.figures[name] for one in scans if np.isfinite(one.figures.get(name, np.nan))])
            for scans in (synthetic, real)
        )
        if len(drawn) < 4 or len(seen) < 3:
            continue
        quarter, middle, three = np.percentile(drawn, (25, 50, 75))
        apart = (np.median(seen) - middle) / max((three - quarter) / 1.349, 1e-9)
        low, high = np.percentile(drawn, (1, 99))
        outside = int(((seen < low) | (seen > high)).sum())
        rows.append(
            (
                abs(apart),
                f"| {name} | {number(float(np.median(seen)))} | {number(middle)} | {apart:+.1f} |"
                f" {outside} of {len(seen)} |",
            )
        )
    head = [
        "Medians, their distance in deviations of the synthetic ones, and how many real ones lie beyond 1 to 99 %.",
        "",
        "| figure | real | synthetic | distance | beyond |",
        "|---|---|---|---|---|",
    ]
    return head + [row for _, row in sorted(rows, reverse=True)[:MOST]]


def histogram_rows(real: Sequence[Measured], synthetic: Sequence[Measured]) -> list[str]:
    rows = [
        "Distances are Wasserstein's, in HU. The nearest synthetic scan tells whether variety reaches a real case.",
        "",
        "| organ | pooled, real | pooled, synthetic | distance of the pools | real case | to the nearest synthetic |"
        " median synthetic | next real |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for organ in (organ.name for organ in ORGANS):
        seen = {one.name: np.array(one.histograms[organ]) for one in real if organ in one.histograms}
        drawn = [np.array(one.histograms[organ]) for one in synthetic if organ in one.histograms]
        pools = [sum(one / one.sum() for one in group) for group in (list(seen.values()), drawn)]
        head = f"{organ} | {spread(pools[0])} | {spread(pools[1])} | {distance(*pools):.0f}"
        for name, own in seen.items():
            away = [distance(own, other) for other in drawn]
            others = [distance(own, other) for which, other in seen.items() if which != name]
            rows.append(f"| {head} | {name} | {min(away):.1f} | {np.median(away):.0f} | {min(others):.0f} |")
            head = " | | | "
    return rows


def distance(one: Array, other: Array) -> float:
    middles = (EDGES_HU[:-1] + EDGES_HU[1:]) / 2
    return float(wasserstein_distance(middles, middles, one, other))


def spread(counts: Array) -> str:
    middles = (EDGES_HU[:-1] + EDGES_HU[1:]) / 2
    mean = np.average(middles, weights=counts)
    return f"{mean:.0f} ± {np.sqrt(np.average((middles - mean) ** 2, weights=counts)):.0f}"


def figure_row(name: str, drawn: Sequence[float], seen: Mapping[str, float]) -> str:
    low, middle, high = np.percentile(drawn, (1, 50, 99))
    shown = sorted(seen.items(), key=lambda item: item[1])
    few = shown if len(shown) <= 8 else [shown[0], shown[len(shown) // 2], shown[-1]]
    values = ", ".join(
        f"**{number(value)}** {case}" if not low <= value <= high else f"{number(value)} {case}" for case, value in few
    )
    ends = " | ".join(number(value) for value in (low, middle, high, float(np.median(list(seen.values())))))
    return f"| {name} | {ends} | {values} |"


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def as_json(measured: Sequence[Measured]) -> str:
    rows = [{name: value for name, value in asdict(one).items() if name != "slices"} for one in measured]
    return json.dumps({"edges_hu": EDGES_HU.tolist(), "frequencies": FREQUENCIES.tolist(), "scans": rows}, indent=1)


if __name__ == "__main__":
    main()
