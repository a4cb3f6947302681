"""What comes back from the machine with the GPU: the state of both trainings in few files of a bounded size.

`state.json` says what was trained for how long, and the sha256 of each piece. The pieces `state_00`, `state_01` and so
on make a tar file with the newest checkpoint, the best weights, the settings and the log of each training.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save

from gpu.pack import STAGES
from viscera.core.errors import ReadError, WriteError, reason
from viscera.core.files import write_bytes, write_text
from viscera.training.checkpoint import checkpoint_folder, newest_checkpoint, read_checkpoint

STATE = "state.json"
FORMAT = 1
PIECE_BYTES = 15_000_000
# With state.json there are at most this many files.
MOST_FILES = 8
_BEST = "best.safetensors"
_TRIES = 5


def write_state(work: Path, out: Path, parts: list[dict[str, Any]]) -> list[Path]:
    """Write the state of the trainings in `work` to `out`, in place of an older one; return its files.

    Raises:
        WriteError: If it does not fit into the files allowed, or cannot be written.
    """
    data = _archive(work)
    pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
    if len(pieces) + 1 > MOST_FILES:
        raise WriteError(
            f"writing the state to {out}",
            expected=f"at most {MOST_FILES} files",
            got=f"{len(pieces) + 1}",
            remedy="Train one network at a time",
        )
    files = {f"state_{number:02d}": piece for number, piece in enumerate(pieces)}
    digests = {name: hashlib.sha256(piece).hexdigest() for name, piece in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, piece in files.items():
        write_bytes(piece, out / name)
    text = json.dumps({"format": FORMAT, "files": digests, "parts": parts}, indent=1) + "\n"
    write_text(text, out / STATE)
    for left in set(out.glob("state_*")) - {out / name for name in files}:
        left.unlink()
    return [out / STATE, *(out / name for name in files)]


def read_state(source: Path, runs: Path) -> list[dict[str, Any]]:
    """Lay out the state in `source` as runs of a training in `runs`; return the parts trained so far.

    Raises:
        ReadError: If it is damaged or incomplete.
    """
    try:
        state = json.loads((source / STATE).read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']} instead of {FORMAT}")
        data = bytearray()
        for name, digest in state["files"].items():
            piece = (source / name).read_bytes()
            if hashlib.sha256(piece).hexdigest() != digest:
                raise ValueError(f"{name} is not what was written")
            data += piece
        shutil.rmtree(runs, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(runs, filter="data")
        for stage in STAGES:
            _lay_out_weights(runs / stage)
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise ReadError(
            f"reading the state in {source}",
            expected="all files that gpu.sh run wrote",
            got=reason(error),
            remedy="Bring them back once more, or begin again without them",
        ) from error
    parts: list[dict[str, Any]] = state["parts"]
    return parts


def _archive(work: Path) -> bytes:
    """Return a tar file; a checkpoint that its training deletes meanwhile is looked for again."""
    for attempt in range(_TRIES):
        try:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                for stage in STAGES:
                    for name, content in _contents(work / "runs" / stage):
                        entry = tarfile.TarInfo(f"{stage}/{name}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))
            return buffer.getvalue()
        except FileNotFoundError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.2)
    raise AssertionError


def _contents(run: Path) -> Iterator[tuple[str, bytes]]:
    newest = newest_checkpoint(run)
    if newest is None:
        return
    folder = checkpoint_folder(run, newest.state["iteration"])
    for path in sorted(folder.iterdir()):
        yield path.relative_to(run).as_posix(), path.read_bytes()
    for name in ("config.json", "log.jsonl", "card.json"):
        if (run / name).is_file():
            yield name, (run / name).read_bytes()
    best = newest.state["best"]
    if best is not None:
        saved = checkpoint_folder(run, best["iteration"])
        if saved.is_dir():
            yield _BEST, save(read_checkpoint(saved).tensors["average"])
        elif (run / _BEST).is_file():  # from a part before this one
            yield _BEST, (run / _BEST).read_bytes()


def _lay_out_weights(run: Path) -> None:
    newest = newest_checkpoint(run)
    if newest is not None:
        write_bytes(save(newest.tensors["average"]), run / "weights.safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gpu.sh unpack` to `parser`."""
    parser.add_argument("out", metavar="OUT", type=Path, help="what `gpu.sh run` wrote")
    parser.add_argument("runs", metavar="RUNS", type=Path, help="folder to make, with the runs localise and segment")


def run(args: argparse.Namespace) -> int:
    """Lay out the runs, and say what was trained."""
    if args.runs.exists():
        raise WriteError(f"writing {args.runs}", expected="a new folder", got="an old one", remedy="Name another")
    for part in read_state(args.out, args.runs):
        print(json.dumps(part))
    print(f"wrote {args.runs}")
    return 0
