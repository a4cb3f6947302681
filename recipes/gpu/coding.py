"""Safetensors files in few bytes, decoded to exactly the bytes they were made from.

A coded file is one LZMA stream: the length of a JSON header in 8 bytes, the header, the tensors. What a tensor leaves
to be stored depends on what it shows:

    plain    the bytes as they are
    base     the difference to the same tensor of another file, which shares most voxels with it
    lorenzo  an image's difference along each axis in turn, so that only what three neighbouring planes do not tell is
             left (L. Ibarria et al., "Out-of-core compression and decompression of large n-dimensional scalar fields",
             2003), low and high bytes apart
    depth    nothing: the depths of an anatomy follow from its tissues
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {"U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "I64": "<i8", "F32": "<f4", "F16": "<f2"}
_LENGTH_BYTES = 8

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Parsed:
    """A safetensors file: its first bytes, which say what follows, and its tensors in the order of their bytes."""

    head: bytes
    tensors: Tensors

    @classmethod
    def of(cls, data: bytes) -> Parsed:
        """The file with the content `data`; raises ValueError if it is none that can be coded."""
        start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
        header = json.loads(data[_LENGTH_BYTES:start])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors: Tensors = {}
        place = start
        for name in sorted(entries, key=lambda name: tuple(entries[name]["data_offsets"])):
            first, last = (start + offset for offset in entries[name]["data_offsets"])
            if first != place or entries[name]["dtype"] not in _DTYPES:
                raise ValueError(f"{name} has gaps before it or is {entries[name]['dtype']}")
            flat = np.frombuffer(data[first:last], _DTYPES[entries[name]["dtype"]])
            tensors[name], place = flat.reshape(entries[name]["shape"]), last
        if place != len(data):
            raise ValueError(f"{len(data) - place} bytes after the last tensor")
        return cls(head=data[:start], tensors=tensors)

    def content(self) -> bytes:
        """The bytes of the file."""
        return self.head + b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in self.tensors.values())


def coarser(parsed: Parsed, step: int) -> Parsed:
    """The file with its int16 images rounded to multiples of `step`; 1 leaves them as they are."""
    return Parsed(head=parsed.head, tensors={name: _rounded(one, step) for name, one in parsed.tensors.items()})


def encoded(parsed: Parsed, *, step: int = 1, base: tuple[str, Tensors] | None = None) -> bytes:
    """A file in few bytes.

    Args:
        parsed: The file; its int16 images must be multiples of `step`.
        step: What int16 values are divided by.
        base: The name of the coded file beside it that shares most voxels with this one, and the tensors of that.
    """
    entries, stored = [], []
    for name, tensor in parsed.tensors.items():
        codec, left = _coded(name, tensor, parsed.tensors, step=step, base=None if base is None else base[1])
        entries.append({"name": name, "dtype": tensor.dtype.str, "shape": tensor.shape, "codec": codec})
        stored.append(left)
    used = any(entry["codec"] == "base" for entry in entries)
    header = {
        "head": parsed.head.decode("latin-1"),
        "step": step,
        "base": base[0] if base is not None and used else None,
        "tensors": entries,
    }
    text = json.dumps(header).encode()
    return lzma.compress(len(text).to_bytes(_LENGTH_BYTES, "little") + text + b"".join(stored), preset=6)


def decoded(path: Path) -> Parsed:
    """The file that `path` was coded from; the base it may need lies beside it.

    Raises:
        ValueError, OSError, lzma.LZMAError: If the file or its base is missing or damaged.
    """
    data = lzma.decompress(path.read_bytes())
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES:start])
    base = decoded(path.parent / header["base"]).tensors if header["base"] else {}
    tensors: Tensors = {}
    for entry in header["tensors"]:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        stored = 0 if entry["codec"] == "depth" else int(np.prod(shape)) * dtype.itemsize
        tensors[entry["name"]] = _restored(entry, data[start : start + stored], base, header["step"])
        start += stored
    for entry in header["tensors"]:
        if entry["codec"] == "depth":
            tensors[entry["name"]] = _depths(tensors["tissues"])
    return Parsed(head=header["head"].encode("latin-1"), tensors=tensors)


def _coded(
    name: str, tensor: NDArray[Any], beside: Mapping[str, NDArray[Any]], *, step: int, base: Tensors | None
) -> tuple[str, bytes]:
    """The codec of a tensor, and what it leaves to be stored."""
    if name == "depth" and "tissues" in beside and np.array_equal(tensor, _depths(beside["tissues"])):
        return "depth", b""
    other = None if base is None else base.get(name)
    if other is not None and other.shape == tensor.shape and other.dtype == tensor.dtype == np.uint8:
        return "base", (tensor - other).tobytes()
    if tensor.dtype == np.int16 and tensor.ndim == 3:
        left = tensor // step
        for axis in range(3):
            left = np.diff(left, axis=axis, prepend=np.int16(0))  # wraps around, and back when it is summed again
        folded = ((left << 1) ^ (left >> 15)).view(np.uint16)
        return "lorenzo", (folded & 255).astype(np.uint8).tobytes() + (folded >> 8).astype(np.uint8).tobytes()
    return "plain", tensor.tobytes()


def _restored(entry: Mapping[str, Any], stored: bytes, base: Tensors, step: int) -> NDArray[Any]:
    shape = tuple(entry["shape"])
    if entry["codec"] == "base":
        return np.frombuffer(stored, np.uint8).reshape(shape) + base[entry["name"]]
    if entry["codec"] == "lorenzo":
        low, high = np.frombuffer(stored, np.uint8).reshape(2, *shape).astype(np.uint16)
        folded = low | high << np.uint16(8)
        left = ((folded >> 1) ^ (0 - (folded & 1))).view(np.int16)
        for axis in range(3):
            left = np.cumsum(left, axis=axis, dtype=np.int16)
        return (left * np.int16(step)).astype(np.int16)
    return np.frombuffer(stored, np.dtype(entry["dtype"])).reshape(shape) if stored else np.empty(shape, np.uint8)


def _rounded(tensor: NDArray[Any], step: int) -> NDArray[Any]:
    if tensor.dtype != np.int16 or step == 1:
        return tensor
    limits = np.iinfo(np.int16)
    multiples = np.rint(tensor / step).clip(-(-limits.min // step), limits.max // step)
    return (multiples * step).astype(np.int16)


def _depths(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from viscera.synthesis.build import depths  # needs scipy

    return depths(tissues)
