"""What a file says its labels are: names and codes of labels, matched with an organ table.

Label files that name their labels are read by these names, never by the order in which they number them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from viscera.core.errors import ReadError
from viscera.core.organs import BACKGROUND, PRIVATE_SCHEME, Code, Laterality, Organ

# What is segmented, in other codes than the organ table's: one side of a pair, and the codes of SNOMED RT that programs
# wrote before DICOM changed to SNOMED CT (PS3.16, annex O).
_KIDNEY, _LIVER, _SPLEEN, _PANCREAS = "64033007", "10200004", "78961009", "15776009"
_SAME_CODE: Mapping[tuple[str, str], str] = {
    ("SCT", "18639004"): _KIDNEY,
    ("SCT", "9846003"): _KIDNEY,
    ("SRT", "T-71000"): _KIDNEY,
    ("SRT", "T-71010"): _KIDNEY,
    ("SRT", "T-71020"): _KIDNEY,
    ("SRT", "T-62000"): _LIVER,
    ("SRT", "T-C3000"): _SPLEEN,
    ("SRT", "T-65000"): _PANCREAS,
}
# Codes of one side of a pair.
_CODED_SIDE: Mapping[tuple[str, str], Laterality] = {
    ("SCT", "18639004"): "left",
    ("SCT", "9846003"): "right",
    ("SRT", "T-71010"): "right",
    ("SRT", "T-71020"): "left",
}
# Names that SNOMED CT and SNOMED RT have had in DICOM files.
_SCHEMES = {"99SDM": "SRT", "SNM3": "SRT"}
_KNOWN_SCHEMES = {"SCT", "SRT"}
# Codes that name no organ but any: tissue, organ, anatomical structure (also the older codes). 3D Slicer gives every
# new segment the first one, regardless of its name.
_ANY_CODE = {
    ("SCT", "85756007"),
    ("SRT", "T-D0050"),
    ("SCT", "113343008"),
    ("SCT", "91723000"),
    ("SRT", "T-D000A"),
    ("SCT", "123037004"),
}
# What is in an organ without being it, by any name: the category (CID 7150) morphologically altered structure, in
# both codes, and as the thing itself a neoplasm, a mass, a lesion, also by other codes.
_ALTERED = {("SCT", "49755003"), ("SRT", "M-01000"), ("SCT", "108369006"), ("SCT", "4147007"), ("SCT", "52988006")}
_ALTERED_WORDS = frozenset(
    {"neoplasm", "tumor", "tumour", "mass", "lesion", "cyst", "metastasi", "metastase", "necrosi", "abscess", "edema"}
)

_SHORT_SIDES = {"l": "left", "lt": "left", "r": "right", "rt": "right"}
_SIDES = frozenset({"left", "right", "both", "bilateral"})
# Words that add nothing to an organ's name, and words that name nothing by themselves.
_FILLERS = frozenset({"structure", "organ", "entire", "whole"})
_EMPTY_WORDS = frozenset(
    {"label", "labels", "segment", "segmentation", "class", "roi", "region", "value", "object", "mask", "tissue", "id"}
)
_SHOWN_NAMES = 8


@dataclass(frozen=True, kw_only=True)
class LabelName:
    """What a file says one of its labels is.

    Attributes:
        name: As the file has it.
        code: The code of what it is, None if there is none.
        category: The code of the kind of thing it is, None if there is none.
        laterality: The side that a code says it is on, None if there is none.
    """

    name: str
    code: Code | None = None
    category: Code | None = None
    laterality: Laterality | None = None


@dataclass(frozen=True, kw_only=True)
class LabelMeaning:
    """The organs behind the labels of a file.

    Attributes:
        indices: Organ index by label, 0 for labels that are no organ of the table.
        passed_over: The names of the latter.
    """

    indices: Mapping[int, int]
    passed_over: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence on what was passed over, none if nothing was."""
        if not self.passed_over:
            return ()
        return (f"Labels that are no organ of the table were passed over: {_listed(self.passed_over)}.",)


def label_meaning(labels: Mapping[int, LabelName], organs: Sequence[Organ]) -> LabelMeaning | None:
    """Which organs the named labels are; None if the names and codes say nothing, such as Segment_1, Segment_2.

    A code says more than a name, a name more than a code that fits any tissue. Several labels may be one organ, as a
    left and a right kidney are the organ kidney of a table that does not tell sides.

    Args:
        labels: What the file says of each label.
        organs: The organ table.

    Raises:
        ReadError: If a name and its code are two organs, or none of the names is an organ of the table.

    Example:
        >>> from viscera.core.organs import ORGANS
        >>> label_meaning({1: LabelName(name="spleen"), 2: LabelName(name="kidney_left")}, ORGANS).indices
        {1: 3, 2: 2}
    """
    found = {label: _organ(one, organs) for label, one in labels.items()}
    others = tuple(labels[label].name or "without a name" for label, organ in found.items() if organ is None)
    if all(organ is None for organ in found.values()):
        if all(_says_nothing(one) for one in labels.values()):
            return None
        raise ReadError(
            expected=f"labels named or coded as {', '.join(organ.name for organ in organs)}",
            got=_listed(others),
            remedy="Name them so in the program that made them, or give the bundle whose organs they are",
        )
    indices = {label: BACKGROUND if organ is None else organ.index for label, organ in found.items()}
    return LabelMeaning(indices=indices, passed_over=others)


