"""What the labels of a data set mean: ids as organs, lesions, background or unknown, and which organs they cover."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError, ReadError, during, reading, reason
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS, Organ, named_organ
from viscera.core.volume import LabelMap
from viscera.formats.label_maps import read_label_file
from viscera.training.cache import UNKNOWN_LABEL, LabelRule

_BACKGROUND, _UNKNOWN = "background", "unknown"


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

    def annotated_by(self, named: Collection[str] | None) -> tuple[str, ...] | None:
        """Return the organs that a case annotates, in the order of `organs`, None for all of them.

        Args:
            named: What is said of the case itself; None for nothing, then `annotated` holds.

        Raises:
            ConfigError: If these are none, or one is not among `organs`.
        """
        named = self.annotated if named is None else named
        if named is None:
            return None
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
        rules = label_rules(table, organs, frozenset(map(str, lesions)))
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


def label_rules(
    table: Mapping[str, Any], organs: Sequence[str], lesions: frozenset[str] = frozenset()
) -> tuple[LabelRule, ...]:
    """Return the rules of a table of ids and names; raise ConfigError for what is no id or no known name."""
    names = {_BACKGROUND: 0, _UNKNOWN: UNKNOWN_LABEL} | {name: index for index, name in enumerate(organs, start=1)}
    rules = []
    for key, name in table.items():
        if not key.isdecimal() or name not in names:
            raise ConfigError(
                expected=f"ids with names among {list(names)}", got=f"{key} = {name!r}", remedy="Correct it"
            )
        rules.append(LabelRule(id=int(key), label=names[name], lesion=key in lesions))
    return tuple(rules)


def _require_organs(names: Collection[str], organs: Collection[str]) -> None:
    """Raise ConfigError unless `names` are some of `organs`, at least one."""
    if not names or not set(names) <= set(organs):
        raise ConfigError(
            expected=f"annotated organs among {', '.join(organs)}",
            got=", ".join(sorted(set(names) - set(organs))) or "none",
            remedy="Correct the names",
        )
