"""Data sets on disk: which CT has which labels, in the layouts people keep them in, and what the labels mean."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError, ReadError, during, reading, reason
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS, Organ, named_organ
from viscera.core.volume import LabelMap
from viscera.formats.case_lists import read_list
from viscera.formats.inputs import find_label_files, list_inputs
from viscera.formats.label_maps import organ_masks, read_label_file
from viscera.training.cache import UNKNOWN_LABEL, LabelRule, Refusal

# What nnU-Net, FLARE and AbdomenCT-1K put behind a case's name to number its images; only CT, number 0, is read.
_CHANNEL = "_0000"
_BACKGROUND, _UNKNOWN = "background", "unknown"
_LAYOUTS = (
    "images/ + labels/, TrainingImg/ + TrainingMask/ (FLARE 2021), AbdomenCT-1K-ImagePart*/ + Mask/, "
    "imagesTr/ + labelsTr/ with dataset.json (nnU-Net), */ct.nii.gz + */segmentations/ (TotalSegmentator), or a .csv "
    "file with the columns image and labels"
)


@dataclass(frozen=True, kw_only=True)
class DatasetCase:
    """One CT and its labels: a unique name, and the file or folder of each.

    `annotated` names the organs that the labels cover; None is what the mapping says.
    """

    name: str
    image: Path
    labels: Path
    annotated: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelMapping:
    """What the ids of label files mean.

    Attributes:
        organs: Names of the labels 1, 2, ...
        rules: One for each id that may occur; 0 is background unless a rule says otherwise.
        annotated: The organs that the labels of every case cover, None for all: of a data set with labels of the liver
            alone, say, background may be any other organ.
    """

    organs: tuple[str, ...] = tuple(organ.name for organ in ORGANS)
    rules: tuple[LabelRule, ...] = tuple(LabelRule(id=organ.index, label=organ.index) for organ in ORGANS)
    annotated: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.annotated is not None:
            with during("mapping labels"):
                _require_organs(self.annotated, self.organs)
        ids = [rule.id for rule in self.rules]
        meanings = {*range(len(self.organs) + 1), UNKNOWN_LABEL}
        fits = all(0 <= rule.id <= 255 and rule.label in meanings for rule in self.rules)
        if len(set(ids)) < len(ids) or not fits or not self.organs or len(set(self.organs)) < len(self.organs):
            raise ConfigError(
                "mapping labels",
                expected="ids 0 to 255, each once, and organs with different names",
                got=f"the ids {ids} and the organs {list(self.organs)}",
                remedy="Correct the mapping",
            )

    @property
    def organ_table(self) -> tuple[Organ, ...]:
        """The organs as an organ table, to find them by name."""
        return tuple(named_organ(index, name) for index, name in enumerate(self.organs, start=1))

    @property
    def lesion_ids(self) -> tuple[int, ...]:
        """The ids that mark lesions."""
        return tuple(rule.id for rule in self.rules if rule.lesion)

    def annotated_in(self, case: DatasetCase) -> tuple[str, ...] | None:
        """Return the organs that a case annotates, in the order of `organs`, None for all of them.

        Raises:
            ConfigError: If it names none, or one that is not among `organs`.
        """
        named = self.annotated if case.annotated is None else case.annotated
        if named is None:
            return None
        with during(f"reading what {case.name} annotates"):
            _require_organs(named, self.organs)
        return None if set(named) == set(self.organs) else tuple(organ for organ in self.organs if organ in named)

    def apply(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return organ indices for the ids of a label file, uint8 of the same shape.

        Raises:
            ReadError: If an id occurs that has no rule.
        """
        table = np.zeros(256, dtype=np.uint8)
        known = np.zeros(256, dtype=bool)
        known[0] = True
        for rule in self.rules:
            table[rule.id], known[rule.id] = rule.label, True
        present = np.flatnonzero(id_counts(labels))
        if unknown := [int(value) for value in present if not known[value]]:
            raise ReadError(
                expected=f"label ids among {np.flatnonzero(known).tolist()}",
                got=f"also {unknown}",
                remedy='Say what they are in the file given with --labels, "background" to ignore one',
            )
        mapped: NDArray[np.uint8] = table[labels]
        return mapped


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The cases found in a data set.

    Attributes:
        folder: Where it lies, the CSV file of one.
        layout: How it is laid out, in words.
        cases: Every CT with its labels, by name.
        refused: What has no counterpart or cannot be a case, each with the reason.
        mapping: What the data set itself says of its labels, else the default.
        notes: What was passed over, one sentence each.
    """

    folder: Path
    layout: str
    cases: tuple[DatasetCase, ...]
    refused: tuple[Refusal, ...] = ()
    mapping: LabelMapping = LabelMapping()
    notes: tuple[str, ...] = ()


def find_dataset(path: Path, mapping: LabelMapping | None = None) -> Dataset:
    """Return the data set at `path`, a folder in one of the known layouts or a CSV file; no image is read.

    Args:
        path: See `Dataset.layout`; relative paths in a CSV file count from its folder.
        mapping: What the label ids mean, if not what the data set says or the default.

    Raises:
        ReadError: If there is nothing in a known layout, or no case in it.
        ConfigError: If an nnU-Net data set names labels that are no organs and no `mapping` is given.
    """
    path = Path(path)
    layouts: tuple[Callable[[Path, LabelMapping | None], Dataset | None], ...] = (
        _table,
        _nnunet,
        _flare,
        _abdomenct,
        _plain,
        _totalsegmentator,
    )
    dataset = next((found for layout in layouts if (found := layout(path, mapping)) is not None), None)
    if dataset is None:
        got = "no such folder" if path.is_dir() else ("a file of another kind" if path.exists() else "nothing there")
        raise ReadError(f"looking for a data set at {path}", expected=_LAYOUTS, got=got, remedy="Check the path")
    if not dataset.cases:
        refused = "; ".join(f"{case.name}: {case.reason}" for case in dataset.refused[:3])
        raise ReadError(
            f"looking for a data set at {path}",
            expected="CTs with labels",
            got=refused or "none",
            remedy="Check the names: a CT and its labels are called alike",
        )
    return dataset


def read_mapping(path: Path) -> LabelMapping:
    """Return the mapping in a TOML file.

    It holds a table [labels] of ids and organ names, `background` for ids to pass over, `unknown` for voxels whose
    label is not known; if wanted, `lesions`, the ids among these that mark lesions, `organs`, the names of the
    labels 1, 2, ... (else the default organs), and `annotated`, the organs that the labels cover if these are not all.

    Raises:
        ConfigError: If the file cannot be read or says something else.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"reading {path}", expected="a TOML file", got=reason(error), remedy="Correct the file"
        ) from error
    unknown = sorted(set(values) - {"labels", "lesions", "organs", "annotated"})
    table, lesions = values.get("labels"), values.get("lesions", [])
    organs = values.get("organs", [organ.name for organ in ORGANS])
    annotated = values.get("annotated", organs)
    lists = isinstance(lesions, list) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in (organs, annotated)
    )
    if unknown or not isinstance(table, dict) or not lists or not all(str(lesion) in table for lesion in lesions):
        raise ConfigError(
            f"reading {path}",
            expected='[labels] with lines like 2 = "kidney", and lists `lesions` (ids of these), `organs`, `annotated`',
            got=f"unknown: {unknown}" if unknown else repr(values)[:200],
            remedy="Correct the file",
        )
    with reading(path):
        rules = _rules(table, organs, frozenset(map(str, lesions)))
    return LabelMapping(
        organs=tuple(organs), rules=rules, annotated=tuple(annotated) if "annotated" in values else None
    )


