"""What all DICOM results have in common: texts, the file's first part, and whose patient they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.charset import convert_encodings, decode_bytes, default_encoding, encode_string
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian

from viscera.core.errors import WriteError
from viscera.core.files import write_bytes
from viscera.core.organs import PRIVATE_SCHEME, Code, Laterality, Organ
from viscera.core.provenance import Origin
from viscera.core.version import version
from viscera.core.volume import LabelMap
from viscera.formats.dicom.references import OPTIONAL_COPIES, REQUIRED_COPIES, SourceImages

# Short enough for any text field of DICOM (LO: 64 characters).
INTENDED_USE = "Research software, not a medical device"
MANUFACTURER = "viscera"
# Of the objects themselves; together with the name above it tells readers of a file what wrote it.
_IMPLEMENTATION = UID("2.25.233114912385741187903926914538113364113")
_UTF_8 = "ISO_IR 192"
# PS3.16, CID 244.
SIDES: Mapping[Laterality, Code] = {
    "left": Code(value="7771000", meaning="Left"),
    "right": Code(value="24028007", meaning="Right"),
}


def set_identity(dataset: Dataset, source: SourceImages, origin: Origin) -> None:
    """Patient and study of `dataset` become those of the source, byte for byte and in the source's character set.

    They are never decoded: text in an undeclared character set, or with a backslash, would not survive that.

    Raises:
        WriteError: If the organs' names do not fit into that character set.
    """
    for name in (*REQUIRED_COPIES, *OPTIONAL_COPIES):
        if name in source.identity:
            dataset[tag_of(name)] = source.identity.get_item(tag_of(name))
    dataset.StudyInstanceUID = source.first.StudyInstanceUID
    declared = source.identity.get("SpecificCharacterSet")
    own = "".join(text for organ in origin.organs for text in (organ.name, organ.code.value, organ.code.meaning))
    own += origin.bundle + origin.algorithm
    if not (own.isascii() or _encodable(own, declared)):
        if not _plain_ascii(source.identity):
            raise WriteError(
                expected=f"names of organs in the images' character set, {declared or 'ASCII'}",
                got="others",
                remedy="Name the bundle's organs in plain letters, or ask for NIfTI only",
            )
        declared = _UTF_8
    if declared:
        dataset.SpecificCharacterSet = declared


def tag_of(name: str) -> BaseTag:
    """The tag of an attribute."""
    return BaseTag(tag_for_keyword(name) or 0)


def _encodable(text: str, declared: Any) -> bool:
    """Whether a character set as DICOM declares it has all of `text`."""
    if not declared:
        return False
    encodings = convert_encodings(declared)
    return decode_bytes(encode_string(text, encodings), encodings, set()) == text


def _plain_ascii(identity: Dataset) -> bool:
    """Whether all text is the same in every character set."""
    for element in identity.elements():
        if element.VR == "SQ":
            plain = all(map(_plain_ascii, element.value))  # type: ignore[arg-type]
        else:
            stored: Any = element.value if element.is_raw else b""
            plain = stored.isascii() and b"\x1b" not in stored
        if not plain:
            return False
    return True


def private_codes_used(organs: Sequence[Organ]) -> bool:
    """Whether an organ's code is viscera's own, which DICOM wants explained."""
    return any(organ.code.scheme == PRIVATE_SCHEME for organ in organs)


def require_described(label_map: LabelMap, origin: Origin) -> None:
    """Raise WriteError if a label is none of the origin's organs."""
    if (largest := int(label_map.labels.max())) > len(origin.organs):
        raise WriteError(
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
    meta.ImplementationVersionName = f"VISCERA {version()}"[:16]
    return meta


def save(dataset: Dataset, path: Path, source: SourceImages) -> None:
    """Write a DICOM object, whole or not at all.

    Raises:
        WriteError: If the file cannot be written, or would not have the source's patient and study in it.
    """
    correct_ambiguous_vr(dataset, True)
    # pydicom writes elements as their bytes are if a data set says that it was read in the very same encoding.
    declared = dataset.get("SpecificCharacterSet")
    dataset.set_original_encoding(False, True, convert_encodings(declared) if declared else default_encoding)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    _require_identity(buffer, source)
    write_bytes(buffer.getvalue(), path)


def _require_identity(written: BytesIO, source: SourceImages) -> None:
    written.seek(0)
    names = [name for name in (*REQUIRED_COPIES, *OPTIONAL_COPIES) if name in source.identity]
    result = pydicom.dcmread(written, stop_before_pixels=True, specific_tags=names)
    for name in names:
        element = source.identity.get_item(tag_of(name))
        if element.VR != "SQ" and (result.get_item(tag_of(name)).value or b"") != element.value:
            raise WriteError(
                expected=f"the images' own {name}",
                got="another, as the package pydicom has changed it",
                remedy="Report it with the version of pydicom; ask for NIfTI meanwhile",
            )


def organ_item(organ: Organ) -> Dataset:
    """Return the code of an organ as a sequence's item, with the side as its modifier (PS3.3, C.8.20.4)."""
    item = _coded(organ.code)
    if organ.laterality is not None:
        item.SegmentedPropertyTypeModifierCodeSequence = [_coded(SIDES[organ.laterality])]
    return item


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning[:64]
    return item
