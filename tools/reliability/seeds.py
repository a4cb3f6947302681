"""Small valid inputs of every kind that viscera reads, as bytes: what the mutations start from."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap, Volume

Reader = Literal["volume", "labels"]

# Slices, rows, columns; pairwise different, and large enough for every codec.
SHAPE = (4, 9, 10)
SPACING_ZYX_MM = (3.0, 2.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One valid input.

    Attributes:
        kind: The row of the table it counts in.
        name: Of this one among its kind.
        reader: What reads it.
        entry: What the reader is given: one of `files`, or "" for the folder that holds them.
        files: Contents by name, in the order in which they should be changed most often.
    """

    kind: str
    name: str
    reader: Reader
    entry: str
    files: dict[str, bytes]


def make_seeds(work: Path) -> list[Seed]:
    """Seeds of all kinds that the installed packages can make; `work` is an empty folder to make them in."""
    makers: tuple[Callable[[Path], list[Seed]], ...] = (
        nifti_seeds, itk_seeds, dicom_seeds, multi_frame_seeds, label_seeds, seg_seeds,
    )  # fmt: skip
    return [seed for maker in makers for seed in maker(work)]


def hu() -> NDArray[np.int16]:
    """Noise between air and bone."""
    return np.random.default_rng(11).integers(-1000, 400, SHAPE).astype(np.int16)


def labels() -> NDArray[np.uint8]:
    """Every organ and background, in blocks."""
    filled = np.zeros(SHAPE, dtype=np.uint8)
    for index in range(1, 5):
        filled[1:3, 2 * index - 1 : 2 * index, 1:8] = index
    return filled


def grid() -> Grid:
    """Canonical axes, a spacing of its own along each."""
    return Grid.from_axes(
        SHAPE, spacing_zyx_mm=SPACING_ZYX_MM, direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(-7, 5, 9)
    )


def nifti_seeds(work: Path) -> list[Seed]:
    """Versions 1 and 2, either byte order, integers and scaled floats, plain and compressed."""
    import nibabel

    from viscera.formats.nifti_write import write_volume

    write_volume(Volume(hu=hu(), grid=grid()), work / "ct.nii")
    plain = (work / "ct.nii").read_bytes()
    image: Any = nibabel.Nifti1Image.from_bytes(plain)
    voxels, affine = np.asarray(image.dataobj), image.affine
    big: Any = nibabel.Nifti1Image(voxels, affine, nibabel.Nifti1Header(endianness=">"))  # type: ignore[no-untyped-call]
    second: Any = nibabel.Nifti2Image(voxels.astype(np.int32), affine)  # type: ignore[no-untyped-call]
    scaled: Any = nibabel.Nifti1Image(voxels.astype(np.float32) / 2, affine)  # type: ignore[no-untyped-call]
    scaled.header["scl_slope"], scaled.header["scl_inter"] = 2.0, 0.0
    encoded = {"int16": plain, "big-endian": big.to_bytes(), "version-2": second.to_bytes(), "float": scaled.to_bytes()}
    seeds = []
    for name, raw in encoded.items():
        packed = gzip.compress(raw, mtime=0)
        seeds.append(Seed(kind="NIfTI", name=name, reader="volume", entry="ct.nii", files={"ct.nii": raw}))
        seeds.append(Seed(kind="NIfTI gz", name=name, reader="volume", entry="ct.nii.gz", files={"ct.nii.gz": packed}))
    return seeds


def itk_seeds(work: Path) -> list[Seed]:
    """NRRD and MetaImage, raw and compressed, in one file and in two."""
    try:
        import SimpleITK as sitk
    except ImportError:
        return []
    image: Any = sitk.GetImageFromArray(hu())
    image.SetSpacing(SPACING_ZYX_MM[::-1])
    seeds = []
    for name in ("ct.nrrd", "ct.mha", "ct.mhd"):
        for compressed in (False, True):
            folder = work / f"{name}-{compressed}"
            folder.mkdir()
            sitk.WriteImage(image, str(folder / name), compressed)
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
            header_first = {name: files.pop(name), **files}
            kind = "NRRD" if name.endswith(".nrrd") else "MetaImage"
            label = f"{name}, {'compressed' if compressed else 'raw'}"
            seeds.append(Seed(kind=kind, name=label, reader="volume", entry=name, files=header_first))
    return seeds


def dicom_seeds(work: Path) -> list[Seed]:
    """Series as folders in every transfer syntax that can be made here, and as zips."""
    from viscera.formats.dicom.ct_write import write_ct_series

    write_ct_series(Volume(hu=hu(), grid=grid()), work / "series", name="synthetic")
    plain = _folder_files(work / "series")
    encoded = {
        "explicit": plain,
        "implicit": {name: _implicit(raw) for name, raw in plain.items()},
        "no preamble": {name: _implicit(raw, whole=False) for name, raw in plain.items()},
        "RLE": {name: _run_lengths(raw) for name, raw in plain.items()},
        **_packed_series(work / "series", work / "packed"),
    }
    seeds = [
        Seed(kind="DICOM folder", name=name, reader="volume", entry="", files=files) for name, files in encoded.items()
    ]
    for name in ("explicit", "RLE"):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            packed = {"ct.zip": zipped(encoded[name], method)}
            label = f"{name}, {'deflated' if method else 'stored'}"
            seeds.append(Seed(kind="DICOM zip", name=label, reader="volume", entry="ct.zip", files=packed))
    return seeds


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of `files`, with the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def _folder_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _saved(dataset: Any, *, whole: bool = True) -> bytes:
    import pydicom

    buffer = io.BytesIO()
    if whole:
        dataset.save_as(buffer, enforce_file_format=True)
    else:
        pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
    return buffer.getvalue()