def read_ids(path: Path, mapping: LabelMapping, within: Grid | None = None) -> LabelMap:
    """Return the labels at `path` with the ids that `mapping` has for them.

    Of a file that names its labels the names count: with the default mapping they say which organ a label is, with
    another one they must agree with it. A file that only names its labels, as a DICOM SEG, gets ids of the mapping.

    Args:
        path: See `viscera.read.read_label_map`.
        mapping: What the ids mean.
        within: The grid of the CT, see there.

    Raises:
        ReadError: If the file cannot be read, or its names contradict the mapping.
        GeometryError: If it does not say where the voxels lie, or labels lie outside of `within`.
    """
    organs = mapping.organ_table
    file = read_label_file(path, organs)
    file = file if within is None else file.placed_on(within)
    if file.stored and mapping.rules != LabelMapping().rules:
        return file.by_mapping({rule.id: rule.label for rule in mapping.rules}, organs)
    label_map = file.by_name(organs)
    ids = np.arange(256, dtype=np.uint8)
    if not file.stored:
        for organ in organs:
            own = [rule.id for rule in mapping.rules if rule.label == organ.index]
            ids[organ.index] = next((one for one in own if one not in mapping.lesion_ids), own[0] if own else 0)
    return replace(label_map, labels=ids[label_map.labels])


