"""BIDS derivatives: names of label files, and the files the standard asks for beside them.

Source: the Brain Imaging Data Structure, version 1.11, "Derivatives". It defines segmentations (`dseg`) in the folder
`anat`, but neither a suffix nor a folder for CTs: outputs go to `anat`, whatever the suffix of an input.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscera.core.errors import ConfigError, reason
from viscera.core.organs import Organ

BIDS_VERSION = "1.11.0"
DESCRIPTION = "dataset_description.json"
IGNORED = ".bidsignore"

_PROGRAM = "viscera"
# The entities of an input that a segmentation's name may have, in the order in which the standard wants them. A number
# is the value of some, a label that of the others.
_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "run", "space", "chunk", "desc")
_NUMBERED = {"run", "chunk"}
_BIDS_STEM = re.compile(r"sub-[0-9A-Za-z+]+(_[A-Za-z]+-[0-9A-Za-z+]+)*(_[0-9A-Za-z]+)?")
_ENDING = re.compile(r"\.(nii\.gz|[A-Za-z]+)$", re.IGNORECASE)
_NO_LABEL = re.compile(r"[^0-9A-Za-z]+")
# A subject's label stands twice in a path and has to leave room in it.
_LONGEST_LABEL = 64
# What viscera writes into the folder that has no name in BIDS; validators are told to pass over it.
_UNNAMED = ("*_preview.png", "*.dcm", "*.html", "/statistics.*", "/organs*")

_README = """\
# Organ labels of CTs

Made by viscera, laid out as BIDS derivatives. `*_dseg.nii.gz` are label maps on the grids of the CTs, `*_dseg.tsv` says
which label is which organ. The labels are for research; viscera is not a medical device.
"""


@dataclass(frozen=True, kw_only=True)
class BidsName:
    """A scan's entities with their values, in the order of BIDS; the subject is the first."""

    entities: Mapping[str, str]

    @property
    def stem(self) -> str:
        """The entities as a file's name begins with them: sub-01_ses-1_acq-a."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

    @property
    def labels(self) -> Path:
        """The label file below the folder of the data set: sub-01/ses-1/anat/sub-01_ses-1_acq-a_dseg.nii.gz."""
        folders = [f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities]
        return Path(*folders, "anat", f"{self.stem}_dseg.nii.gz")

    def having(self, key: str, value: str) -> BidsName:
        """The name with the entity `key` set to `value`."""
        return _in_order({**self.entities, key: value})


def bids_names(scans: Sequence[tuple[str, Path]]) -> list[BidsName]:
    """The names for the outputs of `scans`, in their order, all different, also where case does not count.

    A scan whose file or folder is named as in BIDS (sub-..., or ses-... in a folder sub-...) keeps the entities that a
    segmentation may have; scans that then agree are told apart by their run. Any other becomes a subject of its own:
    the ASCII letters and digits of its name, accents taken off, "case" if none is left, with a number behind where
    another subject has that label.

    Args:
        scans: For each its name and the path it is read from.
    """
    named = [_own_name(path) for _, path in scans]
    subjects = {name.entities["sub"].casefold() for name in named if name is not None}
    stems: set[str] = set()
    result = []
    for (text, _), own in zip(scans, named, strict=True):
        if own is None:
            label = _free(_label(text), subjects)
            subjects.add(label.casefold())
            name = _in_order({"sub": label})
        else:
            name, run = own, 1
            while name.stem.casefold() in stems:
                run += 1
                name = own.having("run", str(run))
        stems.add(name.stem.casefold())
        result.append(name)
    return result


def side_files(labels: Path, organs: Sequence[Organ], bundle: Mapping[str, str]) -> dict[Path, str]:
    """The texts of the files that explain a label file, by their paths: its sidecar .json and its table of labels .tsv.

    Args:
        labels: The label file, .nii.gz.
        organs: What its labels are.
        bundle: What made it: its Name and Version.
    """
    stem = labels.name.removesuffix(".nii.gz")
    sidecar = {
        "Description": "Labels of organs in a CT, on the CT's own grid.",
        "SpatialReference": "orig",
        "Manual": False,
        "Bundle": dict(bundle),
        "code_scheme": {"Description": "Coding scheme of the organ's code as in DICOM; SCT is SNOMED CT."},
        "code_value": {"Description": "The organ's code in that scheme."},
    }
    return {labels.with_name(f"{stem}.json"): _json(sidecar), labels.with_name(f"{stem}.tsv"): label_table(organs)}


def label_table(organs: Sequence[Organ]) -> str:
    """The table of a segmentation's labels, tab-separated; abbreviations are names as an entity's value may be.

    The optional column `mapping` is left out: none of the labels that BIDS itself defines is an organ of the abdomen.
    """
    rows = [("index", "name", "abbreviation", "color", "code_scheme", "code_value")]
    taken: set[str] = set()
    for organ in organs:
        short = _free(_label(organ.name, instead="organ"), taken)
        taken.add(short.casefold())
        colour = "#{:02x}{:02x}{:02x}".format(*organ.colour)
        rows.append((str(organ.index), organ.name, short, colour, organ.code.scheme, organ.code.value))
    return "".join("\t".join(row) + "\n" for row in rows)


def dataset_files(folder: Path, version: str, ignored: Iterable[str] = ()) -> dict[Path, str]:
    """The texts of the files to write for a data set in `folder`, by their paths; what is there and right is left out.

    What others wrote into the description and into `.bidsignore` is kept; a README is written where there is none.

    Args:
        folder: The data set's, which need not exist.
        version: Of viscera.
        ignored: Further lines for `.bidsignore`.

    Raises:
        ConfigError: If there is a data set in `folder` that viscera has not made.
    """
    files = {}
    description = folder / DESCRIPTION
    if (text := _described(description, version)) is not None:
        files[description] = text
    lines = _read(folder / IGNORED).splitlines()
    if missing := [line for line in (*_UNNAMED, *ignored) if line not in lines]:
        files[folder / IGNORED] = "\n".join([*lines, *missing]) + "\n"
    if not any(folder.glob("README*")):
        files[folder / "README.md"] = _README
    return files


def _described(path: Path, version: str) -> str | None:
    """The text of the data set's description, None if the one that is there names this version already."""
    own = {"Name": _PROGRAM, "Version": version}
    found = _description(path)
    if found is None:
        new = {"Name": "Organ labels of CTs", "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative"}
        return _json({**new, "GeneratedBy": [own]})
    makers = found.get("GeneratedBy") if found.get("DatasetType") == "derivative" else None
    known = [maker for maker in makers if isinstance(maker, dict)] if isinstance(makers, list) else []
    if not any(maker.get("Name") == _PROGRAM for maker in known):
        raise ConfigError(
            "planning the outputs",
            expected="a new folder, or derivatives that viscera made",
            got=f"another data set in {path.parent}",
            remedy="Give a folder of its own with -o, such as derivatives/viscera",
        )
    if any(maker.get("Version") == version for maker in known if maker.get("Name") == _PROGRAM):
        return None
    return _json({**found, "GeneratedBy": [*known, own]})


