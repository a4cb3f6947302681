"""The formats labels are written in: which there are, how their files are named, and what each needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viscera.core.errors import ConfigError
from viscera.core.provenance import Origin
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map
from viscera.formats.seg_nrrd_write import write_seg_nrrd

if TYPE_CHECKING:
    from viscera.formats.dicom.references import SourceImages

Format = Literal["nifti", "dicom-seg", "rtstruct", "seg-nrrd"]
# In the order of writing: where the last of the formats asked for is, the case is finished.
FORMATS: tuple[Format, ...] = ("rtstruct", "dicom-seg", "seg-nrrd", "nifti")
DICOM_FORMATS: tuple[Format, ...] = ("rtstruct", "dicom-seg")
SEG_TYPES = ("binary", "labelmap")
_ENDINGS: dict[Format, str] = {"rtstruct": "_rtstruct.dcm", "dicom-seg": "_seg.dcm", "seg-nrrd": ".seg.nrrd"}


@dataclass(frozen=True, kw_only=True)
class LabelOutputs:
    """The label files of one scan.

    Attributes:
        labels: The NIfTI file, written or not; the others lie next to it and begin with its name.
        formats: Which files are written.
        seg_type: Of a DICOM SEG: "binary" or "labelmap".

    Raises:
        ConfigError: For another `seg_type`.
    """

    labels: Path
    formats: tuple[str, ...] = ("nifti",)
    seg_type: str = "binary"

    def __post_init__(self) -> None:
        seg_kind(self.seg_type)

    @property
    def paths(self) -> dict[str, Path]:
        """The files by format, in the order of writing."""
        stem = output_stem(self.labels)
        others = {kind: self.labels.with_name(stem + ending) for kind, ending in _ENDINGS.items()}
        return {kind: others.get(kind, self.labels) for kind in FORMATS if kind in self.formats}

    @property
    def main(self) -> Path:
        """The file written last: the NIfTI file, else the .seg.nrrd, else the SEG, else the RTSTRUCT."""
        return list(self.paths.values())[-1]

    def write(self, label_map: LabelMap, source: SourceImages | None, origin: Origin) -> None:
        """Write every file, each whole or not at all.

        Args:
            label_map: The labels.
            source: The images they were drawn on, on the same grid; needed for DICOM.
            origin: Their provenance.

        Raises:
            WriteError: If a file cannot be written.
            ConfigError: If DICOM is asked for without its source images.
        """
        for kind, path in self.paths.items():
            if kind == "nifti":
                write_label_map(label_map, path, origin.organs)
            elif kind == "seg-nrrd":
                write_seg_nrrd(label_map, path, origin.organs)
            else:
                self._write_dicom(kind, label_map, source, origin)

    def _write_dicom(self, kind: str, label_map: LabelMap, source: SourceImages | None, origin: Origin) -> None:
        path = self.paths[kind]
        if source is None:
            raise ConfigError(
                f"writing {path}",
                expected="the DICOM images that the labels were made from",
                got="none",
                remedy="Give a DICOM scan, or write NIfTI",
            )
        if kind == "dicom-seg":
            from viscera.formats.dicom.seg_write import write_dicom_seg

            write_dicom_seg(label_map, source, path, origin, kind=seg_kind(self.seg_type))
        else:
            from viscera.formats.dicom.rtstruct_write import write_rtstruct

            write_rtstruct(label_map, source, path, origin)


def seg_kind(text: str) -> Literal["binary", "labelmap"]:
    """The type of DICOM SEG that `text` names; raises ConfigError if it names none."""
    if text == "binary":
        return "binary"
    if text == "labelmap":
        return "labelmap"
    raise ConfigError(
        "choosing the type of DICOM SEG", expected=" or ".join(SEG_TYPES), got=repr(text), remedy="Correct it"
    )


def require_formats(formats: Iterable[str]) -> None:
    """Find out before any work whether `formats` can be written.

    Raises:
        ConfigError: If there is none, or one is unknown.
        MissingExtraError: If a package for one is not installed.
    """
    formats = tuple(formats)
    if not formats or (unknown := [one for one in formats if one not in FORMATS]):
        raise ConfigError(
            "choosing the formats of the labels",
            expected=f"some of {', '.join(sorted(FORMATS))}",
            got=repr(unknown[0]) if formats else "none",
            remedy="Correct the format",
        )
    if "dicom-seg" in formats:
        from viscera.formats.dicom.seg_write import import_highdicom

        import_highdicom()
    if "rtstruct" in formats:
        from viscera.formats.dicom.rtstruct_write import import_contourpy

        import_contourpy()


def output_stem(output: Path) -> str:
    """The name of a label file without .nii or .nii.gz."""
    return output.name.removesuffix(".gz").removesuffix(".nii")