def id_counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many voxels have each id: int64 (256,)."""
    counts = np.zeros(256, dtype=np.int64)
    for part in labels:  # slice by slice, as counting makes large integers of them
        counts += np.bincount(part.ravel(), minlength=256)
    return counts


def _require_organs(names: Collection[str], organs: Collection[str]) -> None:
    """Raise ConfigError unless `names` are some of `organs`, at least one."""
    if not names or not set(names) <= set(organs):
        raise ConfigError(
            expected=f"annotated organs among {', '.join(organs)}",
            got=", ".join(sorted(set(names) - set(organs))) or "none",
            remedy="Correct the names",
        )


def _rules(
    table: Mapping[str, Any], organs: Sequence[str], lesions: frozenset[str] = frozenset()
) -> tuple[LabelRule, ...]:
    names = {_BACKGROUND: 0, _UNKNOWN: UNKNOWN_LABEL} | {name: index for index, name in enumerate(organs, start=1)}
    rules = []
    for key, name in table.items():
        if not key.isdecimal() or name not in names:
            raise ConfigError(
                expected=f"ids with names among {list(names)}", got=f"{key} = {name!r}", remedy="Correct it"
            )
        rules.append(LabelRule(id=int(key), label=names[name], lesion=key in lesions))
    return tuple(rules)


def _plain(path: Path, mapping: LabelMapping | None) -> Dataset | None:
    return _paired(path, [path / "images"], path / "labels", "images/ + labels/", mapping)


def _flare(path: Path, mapping: LabelMapping | None) -> Dataset | None:
    return _paired(path, [path / "TrainingImg"], path / "TrainingMask", "FLARE 2021", mapping)


def _abdomenct(path: Path, mapping: LabelMapping | None) -> Dataset | None:
    parts = sorted(path.glob("AbdomenCT-1K-ImagePart*"))
    return _paired(path, parts, path / "Mask", "AbdomenCT-1K", mapping) if parts else None


def _nnunet(path: Path, mapping: LabelMapping | None) -> Dataset | None:
    described = path / "dataset.json"
    if not described.is_file() or not (path / "imagesTr").is_dir():
        return None
    return _paired(
        path, [path / "imagesTr"], path / "labelsTr", "nnU-Net raw", mapping or _described_mapping(described)
    )


def _described_mapping(path: Path) -> LabelMapping:
    """Return the mapping of a dataset.json whose labels have the organs' names, either way round (versions 1 and 2)."""
    try:
        labels = dict(json.loads(path.read_text(encoding="utf-8"))["labels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadError(
            f"reading {path}", expected="JSON with the labels' names", got=reason(error), remedy="Correct the file"
        ) from error
    table = {key: name for key, name in labels.items() if key.isdecimal()} or {
        str(value): name for name, value in labels.items()
    }
    try:
        return LabelMapping(rules=_rules(table, [organ.name for organ in ORGANS]))
    except ConfigError as error:
        raise ConfigError(
            f"reading {path}", expected=error.expected, got=error.got, remedy="Say what the labels are with --labels"
        ) from error


def _paired(path: Path, images: list[Path], labels: Path, layout: str, mapping: LabelMapping | None) -> Dataset | None:
    """Return the data set of CTs and label files that are called alike, but for the channel behind a CT's name."""
    if not labels.is_dir() or not all(folder.is_dir() for folder in images):
        return None
    listed = [list_inputs([folder]) for folder in images]
    found: dict[str, list[Path]] = {}
    for case in (case for one in listed for case in one.cases):
        found.setdefault(case.name.removesuffix(_CHANNEL), []).append(case.path)
    masks, refused = _label_files(labels, found)
    refused += [Refusal(name=name, reason=f"{masks[name]} has no CT") for name in masks.keys() - found.keys()]
    refused += [
        Refusal(name=name, reason=f"{paths[0]} has no labels in {labels}")
        for name, paths in found.items()
        if name not in masks
    ]
    refused += [
        Refusal(name=name, reason=f"{len(paths)} CTs for one label file: {', '.join(path.name for path in paths)}")
        for name, paths in found.items()
        if name in masks and len(paths) > 1
    ]
    cases = [
        DatasetCase(name=name, image=paths[0], labels=masks[name])
        for name, paths in found.items()
        if name in masks and len(paths) == 1
    ]
    notes = tuple(note for one in listed for note in one.notes)
    return replace(_dataset(path, layout, cases, refused, mapping), notes=notes)


def _label_files(folder: Path, images: Collection[str]) -> tuple[dict[str, Path], list[Refusal]]:
    """Return the label file of each case, and those whose case has another one already."""
    masks: dict[str, Path] = {}
    refused = []
    for one in find_label_files(folder):
        name = one.stem if one.stem in images else one.name  # a CT may itself be called ..._seg
        if name in masks:
            reason = f"{masks[name]} and {one.path} for one CT"
            refused.append(Refusal(name=f"{name} ({one.path.name})", reason=reason))
        masks.setdefault(name, one.path)
    twice = {refusal.name.partition(" (")[0] for refusal in refused}
    return {name: mask for name, mask in masks.items() if name not in twice}, refused


def _totalsegmentator(path: Path, mapping: LabelMapping | None) -> Dataset | None:
    """Return the data set of one folder for each case, with ct.nii.gz and a folder of masks, one for each structure."""
    cases, refused = [], []
    for folder in sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else []:
        images = [image for image in (folder / "ct.nii.gz", folder / "ct.nii") if image.exists() or image.is_symlink()]
        masks = folder / "segmentations"
        if images and organ_masks(masks, (mapping or LabelMapping()).organ_table):
            cases.append(DatasetCase(name=folder.name, image=images[0], labels=masks))
        elif images:
            refused.append(Refusal(name=folder.name, reason=f"{images[0]} has no masks of the organs in {masks}"))
        elif masks.is_dir():
            refused.append(Refusal(name=folder.name, reason=f"{masks} has no CT"))
    return _dataset(path, "TotalSegmentator", cases, refused, mapping) if cases else None


def _table(path: Path, mapping: LabelMapping | None) -> Dataset | None:
    """Return the data set of a CSV file with the columns image and labels, and if wanted name and annotated."""
    if not path.is_file() or path.suffix.lower() != ".csv":
        return None
    cases, refused = [], []
    for row in read_list(path, ("image", "labels"), f"reading {path}"):
        image, labels, number = row.cells["image"], row.cells["labels"], row.line
        name = row.cells.get("name") or Path(image).name.split(".")[0].removesuffix(_CHANNEL)
        if not image or not labels:
            refused.append(Refusal(name=name or f"line {number}", reason=f"line {number} lacks the CT or the labels"))
        else:
            named = tuple(organ.strip() for organ in re.split("[,;]", row.cells.get("annotated", "")) if organ.strip())
            image_file, label_file = path.parent / image, path.parent / labels
            cases.append(DatasetCase(name=name, image=image_file, labels=label_file, annotated=named or None))
    return _dataset(path, "CSV", cases, refused, mapping)


def _dataset(
    path: Path, layout: str, cases: Iterable[DatasetCase], refused: list[Refusal], mapping: LabelMapping | None
) -> Dataset:
    """Return the data set, sorted by name; cases whose names cannot be file names or come twice are refused."""
    kept: dict[str, DatasetCase] = {}
    for case in sorted(cases, key=lambda case: case.name):
        # Names that differ only in case would be one file on some disks.
        if case.name.casefold() in kept:
            refused.append(Refusal(name=case.name, reason=f"{case.image} has the name of another case"))
        elif case.name.startswith(".") or any(sign in case.name for sign in '/\\:*?"<>|'):
            refused.append(Refusal(name=case.name, reason="a name that cannot be a file's"))
        else:
            kept[case.name.casefold()] = case
    return Dataset(
        folder=path,
        layout=layout,
        cases=tuple(kept.values()),
        refused=tuple(sorted(refused, key=lambda case: case.name)),
        mapping=mapping or LabelMapping(),
    )
