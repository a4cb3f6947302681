"""Checkpoints: the whole state of a training in a folder of small files, complete or not there at all.

`RUN/checkpoints/000000250/` holds `GROUP_NN.safetensors` (network, average, first and second moment) and `state.json`
(every number, the settings, and the hash of each tensor file). The folder is written under another name and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from viscera.core.errors import ReadError, WriteError, reason

# Files stay below 16 MB (megabytes, not mebibytes), headers included.
LARGEST_FILE_BYTES = 15_000_000
FORMAT = 1

_STATE = "state.json"
_log = logging.getLogger(__name__)

Groups = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A training's state: `tensors` by group and name, and `state`, plain values with at least `iteration`."""

    tensors: Groups
    state: dict[str, Any]


def checkpoint_folder(run: Path, iteration: int) -> Path:
    """Where the checkpoint of `iteration` lies in `run`."""
    return run / "checkpoints" / f"{iteration:09d}"


def checkpoint_iterations(run: Path) -> list[int]:
    """The iterations that have a checkpoint in `run`, ascending."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def write_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """The folder the checkpoint was written to; one of the same iteration is replaced.

    Raises:
        WriteError: If it cannot be written; nothing is left behind then, and what was there stays.
    """
    folder = checkpoint_folder(run, checkpoint.state["iteration"])
    part = folder.parent / f".part-{secrets.token_hex(8)}"
    try:
        part.mkdir(parents=True)
        shapes = {
            group: {name: list(tensor.shape) for name, tensor in values.items()}
            for group, values in checkpoint.tensors.items()
        }
        state = checkpoint.state | {"format": FORMAT, "shapes": shapes, "files": _write_tensors(part, checkpoint)}
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
    """The checkpoint in `folder`.

    Raises:
        ReadError: If a file is missing, or is not the one that was written.
    """
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        pieces: dict[str, dict[str, Tensor]] = {}
        for name, digest in state["files"].items():
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                raise ValueError(f"{name} is not what was written")
            pieces.setdefault(name.rpartition("_")[0], {}).update(load(data))
        tensors = {group: _joined(pieces.get(group, {}), shapes) for group, shapes in state["shapes"].items()}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ReadError(
            f"reading checkpoint {folder}",
            expected="the files a training wrote",
            got=reason(error),
            remedy="Delete the folder; the training then goes on from the checkpoint before",
        ) from error
    return Checkpoint(tensors=tensors, state=state)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of `run`, None if there is none; damaged ones are logged and passed over."""
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
    """Delete what a training that goes on from `iteration` will write anew, and leftovers of killed ones."""
    for later in checkpoint_iterations(run):
        if later > iteration:
            _delete(checkpoint_folder(run, later))
    for left in (run / "checkpoints").glob(".part-*"):
        shutil.rmtree(left, ignore_errors=True)


def _delete(folder: Path) -> None:
    # Under another name first, so that a half-deleted folder is never taken for a checkpoint.
    with contextlib.suppress(OSError):
        shutil.rmtree(folder.rename(folder.parent / f".part-{secrets.token_hex(8)}"))


def _write_tensors(folder: Path, checkpoint: Checkpoint) -> dict[str, str]:
    digests = {}
    for group, values in checkpoint.tensors.items():
        for number, part in enumerate(_parts(values)):
            data = save(part)
            path = folder / f"{group}_{number:02d}.safetensors"
            path.write_bytes(data)
            digests[path.name] = hashlib.sha256(data).hexdigest()
    return digests


def _parts(values: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors in parts small enough for a file; `name@3` is the fourth piece of a flat tensor too large for one."""
    room = LARGEST_FILE_BYTES - 200_000  # for the header
    part: dict[str, Tensor] = {}
    filled = 0
    for name, tensor in values.items():
        pieces = tensor.reshape(-1).split(max(1, room // tensor.element_size()))  # type: ignore[no-untyped-call]
        for number, piece in enumerate(pieces):
            size = piece.numel() * piece.element_size()
            if part and filled + size > room:
                yield part
                part, filled = {}, 0
            part[f"{name}@{number}"] = piece.clone()
            filled += size
    if part:
        yield part


def _joined(pieces: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    by_name: dict[str, list[tuple[int, Tensor]]] = {}
    for key, piece in pieces.items():
        name, _, number = key.rpartition("@")
        by_name.setdefault(name, []).append((int(number), piece))
    return {
        name: torch.cat([piece for _, piece in sorted(by_name[name], key=lambda item: item[0])]).reshape(shape)
        for name, shape in shapes.items()
    }
