"""The result of segmenting one CT, in memory and from file to file alike: labels, organs, quality, probabilities."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError, MissingExtraError
from viscera.core.geometry import RAS_TO_LPS, Box, Grid, Vector
from viscera.core.organs import ORGANS, Organ, sided_table
from viscera.core.roi_subset import chosen_organs, keep_organs
from viscera.core.volume import LabelMap, Volume
from viscera.formats.nifti_write import write_label_map
from viscera.formats.probability_maps import write_probabilities
from viscera.postprocess import Removal, split_sides
from viscera.quality.measurements import organ_signals
from viscera.quality.rules import OrganQuality, QcStatus, quality_note, sided_quality
from viscera.quality.statistics import OrganStatistics, organ_statistics, with_quality

if TYPE_CHECKING:
    import nibabel
    import pandas
    import SimpleITK


@dataclass(frozen=True, kw_only=True, eq=False)
class Probabilities:
    """What the segmentation network put out, on the grid it worked on.

    Attributes:
        values: float32 (label, z, y, x), background first; they sum to 1 in each voxel.
        grid: The network's grid: the organs' region of interest, isotropic, in canonical axes.
    """

    values: NDArray[np.float32]
    grid: Grid

    def __repr__(self) -> str:
        return f"Probabilities({len(self.values)} labels, {_size(self.grid)})"

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """4x4, from the last three indices of `values` to RAS+ in mm."""
        return _affine_ras(self.grid)

    def entropy(self) -> NDArray[np.float32]:
        """Return how uncertain the network is of each voxel: float32 (z, y, x), 0 (certain) to 1 (all labels alike).

        Shannon's entropy of the labels' probabilities, divided by its largest value, log(labels).
        """
        total = np.zeros(self.values.shape[1:], dtype=np.float32)
        for one in self.values:
            total -= one * np.log(np.maximum(one, np.float32(1e-12)))
        total /= np.float32(np.log(len(self.values)))
        return np.clip(total, 0.0, 1.0, out=total)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as one NIfTI file; the fourth axis is the label.

        NIfTI has no 16-bit floats: the file holds 16-bit integers and the factor that makes them 0 to 1, which readers
        apply; values are exact to 2e-5.

        Raises:
            WriteError: If the file cannot be written.
        """
        write_probabilities(self.values, self.grid, Path(path))

    def save_uncertainty(self, path: str | os.PathLike[str]) -> None:
        """Write `entropy()` as a NIfTI file on the same grid; see `save`."""
        write_probabilities(self.entropy()[np.newaxis], self.grid, Path(path))


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The organs of one CT, and how they were found.

    Attributes:
        label_map: Labels on exactly the CT's grid.
        organ_table: What the labels mean.
        source: The path it was read from, None for a CT given in memory.
        roi: The box the segmentation was meant to hold (organs and margin), in mm along the axes of the CT's
            canonical grid (`Grid.to_canonical`); None if no organ was found.
        roi_grid: The grid the segmentation network worked on, in canonical axes; None if no organ was found.
        input_notes: How the CT was read (a series chosen, an offset applied), one sentence each.
        notes: What a reader of the result should know, one sentence each: those, then the stages'.
        warnings: Those of the notes that put the result in doubt.
        quality: The quality control of every organ, in the order of the table.
        removed: What post-processing removed from every organ, in order; None if there was none.
        seconds: Wall-clock seconds by stage, in order.
        probabilities: The network's output, None unless asked for.
        outputs: The label files by format, empty if none was written.
        preview: The picture, None if none was written.
        volume: The CT, from which `statistics` follow; None where these are given.
        given_statistics: The statistics where they were computed already, as for a file.
        index_order: "zyx", or "xyz" where `labels` are indexed as a nibabel image is.
    """

    label_map: LabelMap
    organ_table: tuple[Organ, ...] = ORGANS
    source: Path | None = None
    roi: Box | None = None
    roi_grid: Grid | None = None
    input_notes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    quality: tuple[OrganQuality, ...] = ()
    removed: tuple[Removal, ...] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    probabilities: Probabilities | None = None
    outputs: Mapping[str, Path] = field(default_factory=dict)
    preview: Path | None = None
    volume: Volume | None = field(default=None, repr=False)
    given_statistics: tuple[OrganStatistics, ...] | None = None
    index_order: Literal["zyx", "xyz"] = "zyx"

    def __repr__(self) -> str:
        organs = ", ".join(f"{name} {one.volume_ml:.0f} ml ({one.status})" for name, one in self.organs.items())
        return f"Segmentation({_size(self.label_map.grid)}: {organs})"

    @property
    def labels(self) -> NDArray[np.uint8]:
        """uint8, 0 for background, else an organ's index; in the order of the indices of what was given.

        An array or a tensor has the order it was given in, a nibabel image (i, j, k), anything else (z, y, x).
        """
        labels = self.label_map.labels
        return labels.T if self.index_order == "xyz" else labels

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """4x4, from the indices of `labels`, in their order, to RAS+ in mm."""
        grid = self.label_map.grid
        return grid.nifti_affine() if self.index_order == "xyz" else _affine_ras(grid)

    @property
    def organs(self) -> Mapping[str, OrganResult]:
        """Each organ of the table by its name, also those that were not found."""
        return {organ.name: OrganResult(organ=organ, result=self) for organ in self.organ_table}

    @cached_property
    def statistics(self) -> tuple[OrganStatistics, ...]:
        """Volume and mean HU of every organ, with its QC status; computed on first use."""
        if self.given_statistics is not None:
            return self.given_statistics
        if self.volume is None:
            raise ConfigError(
                "measuring organs",
                expected="a result that holds its CT or its statistics",
                got="one with neither",
                remedy="Use viscera.quality.statistics.organ_statistics with the CT",
            )
        return with_quality(organ_statistics(self.volume, self.label_map, self.organ_table), self.quality)

    @property
    def urgent_notes(self) -> tuple[str, ...]:
        """What to say at once: how the CT was read, warnings, and one line on the organs to check."""
        check = quality_note(self.quality)
        return (*self.input_notes, *self.warnings, *([check] if check else []))

    @property
    def output(self) -> Path | None:
        """The label file: NIfTI if asked for, else the SEG, else the RTSTRUCT; None if none was written."""
        return list(self.outputs.values())[-1] if self.outputs else None

    @property
    def segmentation(self) -> Segmentation:
        """Itself: version 0.2 had two types for results in memory and in files. To be removed after 0.3."""
        return self

    @property
    def region(self) -> Box | None:
        """`roi` by its name in version 0.2; to be removed after 0.3."""
        return self.roi

    @property
    def region_grid(self) -> Grid | None:
        """`roi_grid` by its name in version 0.2; to be removed after 0.3."""
        return self.roi_grid

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the labels to a .nii or .nii.gz file, with the organs' names and colours, whole or not at all.

        For DICOM SEG and RTSTRUCT see `Segmenter.segment_file`, as these need the images they refer to.

        Raises:
            WriteError: If the file cannot be written.
        """
        write_label_map(self.label_map, Path(path), self.organ_table)

    def to_nibabel(self) -> nibabel.Nifti1Image:
        """Return the labels as a nibabel image, uint8 (i, j, k), in the CT's orientation.

        Example:
            >>> image = result.to_nibabel()  # doctest: +SKIP
            >>> image.get_data_dtype()  # doctest: +SKIP
            dtype('uint8')
        """
        import nibabel

        labels, affine = self.label_map.labels.T, self.label_map.grid.nifti_affine()
        return nibabel.Nifti1Image(labels, affine)  # type: ignore[no-untyped-call]

    def to_sitk(self) -> SimpleITK.Image:
        """Return the labels as a SimpleITK image, 8-bit.

        Raises:
            MissingExtraError: If SimpleITK is not installed.
        """
        try:
            import SimpleITK
        except ImportError as error:
            raise _missing("SimpleITK", "making a SimpleITK image", "SimpleITK") from error
        grid = self.label_map.grid
        z, y, x = grid.spacing_zyx_mm
        image: Any = SimpleITK.GetImageFromArray(self.label_map.labels)
        image.SetSpacing((x, y, z))
        image.SetOrigin(grid.origin_xyz_mm)
        image.SetDirection(np.fliplr(grid.direction_zyx).ravel().tolist())
        made: SimpleITK.Image = image
        return made

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the statistics as a pandas table, one row for each organ, indexed by its name.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise _missing("pandas", "making a table", "pandas") from error
        rows = [
            {
                "organ": row.organ,
                "label": organ.index,
                "voxels": row.voxels,
                "volume_ml": row.volume_ml,
                "mean_hu": row.mean_hu,
                "sd_hu": row.sd_hu,
                "left_ml": row.left_ml,
                "right_ml": row.right_ml,
                "touches_border": row.touches_border,
                "quality": None if row.quality is None else str(row.quality),
                "quality_reasons": " ".join(row.quality_reasons),
            }
            for organ, row in zip(self.organ_table, self.statistics, strict=True)
        ]
        return pandas.DataFrame(rows).set_index("organ")


