"""The segments of a file that 3D Slicer saved as segmentation (.seg.nrrd): their names, codes, layers and values.

Source: "Segmentations" in 3D Slicer's developer guide. Other programs (VolView, slicerio, MONAI Label) write the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from viscera.core.errors import ReadError
from viscera.core.label_names import LabelName
from viscera.core.organs import Code

_SEGMENT_KEY = re.compile(r"Segment([0-9]{1,5})_([A-Za-z]+)")
# Newer and older versions' key for what the voxels are.
_REPRESENTATIONS = ("Segmentation_SourceRepresentation", "Segmentation_MasterRepresentation")
_WHOLE = re.compile(r"[0-9]{1,5}")
_TERMINOLOGY = "TerminologyEntry:"


def segment_names(pairs: Mapping[str, str]) -> dict[tuple[int, int], LabelName]:
    """What each segment is, by its layer and the value of its voxels there; empty for a file without segments.

    Files of before 2020 say neither layer nor value: their segments have a layer each, and value 1.

    Args:
        pairs: The keys of a NRRD header with their values.

    Raises:
        ReadError: If two segments have one value in one layer, a number is none, or the segments are fractional.
    """
    found: dict[int, dict[str, str]] = {}
    for key, value in pairs.items():
        if parts := _SEGMENT_KEY.fullmatch(key):
            found.setdefault(int(parts[1]), {})[parts[2]] = value.strip()
    if found and any("fractional" in pairs.get(key, "").casefold() for key in _REPRESENTATIONS):
        raise _refused("a binary labelmap", "a fractional one", "Convert it to a binary labelmap in 3D Slicer")
    segments: dict[tuple[int, int], LabelName] = {}
    for number, fields in sorted(found.items()):
        # An empty segmentation has keys for a segment that is not there.
        if not {"ID", "Name", "LabelValue"} & fields.keys():
            continue
        at = _number(fields, "Layer", number), _number(fields, "LabelValue", 1)
        name = fields.get("Name") or fields.get("ID") or ""
        if at in segments:
            raise _refused(
                "segments of different values",
                f"value {at[1]} in layer {at[0]} for both {segments[at].name[:64]!r} and {name[:64]!r}",
                "Save the segmentation again in 3D Slicer",
            )
        category, code = _codes(fields.get("Tags", ""))
        segments[at] = LabelName(name=name, code=code, category=category)
    return segments


def _number(fields: Mapping[str, str], key: str, missing: int) -> int:
    text = fields.get(key, str(missing))
    if not _WHOLE.fullmatch(text):
        raise _refused(f"a whole number as a segment's {key}", repr(text[:40]), "Save it again in 3D Slicer")
    return int(text)


def _codes(tags: str) -> tuple[Code | None, Code | None]:
    """The codes of category and type in a segment's tags, as in TerminologyEntry:LIST~SCHEME^VALUE^MEANING~...|."""
    entry = next((tag for tag in tags.split("|") if tag.startswith(_TERMINOLOGY)), "")
    parts = [part.split("^") for part in entry.removeprefix(_TERMINOLOGY).split("~")]
    codes = [
        Code(scheme=part[0], value=part[1], meaning=part[2]) if len(part) == 3 and part[1] else None
        for part in parts[1:3]
    ]
    category, kind = [*codes, None, None][:2]
    return category, kind


def _refused(expected: str, got: str, remedy: str) -> ReadError:
    return ReadError(expected=expected, got=got, remedy=remedy)
