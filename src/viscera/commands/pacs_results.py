"""The DICOM results of one series, under identifiers that follow from what they were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import viscera
from viscera.adapters.dicom_result import Origin
from viscera.adapters.dicom_seg import import_highdicom, write_dicom_seg
from viscera.adapters.dicom_source import source_images
from viscera.adapters.pacs_records import image_name, images_identity, series_key
from viscera.adapters.rtstruct import import_contourpy, write_rtstruct
from viscera.bundle import CARD
from viscera.case import Segmenter


def require_writers(formats: Sequence[str]) -> None:
    """Nothing; raises MissingExtraError if a package for one of `formats` is not installed."""
    if "dicom-seg" in formats:
        import_highdicom()
    if "rtstruct" in formats:
        import_contourpy()


def write_results(
    segmenter: Segmenter,
    images: Path,
    results: Path,
    formats: Sequence[str],
    *,
    identity: str,
    note: Callable[[str], None] | None = None,
) -> list[Path]:
    """The DICOM files, now in `results`, that one series gives.

    The same images, bundle, version and format give objects of the same identifiers, so that a result that is made or
    sent again replaces itself in an archive.

    Args:
        segmenter: What segments.
        images: Folder of the series' images.
        results: Folder, which is there.
        formats: "dicom-seg", "rtstruct" or both.
        identity: Of the images, see `series_identity`.
        note: Called with what a reader of the results should know.

    Raises:
        ReadError, GeometryError, NothingFoundError: If the series cannot be segmented.
        WriteError: If a file cannot be written.
    """
    case = segmenter.segment_file(images, results / "labels.nii")
    case.output.unlink()
    for sentence in case.urgent_notes:
        if note is not None:
            note(sentence)
    card = segmenter.bundle.card
    digest = hashlib.sha256((segmenter.bundle.folder / CARD).read_bytes()).hexdigest()
    origin = Origin(
        bundle=card.name,
        bundle_version=card.version,
        organs=card.organs,
        identity=f"{identity}/{digest}/{viscera.__version__}",
    )
    source = source_images(images)
    writers = {"dicom-seg": write_dicom_seg, "rtstruct": write_rtstruct}
    paths = []
    for name in formats:
        path = results / f"{name}.dcm"
        writers[name](case.segmentation.label_map, source, path, origin)
        paths.append(path)
    return paths


def series_identity(images: Path) -> str:
    """What the objects in a folder, all of one series, are as a whole; the same as a listener finds for them."""
    import pydicom

    tags = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    found = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags)) for path in images.iterdir()]
    key = series_key(str(found[0].StudyInstanceUID), str(found[0].SeriesInstanceUID))
    return images_identity(key, {image_name(str(one.SOPInstanceUID)) for one in found})
