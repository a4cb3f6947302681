"""Volume and LabelMap: what they accept, and that they stay as they are."""

import numpy as np
import pytest

from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap, Volume

GRID = Grid(shape_zyx=(4, 5, 6), affine=np.diag([3.0, 2, 1, 1]))


def test_volume_keeps_the_array_without_a_copy():
    hu = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    assert np.shares_memory(Volume(hu=hu, grid=GRID).hu, hu)


def test_volume_cannot_be_written():
    volume = Volume(hu=np.zeros((4, 5, 6), dtype=np.int16), grid=GRID)
    with pytest.raises(ValueError, match="read-only"):
        volume.hu[0, 0, 0] = 1


def test_volume_leaves_the_callers_array_writeable():
    hu = np.zeros((4, 5, 6), dtype=np.int16)
    Volume(hu=hu, grid=GRID)
    hu[0, 0, 0] = 1


def test_label_map_cannot_be_written():
    label_map = LabelMap(labels=np.zeros((4, 5, 6), dtype=np.uint8), grid=GRID)
    with pytest.raises(ValueError, match="read-only"):
        label_map.labels[0, 0, 0] = 1


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_volume_takes_int16_only(dtype):
    with pytest.raises(GeometryError, match="int16 array"):
        Volume(hu=np.zeros((4, 5, 6), dtype=dtype), grid=GRID)


def test_label_map_takes_uint8_only():
    with pytest.raises(GeometryError, match="uint8 array"):
        LabelMap(labels=np.zeros((4, 5, 6), dtype=np.int16), grid=GRID)


@pytest.mark.parametrize("shape", [(6, 5, 4), (4, 5), (1, 4, 5, 6)])
def test_array_must_have_the_grids_shape(shape):
    with pytest.raises(GeometryError, match=r"\(4, 5, 6\)"):
        Volume(hu=np.zeros(shape, dtype=np.int16), grid=GRID)


def test_message_says_what_came():
    with pytest.raises(GeometryError, match=r"got int16 \(6, 5, 4\)"):
        Volume(hu=np.zeros((6, 5, 4), dtype=np.int16), grid=GRID)
