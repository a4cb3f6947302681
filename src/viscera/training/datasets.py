"""Data sets on disk: which CT has which labels, in the usual layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from viscera.core.errors import ConfigError, ReadError, reason
from viscera.core.organs import ORGANS
from viscera.formats.case_lists import read_list
from viscera.formats.inputs import find_label_files, list_inputs
from viscera.formats.label_maps import organ_masks
from viscera.training.cache import Refusal
from viscera.training.label_mapping import LabelMapping, label_rules

# What nnU-Net, FLARE and AbdomenCT-1K put behind a case's name to number its images; only CT, number 0, is read.
_CHANNEL = "_0000"
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
    mapping: LabelMapping = field(default_factory=LabelMapping)
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
        return LabelMapping(rules=label_rules(table, [organ.name for organ in ORGANS]))
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