def _implicit(raw: bytes, *, whole: bool = True) -> bytes:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(raw))
    if whole:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        return _saved(dataset)
    bare = pydicom.Dataset(dataset)  # without the file's first part
    return _saved(bare, whole=False)


def _run_lengths(raw: bytes) -> bytes:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(raw))
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    return _saved(dataset)


def _packed_series(series: Path, target: Path) -> dict[str, dict[str, bytes]]:
    """The series in the syntaxes that GDCM packs; none without it."""
    try:
        import gdcm
    except ImportError:
        return {}
    encoded = {}
    for name in ("JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1"):
        folder = target / name
        folder.mkdir(parents=True)
        for path in sorted(series.iterdir()):
            reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
            reader.SetFileName(str(path))
            change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
            if not reader.Read():
                raise RuntimeError(f"GDCM does not read {path}")
            change.SetInput(reader.GetImage())
            if not change.Change():
                raise RuntimeError(f"GDCM does not write {name}")
            writer.SetFileName(str(folder / path.name))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            writer.Write()
        encoded[name] = _folder_files(folder)
        shutil.rmtree(folder)
    return encoded


def multi_frame_seeds(work: Path) -> list[Seed]:
    """One enhanced object with all slices, plain and run-length encoded."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.EnhancedCTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = pydicom.uid.UID("1.2.826.0.1.5")
    one.StudyInstanceUID, one.SeriesInstanceUID, one.Modality = "1.2.826.0.1.3", "1.2.826.0.1.4", "CT"
    one.ImageType, one.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME"], SHAPE[0]
    one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = *SHAPE[1:], 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    shared, measures, rescale, direction = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING_ZYX_MM[1:]), SPACING_ZYX_MM[0]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, 0, "HU"
    direction.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [direction]
    shared.PixelValueTransformationSequence = [rescale]
    one.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in range(SHAPE[0]):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-7, 5, 9 + 3 * place]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    one.PerFrameFunctionalGroupsSequence = frames
    one.PixelData = hu().tobytes()
    plain = _saved(one)
    return [
        Seed(kind="DICOM multi-frame", name=name, reader="volume", entry="ct.dcm", files={"ct.dcm": raw})
        for name, raw in (("plain", plain), ("RLE", _run_lengths(plain)))
    ]


def label_seeds(work: Path) -> list[Seed]:
    """Label maps in NIfTI, as whole numbers and as floats, and in NRRD."""
    from viscera.formats.nifti_write import write_label_map, write_volume

    label_map = LabelMap(labels=labels(), grid=grid())
    write_label_map(label_map, work / "labels.nii")
    write_volume(Volume(hu=labels().astype(np.int16), grid=grid()), work / "wide.nii")
    encoded = {name: (work / f"{name}.nii").read_bytes() for name in ("labels", "wide")}
    seeds = []
    for name, raw in encoded.items():
        packed = {"labels.nii.gz": gzip.compress(raw, mtime=0)}
        seeds.append(Seed(kind="label map", name=name, reader="labels", entry="labels.nii.gz", files=packed))
        seeds.append(Seed(kind="label map", name=name, reader="labels", entry="labels.nii", files={"labels.nii": raw}))
    try:
        import SimpleITK as sitk
    except ImportError:
        return seeds
    image: Any = sitk.GetImageFromArray(labels())
    image.SetSpacing(SPACING_ZYX_MM[::-1])
    sitk.WriteImage(image, str(work / "labels.nrrd"), True)
    files = {"labels.nrrd": (work / "labels.nrrd").read_bytes()}
    return [*seeds, Seed(kind="label map", name="nrrd", reader="labels", entry="labels.nrrd", files=files)]


def seg_seeds(work: Path) -> list[Seed]:
    """DICOM SEG of both types, as viscera writes them."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        return []
    from viscera.core.organs import ORGANS
    from viscera.core.provenance import Origin
    from viscera.formats.dicom.ct_write import write_ct_series
    from viscera.formats.dicom.references import source_images
    from viscera.formats.dicom.seg_write import SegType, write_dicom_seg

    write_ct_series(Volume(hu=hu(), grid=grid()), work / "referenced", name="synthetic")
    source = source_images(work / "referenced")
    label_map = LabelMap(labels=labels(), grid=source.grid)
    origin = Origin(bundle="none", bundle_version="0", organs=ORGANS, identity="seed")
    kinds: tuple[SegType, ...] = ("binary", "labelmap")
    seeds = []
    for kind in kinds:
        write_dicom_seg(label_map, source, work / f"{kind}.dcm", origin, kind=kind)
        files = {"seg.dcm": (work / f"{kind}.dcm").read_bytes()}
        seeds.append(Seed(kind="DICOM SEG", name=kind, reader="labels", entry="seg.dcm", files=files))
    return seeds
