"""Bundles that are damaged or tampered with, each way and each file: refused in one line before a label is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runs import VERBS, Runs, Verb, WrongError

from viscera.model.bundle import CARD, FILES, Bundle, load_bundle
from viscera.segmenter import bundle_source

Alter = Callable[[Path], None]


def flipped(path: Path) -> None:
    """One bit in the middle of the file; in the card the first of a sha256, as its words are anybody's."""
    raw = bytearray(path.read_bytes())
    raw[raw.index(b'": "', raw.index(b'"files"')) + 4 if path.name == CARD else len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def linked_outside(path: Path) -> None:
    """A link to a file outside the bundle that is another's."""
    other = path.parent.parent / f"other {path.name}"
    flipped(path)
    shutil.copy(path, other)
    path.unlink()
    path.symlink_to(other)


def linked_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def exchanged(folder: Path) -> None:
    """Both networks' graphs under each other's names."""
    (folder / "localise.onnx").rename(folder / "kept")
    (folder / "segment.onnx").rename(folder / "localise.onnx")
    (folder / "kept").rename(folder / "segment.onnx")


def changed_card(change: Callable[[dict[str, object]], object], folder: Path) -> None:
    values = json.loads((folder / CARD).read_text())
    change(values)
    (folder / CARD).write_text(json.dumps(values))


def every_file(verb: Verb, alter: Alter, runs: Runs) -> str:
    """Each of the bundle's files in turn."""
    for name in (CARD, *FILES):
        refused(verb, partial(_altered_file, name, alter), runs)
    return f"each of {len(FILES) + 1} files refused in one line"


def refused(verb: Verb, alter: Alter, runs: Runs) -> str:
    folder, output = copied(runs), runs.fresh()
    alter(folder)
    runs.run(verb, output, bundle=folder).require(1, lines=1, about="checking the bundle file")
    if list(output.glob("*.nii.gz")):
        raise WrongError("there are labels")
    return "refused in one line"


def without_effect(verb: Verb, alter: Alter, runs: Runs) -> str:
    folder, output = copied(runs), runs.fresh()
    alter(folder)
    runs.run(verb, output, bundle=folder).require(0)
    runs.require_whole(output, all_there=True)
    return "nothing reads it; the same labels"


def copied(runs: Runs) -> Path:
    """The bundle in a new folder within a new one."""
    loaded: Bundle = load_bundle(None if runs.bundle is None else bundle_source(runs.bundle))
    return Path(shutil.copytree(loaded.folder, runs.fresh() / "bundle"))


def _altered_file(name: str, alter: Alter, folder: Path) -> None:
    alter(folder / name)


def _with_program(folder: Path) -> None:
    (folder / "more.py").write_text("raise SystemExit(9)")


def _altered_digest(card: dict[str, object]) -> None:
    files = card["files"]
    assert isinstance(files, dict)
    files["segment.onnx"] = files["localise.onnx"]


def of_both(name: str, fault: Callable[[Verb, Alter, Runs], str], alter: Alter) -> dict[str, Callable[[Runs], str]]:
    return {f"{verb}: {name}": partial(fault, verb, alter) for verb in VERBS}


BUNDLE_FAULTS: dict[str, Callable[[Runs], str]] = {
    "segment: bundle, one bit of a file flipped": partial(every_file, "segment", flipped),
    "segment: bundle, a file cut to half": partial(every_file, "segment", cut),
    "segment: bundle, a file emptied": partial(every_file, "segment", emptied),
    "segment: bundle, a file missing": partial(every_file, "segment", Path.unlink),
    "segment: bundle, a file a link outside": partial(every_file, "segment", linked_outside),
    "segment: bundle, a file a link to /dev/zero": partial(every_file, "segment", linked_to_a_device),
    "batch: bundle, one bit of a file flipped": partial(every_file, "batch", flipped),
    **of_both("bundle, networks exchanged", refused, exchanged),
    **of_both("bundle, a sha256 of the card altered", refused, partial(changed_card, _altered_digest)),
    "segment: bundle, a field of the card missing": partial(
        refused, "segment", partial(changed_card, lambda card: card.pop("model"))
    ),
    "segment: bundle, an unknown field in the card": partial(
        refused, "segment", partial(changed_card, lambda card: card.update(code="x"))
    ),
    "segment: bundle, no organs on the card": partial(
        refused, "segment", partial(changed_card, lambda card: card.update(organs=[]))
    ),
    "segment: bundle, a file more": partial(without_effect, "segment", _with_program),
}
