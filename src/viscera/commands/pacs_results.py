"""The DICOM results of one series, under identifiers that follow from what they were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import viscera
from viscera.adapters.pacs_records import image_name, images_identity, series_key
from viscera.bundle import CARD
from viscera.case import CaseOptions, SegmentedCase, Segmenter


def write_results(
    segmenter: Segmenter, images: Path, results: Path, formats: Sequence[str], *, identity: str
) -> SegmentedCase:
    """What became of one series; its DICOM files, `outputs`, are in the folder `results`.

    The same images, bundle, version and format give objects of the same identifiers, so that a result that is made or
    sent again replaces itself in an archive.

    Args:
        segmenter: What segments.
        images: Folder of the series' images.
        results: Where the files go.
        formats: "dicom-seg", "rtstruct" or both.
        identity: Of the images, see `series_identity`.

    Raises:
        ReadError, GeometryError, NothingFoundError: If the series cannot be segmented.
        WriteError: If a file cannot be written.
    """
    card = hashlib.sha256((segmenter.bundle.folder / CARD).read_bytes()).hexdigest()
    options = CaseOptions(formats=tuple(formats), identity=f"{identity}/{card}/{viscera.__version__}")
    return segmenter.segment_file(images, results / "organs.nii.gz", options=options)


def series_identity(images: Path) -> str:
    """What the objects in a folder, all of one series, are as a whole; the same as a listener finds for them."""
    import pydicom

    tags = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    found = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags)) for path in images.iterdir()]
    key = series_key(str(found[0].StudyInstanceUID), str(found[0].SeriesInstanceUID))
    return images_identity(key, {image_name(str(one.SOPInstanceUID)) for one in found})
