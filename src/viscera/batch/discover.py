"""Find the scans of a batch, from lists, folders, BIDS data sets and trees of DICOM studies.

Nothing is opened but tables, descriptions of data sets and the headers of DICOM images. A scan that turns out not to be
readable is a case that fails, not an error of the list.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viscera.core.errors import ConfigError, ReadError, during
from viscera.core.folders import folders_below
from viscera.formats.bids import DESCRIPTION
from viscera.formats.case_lists import read_list
from viscera.formats.dicom.files import dicom_sources, readable_dicom
from viscera.formats.dicom.series import NoCtSeriesError, Series, ct_series
from viscera.formats.dicom.series_ranking import FEWEST_PLACES
from viscera.formats.file_kinds import NIFTI_SUFFIXES
from viscera.formats.inputs import Inputs, find_inputs, is_case_file, list_inputs

# A series that covers less of the body's length than this shows less than two thirds of a liver.
LEAST_EXTENT_MM = 100.0
# Room for endings in a file's name, which may have 255 bytes.
_LONGEST_NAME_BYTES = 180
_COLUMNS = ("path", "name", "series")


@dataclass(frozen=True, kw_only=True)
class ScanSource:
    """A CT to work on.

    Attributes:
        path: The file or folder to read, absolute.
        name: Of its outputs and its entry.
        series: The UID of the series in a DICOM folder; None where `path` says it all.
        given: Whether a list gave the name, so that it stays.
    """

    path: Path
    name: str
    series: str | None = None
    given: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The scans found.

    Attributes:
        scans: With names that differ.
        passed_over: How many CT series of DICOM trees are not suitable.
        notes: What else was skipped, one sentence each.
    """

    scans: tuple[ScanSource, ...]
    passed_over: int = 0
    notes: tuple[str, ...] = ()


def list_scans(inputs: Sequence[Path]) -> Listing:
    """List the scans that `inputs` stand for, in order.

    A file that ends in .csv is a list: a column `path`, relative to the list's own folder, and if wanted `name` and
    `series`; other columns are ignored. A folder with the description of a BIDS data set stands for its images with
    the suffix ct, in any folder of a subject. In any other folder each NIfTI, NRRD, MetaImage or zip file is a scan, at
    any depth as `viscera.formats.inputs.list_inputs` says, and of the DICOM images at any depth each suitable
    series is: CT, axial, in HU, no projection, of at least `FEWEST_PLACES` slice positions that span `LEAST_EXTENT_MM`.
    Its path is the deepest folder that holds all of it. Any other file, and what cannot be listed or opened, is a scan.

    Scans whose names agree are told apart by the folder they are in, then by numbers. Names that a list gives stay.

    Raises:
        ReadError: If there is nothing at a path, a list cannot be read, or a data set or folder has no scan.
        ConfigError: If a list has a name or a scan twice, or a name that cannot be a file's.
    """
    found: list[ScanSource] = []
    passed_over = 0
    notes: list[str] = []
    for path in dict.fromkeys(one.absolute() for one in inputs):
        if (
            not path.exists() and not path.is_symlink()
        ):  # in a list it fails alone, as others' files may have gone since; here it is a slip
            raise ReadError(
                f"looking for CTs in {path}",
                expected="a file or folder",
                got="nothing there",
                remedy="Check the path",
            )
        if path.is_dir():
            listing = _folder(path)
            found += listing.scans
            passed_over += listing.passed_over
            notes += listing.notes
        else:
            found += _listed(path) if path.suffix.lower() == ".csv" else [_single(path)]
    return Listing(scans=_distinct(found), passed_over=passed_over, notes=tuple(notes))


