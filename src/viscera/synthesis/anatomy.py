"""Anatomies: whole trunks as tissue maps, as they are stored for training; `build` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from viscera.core.errors import ReadError
from viscera.core.files import write_bytes
from viscera.synthesis.tissues import Tissue

# The list of all anatomies in a folder.
ANATOMIES = "anatomies.json"
# Of the stored arrays: half of what the finest network reads would not be finer than most of the maps.
SPACING_MM = 2.0
# Depths are stored in half millimetres in one byte.
DEPTH_UNIT_MM = 0.5

_FAULTS = (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError)

Place = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """One person's trunk.

    Attributes:
        name: Of the host's map, and of the donor's if there is one.
        tissues: uint8 (z, y, x), `Tissue`, in canonical axes (z to the head, y to the back, x to the left) at
            SPACING_MM.
        depth: uint8 (z, y, x) in DEPTH_UNIT_MM: within a tissue the distance to its surface, outside the core the
            distance to the core, at most 127.5 mm.
        organs: For each of `ORGANS` that is there, (centre, radius): voxel positions and standard deviations (z, y, x).
    """

    name: str
    tissues: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    organs: Mapping[Tissue, Place]

    def save(self, path: Path) -> None:
        """Write the anatomy to a safetensors file, whole or not at all."""
        organs = {tissue.name: [part.tolist() for part in place] for tissue, place in self.organs.items()}
        metadata = {"name": self.name, "organs": json.dumps(organs)}
        write_bytes(save({"tissues": self.tissues, "depth": self.depth}, metadata), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The anatomy in a file.

        Raises:
            ReadError: If it is none.
        """
        try:
            with safe_open(path, framework="np") as file:
                tissues, depth = file.get_tensor("tissues"), file.get_tensor("depth")
                name, organs = file.metadata()["name"], _places(file.metadata())
        except _FAULTS as error:
            raise _no_anatomy(path, str(error)) from error
        if tissues.ndim != 3 or tissues.shape != depth.shape or tissues.dtype != np.uint8 or depth.dtype != np.uint8:
            raise _no_anatomy(path, f"arrays {tissues.dtype} {tissues.shape} and {depth.dtype} {depth.shape}")
        return cls(name=name, tissues=tissues, depth=depth, organs=organs)


def stored_organs(path: Path) -> tuple[Tissue, ...]:
    """The organs of the anatomy in a file, whose arrays are not read.

    Raises:
        ReadError: If it is none.
    """
    try:
        with safe_open(path, framework="np") as file:
            return tuple(_places(file.metadata()))
    except _FAULTS as error:
        raise _no_anatomy(path, str(error)) from error


def _places(metadata: Mapping[str, str]) -> dict[Tissue, Place]:
    return {
        Tissue[tissue]: (np.array(centre), np.array(radius))
        for tissue, (centre, radius) in json.loads(metadata["organs"]).items()
    }


def _no_anatomy(path: Path, got: str) -> ReadError:
    return ReadError(
        f"reading the anatomy {path}",
        expected="a file that viscera anatomies wrote",
        got=got,
        remedy="Make it again",
    )