def require_agreement(meaning: LabelMeaning, mapping: Mapping[int, int], organs: Sequence[Organ]) -> None:
    """Refuse a mapping of labels to organ indices that contradicts the names in the file.

    Raises:
        ReadError: If a label is one organ by its name and another by the mapping.
    """
    names = {BACKGROUND: "background"} | {organ.index: organ.name for organ in organs}
    for label, index in meaning.indices.items():
        mapped = mapping.get(label, index)
        if index not in (BACKGROUND, mapped):
            raise ReadError(
                expected=f"label {label} to be {names.get(mapped, mapped)}, as the mapping says",
                got=f"{names[index]} as the file's own name for it",
                remedy="Correct the mapping or the file",
            )


def organ_by_name(name: str, organs: Sequence[Organ]) -> Organ | None:
    """The organ of that name, regardless of its case, separators, plural and order of words; of a pair also one side.

    Example:
        >>> from viscera.core.organs import ORGANS
        >>> organ_by_name("Kidneys, left", ORGANS).name, organ_by_name("liver tumour", ORGANS)
        ('kidney', None)
    """
    words = _words(name)
    same = [organ for organ in organs if _words(organ.name) == words]
    # A table that tells sides has no organ for a name that does not; one that does not has it for either side.
    return next(iter(same or [organ for organ in organs if words - _SIDES == _words(organ.name) != words]), None)


def organ_by_code(
    code: Code, organs: Sequence[Organ], name: str = "", laterality: Laterality | None = None
) -> Organ | None:
    """The organ with that code, in SNOMED CT or RT; of several organs with it the one of that side or name.

    An organ table that does not tell sides has one organ for either. One that does has none for a code without a side,
    unless the name says which.
    """
    scheme, value = _current(code)
    side = laterality or _CODED_SIDE.get((scheme, value))
    if same := _SAME_CODE.get((scheme, value)):
        exact = [organ for organ in organs if (organ.code.scheme, organ.code.value) == (scheme, value)]
        scheme, value = (scheme, value) if exact else ("SCT", same)
    coded = [organ for organ in organs if (organ.code.scheme, organ.code.value) == (scheme, value)]
    if side is not None:
        coded = [organ for organ in coded if organ.laterality in (side, None)]
    named = [organ for organ in coded if _words(organ.name) == _words(name)]
    known = named or [organ for organ in coded if organ.laterality in (side, None)]
    return next(iter(known), None)


def names_organ(label: LabelName, organs: Sequence[Organ]) -> bool:
    """Whether the name or the code is that of an organ of the table."""
    coded = label.code is not None and organ_by_code(label.code, organs, label.name, label.laterality) is not None
    return coded or organ_by_name(label.name, organs) is not None


def _organ(label: LabelName, organs: Sequence[Organ]) -> Organ | None:
    named = organ_by_name(label.name, organs)
    if any(code is not None and _is_altered(code) for code in (label.category, label.code)):
        return None
    if label.code is None or not label.code.value or _current(label.code) in _ANY_CODE:
        return named
    coded = organ_by_code(label.code, organs, label.name, label.laterality) or organ_by_name(label.code.meaning, organs)
    if named is None or (coded is not None and _alike(named, coded)):
        return coded
    # Codes of other schemes, and codes for an organ that the table has under a private one, cannot be compared.
    if coded is None and (_current(label.code)[0] not in _KNOWN_SCHEMES or named.code.scheme == PRIVATE_SCHEME):
        return named
    raise ReadError(
        expected="a name and a code that mean one organ",
        got=f"the name {label.name[:64]!r} with the code of {label.code.meaning[:64] or label.code.value!r}"
        + (f", {label.laterality}" if label.laterality else ""),
        remedy="Correct one of them in the program that made the file",
    )


def _is_altered(code: Code) -> bool:
    return _current(code) in _ALTERED or bool(_words(code.meaning) & _ALTERED_WORDS)


def _alike(one: Organ, other: Organ) -> bool:
    """Whether a name and a code that led to these two can mean the same: one of them may leave out the side."""
    same = _words(one.name) - _SIDES == _words(other.name) - _SIDES
    return one.index == other.index or (same and None in (one.laterality, other.laterality))


def _current(code: Code) -> tuple[str, str]:
    return _SCHEMES.get(code.scheme, code.scheme), code.value


def _words(name: str) -> frozenset[str]:
    plain = unicodedata.normalize("NFKC", name).casefold()
    words = [_SHORT_SIDES.get(word, word) for word in re.split(r"[\W_]+", plain) if word and word not in _FILLERS]
    return frozenset(word.removesuffix("s") if len(word) > 3 else word for word in words)


def _says_nothing(label: LabelName) -> bool:
    coded = label.code is not None and label.code.value and _current(label.code) not in _ANY_CODE
    words = re.split(r"[\W_]+|(?<=[^\W\d_])(?=\d)", label.name.casefold())
    return not coded and all(not word or word in _EMPTY_WORDS or word.isdecimal() for word in words)


def _listed(names: Sequence[str]) -> str:
    shown = [name[:64] for name in names[:_SHOWN_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
