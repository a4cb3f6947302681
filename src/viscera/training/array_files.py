"""The arrays of a prepared case as a safetensors file: deflated, or as they are in caches of earlier versions.

Arrays are stored finer than the networks read, and often finer than the CT was, so that neighbouring slices differ
little. What is deflated are the differences from slice to slice, all low bytes before all high bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.geometry import Size

# Fast; higher levels save little.
_LEVEL = 1
_PIXEL = np.dtype("<i2")


def deflated_arrays(image: NDArray[np.int16], labels: NDArray[np.uint8]) -> bytes:
    """Return the content of a file with an image int16 (z, y, x) and labels uint8 (z, y, x)."""
    from safetensors.numpy import save

    difference = np.array(image, dtype=_PIXEL, order="C")
    difference[1:] -= image[:-1]  # wraps around, and back when it is summed again
    planes = np.moveaxis(difference.view(np.uint8).reshape(*image.shape, 2), -1, 0)
    content: bytes = save({"image": _deflated(planes), "labels": _deflated(labels)})
    return content


def deflated_image(data: NDArray[np.uint8], shape_zyx: Size) -> NDArray[np.int16]:
    """Return the image int16 (z, y, x) that `deflated_arrays` stored; raise ValueError if it is damaged."""
    planes = _inflated(data, (2, *shape_zyx))
    image = np.empty(shape_zyx, dtype=_PIXEL)
    pixel_bytes = image.view(np.uint8).reshape(*shape_zyx, 2)
    pixel_bytes[..., 0], pixel_bytes[..., 1] = planes
    for index in range(1, shape_zyx[0]):
        image[index] += image[index - 1]
    return image.astype(np.int16, copy=False)


def deflated_labels(data: NDArray[np.uint8], shape_zyx: Size) -> NDArray[np.uint8]:
    """Return the labels uint8 (z, y, x) that `deflated_arrays` stored; raise ValueError if they are damaged."""
    return _inflated(data, shape_zyx)


def _deflate() -> Any:
    """Return the module that compresses: isal, several times faster, or where it is not installed zlib."""
    try:
        from isal import isal_zlib
    except ModuleNotFoundError:
        import zlib

        return zlib
    return isal_zlib


def _deflated(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(_deflate().compress(values.tobytes(), _LEVEL), dtype=np.uint8)


def _inflated(data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    deflate = _deflate()
    size = int(np.prod(shape))
    try:
        content = deflate.decompress(data.tobytes(), bufsize=max(1, size))
    except deflate.error as error:
        raise ValueError(str(error)) from error
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes instead of {size}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
