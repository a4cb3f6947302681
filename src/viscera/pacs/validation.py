"""What a C-STORE request must be before it is taken: a whole CT image under plain identifiers."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from dataclasses import dataclass

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from viscera.formats.dicom.series import DICOM_FAULTS

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# All that the reader decodes. The deflated syntax is not among them: what inflates has no limit.
SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLosslessSV1, JPEGLossless,
    JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit,
)  # fmt: skip

# DICOM PS3.5, section 9.1: digits and dots, 64 at most. Old devices break the rule on leading zeros, and no harm comes
# of these.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64
_PIXELS = 0x7FE00008
_CLASS, _INSTANCE, _STUDY, _SERIES = (Tag(0x00080016), Tag(0x00080018), Tag(0x0020000D), Tag(0x0020000E))
_RELATED_INSTANCES = Tag(0x00201209)
# Position, orientation, spacing, size and encoding of the pixels, rescale.
_IMAGE = tuple(
    Tag(tag)
    for tag in (
        0x00200032, 0x00200037, 0x00280010, 0x00280011, 0x00280030, 0x00280100, 0x00280101, 0x00280102, 0x00280103,
        0x00281052, 0x00281053,
    )
)  # fmt: skip
# Their pixels are the same bytes.
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_UNDEFINED = 0xFFFFFFFF
# Value representations whose length takes four bytes, after two reserved ones (PS3.5, section 7.1.2).
_LONG_FORMS = (b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"UN")


class ObjectFaultError(Exception):
    """A request that is not taken.

    Attributes:
        status: Of the response (DICOM PS3.4, annex B.2.3).
        comment: The same in words, at most 64 characters, nothing of the object's own text.
    """

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment[:_LONGEST_UID]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What tells an image from others.

    Attributes:
        study_uid, series_uid, instance_uid: Its identifiers.
        announced: How many images its series has, None if it does not say.
        content: How its pixels are encoded, a space, and a hash of them and of what gives them a place and a value.
            Hashes of one encoding can be compared.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    announced: int | None
    content: str


def is_uid(text: str) -> bool:
    """Whether `text` is a DICOM UID."""
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


def checked_identity(data: bytes, sop_class: str, instance_uid: str, syntax: UID) -> Identity:
    """The identifiers of an encoded data set that came under `sop_class` and `instance_uid`.

    Only the few elements needed are parsed. The pixels must be as long as they say.

    Raises:
        ObjectFaultError: If it is no CT image, contradicts the request, is cut short, or has identifiers that are
            none.
    """
    if sop_class not in CT_CLASSES:
        raise ObjectFaultError(0x0122, "only CT images are taken")
    if not is_uid(instance_uid):
        raise ObjectFaultError(0x0117, "the SOP Instance UID is not a UID")
    stream = io.BytesIO(data)
    tags = [_CLASS, _INSTANCE, _STUDY, _SERIES, _RELATED_INSTANCES, *_IMAGE]
    try:
        found = read_dataset(
            stream,
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            stop_when=lambda tag, vr, length: tag >= _PIXELS,
            specific_tags=list(tags),
        )
        # The values as they are in the bytes: no conversion sees what is hostile.
        raw = {tag: bytes(found.get_item(tag).value or b"") for tag in tags if tag in found}
        whole = _whole_pixels(data, stream.tell(), syntax)
    except DICOM_FAULTS as error:
        raise ObjectFaultError(0xC000, "the data set cannot be parsed") from error
    if not whole:
        raise ObjectFaultError(0xC000, "the data set has no pixels or is cut short")
    uids = {tag: raw.get(tag, b"")[:80].decode("latin-1").strip("\0 ") for tag in tags[:4]}
    if uids[_CLASS] != sop_class or uids[_INSTANCE] != instance_uid:
        raise ObjectFaultError(0xA900, "data set and request name different objects")
    if not (is_uid(uids[_STUDY]) and is_uid(uids[_SERIES])):
        raise ObjectFaultError(0xC000, "the Study or Series Instance UID is not a UID")
    related = raw.get(_RELATED_INSTANCES, b"").strip(b"\0 ")
    announced = int(related) if re.fullmatch(rb"[0-9]{1,6}", related) else None
    return Identity(
        study_uid=uids[_STUDY],
        series_uid=uids[_SERIES],
        instance_uid=instance_uid,
        announced=announced or None,
        content=_content(data, stream.tell(), raw, syntax) if sop_class == CTImageStorage else _whole(data, syntax),
    )


def _content(data: bytes, pixels: int, raw: dict[BaseTag, bytes], syntax: UID) -> str:
    """`Identity.content` of a classic image, whose pixels begin at `pixels`: nothing of the patient or the archive."""
    digest = hashlib.sha256()
    for tag in _IMAGE:
        digest.update(raw.get(tag, b"") + b"\0")
    start = 8 if syntax.is_implicit_VR else 12
    digest.update(memoryview(data)[pixels + start :])
    return f"{'plain' if syntax in _PLAIN else syntax} {digest.hexdigest()}"


def _whole(data: bytes, syntax: UID) -> str:
    """`Identity.content` of an enhanced object, whose frames have their places in sequences."""
    return f"{syntax} {hashlib.sha256(data).hexdigest()}"


def _whole_pixels(data: bytes, start: int, syntax: UID) -> bool:
    """Whether pixel data begin at `start` and end where they say."""
    order = "<" if syntax.is_little_endian else ">"
    head = data[start : start + 12]
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4])[0] != 0x7FE0:
        return False
    if syntax.is_implicit_VR:
        place, length = 8, struct.unpack(f"{order}I", head[4:8])[0]
    elif head[4:6] in _LONG_FORMS and len(head) == 12:
        place, length = 12, struct.unpack(f"{order}I", head[8:12])[0]
    else:
        return False
    if length == _UNDEFINED:
        return data.find(_SEQUENCE_END, start) >= 0
    return bool(0 < length <= len(data) - start - place)