def _description(path: Path) -> dict[str, Any] | None:
    """What stands in the description, None if there is none."""
    if not path.exists():
        return None
    try:
        found = json.loads(_read(path))
    except json.JSONDecodeError:
        found = {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> str:
    """The text of a file, none if there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "planning the outputs",
            expected=f"text in {path}",
            got="bytes that are none" if isinstance(error, UnicodeDecodeError) else reason(error),
            remedy="Correct the file, or give another folder with -o",
        ) from error


def _own_name(path: Path) -> BidsName | None:
    """The name of a scan that is named as in BIDS, None for any other."""
    path = path.absolute()
    stem = _ENDING.sub("", path.name)
    for text in (stem, f"{path.parent.name}_{stem}"):
        if _BIDS_STEM.fullmatch(text):
            pairs = [part.split("-", 1) for part in text.split("_") if "-" in part]
            entities = {key: value for key, value in pairs if key not in _NUMBERED or value.isdecimal()}
            return _in_order(entities)
    return None


def _in_order(entities: Mapping[str, str]) -> BidsName:
    return BidsName(entities={key: entities[key] for key in _ENTITIES if key in entities})


def _label(text: str, *, instead: str = "case") -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _NO_LABEL.sub("", plain)[:_LONGEST_LABEL] or instead


def _free(label: str, taken: set[str]) -> str:
    """`label`, with the first number from 2 on behind it with which it is not taken, if need be."""
    number, numbered = 1, label
    while numbered.casefold() in taken:
        number += 1
        numbered = f"{label}{number}"
    return numbered


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
