"""A volume as a CT series in DICOM, as a scanner would write it: for synthetic CTs, to try a PACS with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from viscera.core.errors import GeometryError, WriteError
from viscera.core.files import write_bytes
from viscera.core.geometry import Grid
from viscera.core.volume import Volume
from viscera.formats.dicom.uids import named_uid

# Of a right angle between rows, columns and slices; DICOM has no place for a shear in the plane.
_ORTHOGONAL = 1e-4
# Fixed, so that equal volumes make equal files. None of this is of a person.
_DATE, _TIME = "20200101", "120000"


def write_ct_series(volume: Volume, folder: Path, *, name: str) -> list[str]:
    """The SOP Instance UIDs, slice by slice, of the series now in `folder`, which is made: one file per slice.

    Args:
        volume: Its slices become images in their order.
        folder: New or empty.
        name: Of the synthetic patient; the identifiers follow from it and from the grid.

    Raises:
        GeometryError: If rows and columns are not at a right angle.
        WriteError: If the folder is not empty or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WriteError(
            f"writing a series to {folder}",
            expected="a new or empty folder",
            got="something that is there",
            remedy="Give another folder",
        )
    grid = volume.grid
    _require_right_angles(grid)
    study = named_uid("study", name, repr(grid.shape_zyx), repr(grid.affine.tolist()))
    uids = []
    for number, image in enumerate(volume.hu, start=1):
        one = _dataset(name, study, number)
        _set_image(one, image, grid, number - 1)
        buffer = io.BytesIO()
        one.save_as(buffer, enforce_file_format=True)
        write_bytes(buffer.getvalue(), folder / f"{number:04d}.dcm")
        uids.append(str(one.SOPInstanceUID))
    return uids


def _require_right_angles(grid: Grid) -> None:
    _, rows, columns = grid.direction_zyx.T
    cosine = abs(float(rows @ columns))
    if cosine > _ORTHOGONAL:
        raise GeometryError(
            "writing a series",
            expected="rows and columns at a right angle",
            got=f"a cosine of {cosine:.4f} between them",
            remedy="Resample the volume",
        )


def _dataset(name: str, study: str, number: int) -> Dataset:
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SpecificCharacterSet = "ISO_IR 192"
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = UID(named_uid("image", study, str(number)))
    one.StudyInstanceUID, one.SeriesInstanceUID = study, named_uid("series", study)
    one.FrameOfReferenceUID = named_uid("frame", study)
    one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = f"{name}^Synthetic", name, "", "O"
    one.StudyID, one.AccessionNumber, one.ReferringPhysicianName = "1", "", ""
    one.StudyDate = one.SeriesDate = one.AcquisitionDate = one.ContentDate = _DATE
    one.StudyTime = one.SeriesTime = one.AcquisitionTime = one.ContentTime = _TIME
    one.StudyDescription, one.SeriesDescription, one.BodyPartExamined = "Synthetic CT", "Abdomen", "ABDOMEN"
    one.Modality, one.ImageType = "CT", ["DERIVED", "PRIMARY", "AXIAL"]
    one.SeriesNumber, one.AcquisitionNumber, one.InstanceNumber = 1, 1, number
    one.Manufacturer, one.ManufacturerModelName, one.PositionReferenceIndicator = "viscera", "phantom", ""
    one.PatientPosition, one.KVP = "HFS", ""
    return one


def _set_image(one: Dataset, image: NDArray[np.int16], grid: Grid, place: int) -> None:
    _, down_mm, right_mm = grid.spacing_zyx_mm
    _, rows, columns = grid.direction_zyx.T
    # Growing column index first; decimal strings have at most 16 characters.
    one.ImageOrientationPatient = [_decimal(part) for part in (*columns, *rows)]
    one.ImagePositionPatient = [_decimal(part) for part in grid.affine[:3] @ (place, 0, 0, 1)]
    one.PixelSpacing = [_decimal(down_mm), _decimal(right_mm)]
    one.SliceThickness = _decimal(grid.spacing_zyx_mm[0])
    one.SliceLocation = _decimal(float(one.ImagePositionPatient[2]))
    one.Rows, one.Columns = image.shape
    one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 1
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
    one.RescaleSlope, one.RescaleIntercept, one.RescaleType = "1", "0", "HU"
    one.PixelData = np.ascontiguousarray(image, dtype="<i2").tobytes()


def _decimal(value: Any) -> str:
    return f"{float(value):.6f}".rstrip("0").rstrip(".")
