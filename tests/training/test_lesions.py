"""Injected lesions: inside their organ, pushing outwards, off by default."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.training.augment import draw_warp
from viscera.training.cache import TrainingCase
from viscera.training.config import IDENTITY, TrainConfig
from viscera.training.lesions import Lesion, draw_lesion, inflated, with_lesion
from viscera.training.patches import training_grid, training_sample

GRID = Grid.from_axes(
    (40, 44, 50), spacing_zyx_mm=(3.0, 3.0, 3.0), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(5.0, -7.0, 11.0)
)
SMALL = ModelConfig(
    localise=StageConfig(
        spacing_mm=6.0, sigma_mm=3.0, sizes_x_vox=(16, 32), sizes_y_vox=(16, 32), sizes_z_vox=(16, 32)
    ),
    segment=StageConfig(spacing_mm=4.0, sigma_mm=1.0, sizes_x_vox=(32,), sizes_y_vox=(32,), sizes_z_vox=(32,)),
    localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3),
    scn=ScnConfig(local_filters=4, local_levels=3, spatial_filters=2, spatial_levels=3),
)
OFF = TrainConfig(model=SMALL, augment=IDENTITY, label_sigma_vox=0.0)
ON = dataclasses.replace(OFF, lesion_probability=1.0, lesion_radius_mm=(12.0, 18.0), lesion_hu=(-60.0, -60.0))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def case():
    """Two touching organs, 1 at 100 HU and 4 at 60 HU, in tissue of 0 HU."""
    z, y, x = np.indices(GRID.shape_zyx)
    labels = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    labels[((z - 20) ** 2 + (y - 22) ** 2 + (x - 18) ** 2) < 12**2] = 1
    labels[(abs(z - 20) < 8) & (abs(y - 22) < 8) & (x >= 30) & (x < 40)] = 4
    image = np.select([labels == 1, labels == 4], [100, 60], 0).astype(np.int16)
    organs = GRID.box((slice(9, 32), slice(11, 34), slice(7, 40)))
    return TrainingCase(name="a", image=image, labels=labels, grid=GRID, scan=GRID.box(), organs=organs, lesion_ml=0.0)


def lesion(**changes):
    values = {
        "label": 1,
        "centre_zyx_vox": (20.0, 22.0, 18.0),
        "radius_mm": 15.0,
        "inflation": 0.5,
        "hu": -60.0,
        "texture_hu": 10.0,
        "noise": rng().uniform(-1, 1, (2, 9, 9, 9)).astype(np.float32),
    }
    return Lesion(**(values | changes))


def every_voxel():
    return torch.from_numpy(np.indices(GRID.shape_zyx).transpose(1, 2, 3, 0)).float()


def test_off_by_default(case):
    assert draw_lesion(case, TrainConfig(), rng()) is None


def test_as_often_as_asked(case):
    config, generator = dataclasses.replace(ON, lesion_probability=0.3), rng()
    count = sum(draw_lesion(case, config, generator) is not None for _ in range(400))
    assert 90 < count < 150


def test_no_lesion_without_organs(case):
    assert draw_lesion(dataclasses.replace(case, organs=None), ON, rng()) is None


@pytest.mark.parametrize("seed", range(5))
def test_lesions_begin_inside_the_organ_they_name(case, seed):
    drawn = draw_lesion(case, ON, rng(seed))
    assert case.labels[tuple(int(place) for place in drawn.centre_zyx_vox)] == drawn.label
    assert 12 <= drawn.radius_mm <= 18
    assert 0.3 <= drawn.inflation <= 0.6


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*(st.floats(-60, 60) for _ in range(3))),
    st.floats(0, 0.99),
    st.floats(3, 40),
)
def test_tissue_moves_outwards_along_its_line_and_keeps_its_order(direction, inflation, radius):
    length = np.linalg.norm(direction)
    if length < 1:
        return
    one = lesion(inflation=inflation, radius_mm=radius)
    distances = torch.linspace(0, 2.5 * radius, 60, dtype=torch.float32)
    line = torch.tensor(direction, dtype=torch.float32) / float(length)
    positions = (torch.tensor(one.centre_zyx_vox) + distances[:, None] * line / 3.0)[None, None]
    read = (inflated(positions, one, GRID)[0, 0] - torch.tensor(one.centre_zyx_vox)) * 3.0
    along = read @ line
    assert (along <= distances + 1e-3).all()  # what is seen at d was nearer to the middle: it moved outwards
    assert (along.diff() > -1e-3).all()
    torch.testing.assert_close(read, along[:, None] * line, atol=1e-2, rtol=0)
    unchanged = distances >= 2 * radius
    torch.testing.assert_close(along[unchanged], distances[unchanged], atol=1e-3, rtol=0)


def test_no_inflation_moves_nothing():
    positions = every_voxel()
    torch.testing.assert_close(inflated(positions, lesion(inflation=0.0), GRID), positions)


def test_the_middle_is_stretched_by_the_inflation():
    places = torch.tensor([[[[20.0, 22.0, 18.1], [20.0, 27.0, 18.0]]]])
    read = inflated(places, lesion(inflation=0.5), GRID)[0, 0]
    assert read[0, 2].item() - 18 == pytest.approx(0.05, abs=1e-4)
    # 15 mm from the middle is half of the reach: 1 - 0.5 * (1 - 1/4)^2
    assert (read[1, 1].item() - 22) * 3 == pytest.approx(15 * (1 - 0.5 * 0.5625), abs=1e-3)


def test_density_changes_only_within_the_organ_and_the_ragged_ball():
    labels = torch.zeros(GRID.shape_zyx, dtype=torch.uint8)
    labels[:, :, :20] = 1
    image = torch.zeros(GRID.shape_zyx)
    changed = with_lesion(image, labels, every_voxel(), lesion(), grid=GRID, hu_scale=2048.0) * 2048
    distance = (every_voxel() - torch.tensor([20.0, 22.0, 18.0])).norm(dim=-1) * 3
    touched = changed != 0
    assert not touched[labels != 1].any()
    assert (distance[touched] < 1.45 * 15).all()
    core = (distance < 0.6 * 15) & (labels == 1)
    assert ((changed[core] <= -50 + 1e-3) & (changed[core] >= -70 - 1e-3)).all()
    assert changed[core].std() > 1  # textured
    assert not image.any()  # the argument is not edited


@pytest.mark.parametrize("stage", ["localise", "segment"])
@pytest.mark.parametrize("seed", range(4))
def test_samples_with_lesions_obey_the_laws(case, stage, seed):
    """The organ does not shrink, and only within it does the density fall below what it was."""
    image, labels = training_sample(case, stage, ON, rng(seed))
    _, plain = training_sample(case, stage, OFF, rng(seed))
    generator = rng(seed)
    draw_warp(OFF.augment, generator)
    drawn = draw_lesion(case, ON, generator)
    organ = 1 if stage == "localise" else drawn.label
    assert (labels == organ).sum() >= (plain == organ).sum()
    # The same pushing without a change of density shows what each voxel would be.
    pushed, _ = training_sample(
        case, stage, dataclasses.replace(ON, lesion_hu=(0.0, 0.0), lesion_texture_hu=0.0), rng(seed)
    )
    change = (image - pushed)[0, 0] * 2048
    assert not change[labels[0] != organ].any()
    assert change.min() >= -75 - 1e-2
    assert (change < -45 + 1e-2).sum() > 3
    assert (change <= 1e-2).all()


def test_the_organ_of_a_sample_bulges(case):
    wide = dataclasses.replace(ON, lesion_radius_mm=(30.0, 30.0))
    _, labels = training_sample(case, "segment", wide, rng(2))
    _, plain = training_sample(case, "segment", OFF, rng(2))
    assert (labels > 0).sum() > 1.05 * (plain > 0).sum()


def test_a_lesion_stays_out_of_the_organ_beside(case):
    """Also for the localisation, whose labels do not tell organs apart."""
    joined = dataclasses.replace(case, labels=np.where(np.indices(GRID.shape_zyx)[2] < 25, 1, 4).astype(np.uint8))
    wide = dataclasses.replace(ON, lesion_radius_mm=(60.0, 60.0), lesion_inflation=0.0)
    image, _ = training_sample(joined, "localise", wide, rng(1))
    plain, _ = training_sample(joined, "localise", OFF, rng(1))
    changed = (image != plain)[0, 0].flatten(0, 1).any(0).numpy()
    grid = training_grid(joined, "localise", SMALL)
    offset, step = grid.positions_in(GRID)
    beside = offset[2] + step[2] * np.arange(grid.shape_zyx[2]) < 24.5
    generator = rng(1)
    draw_warp(OFF.augment, generator)
    label = draw_lesion(joined, wide, generator).label
    assert changed.any()
    assert not changed[beside if label == 4 else ~beside].any()


def test_organs_bulge(case):
    """A lesion in the middle of an organ as wide as its reach makes the organ larger."""
    one = lesion(radius_mm=30.0, inflation=0.6)
    positions = inflated(every_voxel(), one, GRID).round().long()
    z, y, x = (positions[..., axis].clamp(0, GRID.shape_zyx[axis] - 1) for axis in range(3))
    after = torch.from_numpy(case.labels)[z, y, x] == 1
    before = torch.from_numpy(case.labels) == 1
    assert after[before].all()
    assert after.sum() > 1.1 * before.sum()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lesion_probability": 1.5},
        {"lesion_radius_mm": (9.0, 3.0)},
        {"lesion_inflation": 1.0},
        {"lesion_hu": (5.0, -5.0)},
        {"lesion_weight": -1.0},
        {"lesion_large_ml": 0.0},
        {"lesion_texture_hu": -1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)