@dataclass(frozen=True, kw_only=True, eq=False)
class OrganResult:
    """One organ in a result.

    Attributes:
        organ: Its row in the organ table.
        result: What it is a part of.
    """

    organ: Organ
    result: Segmentation = field(repr=False)

    def __repr__(self) -> str:
        return f"OrganResult({self.organ.name}, {self.volume_ml:.0f} ml, {self.status})"

    @property
    def _quality(self) -> OrganQuality:
        return self.result.quality[self.result.organ_table.index(self.organ)]

    @property
    def _statistics(self) -> OrganStatistics:
        return self.result.statistics[self.result.organ_table.index(self.organ)]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the organ is: bool, indexed as the result's `labels`."""
        mask: NDArray[np.bool_] = self.result.labels == self.organ.index
        return mask

    @property
    def volume_ml(self) -> float:
        """Its volume, 0 if it was not found."""
        return self._quality.signals.volume_ml

    @property
    def status(self) -> QcStatus:
        """Its QC status: "ok" (no problem detected, no guarantee), "check" (review it) or "absent"."""
        return self._quality.status

    @property
    def findings(self) -> tuple[str, ...]:
        """Why it is to be checked or absent, one sentence each."""
        return self._quality.sentences

    @property
    def centre_xyz_mm(self) -> Vector | None:
        """Its mean position in the world (LPS); None if it was not found."""
        return self._quality.signals.centre_xyz_mm

    @property
    def mean_hu(self) -> float | None:
        """The mean of its HU; None if it was not found."""
        return self._statistics.mean_hu

    @property
    def left_ml(self) -> float | None:
        """Its volume on the patient's left, for the kidneys in one label; None for any other organ."""
        return self._statistics.left_ml

    @property
    def right_ml(self) -> float | None:
        """Its volume on the patient's right, for the kidneys in one label; None for any other organ."""
        return self._statistics.right_ml


