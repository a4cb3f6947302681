"""What all DICOM results have in common: texts, the file's first part, and whose patient they are of."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

import viscera
from viscera.adapters.dicom_source import OPTIONAL_COPIES, REQUIRED_COPIES, SourceImages
from viscera.errors import WriteError
from viscera.labels import PRIVATE_SCHEME, Organ
from viscera.origin import Origin
from viscera.volume import LabelMap
from viscera.write import write_bytes

# Short enough for any text field of DICOM (LO: 64 characters).
INTENDED_USE = "Research software, not a medical device"
MANUFACTURER = "viscera"
# Of the objects themselves; together with the name above it tells readers of a file what wrote it.
_IMPLEMENTATION = UID("2.25.233114912385741187903926914538113364113")
_LATIN_1, _UTF_8 = "ISO_IR 100", "ISO_IR 192"


def character_set(source: SourceImages, organs: Sequence[Organ]) -> str:
    """The character set of a result: Latin-1 if it holds every text that is copied, else UTF-8."""
    texts = [str(source.first.get(name) or "") for name in REQUIRED_COPIES + OPTIONAL_COPIES]
    texts += [text for organ in organs for text in (organ.name, organ.code.meaning)]
    try:
        "".join(texts).encode("latin-1")
    except UnicodeEncodeError:
        return _UTF_8
    return _LATIN_1


def copied_attributes(source: SourceImages) -> Dataset:
    """Patient and study as in the source, decoded, so that they can be written in another character set."""
    copied = Dataset()
    for name in ("StudyInstanceUID", *REQUIRED_COPIES, *OPTIONAL_COPIES):
        if name in source.first:
            element = copy.deepcopy(source.first[name])
            if element.VR == "PN":
                element.value = str(element.value)
            copied.add(element)
    return copied


def private_codes_used(organs: Sequence[Organ]) -> bool:
    """Whether an organ's code is viscera's own, which DICOM wants explained."""
    return any(organ.code.scheme == PRIVATE_SCHEME for organ in organs)


def require_described(label_map: LabelMap, origin: Origin, doing: str) -> None:
    """Raises WriteError if a label is none of the origin's organs; returns nothing."""
    if (largest := int(label_map.labels.max())) > len(origin.organs):
        raise WriteError(
            doing,
            expected=f"labels of the bundle's {len(origin.organs)} organs",
            got=f"a label {largest}",
            remedy="Give the bundle whose organs the labels are",
        )


def file_meta(sop_class: str, instance: str) -> FileMetaDataset:
    """The first part of a result's file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = f"VISCERA {viscera.__version__}"[:16]
    return meta


def save(dataset: Dataset, path: Path) -> None:
    """Nothing; writes a DICOM object, whole or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    write_bytes(buffer.getvalue(), path)


def coded(value: str, scheme: str, meaning: str) -> Any:
    """A code sequence's one item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning[:64]
    return item
