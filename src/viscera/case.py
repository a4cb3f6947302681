"""One case: how it is read, what is written of it, where, and in which stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viscera.core.errors import ConfigError
from viscera.formats.bids import side_files
from viscera.write import output_stem

# The stages of a file in order: those of the pipeline between reading and writing. Post-processing ("clean") and the
# preview are on request.
STAGES = ("read", "preprocess", "localise", "crop", "segment", "restore", "clean", "assess", "preview", "write")
LAYOUTS = ("flat", "bids")


@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """How one scan is read and what is written with its labels.

    Attributes:
        series: The series to take from a DICOM folder with several, None for the reader's choice.
        hu_offset: Added to every voxel, for scans stored with a shifted HU scale.
        allow_empty: Write an empty label map when no organ is found instead of raising.
        allow_mirrored: Segment a scan that is certainly a patient's mirror image, with a warning, instead of raising.
        preview: Write a picture next to the label file, NAME_preview.png.
        clean: Whether small components of organs are removed from the labels, None for what the bundle's card says.
        split_kidneys: Whether the left kidney gets a label of its own, the first free one.
        probabilities: Write the network's probabilities, NAME_probabilities.nii.gz.
        uncertainty: Write the entropy of these, NAME_uncertainty.nii.gz.
        layout: "flat", or "bids" for the sidecar and the table of labels of BIDS derivatives.
        formats: In what the labels are written: "nifti", "dicom-seg", "rtstruct"; the last two for DICOM scans only.
        seg_type: Of a DICOM SEG: "binary" or "labelmap".
        identity: What the identifiers in DICOM outputs follow from, None for new ones.
        roi_subset: Names of the organs to write, everything else being background; empty for all.

    Raises:
        ConfigError: For an unknown layout.
    """

    series: str | None = None
    hu_offset: int = 0
    allow_empty: bool = False
    allow_mirrored: bool = False
    preview: bool = False
    clean: bool | None = None
    split_kidneys: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    layout: str = "flat"
    formats: tuple[str, ...] = ("nifti",)
    seg_type: str = "binary"
    identity: str | None = None
    roi_subset: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(
                "choosing the layout", expected=" or ".join(LAYOUTS), got=repr(self.layout), remedy="Correct it"
            )


def preview_path(output: Path) -> Path:
    """Return where the picture of a label file goes: NAME_preview.png next to it."""
    return output.with_name(f"{output_stem(output)}_preview.png")


def probabilities_path(output: Path) -> Path:
    """Return where the probabilities go: NAME_probabilities.nii.gz next to the label file."""
    return output.with_name(f"{output_stem(output)}_probabilities.nii.gz")


def uncertainty_path(output: Path) -> Path:
    """Return where the uncertainty map goes: NAME_uncertainty.nii.gz next to the label file."""
    return output.with_name(f"{output_stem(output)}_uncertainty.nii.gz")


def side_paths(output: Path, options: CaseOptions) -> tuple[Path, ...]:
    """Return the files that `options` ask for next to the label file, the picture apart."""
    bids = tuple(side_files(output, (), {})) if options.layout == "bids" else ()
    maps = [probabilities_path(output)] if options.probabilities else []
    return (*bids, *maps, *([uncertainty_path(output)] if options.uncertainty else []))
