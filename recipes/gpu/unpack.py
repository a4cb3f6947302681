"""From a pack to the folder that a training reads: every file decoded and found to be what was packed."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gpu.coding import decoded
from gpu.pack import CODED, FORMAT, PACK, STAGES
from viscera.core.errors import ReadError, reason
from viscera.core.files import write_bytes

_REMEDY = "Pack once more, and carry all of the folder"


def unpack(pack: Path, work: Path) -> dict[str, Any]:
    """Write to `work` what `pack` holds, unless it lies there already; return the pack's list.

    Raises:
        ReadError: If a file of the pack is missing or damaged.
    """
    text, listed = _listed(pack)
    if (work / PACK).is_file() and (work / PACK).read_bytes() == text:
        return listed
    for folder in ("anatomies", "real", "validation"):
        shutil.rmtree(work / folder, ignore_errors=True)
    tasks = [(pack, work, path, digest) for path, digest in listed["decoded"].items()]
    with ProcessPoolExecutor(min(len(tasks), os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        list(pool.map(_unpacked, tasks))
    settings = [f"{stage}{end}" for stage in STAGES for end in (".toml", ".safetensors")]
    for path in listed["files"]:
        if path.endswith(".json") or path in settings:
            write_bytes((pack / path).read_bytes(), work / path)
    write_bytes(text, work / PACK)
    return listed


def _listed(pack: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        text = (pack / PACK).read_bytes()
        listed: dict[str, Any] = json.loads(text)
        if listed["format"] != FORMAT:
            raise ValueError(f"format {listed['format']} instead of {FORMAT}")
        for path, digest in listed["files"].items():
            if hashlib.sha256((pack / path).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{path} is not what was packed")
    except (OSError, ValueError, KeyError) as error:
        raise ReadError(
            f"reading the pack {pack}", expected="what gpu.sh pack wrote", got=reason(error), remedy=_REMEDY
        ) from error
    return text, listed


def _unpacked(task: tuple[Path, Path, str, str]) -> None:
    pack, work, path, digest = task
    coded = pack / (path.removesuffix(".safetensors") + CODED)
    try:
        content = decoded(coded).content()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("another content than was packed")
    except (OSError, ValueError, KeyError, lzma.LZMAError) as error:
        raise ReadError(f"unpacking {coded}", expected="what was packed", got=reason(error), remedy=_REMEDY) from error
    write_bytes(content, work / path)
