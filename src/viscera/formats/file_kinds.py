"""What a path is: which reader is for it, whether it can be read at all, and whether its spacing can be a scan's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from viscera.core.errors import ReadError, reading
from viscera.formats.dicom.files import is_dicom_file, is_zip_file, unfetched
from viscera.formats.itk_read import open_itk
from viscera.formats.nifti_read import open_nifti
from viscera.formats.raster import Raster

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
SUPPORTED = ".nii, .nii.gz, .nrrd, .mha, .mhd, or a CT series in DICOM (a folder, a zip, a multi-frame file)"

Kind = Literal["nifti", "itk", "dicom"]


def require_kind(path: Path) -> Kind:
    """Which reader is for `path`, by its name or its first bytes; a folder is DICOM.

    Raises:
        ReadError: If there is nothing, it cannot be read, or it is of no supported kind.
    """
    doing = f"reading {path}"
    if (missing := unfetched(path)) is not None:
        raise ReadError(
            doing,
            expected="a file or folder that is there",
            got=missing,
            remedy="Fetch it (datalad get, git annex get, git lfs pull), or mount what the link leads to",
        )
    if not path.exists():
        raise ReadError(doing, expected="a file or folder", got="nothing there", remedy="Check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise ReadError(doing, expected="a CT", got="an empty file", remedy="Copy or convert the scan again")
    if not path.is_file() and not path.is_dir():
        raise ReadError(doing, expected="a file or folder", got="a device or pipe", remedy="Save it as a file first")
    if not os.access(path, os.R_OK):
        raise ReadError(doing, expected="a readable file", got="no permission", remedy="Ask for the right to read it")
    kind = _kind(path)
    if kind is None:
        raise ReadError(doing, expected=SUPPORTED, got="something else", remedy="Convert the scan to one of these")
    return kind


def opened_raster(path: Path, kind: Kind, *, labels: bool = False) -> Raster:
    """The image of a file that is not DICOM, with what it says of its labels if these are asked for."""
    with reading(path):
        return open_nifti(path, labels=labels) if kind == "nifti" else open_itk(path, labels=labels)


def _kind(path: Path) -> Kind | None:
    name = path.name.lower()
    if path.is_dir():
        return "dicom"
    if name.endswith(NIFTI_SUFFIXES):
        return "nifti"
    if name.endswith(ITK_SUFFIXES):
        return "itk"
    return "dicom" if is_zip_file(path) or is_dicom_file(path) else None
