"""Checkpoints: the whole state of a training in a folder, complete or not there at all.

`RUN/checkpoints/000000250/` holds `GROUP.safetensors` (network, average, first and second moment) and `state.json`
(every number, the settings, and the hash of each tensor file). The folder is written under another name and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from viscera.core.errors import ReadError, WriteError, reason

FORMAT = 2
# The groups were cut into files of 15 MB, GROUP_NN.safetensors, and large tensors into flat pieces, `name@3`.
_FORMAT_IN_PIECES = 1

_STATE = "state.json"
_log = logging.getLogger(__name__)

Groups = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The state of a training: `tensors` by group and name, and `state`, plain values with at least `iteration`."""

    tensors: Groups
    state: dict[str, Any]


def checkpoint_folder(run: Path, iteration: int) -> Path:
    """Return where the checkpoint of `iteration` lies in `run`."""
    return run / "checkpoints" / f"{iteration:09d}"


def checkpoint_iterations(run: Path) -> list[int]:
    """Return the iterations that have a checkpoint in `run`, ascending."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def write_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and return its folder; one of the same iteration is replaced.

    Raises:
        WriteError: If it cannot be written; nothing is left behind then, and what was there stays.
    """
    folder = checkpoint_folder(run, checkpoint.state["iteration"])
    part = folder.parent / f".part-{secrets.token_hex(8)}"
    try:
        part.mkdir(parents=True)
        digests = {}
        for group, tensors in checkpoint.tensors.items():
            data = save(tensors)
            (part / f"{group}.safetensors").write_bytes(data)
            digests[f"{group}.safetensors"] = hashlib.sha256(data).hexdigest()
        state = checkpoint.state | {"format": FORMAT, "files": digests}
        (part / _STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            _delete(folder)
        part.rename(folder)
    except OSError as error:
        raise WriteError(
            f"writing checkpoint {folder}",
            expected="a folder that can be written to",
            got=reason(error),
            remedy="Check the folder's permissions and the free space",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)
    return folder


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`.

    Raises:
        ReadError: If a file is missing, or is not the one that was written.
    """
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if state["format"] not in (FORMAT, _FORMAT_IN_PIECES):
            raise ValueError(f"format {state['format']}")
        files = {name: _loaded(folder / name, digest) for name, digest in state["files"].items()}
        if state["format"] == _FORMAT_IN_PIECES:
            tensors = {group: _joined(files, group, shapes) for group, shapes in state["shapes"].items()}
        else:
            tensors = {name.removesuffix(".safetensors"): values for name, values in files.items()}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ReadError(
            f"reading checkpoint {folder}",
            expected="the files a training wrote",
            got=reason(error),
            remedy="Delete the folder; the training then resumes from the checkpoint before",
        ) from error
    return Checkpoint(tensors=tensors, state=state)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of `run`, None if there is none; damaged ones are logged and skipped."""
    for iteration in reversed(checkpoint_iterations(run)):
        try:
            return read_checkpoint(checkpoint_folder(run, iteration))
        except ReadError as error:
            _log.warning("%s", error)
    return None


def drop_checkpoints(run: Path, *, newest: int, best: int | None = None) -> None:
    """Delete all but the `newest` so many checkpoints and that of iteration `best`."""
    iterations = checkpoint_iterations(run)
    for iteration in iterations[: max(0, len(iterations) - newest)]:
        if iteration != best:
            _delete(checkpoint_folder(run, iteration))


def forget_after(run: Path, iteration: int) -> None:
    """Delete what a training that resumes at `iteration` will write again, and leftovers of killed ones."""
    for later in checkpoint_iterations(run):
        if later > iteration:
            _delete(checkpoint_folder(run, later))
    for left in (run / "checkpoints").glob(".part-*"):
        shutil.rmtree(left, ignore_errors=True)


def _delete(folder: Path) -> None:
    # Under another name first, so that a half-deleted folder is never taken for a checkpoint.
    with contextlib.suppress(OSError):
        shutil.rmtree(folder.rename(folder.parent / f".part-{secrets.token_hex(8)}"))


def _loaded(path: Path, digest: str) -> dict[str, Tensor]:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{path.name} is not what was written")
    return load(data)


def _joined(
    files: Mapping[str, Mapping[str, Tensor]], group: str, shapes: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """Return the tensors of a group that was written in pieces, files and pieces being in order."""
    by_name: dict[str, list[Tensor]] = {name: [] for name in shapes}
    for file in sorted(name for name in files if name.rpartition("_")[0] == group):
        pieces = files[file]
        for key in sorted(pieces, key=lambda key: int(key.rpartition("@")[2])):
            by_name[key.rpartition("@")[0]].append(pieces[key])
    return {name: torch.cat(by_name[name]).reshape(shape) for name, shape in shapes.items()}
