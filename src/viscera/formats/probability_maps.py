"""Probabilities to NIfTI files of 16-bit integers: NIfTI has no 16-bit floats, and 32-bit ones take twice the room."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import WriteError
from viscera.core.files import whole_file
from viscera.core.geometry import Grid
from viscera.formats.nifti_header import packed_header
from viscera.formats.voxel_stream import gzip_writer

_ONE = 32767  # what 1.0 is stored as


def write_probabilities(values: NDArray[np.float32], grid: Grid, path: Path) -> None:
    """Write values of 0 to 1, (label, z, y, x) on `grid`, to a .nii or .nii.gz file whose fourth axis is the label.

    A single label has no fourth axis. The header's factor makes the stored integers 0 to 1 again, to within 2e-5.

    Raises:
        WriteError: If the file cannot be written; nothing is left behind then.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise WriteError(
            f"writing {path}",
            expected="a name that ends in .nii or .nii.gz",
            got=path.name,
            remedy="Give the output such a name",
        )
    header = _header(grid, len(values))
    with whole_file(path) as file:
        if path.name.lower().endswith(".gz"):
            with gzip_writer(file) as packed:
                _write(packed, header, values)
        else:
            _write(file, header, values)


def _header(grid: Grid, labels: int) -> bytes:
    from nibabel.nifti1 import Nifti1Header

    header: Any = Nifti1Header.from_fileobj(io.BytesIO(packed_header(grid, np.dtype("<i2"))))  # type: ignore[no-untyped-call]
    if labels > 1:
        header.set_data_shape((*header.get_data_shape(), labels))
    header.set_slope_inter(1 / _ONE, 0)
    header["cal_max"] = 1.0  # what a viewer shows as the brightest
    packed = io.BytesIO()
    header.write_to(packed)
    return packed.getvalue()


def _write(file: Any, header: bytes, values: NDArray[np.float32]) -> None:
    file.write(header)
    for one in values:  # label by label, as the fourth axis is the slowest in the file
        file.write(np.rint(one * np.float32(_ONE)).astype("<i2").data)
