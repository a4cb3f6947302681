"""NIfTI files, plain or compressed, read as one stream that never holds more than a slab."""

from __future__ import annotations

import math
from pathlib import Path

from viscera.core.errors import ReadError, reading
from viscera.core.hounsfield import require_likely
from viscera.formats.label_tables import LARGEST_TABLE_BYTES, label_table_names
from viscera.formats.nifti_header import HEADER_1_BYTES, HEADER_2_BYTES, NiftiHeader, parsed_header
from viscera.formats.raster import Raster
from viscera.formats.voxel_stream import VoxelStream


def open_nifti(path: Path, *, labels: bool = False) -> Raster:
    """The image of a .nii or .nii.gz file; the file is opened now and read while the slabs are taken.

    Args:
        path: The file.
        labels: Whether to look for the names of labels in the header's extensions.

    Raises:
        ReadError: If the file is no NIfTI image of one real-valued 3-D volume, or shorter than its header claims;
            while slabs are taken, if its compressed data are cut off or damaged.
        GeometryError: If the header does not say where the voxels lie.
    """
    with reading(path):
        stream = VoxelStream(path, None, perhaps_gzip=True)
        header = parsed_header(stream.read(HEADER_2_BYTES))
        _require_room(header, stream)
        extensions = b""
        if labels and HEADER_1_BYTES < header.first_byte <= LARGEST_TABLE_BYTES + HEADER_1_BYTES:
            stream.seek(HEADER_1_BYTES)
            extensions = stream.read(header.first_byte - HEADER_1_BYTES)
        stream.seek(header.first_byte)
        return Raster(
            grid=header.grid,
            slope=header.slope,
            intercept=header.intercept,
            slabs=stream.slabs(header.grid.shape_zyx, header.dtype),
            names=label_table_names(extensions),
            notes=header.notes,
        )


def _require_room(header: NiftiHeader, stream: VoxelStream) -> None:
    claimed = header.first_byte + math.prod(header.grid.shape_zyx) * header.dtype.itemsize
    if claimed > stream.largest_bytes:
        kind = "compressed bytes, which can never expand to that" if stream.compressed else "bytes"
        raise ReadError(
            expected=f"the {claimed} bytes that its header claims",
            got=f"a file of {stream.stored_bytes} {kind}",
            remedy="The file is cut off or damaged: copy or convert it again",
        )
    require_likely(header.grid.shape_zyx, stream.stored_bytes)
