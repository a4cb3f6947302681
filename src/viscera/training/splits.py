"""Which cases a fold of a cross-validation trains on and which it holds out: drawn with a seed, or given in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viscera.core.errors import ConfigError, ReadError
from viscera.core.files import write_text

SPLITS = "splits.json"
# Keeps this stream of random numbers apart from those of training with the same seed: `order` has 4 and 5, `trainer` 6.
# A further number there does not, as numpy fills up with zeros: [seed, 4] and [seed, 4, 0] are one stream.
_STREAM = 7


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The names of the cases trained on, and of those predicted and scored."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """All folds, and the seed they were drawn with, None for given ones."""

    folds: tuple[Fold, ...]
    seed: int | None = None

    @property
    def held_out(self) -> tuple[str, ...]:
        """The names of all cases that some fold holds out."""
        return tuple(name for fold in self.folds for name in fold.val)


def seeded_splits(names: Sequence[str], folds: int, seed: int) -> Splits:
    """Draw folds that hold out every case once, their sizes one apart at most; the same for names in any order.

    Raises:
        ConfigError: For fewer than two folds, or fewer cases than folds.
    """
    if folds < 2 or len(names) < folds:
        raise ConfigError(
            f"drawing {folds} folds",
            expected="2 folds or more, and a case for each",
            got=f"{len(names)} cases",
            remedy="Give another number of folds, or prepare more cases",
        )
    ordered = sorted(names)
    drawn = [ordered[index] for index in np.random.default_rng([seed, _STREAM]).permutation(len(ordered))]
    parts = [set(drawn[fold::folds]) for fold in range(folds)]
    return Splits(
        folds=tuple(
            Fold(
                train=tuple(name for name in ordered if name not in part),
                val=tuple(name for name in ordered if name in part),
            )
            for part in parts
        ),
        seed=seed,
    )


def read_splits(path: Path, names: Sequence[str]) -> Splits:
    """Read the folds in a JSON file: a list of `{"train": [...], "val": [...]}`, or an object with that as "folds".

    Raises:
        ReadError: If the file cannot be read or has another form.
        ConfigError: If it names a case not among `names`, or one in both parts of a fold or held out twice.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _form_error(path, str(error)) from error
    listed = values.get("folds") if isinstance(values, dict) else values
    seed = values.get("seed") if isinstance(values, dict) else None
    if not isinstance(listed, list) or not listed:
        raise _form_error(path, "no list of folds")
    splits = Splits(folds=tuple(_fold(path, fold) for fold in listed), seed=seed if isinstance(seed, int) else None)
    _check(splits, names, path)
    return splits


def kept_splits(run: Path, wanted: Splits) -> Splits:
    """Return the folds of `run`: `wanted`, written to its splits.json, or those there already, if they are the same.

    Folds there that were drawn from the same cases with the same seed stay as they are, too: an earlier version drew
    others.

    Raises:
        ConfigError: If the run was started with other folds.
    """
    path = run / SPLITS
    if not path.exists():
        write_text(json.dumps(asdict(wanted), indent=1) + "\n", path)
        return wanted
    kept = read_splits(path, [name for fold in wanted.folds for name in (*fold.train, *fold.val)])
    if kept.folds == wanted.folds:
        return wanted
    if not _drawn_alike(kept, wanted):
        raise ConfigError(
            f"resuming the cross-validation in {run}",
            expected=f"the folds it was started with, in {SPLITS}",
            got="other folds",
            remedy="Use the same cases, folds and seed, or another folder",
        )
    return kept


def _drawn_alike(kept: Splits, wanted: Splits) -> bool:
    """Return whether both were drawn with one seed, as many folds from the same cases."""
    cases = {*wanted.held_out}
    whole = all({*fold.train, *fold.val} == cases for fold in kept.folds)
    same_kind = len(kept.folds) == len(wanted.folds) and {*kept.held_out} == cases
    return kept.seed is not None and kept.seed == wanted.seed and whole and same_kind


def _fold(path: Path, values: Any) -> Fold:
    parts: list[Any] = [values.get(name) for name in ("train", "val")] if isinstance(values, dict) else []
    if len(parts) != 2 or not all(isinstance(part, list) and part for part in parts):
        raise _form_error(path, "a fold without cases in train or val")
    if not all(isinstance(name, str) for part in parts for name in part):
        raise _form_error(path, "a name that is no text")
    return Fold(train=tuple(parts[0]), val=tuple(parts[1]))


def _check(splits: Splits, names: Sequence[str], path: Path) -> None:
    known, seen = set(names), set[str]()
    for number, fold in enumerate(splits.folds, start=1):
        faults = {
            "that is not prepared": {*fold.train, *fold.val} - known,
            "that is trained on and held out": {*fold.train} & {*fold.val},
            "that is held out twice": seen & {*fold.val},
            "that is listed twice": {name for part in (fold.train, fold.val) for name in part if part.count(name) > 1},
        }
        seen |= {*fold.val}
        for fault, cases in faults.items():
            if cases:
                raise ConfigError(
                    f"reading the splits {path}",
                    expected="prepared cases, each held out once and not trained on in that fold",
                    got=f"in fold {number} {sorted(cases)[0]}, {fault}",
                    remedy="Correct the file, or prepare the case",
                )


def _form_error(path: Path, got: str) -> ReadError:
    return ReadError(
        f"reading the splits {path}",
        expected='a JSON list of {"train": [names], "val": [names]}',
        got=got,
        remedy="Correct the file",
    )
