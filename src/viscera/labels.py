"""The organ table: label index, name, colour and code, the one source for files, pictures and reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept (DICOM PS3.16): code value, its meaning and the coding scheme, SNOMED CT if not said."""

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True, kw_only=True)
class Organ:
    """One label: its index in label maps, its name, an sRGB colour (0..255) and its SNOMED CT code."""

    index: int
    name: str
    colour: tuple[int, int, int]
    code: Code


BACKGROUND = 0

# Indices are FLARE 2021's. Colours are chosen to stay apart for readers with red-green colour blindness
# (from the Okabe-Ito palette). Codes: SNOMED CT as listed in DICOM PS3.16 CID 7150 and its neighbours.
ORGANS: tuple[Organ, ...] = (
    Organ(index=1, name="liver", colour=(213, 94, 0), code=Code(value="10200004", meaning="Liver")),
    Organ(index=2, name="kidney", colour=(86, 180, 233), code=Code(value="64033007", meaning="Kidney")),
    Organ(index=3, name="spleen", colour=(204, 121, 167), code=Code(value="78961009", meaning="Spleen")),
    Organ(index=4, name="pancreas", colour=(240, 228, 66), code=Code(value="15776009", meaning="Pancreas")),
)

LABEL_COUNT = len(ORGANS) + 1
