"""Label maps and volumes to NIfTI files: whole or not at all, and equal bytes for equal content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import WriteError
from viscera.core.files import whole_file
from viscera.core.geometry import Grid
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.formats.nifti_header import packed_header
from viscera.formats.voxel_stream import gzip_writer

# NIfTI-1 keeps sizes in signed 16-bit integers.
LARGEST_SIZE_VOX = 32767
# The standard's intent code of images whose values are labels.
_LABEL_INTENT = 1002


def write_label_map(label_map: LabelMap, path: str | os.PathLike[str], organs: Sequence[Organ] = ORGANS) -> None:
    """Write uint8 labels on exactly the label map's grid to a .nii or .nii.gz file.

    The names and colours of `organs` are in a header extension (the `LabelTable` that Connectome Workbench and others
    read). Missing parent folders are made.

    Raises:
        WriteError: If the file cannot be written; nothing is left behind then.
    """
    extension = _label_table(organs).encode()
    _write_nifti(label_map.labels, label_map.grid, Path(path), extension=extension, intent=_LABEL_INTENT)


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write int16 HU on exactly the volume's grid to a .nii or .nii.gz file, as `write_label_map` does."""
    _write_nifti(volume.hu, volume.grid, Path(path))


def _write_nifti(array: NDArray[Any], grid: Grid, path: Path, *, extension: bytes = b"", intent: int = 0) -> None:
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise WriteError(
            f"writing {path}",
            expected="a name that ends in .nii or .nii.gz",
            got=path.name,
            remedy="Give the output such a name",
        )
    if max(grid.shape_zyx) > LARGEST_SIZE_VOX:
        raise WriteError(
            f"writing {path}",
            expected=f"at most {LARGEST_SIZE_VOX} voxels along each axis",
            got=f"{grid.shape_zyx} (z, y, x)",
            remedy="Split the volume",
        )
    dtype = np.dtype(array.dtype).newbyteorder("<")
    header = packed_header(grid, dtype, extension=extension, intent=intent)
    with whole_file(path) as file:
        if name.endswith(".gz"):
            with gzip_writer(file) as compressed:
                _write_image(compressed, header, array, dtype)
        else:
            _write_image(file, header, array, dtype)


def _write_image(file: BinaryIO, header: bytes, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    file.write(header)
    for one in array:  # slice by slice, as the array may be a turned view
        file.write(np.ascontiguousarray(one, dtype=dtype).data)


def _label_table(organs: Sequence[Organ]) -> str:
    rows = [(BACKGROUND, "background", (0, 0, 0), 0)] + [(o.index, o.name, o.colour, 1) for o in organs]
    labels = "".join(
        f"<Label Key={quoteattr(str(index))} "
        + " ".join(
            f'{channel}="{value / 255:.6f}"' for channel, value in zip(("Red", "Green", "Blue"), colour, strict=True)
        )
        + f' Alpha="{alpha}"><![CDATA[{name}]]></Label>'
        for index, name, colour, alpha in rows
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0">'
        f"<LabelTable>{labels}</LabelTable><VolumeType><![CDATA[Label]]></VolumeType>"
        "</VolumeInformation></CaretExtension>"
    )
