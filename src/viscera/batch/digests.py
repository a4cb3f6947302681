"""Digests of what a result rests on besides the scan: the options and the bundle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

from viscera.case import CaseOptions
from viscera.model.bundle import CARD

# Those that the digests in the oldest ledgers are of.
_FIRST_OPTIONS = {
    "series", "hu_offset", "allow_empty", "allow_mirrored", "preview", "clean", "side_files", "formats", "seg_type",
    "identity",
}  # fmt: skip
# What those had for the layout.
_SIDE_FILES = {"flat": "FlatLayout.side_files", "bids": "BidsLayout.side_files"}


def options_digest(options: CaseOptions) -> str:
    """Return the sha256 of the options that change what is written.

    Options that came later count only where they are used, so that what earlier versions did is kept.
    """
    values = {**asdict(options), "side_files": _SIDE_FILES[options.layout], "identity": None}
    del values["layout"]
    unset = {one.name for one in fields(options) if getattr(options, one.name) == one.default}
    values = {name: value for name, value in values.items() if name in _FIRST_OPTIONS or name not in unset}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def card_digest(folder: Path) -> str:
    """Return the sha256 of a bundle's card."""
    return hashlib.sha256((folder / CARD).read_bytes()).hexdigest()
