"""The organ table: label index, name, colour and code, the one source for files, pictures and reports.

`ORGANS` is the default; a bundle may bring its own table in its card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept (DICOM PS3.16): code value, its meaning and the coding scheme, SNOMED CT if not said."""

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True, kw_only=True)
class Organ:
    """One label of an organ table.

    Attributes:
        index: Its value in label maps.
        name: For people and files.
        colour: sRGB, 0..255.
        code: What it is, in SNOMED CT unless the code says otherwise.
        laterality: The patient's side, for one organ of a pair; None for an unpaired organ, and for a label that holds
            both.
    """

    index: int
    name: str
    colour: tuple[int, int, int]
    code: Code
    laterality: Literal["left", "right"] | None = None


BACKGROUND = 0
# What every organ is in DICOM (CID 7150).
CATEGORY = Code(value="91723000", meaning="Anatomical Structure")

# Indices are FLARE 2021's. Colours are chosen to stay apart for readers with red-green colour blindness
# (from the Okabe-Ito palette). Codes: SNOMED CT as listed in DICOM PS3.16 CID 7150 and its neighbours.
ORGANS: tuple[Organ, ...] = (
    Organ(index=1, name="liver", colour=(213, 94, 0), code=Code(value="10200004", meaning="Liver")),
    Organ(index=2, name="kidney", colour=(86, 180, 233), code=Code(value="64033007", meaning="Kidney")),
    Organ(index=3, name="spleen", colour=(204, 121, 167), code=Code(value="78961009", meaning="Spleen")),
    Organ(index=4, name="pancreas", colour=(240, 228, 66), code=Code(value="15776009", meaning="Pancreas")),
)

LABEL_COUNT = len(ORGANS) + 1

# A uint8 label map holds no more.
_LARGEST_INDEX = 255
# Names go into XML, CSV, tables and pictures: letters of any alphabet, digits and a few signs.
_NAME = re.compile(r"\w[\w .,+()/'-]{0,63}")


# For other organs, in turn: the rest of the Okabe-Ito palette, then some of ColorBrewer's paired colours.
_COLOURS = (
    (0, 158, 115),
    (0, 114, 178),
    (230, 159, 0),
    (178, 223, 138),
    (251, 154, 153),
    (202, 178, 214),
    (166, 206, 227),
    (177, 89, 40),
)
# DICOM PS3.3 section 8.2: a private coding scheme's name begins with 99; a code value has at most 16 characters.
PRIVATE_SCHEME = "99VISCERA"
_CODE_LENGTH = 16


# Organs whose one label holds the left and the right one.
PAIRED = frozenset({"kidney"})


def sided_table(organs: Sequence[Organ]) -> tuple[Organ, ...]:
    """The table with the left and the right of each paired organ apart.

    The right one keeps the index, the left one takes the first free one, so that all other labels stay as they are.

    Example:
        >>> [(organ.index, organ.name, organ.laterality) for organ in sided_table(ORGANS)][1:]
        [(2, 'right kidney', 'right'), (3, 'spleen', None), (4, 'pancreas', None), (5, 'left kidney', 'left')]
    """
    rights = [
        replace(organ, name=f"right {organ.name}", laterality="right") if organ.name in PAIRED else organ
        for organ in organs
    ]
    lefts = [
        replace(
            organ,
            index=index,
            name=f"left {organ.name}",
            colour=_COLOURS[(index - 1 - len(ORGANS)) % len(_COLOURS)],
            laterality="left",
        )
        for index, organ in enumerate((organ for organ in organs if organ.name in PAIRED), start=len(organs) + 1)
    ]
    return (*rights, *lefts)


def named_organ(index: int, name: str) -> Organ:
    """The organ of `ORGANS` with that name, numbered `index`, or a new one with another colour and a private code.

    Example:
        >>> named_organ(1, "spleen").code.meaning
        'Spleen'
        >>> named_organ(2, "gallbladder").code
        Code(value='GALLBLADDER', meaning='gallbladder', scheme='99VISCERA')
    """
    for organ in ORGANS:
        if organ.name == name:
            return replace(organ, index=index)
    code = Code(value=name[:_CODE_LENGTH].upper(), meaning=name, scheme=PRIVATE_SCHEME)
    return Organ(index=index, name=name, colour=_COLOURS[(index - 1) % len(_COLOURS)], code=code)


def organ_table_fault(organs: Sequence[Organ]) -> str | None:
    """What keeps `organs` from being a table that files, scores and reports can be made with, None if nothing.

    Indices count from 1 without a gap, as they are the channels of the segmentation network after the background;
    names are different from each other, short and plain; colours are three values of 0 to 255.

    Example:
        >>> organ_table_fault(ORGANS) is None
        True
        >>> organ_table_fault(ORGANS[1:])
        'the indices [2, 3, 4]'
    """
    if not 1 <= len(organs) <= _LARGEST_INDEX:
        return f"{len(organs)} organs"
    if (indices := [organ.index for organ in organs]) != list(range(1, len(organs) + 1)):
        return f"the indices {indices}"
    names = [organ.name for organ in organs]
    if odd := [name for name in names if not _NAME.fullmatch(name)]:
        return f"the name {odd[0][:80]!r}"
    if len(set(names)) < len(names):
        return f"the names {names}, one of them twice"
    for organ in organs:
        if len(organ.colour) != 3 or not all(0 <= value <= 255 for value in organ.colour):
            return f"the colour {organ.colour} of {organ.name}"
    return None