def with_sides(result: Segmentation, volume: Volume) -> Segmentation:
    """Return the result with the left and the right kidney apart, and notes on what is unusual about them."""
    label_map, sides = split_sides(result.label_map, volume, result.organ_table)
    table = sided_table(result.organ_table)
    findings = tuple(one.finding for one in sides if one.finding)
    doubtful = tuple(one.finding for one in sides if one.doubtful)
    return replace(
        result,
        label_map=label_map,
        organ_table=table,
        quality=sided_quality(result.quality, organ_signals(label_map, table)),
        notes=result.notes + findings,
        warnings=result.warnings + doubtful,
    )


def with_organs(result: Segmentation, names: Sequence[str]) -> Segmentation:
    """Return the result with only the organs called `names`, everything else being background.

    Raises:
        ConfigError: If a name is none of its organs'.
    """
    organs = chosen_organs(result.organ_table, names)
    kept = {organ.name for organ in organs}
    return replace(
        result,
        label_map=keep_organs(result.label_map, organs),
        organ_table=organs,
        quality=tuple(one for one in result.quality if one.organ in kept),
        removed=None if result.removed is None else tuple(one for one in result.removed if one.organ in kept),
    )


def _affine_ras(grid: Grid) -> NDArray[np.float64]:
    affine: NDArray[np.float64] = RAS_TO_LPS @ grid.affine
    return affine


def _size(grid: Grid) -> str:
    return " x ".join(map(str, grid.shape_zyx)) + " voxels (z, y, x)"


def _missing(package: str, doing: str, install: str) -> MissingExtraError:
    return MissingExtraError(
        doing, expected=f"the package {package}", got="an installation without it", remedy=f"pip install '{install}'"
    )
