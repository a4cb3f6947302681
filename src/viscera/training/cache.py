"""Training cases: labelled CTs as `viscera prepare` stores them, and the cache they are read from."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import StageConfig, from_dict
from viscera.core.errors import ConfigError, ReadError, reason
from viscera.core.folders import files_below
from viscera.core.geometry import Box, Grid, Ranges, Size, Vector
from viscera.model.bundle import Stage
from viscera.training.array_files import deflated_image, deflated_labels

MANIFEST = "manifest.json"
CASES = "cases"
FORMAT = 1

# The label of voxels of which nobody knows what they are: training learns nothing from them.
UNKNOWN_LABEL = 255

# Of arrays kept in memory by a cache: reading and inflating a case takes about a tenth of the time of a sample.
KEPT_BYTES = 512_000_000

_Record = TypeVar("_Record")

# Of settings in the manifests of earlier versions.
_EARLIER_NAMES = {"reach_mm": "padding_mm", "factor": "oversampling"}


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCase:
    """One labelled CT as a stage trains on it, in canonical axes.

    Attributes:
        name: For messages.
        image: int16 (z, y, x), HU smoothed with the stage's sigma and sampled finer than the network reads.
        labels: uint8 (z, y, x), organ indices, `UNKNOWN_LABEL` where the label is not known.
        grid: Of both.
        scan: Where the scan has data, in mm of `grid`; beyond is air. It may reach further than the grid.
        organs: The box of all organs, in mm of `grid`; None if the scan shows none.
        lesion_ml: Volume of the marked lesions.
        labelled: Voxel ranges outside of which all labels are background; None means those of `organs`.
    """

    name: str
    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    grid: Grid
    scan: Box
    organs: Box | None
    lesion_ml: float
    labelled: Ranges | None = None


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """What becomes of one id of the label files, and whether it is a lesion.

    `label` is the organ's index, 0 for background or `UNKNOWN_LABEL`.
    """

    id: int
    label: int
    lesion: bool = False


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What all cases of a cache were made with.

    Attributes:
        localise, segment: The sampling the arrays are made for: smoothing and spacing.
        margin_mm: Around the organs, as in the region of interest.
        padding_mm: Kept around that region for augmentation to read from, as far as the scan reaches.
        oversampling: How many times finer than the network's spacing the arrays are.
        organs: Names of the labels 1, 2, ...
        rules: How the ids of the label files were turned into labels.
    """

    localise: StageConfig
    segment: StageConfig
    margin_mm: float
    padding_mm: float
    oversampling: int
    organs: tuple[str, ...]
    rules: tuple[LabelRule, ...]

    def sha256(self) -> str:
        """Return the hash that tells whether a case was prepared with these settings; earlier versions gave the same.

        It is made of the fields' names in those versions, so that caches stay valid.
        """
        earlier = {name: first for first, name in _EARLIER_NAMES.items()}
        values = {earlier.get(name, name): value for name, value in asdict(self).items()}
        return hashlib.sha256((json.dumps(values, indent=1, allow_nan=False) + "\n").encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class StoredArrays:
    """Where one stage's arrays of a case are and how they lie.

    Attributes:
        stage: `localise` or `segment`.
        file: In the cache's `cases` folder; holds `image`, and `labels` without the empty rim around the organs.
        sha256, bytes: Of the file.
        shape_zyx: Of the image.
        affine: The 16 numbers of its grid's affine, row by row.
        scan, organs: See `TrainingCase`.
        labels_start_zyx: Where the first voxel of `labels` lies in the image.
        deflated_labels_zyx: Shape of `labels` if the file is deflated (see `viscera.training.array_files`), None in
            caches of earlier versions, which hold the arrays as they are.
    """

    stage: str
    file: str
    sha256: str
    bytes: int
    shape_zyx: Size
    affine: tuple[float, ...]
    scan: Box
    organs: Box | None
    labels_start_zyx: Size
    deflated_labels_zyx: Size | None = None


@dataclass(frozen=True, kw_only=True)
class OrganEntry:
    """One organ of a case: its index, its box in mm of the scan's canonical grid, volumes of it and of its lesions."""

    label: int
    box: Box
    ml: float
    lesion_ml: float


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """What the cache knows of a case.

    Attributes:
        name: Unique in the cache.
        image, labels: The source files or folders.
        image_sha256, labels_sha256: Of these.
        settings_sha256: Of the settings it was made with.
        shape_zyx, spacing_zyx_mm: Of the source, in canonical axes.
        organs: Those the labels show, by index.
        arrays: By stage; without organs there are none for segmentation, and none for localisation if not all organs
            are annotated.
        notes: What the reading said.
        annotated: The organs its labels cover; None if they cover all. What is background may be any of the others.
    """

    name: str
    image: str
    labels: str
    image_sha256: str
    labels_sha256: str
    settings_sha256: str
    shape_zyx: Size
    spacing_zyx_mm: Vector
    organs: tuple[OrganEntry, ...]
    arrays: tuple[StoredArrays, ...]
    notes: tuple[str, ...] = ()
    annotated: tuple[str, ...] | None = None

    @property
    def lesion_ml(self) -> float:
        """The volume of the lesions of all organs."""
        return sum(organ.lesion_ml for organ in self.organs)

    def stored(self, stage: Stage) -> StoredArrays | None:
        """Return the arrays of `stage`, None if the case has none for it."""
        return next((arrays for arrays in self.arrays if arrays.stage == stage), None)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A case that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of a cache's manifest.json."""

    format: int
    settings: CacheSettings
    cases: tuple[PreparedCase, ...]
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Cache:
    """A folder of prepared cases; open it with `Cache.open`.

    The arrays read last are kept in memory, up to `KEPT_BYTES`.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the cache in `folder`.

        Raises:
            ReadError: If there is none, or its manifest is damaged or of another version.
        """
        path = Path(folder) / MANIFEST
        manifest = read_record(Manifest, path, remedy="Run viscera prepare, once more if it was stopped")
        if manifest.format != FORMAT:
            raise ReadError(
                f"opening {path}",
                expected=f"format {FORMAT}",
                got=str(manifest.format),
                remedy="Run viscera prepare with another folder",
            )
        return cls(folder=Path(folder), manifest=manifest)

    @cached_property
    def _kept(self) -> _KeptCases:
        return _KeptCases(KEPT_BYTES)

    @cached_property
    def _entries(self) -> dict[str, PreparedCase]:
        return {entry.name: entry for entry in self.manifest.cases}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all cases."""
        return tuple(self._entries)

    def names_for(self, stage: Stage) -> tuple[str, ...]:
        """Return the cases a stage can train on.

        For segmentation they show an organ; for localisation, which needs the box around all organs, all are annotated.
        """
        return tuple(name for name, entry in self._entries.items() if entry.stored(stage) is not None)

    def entry(self, name: str) -> PreparedCase:
        """Return what is known of a case; raise ConfigError if there is none of this name."""
        if name not in self._entries:
            raise ConfigError(
                f"looking for a case in {self.folder}",
                expected="the name of a prepared case",
                got=name,
                remedy=f"See the names in {MANIFEST}",
            )
        return self._entries[name]

    def unannotated(self, name: str) -> tuple[int, ...]:
        """Return the labels of the organs that a case does not annotate; what is background may be one of them."""
        annotated = self.entry(name).annotated
        organs = enumerate(self.manifest.settings.organs, start=1)
        return () if annotated is None else tuple(label for label, organ in organs if organ not in annotated)

    def load(self, name: str, stage: Stage) -> TrainingCase:
        """Return the arrays of one case, which must not be written to.

        Raises:
            ConfigError: If there is no such case, or nothing was stored for the stage; see `PreparedCase.arrays`.
            ReadError: If its file is missing or damaged.
        """
        entry = self.entry(name)
        stored = entry.stored(stage)
        if stored is None:
            raise ConfigError(
                f"loading {name} for {stage}",
                expected="organs in its labels" if stage == "segment" else "labels that cover all organs",
                got="none" if stage == "segment" else f"those of {', '.join(entry.annotated or ())} alone",
                remedy="Leave the case out",
            )
        if (kept := self._kept.get(stored.file)) is not None:
            return kept
        image, part = read_arrays(self.folder / CASES / stored.file, stored)
        labels = np.zeros(stored.shape_zyx, dtype=np.uint8)
        z, y, x = (slice(a, a + n) for a, n in zip(stored.labels_start_zyx, part.shape, strict=True))
        labels[z, y, x] = part
        case = TrainingCase(
            name=name,
            image=image,
            labels=labels,
            grid=Grid(shape_zyx=stored.shape_zyx, affine=np.reshape(stored.affine, (4, 4))),
            scan=stored.scan,
            organs=stored.organs,
            lesion_ml=entry.lesion_ml,
            labelled=(z, y, x),
        )
        self._kept.put(stored.file, case)
        return case

    def verify(self, name: str) -> None:
        """Require that the files of a case are those that were written, or raise ReadError."""
        for stored in self.entry(name).arrays:
            path = self.folder / CASES / stored.file
            if not path.is_file() or file_sha256(path) != stored.sha256:
                raise _damaged(path, f"another content than {MANIFEST} says" if path.is_file() else "nothing there")


class _KeptCases:
    """The cases used last, up to a number of bytes, for the threads that draw samples."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._bytes = limit_bytes, 0
        self._cases: OrderedDict[str, TrainingCase] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> TrainingCase | None:
        """Return the case, None if it is not kept."""
        with self._lock:
            if key in self._cases:
                self._cases.move_to_end(key)
            return self._cases.get(key)

    def put(self, key: str, case: TrainingCase) -> None:
        """Keep the case, in place of those that were not used for longest."""
        with self._lock:
            if key not in self._cases:
                self._cases[key] = case
                self._bytes += case.image.nbytes + case.labels.nbytes
            while self._bytes > self._limit_bytes:
                _, dropped = self._cases.popitem(last=False)
                self._bytes -= dropped.image.nbytes + dropped.labels.nbytes


def read_record(kind: type[_Record], path: Path, *, remedy: str) -> _Record:
    """Return the record of `kind` in a JSON file; raise ReadError if it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "settings" in values:
            values["settings"] = {_EARLIER_NAMES.get(name, name): one for name, one in values["settings"].items()}
        return from_dict(kind, values)
    except (OSError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise ReadError(
            f"reading {path}", expected="what viscera prepare writes", got=reason(error), remedy=remedy
        ) from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files below a folder with their names, in hexadecimal digits."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for member in sorted(member for member in files_below(path) if member.is_file()):
        total.update(f"{member.relative_to(path).as_posix()}\0{file_sha256(member)}\n".encode())
    return total.hexdigest()


def read_arrays(path: Path, stored: StoredArrays) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return image and labels of a file, the latter without their empty rim; raise ReadError if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.stat().st_size != stored.bytes:
            raise _damaged(path, f"{path.stat().st_size} bytes instead of {stored.bytes}")
        arrays: dict[str, NDArray[Any]] = load_file(path)
        if arrays.keys() == {"image", "labels"} and stored.deflated_labels_zyx is not None:
            arrays["image"] = deflated_image(arrays["image"], stored.shape_zyx)
            arrays["labels"] = deflated_labels(arrays["labels"], stored.deflated_labels_zyx)
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    if arrays.keys() != {"image", "labels"} or arrays["image"].shape != stored.shape_zyx:
        raise _damaged(path, f"the arrays {sorted(arrays)}")
    return arrays["image"], arrays["labels"]


def _damaged(path: Path, got: str) -> ReadError:
    return ReadError(
        f"reading {path}",
        expected="the file viscera prepare wrote",
        got=got,
        remedy="Run viscera prepare again; it makes only what is missing or damaged",
    )
