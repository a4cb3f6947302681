"""The DICOM results of one series, under identifiers that follow from what they were made of."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from viscera.case import CaseOptions
from viscera.core.errors import ReadError, during
from viscera.core.version import version
from viscera.formats.dicom.files import dicom_sources
from viscera.formats.dicom.series import NoCtSeriesError, ct_series
from viscera.model.bundle import CARD
from viscera.pacs.jobs import image_name, images_identity, series_key
from viscera.result import Segmentation
from viscera.segmenter import Segmenter


def write_results(
    segmenter: Segmenter, images: Path, results: Path, formats: Sequence[str], *, identity: str
) -> Segmentation:
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
    options = CaseOptions(formats=tuple(formats), identity=f"{identity}/{card}/{version()}")
    return segmenter.segment_file(images, results / "organs.nii.gz", options=options)


def require_worth(images: Path) -> None:
    """Raise ReadError if the images in a folder, all of one series, show no organs as they are.

    No person chose what arrives, and nobody reads a note where its results are stored: projections and renderings are
    not segmented. What is not in Hounsfield units is refused by reading it.
    """
    with during("examining a series"):
        # One image is enough in nearly all cases.
        with dicom_sources(min(images.iterdir())) as sources, contextlib.suppress(NoCtSeriesError):
            if all(one.traits.worth for one in ct_series(sources)):
                return
        with dicom_sources(images) as sources:
            if ct_series(sources)[0].traits.kind.projection:
                raise ReadError(
                    expected="slices of the body, not projections or renderings (MIP, MinIP)",
                    got="these",
                    remedy="Send the series they were made from",
                )


def series_identity(images: Path) -> str:
    """What the objects in a folder, all of one series, are as a whole; the same as a listener finds for them."""
    import pydicom

    tags = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    found = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags)) for path in images.iterdir()]
    key = series_key(str(found[0].StudyInstanceUID), str(found[0].SeriesInstanceUID))
    return images_identity(key, {image_name(str(one.SOPInstanceUID)) for one in found})