def listing_csv(scans: Sequence[ScanSource]) -> str:
    """Return the list that `list_scans` reads: path, name and series of every scan."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((scan.path, scan.name, scan.series or "") for scan in scans)
    return text.getvalue()


def _listed(path: Path) -> list[ScanSource]:
    doing = f"reading the list {path}"
    scans: list[ScanSource] = []
    given: set[str] = set()
    listed: set[tuple[Path, str | None]] = set()
    for row in read_list(path, ("path",), doing):
        line, (text, name, given_series) = row.line, (row.cells.get(column, "") for column in _COLUMNS)
        if not text or "\0" in text:
            raise ReadError(doing, expected="a path in every row", got=f"{text!r} in line {line}", remedy="Correct it")
        if name:
            _require_name(name, doing)
        if name.casefold() in given:
            raise ConfigError(
                doing, expected="names that differ", got=f"{name!r} again in line {line}", remedy="Rename one"
            )
        given |= {name.casefold()} - {""}
        place, series = Path(os.path.normpath(path.parent / text)), given_series or None
        if (place, series) in listed:
            raise ConfigError(
                doing, expected="each scan once", got=f"{text!r} again in line {line}", remedy="Remove one"
            )
        listed.add((place, series))
        scans.append(ScanSource(path=place, name=name or _single(place).name, series=series, given=bool(name)))
    if not scans:
        raise ReadError(doing, expected="at least one row", got="none", remedy="Give a list with scans")
    return scans


def _require_name(name: str, doing: str) -> None:
    if name.startswith(".") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name) or _too_long(name):
        raise ConfigError(
            doing,
            expected=f"names that files can have, of at most {_LONGEST_NAME_BYTES} bytes",
            got=repr(name[:80]),
            remedy="Rename it",
        )


def _folder(path: Path) -> Listing:
    if (path / DESCRIPTION).is_file() and not _derivative(path):
        return Listing(scans=tuple(_data_set(path)))
    series, passed_over = _dicom_tree(path)
    try:
        images = list_inputs([path])
    except ReadError:
        images = Inputs(cases=())
    files = [ScanSource(path=case.path, name=case.name) for case in images.cases if not case.path.is_dir()]
    scans = [*files, *series] or [_single(path)]
    if passed_over and not files and not series:
        raise _none_suitable(path, passed_over)
    return Listing(scans=tuple(scans), passed_over=passed_over, notes=images.notes)


def _none_suitable(path: Path, passed_over: int) -> ReadError:
    return ReadError(
        f"looking for CTs in {path}",
        expected=f"an axial CT series in HU, no MIP, of at least {FEWEST_PLACES} slices over {LEAST_EXTENT_MM:g} mm",
        got=f"{passed_over} other CT series",
        remedy="To segment one of them anyway, list it in a CSV with the columns path, name, series",
    )


def _derivative(path: Path) -> bool:
    try:
        values = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("DatasetType") == "derivative"


def _data_set(path: Path) -> list[ScanSource]:
    images = [
        file
        for subject in sorted(path.glob("sub-*"))
        for file in sorted(subject.rglob("*"))
        if file.name.lower().endswith(tuple(f"_ct{suffix}" for suffix in NIFTI_SUFFIXES))
        and not file.name.startswith(".")
    ]
    if not images:
        raise ReadError(
            f"looking for CTs in the BIDS data set {path}",
            expected="images such as sub-01/ct/sub-01_ct.nii.gz",
            got="none with the suffix ct",
            remedy="Give the images, or a CSV that lists them",
        )
    return [_single(file) for file in images]


def _single(path: Path) -> ScanSource:
    try:
        (case,) = find_inputs([path])
    except (ReadError, ValueError):  # nothing there, or nothing of its kind: reading it will say so
        name = path.name.removesuffix(".gz").removesuffix(".nii") or "case"
        return ScanSource(path=path, name=name)
    return ScanSource(path=case.path, name=case.name)


@dataclass(frozen=True, kw_only=True)
class _SeriesPart:
    """The images of one series in one folder."""

    folder: Path
    uid: str
    number: str
    slice_positions: int
    ends_mm: tuple[float, float]
    suitable: bool


def _dicom_tree(root: Path) -> tuple[list[ScanSource], int]:
    """The suitable series in order of their paths, and how many CT series are not suitable."""
    series: dict[tuple[str, str], list[_SeriesPart]] = {}
    broken: list[Path] = []
    for folder, names in _folders(root, broken):
        try:
            for part in _parts(folder, names):
                series.setdefault((part.uid, "" if part.uid else str(folder)), []).append(part)
        except ReadError:
            broken.append(folder)
    # A map or a projection in another folder may bear the identifier of the series it was made from.
    good = {key: [part for part in parts if part.suitable] for key, parts in series.items()}
    whole = {key: parts for key, parts in good.items() if parts and _long_enough(parts)}
    folders = {key: Path(os.path.commonpath([part.folder for part in parts])) for key, parts in whole.items()}
    shared = Counter(folders.values())
    scans: list[ScanSource] = []
    for key, path in folders.items():
        name = _tree_name(path, root)
        # A folder given without a series is read with all that is below it.
        scans.append(
            ScanSource(
                path=path,
                name=f"{name}_s{whole[key][0].number or _next_number(scans, path)}" if shared[path] > 1 else name,
                series=key[0] or None,
            )
        )
    scans += [ScanSource(path=folder, name=_tree_name(folder, root)) for folder in broken]
    return sorted(scans, key=lambda scan: (scan.path, scan.name)), len(series) - len(whole)


def _next_number(scans: Sequence[ScanSource], path: Path) -> int:
    """The number, from 1, of the next scan in `path`."""
    return 1 + sum(scan.path == path for scan in scans)


def _folders(root: Path, unlisted: list[Path]) -> Iterator[tuple[Path, list[str]]]:
    """The folders at and below `root` with the names of their files, hidden ones apart; fills `unlisted`."""
    for folder, names in folders_below(root, unlisted.append):
        if not any(part.startswith(".") for part in folder.relative_to(root).parts):
            yield folder, [name for name in names if not name.startswith(".")]


def _parts(folder: Path, names: Sequence[str]) -> list[_SeriesPart]:
    """The CT series of the images directly in `folder`, of each the best part.

    Raises:
        ReadError: If an image is damaged, or cannot be opened.
    """
    sources = []
    for file in (folder / name for name in names if not is_case_file(name)):
        if readable_dicom(file, folder):
            with dicom_sources(file) as found:
                sources += found
    if not sources:
        return []
    try:
        with during(f"listing {folder}"):
            ranked = ct_series(sources)
    except NoCtSeriesError:
        return []
    best: dict[str, Series] = {}
    for one in ranked:
        best.setdefault(one.uid, one)
    return [_part(one, folder) for one in best.values()]


def _part(series: Series, folder: Path) -> _SeriesPart:
    normal = series.slices[0].normal
    along = [float(np.dot(one.position_xyz_mm, normal)) for one in series.slices]
    return _SeriesPart(
        folder=folder,
        uid=series.uid,
        number=series.number,
        slice_positions=series.traits.places or 0,
        ends_mm=(min(along), max(along)),
        suitable=bool(series.traits.axial) and series.traits.worth,
    )


def _long_enough(parts: Sequence[_SeriesPart]) -> bool:
    extent = max(part.ends_mm[1] for part in parts) - min(part.ends_mm[0] for part in parts)
    return sum(part.slice_positions for part in parts) >= FEWEST_PLACES and extent >= LEAST_EXTENT_MM


def _tree_name(path: Path, root: Path) -> str:
    return "_".join(path.relative_to(root).parts) or path.name or "case"


def _too_long(name: str) -> bool:
    return len(name.encode(errors="surrogateescape")) > _LONGEST_NAME_BYTES


def _short(name: str) -> str:
    """The name, or its beginning and a hash where it is too long for a file's."""
    if not _too_long(name):
        return name
    data = name.encode(errors="surrogateescape")
    beginning = data[: _LONGEST_NAME_BYTES - 20].decode(errors="ignore")
    return f"{beginning}_{hashlib.sha256(data).hexdigest()[:12]}"


def _distinct(scans: Sequence[ScanSource]) -> tuple[ScanSource, ...]:
    """The scans, each once, with names that differ also where case does not count."""
    once = list(dict.fromkeys((scan.path, scan.series) for scan in scans))
    first = {(scan.path, scan.series): scan for scan in reversed(scans)}
    kept = [first[key] for key in once]
    common = Counter(scan.name.casefold() for scan in kept)
    taken: set[str] = set()
    names: dict[tuple[Path, str | None], str] = {}
    for scan in sorted(kept, key=lambda scan: not scan.given):  # those with a name of their own choose first
        again = common[scan.name.casefold()] > 1 and not scan.given
        name = _short(f"{scan.path.parent.name}_{scan.name}" if again else scan.name)
        number, numbered = 1, name
        while numbered.casefold() in taken:
            number += 1
            numbered = f"{name}_{number}"
        taken.add(numbered.casefold())
        names[scan.path, scan.series] = numbered
    return tuple(replace(scan, name=names[scan.path, scan.series]) for scan in kept)
