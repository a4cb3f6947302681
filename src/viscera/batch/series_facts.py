"""Which DICOM series was read, and its contrast phase where the header names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydicom

from viscera.core.errors import VisceraError
from viscera.formats.dicom.files import dicom_sources
from viscera.formats.dicom.read import chosen_stack
from viscera.formats.dicom.series import DICOM_FAULTS
from viscera.formats.file_kinds import require_kind

# Contrast/Bolus Agent Phase of enhanced CT (DICOM PS3.3, C.8.15.3.7); other terms say nothing about the organs.
_CODED = {
    "PRE_CONTRAST": "non-contrast",
    "ARTERIAL": "arterial",
    "VENOUS": "venous",
    "PORTAL_VENOUS": "portal venous",
    "DELAYED": "delayed",
}
# What radiographers write into a series' description, German, French and Spanish included. The first that fits counts
# for its letters, so "portal venous" is not venous, too.
_WRITTEN = tuple(
    (re.compile(rf"(?<![A-Z])(?:{words})(?![A-Z])"), phase)
    for words, phase in (
        (r"NON[ _-]?CONTRAST|UNENHANCED|NATIVE?|NATIF|W[/_]?O(?: ?CONTRAST)?|WITHOUT|PRE[ _-]?CONTRAST|SIN CONTRASTE"
         r"|SANS(?: INJECTION)?|OHNE KM|NC|NECT", "non-contrast"),
        (r"PORTO?[ _-]?(?:AL)?[ _-]?VEN\w*|PORTAL\w*|PORTALE?|PV", "portal venous"),
        (r"(?:LATE |EARLY )?ART(?:ERIAL|ERIELL|ERIELLE|ERIEL|ER)?", "arterial"),
        (r"PANCREATIC|PANCREAS PHASE|PANKREATISCH", "pancreatic"),
        (r"NEPHRO\w*|NEPHROGRAPHIC", "nephrographic"),
        (r"EXCRETORY|UROGRAPHIC|DELAY(?:ED)?|LATE|SPAET|SPÄT|TARDIF|TARDIVE|TARDIA|EQUILIBRIUM", "delayed"),
        (r"VEN(?:OUS|OES|ÖS|OS|EUX|OSA|OSO)?", "venous"),
    )
)  # fmt: skip
_TAGS = ["SeriesNumber", "SeriesDescription", "ContrastBolusAgent", "ContrastBolusUsageSequence"]


def read_series_facts(path: Path, series: str | None = None) -> dict[str, str]:
    """Return what a DICOM header says of the series that `viscera.read.read_volume` takes from `path`.

    The free text of a description is not returned, as it may name anyone.

    Returns:
        `number`, the series number, and `phase`, see `contrast_phase`, where they are said. Empty for other formats,
        and where the headers cannot be read.
    """
    try:
        if require_kind(path) != "dicom":
            return {}
        with dicom_sources(path) as sources:
            stack = chosen_stack(sources, series)
            with stack.slices[0].source.opened() as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
                facts = {"number": _text(header, "SeriesNumber"), "phase": contrast_phase(header)}
    except (VisceraError, *DICOM_FAULTS):
        return {}
    return {name: value for name, value in facts.items() if value}


def contrast_phase(header: Any) -> str:
    """Return the contrast phase that a CT header names; empty if it names none, or several.

    Asked in this order: Contrast/Bolus Agent Phase, the words of the Series Description, and, for a scan that got none,
    a Contrast/Bolus Agent that says so. That contrast was given is no phase.
    """
    for usage in header.get("ContrastBolusUsageSequence") or ():
        if phase := _CODED.get(_text(usage, "ContrastBolusAgentPhase").upper()):
            return phase
    text, named = _text(header, "SeriesDescription").upper(), []
    for pattern, phase in _WRITTEN:
        text, count = pattern.subn(" ", text)
        named += [phase] if count else []
    if named:
        return named[0] if len(named) == 1 else ""
    return "non-contrast" if _text(header, "ContrastBolusAgent").upper() in ("NONE", "NO", "NO CONTRAST") else ""


def _text(header: Any, name: str) -> str:
    value = header.get(name)
    return "" if value is None else "".join(c for c in str(value) if c.isprintable()).strip()[:64]
