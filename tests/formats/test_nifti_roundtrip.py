"""What is written is read back: values and affine, over all 48 orientations and arbitrary affines."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap, Volume
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.read import read_label_map, read_volume

SHAPE = (5, 6, 7)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((-1.0, 1.0), repeat=3)))


def hu():
    return np.random.default_rng(8).integers(-1024, 600, SHAPE).astype(np.int16)


def labels():
    return np.random.default_rng(9).integers(0, 5, SHAPE).astype(np.uint8)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_all_orientations_come_back(tmp_path, axes, signs):
    direction = np.eye(3)[:, list(axes)] * signs
    grid = Grid.from_axes(SHAPE, spacing_zyx_mm=(3, 2, 1), direction_zyx=direction, origin_xyz_mm=(-7, 8.5, 90))
    write_volume(Volume(hu=hu(), grid=grid), tmp_path / "ct.nii")
    volume = read_volume(tmp_path / "ct.nii")
    assert volume.grid == grid
    assert volume.notes == ()  # sform and qform agree
    np.testing.assert_array_equal(volume.hu, hu())
    image = nib.load(tmp_path / "ct.nii")
    codes = {(0, -1.0): "R", (0, 1.0): "L", (1, -1.0): "A", (1, 1.0): "P", (2, -1.0): "I", (2, 1.0): "S"}
    assert nib.aff2axcodes(image.affine) == tuple(codes[pair] for pair in zip(axes, signs, strict=True))[::-1]
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)


_VALUES = st.floats(-3, 3, width=32)


@st.composite
def sheared_grids(draw):
    """Grids with well-separated but otherwise arbitrary axes."""
    matrix = np.array(draw(st.lists(_VALUES, min_size=9, max_size=9))).reshape(3, 3)
    matrix[np.diag_indices(3)] = [draw(st.sampled_from([-1, 1])) * (7 + value) for value in np.diag(matrix)]
    affine = np.eye(4)
    affine[:3, :3] = matrix[:, list(draw(st.permutations(range(3))))]
    affine[:3, 3] = draw(st.lists(st.floats(-500, 500), min_size=3, max_size=3))
    return Grid(shape_zyx=SHAPE, affine=affine)


@given(grid=sheared_grids())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_affine_comes_back(tmp_path, grid):
    write_label_map(LabelMap(labels=labels(), grid=grid), tmp_path / "labels.nii.gz")
    read = read_label_map(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(read.grid.affine, grid.affine, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(read.labels, labels())
    np.testing.assert_allclose(nib.load(tmp_path / "labels.nii.gz").affine, grid.nifti_affine(), rtol=1e-6, atol=1e-6)


@given(grid=sheared_grids())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_writing_what_was_read_changes_nothing(tmp_path, grid):
    write_volume(Volume(hu=hu(), grid=grid), tmp_path / "first.nii.gz")
    once = read_volume(tmp_path / "first.nii.gz")
    write_volume(once, tmp_path / "second.nii.gz")
    assert read_volume(tmp_path / "second.nii.gz").grid == once.grid
    assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "second.nii.gz").read_bytes()
