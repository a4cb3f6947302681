"""Virtual patients: undeformed they are the anatomy itself, and every deformation does only what it is for."""

import dataclasses

import numpy as np
import pytest
import torch

from viscera.synthesis.acquisition import upright_grid
from viscera.synthesis.config import BodyConfig
from viscera.synthesis.patient import (
    OrganChange,
    Patient,
    Resection,
    _spline_weights,
    corners_zyx_mm,
    rotation,
)
from viscera.synthesis.tissues import Tissue

# Nothing is drawn: every range is a point, every probability 0.
STILL = BodyConfig(
    turn_rad=0.0,
    tilt_rad=0.0,
    scale=(1.0, 1.0),
    axis_scale=(1.0, 1.0),
    depth_scale=(1.0, 1.0),
    elastic_mm=(0.0, 0.0),
    **{field.name: 0.0 for field in dataclasses.fields(BodyConfig) if field.name.endswith("_probability")},
)

pytestmark = pytest.mark.usefixtures("one_thread")


def deformed(anatomy, seed=0, **changes):
    return Patient.draw(anatomy, dataclasses.replace(STILL, **changes), np.random.default_rng(seed))


def own_grid(patient, rim=0):
    """The anatomy's voxels in the unbent patient's mm, with a rim of voxels in the plane."""
    depth, height, width = patient.anatomy.tissues.shape
    z, y, x = (float(value) for value in -2.0 * (patient.centre + np.array([0, rim, rim])))
    return upright_grid((depth, height + 2 * rim, width + 2 * rim), (2.0, 2.0, 2.0), (z, y, x))


def middle(patient, seen, tissue):
    """Of a tissue, in the patient's mm."""
    first, _ = corners_zyx_mm(own_grid(patient))
    return (seen.tissue == tissue).nonzero().double().mean(0).numpy() * 2 + first


def test_unbent_the_anatomy_comes_back_exactly(small_anatomy):
    patient = deformed(small_anatomy)
    seen = patient.tissues(own_grid(patient))
    np.testing.assert_array_equal(seen.tissue.numpy(), small_anatomy.tissues)
    np.testing.assert_array_equal(seen.depth_mm.numpy() * 2, small_anatomy.depth)


def test_the_origin_is_the_middle_of_the_organs(small_anatomy):
    middles = [centre for centre, _ in small_anatomy.organs.values()]
    np.testing.assert_allclose(deformed(small_anatomy).centre, np.mean(middles, axis=0))


def test_without_organs_the_origin_is_the_middle_of_the_array(small_anatomy):
    patient = deformed(dataclasses.replace(small_anatomy, organs={}))
    np.testing.assert_allclose(patient.centre, (19.5, 23.5, 37.5))


def test_beyond_its_sides_the_anatomy_goes_on_as_outside_of_growing_depth(small_anatomy):
    patient = deformed(small_anatomy)
    seen = patient.tissues(own_grid(patient, rim=3))
    inner = patient.tissues(own_grid(patient))
    assert (seen.tissue[:, :3] == Tissue.OUTSIDE).all()
    # 3 voxels of 2 mm beyond the side, and diagonally beyond a corner.
    torch.testing.assert_close(seen.depth_mm[:, 0, 3:-3], inner.depth_mm[:, 0] + 6)
    torch.testing.assert_close(seen.depth_mm[:, 0, 0], inner.depth_mm[:, 0, 0] + np.sqrt(72).astype(np.float32))


def test_above_and_below_the_last_slices_go_on(small_anatomy):
    patient = deformed(small_anatomy)
    own = own_grid(patient)
    z, y, x = corners_zyx_mm(own)[0]
    long = upright_grid((46, *own.shape_zyx[1:]), (2.0, 2.0, 2.0), (z - 6, y, x))
    seen = patient.tissues(long).tissue
    for outer, last in ((0, 3), (2, 3), (43, 42), (45, 42)):
        assert torch.equal(seen[outer], seen[last])


def test_the_covered_height_is_that_of_the_slices(small_anatomy):
    low, high = deformed(small_anatomy).covered_z_mm()
    assert high - low == pytest.approx(80.0)
    assert low == pytest.approx(-2 * (deformed(small_anatomy).centre[0] + 0.5))
    low, high = deformed(small_anatomy, scale=(1.25, 1.25)).covered_z_mm()
    assert high - low == pytest.approx(100.0)


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_scaled_by_a_factor_volumes_grow_by_its_cube(small_anatomy, scale):
    patient = deformed(small_anatomy, scale=(scale, scale))
    grid = upright_grid((120, 120, 120), (1.5, 1.5, 1.5), (-89.25, -89.25, -89.25))
    volume = int((patient.tissues(grid).tissue == Tissue.LIVER).sum()) * 1.5**3
    expected = int((small_anatomy.tissues == Tissue.LIVER).sum()) * 2.0**3 * scale**3
    assert volume == pytest.approx(expected, rel=0.04)


def test_a_quarter_turn_about_the_bodys_axis():
    # In (z, y, x): y becomes x.
    np.testing.assert_allclose(rotation(np.array([np.pi / 2, 0, 0])) @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_rotations_keep_lengths_and_handedness():
    turn = rotation(np.array([0.3, -0.2, 0.5]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_a_body_that_turns_moves_its_organs_about_the_origin(small_anatomy):
    still, turned = deformed(small_anatomy), deformed(small_anatomy, turn_rad=0.6)
    angle = np.arctan2(turned.matrix[1, 2], turned.matrix[1, 1])
    assert abs(angle) > 0.1
    before, after = (middle(still, patient.tissues(own_grid(still)), Tissue.KIDNEY_LEFT) for patient in (still, turned))
    np.testing.assert_allclose(turned.matrix @ after, before, atol=0.7)


def test_spline_weights_sum_to_one_and_are_symmetric():
    positions = torch.linspace(-300, 300, 61)
    weights = _spline_weights(positions, 36.0, 27)
    torch.testing.assert_close(weights.sum(1), torch.ones(61))
    # At a node 1/6, 4/6, 1/6; between two nodes 1/48, 23/48, 23/48, 1/48.
    node, between = _spline_weights(torch.tensor([-240.0, -222.0]), 36.0, 27)
    np.testing.assert_allclose(node[3:8], np.array([0, 1, 4, 1, 0]) / 6, atol=1e-6)
    np.testing.assert_allclose(between[4:8], np.array([1, 23, 23, 1]) / 48, atol=1e-6)


def test_equal_nodes_shift_everything_alike(small_anatomy):
    still = deformed(small_anatomy)
    nodes = tuple((spacing, np.full_like(values, 6.0)) for spacing, values in still.nodes_mm[:1])
    shifted = dataclasses.replace(still, nodes_mm=nodes)
    for before, after in zip(still.positions(own_grid(still)), shifted.positions(own_grid(still)), strict=True):
        torch.testing.assert_close(after, before + 3, atol=1e-3, rtol=0)  # 6 mm are 3 voxels


def test_elastic_displacements_are_as_large_as_asked(small_anatomy):
    still = deformed(small_anatomy)
    grid = upright_grid((60, 60, 60), (10.0, 10.0, 10.0), (-295.0, -295.0, -295.0))
    before = torch.stack(still.positions(grid))
    elastic = deformed(small_anatomy, elastic_mm=(4.0, 8.0))
    both = []
    for nodes in elastic.nodes_mm:
        moved = torch.stack(dataclasses.replace(elastic, nodes_mm=(nodes,)).positions(grid))
        both.append(float((moved - before).std()) * 2)
    # What a cubic spline leaves of the deviation of its nodes, on average: sqrt(0.4794) per axis.
    np.testing.assert_allclose(both, np.array([4, 8]) * 0.4794**1.5, rtol=0.2)


def only_change(patient, tissue, matrix=None, shift=(0.0, 0.0, 0.0)):
    centre, radius = patient.anatomy.organs[tissue]
    change = OrganChange(
        centre=centre,
        reach=2 * radius,
        matrix=np.zeros((3, 3)) if matrix is None else matrix,
        shift=np.array(shift),
    )
    return dataclasses.replace(patient, changes=(change,))


def test_an_organs_own_shift_moves_what_is_near_and_nothing_far(small_anatomy):
    still = deformed(small_anatomy)
    moved = only_change(still, Tissue.KIDNEY_RIGHT, shift=(0.0, 0.0, 3.0))
    grid = own_grid(still)
    z, y, x = (float(value) for value in (small_anatomy.organs[Tissue.KIDNEY_RIGHT][0] - still.centre) * 2)
    at_its_middle = upright_grid((2, 2, 2), (1.0, 1.0, 1.0), (z, y, x))
    before, after = (torch.stack(one.positions(at_its_middle))[:, 0, 0, 0] for one in (still, moved))
    np.testing.assert_allclose(after - before, (0, 0, 3), atol=1e-3)
    step = torch.stack(moved.positions(grid)) - torch.stack(still.positions(grid))
    assert step[:2].abs().max() < 1e-4
    spleen = still.tissues(grid).tissue == Tissue.SPLEEN
    assert step[2][spleen].max() < 0.1
    # Where one reads 3 voxels further to the left, the organ lies 3 voxels further to the right.
    before, after = (middle(still, one.tissues(grid), Tissue.KIDNEY_RIGHT) for one in (still, moved))
    np.testing.assert_allclose(after - before, (0, 0, -6), atol=2.5)
    assert after[2] - before[2] < -3


def test_an_organ_grows_by_itself(small_anatomy):
    still = deformed(small_anatomy)
    grown = only_change(still, Tissue.SPLEEN, matrix=np.eye(3) * (1 / 1.3 - 1))
    grid = own_grid(still)
    sizes = [
        [int((patient.tissues(grid).tissue == tissue).sum()) for tissue in (Tissue.SPLEEN, Tissue.KIDNEY_RIGHT)]
        for patient in (still, grown)
    ]
    assert 1.25 < sizes[1][0] / sizes[0][0] < 1.3**3
    assert sizes[1][1] == sizes[0][1]


def test_organs_change_by_themselves_only_where_that_is_drawn(small_anatomy):
    assert deformed(small_anatomy).changes == ()
    changes = deformed(small_anatomy, organ_probability=1.0).changes
    assert len(changes) == len(small_anatomy.organs)
    for change, (centre, radius) in zip(changes, small_anatomy.organs.values(), strict=True):
        np.testing.assert_array_equal(change.centre, centre)
        np.testing.assert_allclose(change.reach, 2 * radius)  # neighbours are hardly moved


def test_an_organs_drawn_factors_stay_in_range(small_anatomy):
    config = {
        "organ_probability": 1.0,
        "organ_scale": (0.5, 2.0),
        "kidney_scale": (0.5, 2.0),
        "organ_turn_rad": 0.0,
    }
    factors = [
        1 / np.diag(change.matrix + np.eye(3))
        for seed in range(20)
        for change in deformed(small_anatomy, seed, **config).changes
    ]
    # Twice at most, per axis the root of the root of it more.
    assert 2**-1.25 <= np.min(factors) < 0.6
    assert 1.7 < np.max(factors) <= 2**1.25


def test_kidneys_move_apart_from_each_other_and_as_far_as_asked(small_anatomy):
    asked = {"organ_probability": 1.0, "kidney_shift_mm": (12.0, 0.0, 4.0), "organ_shift_mm": 1.0}
    organs = list(small_anatomy.organs)
    shifts = np.array(
        [[one.shift * 2 for one in deformed(small_anatomy, seed, **asked).changes] for seed in range(300)]
    )
    right, left, spleen = (
        shifts[:, organs.index(organ)] for organ in (Tissue.KIDNEY_RIGHT, Tissue.KIDNEY_LEFT, Tissue.SPLEEN)
    )
    np.testing.assert_allclose(right.std(axis=0), (12, 0, 4), rtol=0.15)
    np.testing.assert_allclose(spleen.std(axis=0), (1, 1, 1), rtol=0.15)
    assert abs(np.corrcoef(right[:, 0], left[:, 0])[0, 1]) < 0.2


def test_a_shallow_body_is_shorter_from_front_to_back_alone(small_anatomy):
    np.testing.assert_allclose(np.diag(deformed(small_anatomy, depth_scale=(0.8, 0.8)).matrix), (1, 1.25, 1))


@pytest.mark.parametrize(("organ", "neighbour"), [(Tissue.SPLEEN, Tissue.KIDNEY_LEFT), (Tissue.LIVER, Tissue.STOMACH)])
def test_an_enlarged_organ_grows_and_keeps_its_neighbours(small_anatomy, organ, neighbour):
    still = deformed(small_anatomy)
    grown = deformed(
        small_anatomy, enlarged_probability=1.0, enlargement_liver=(1.6, 1.6), enlargement_spleen=(1.6, 1.6)
    )
    own = [
        change for change in grown.changes if np.allclose(change.centre - still.anatomy.organs[organ][0], 0, atol=20)
    ]
    alone = dataclasses.replace(grown, changes=tuple(own[:1] if organ == Tissue.LIVER else own[-1:]))
    grid = upright_grid((70, 90, 110), (2.0, 2.0, 2.0), (-70.0, -90.0, -110.0))
    before, after = (one.tissues(grid).tissue for one in (still, alone))
    assert 1.3 < int((after == organ).sum()) / int((before == organ).sum()) < 1.6**3
    assert int((after == neighbour).sum()) > 0.7 * int((before == neighbour).sum())


def test_of_a_resected_liver_what_lies_beyond_the_plane_is_gone(small_anatomy):
    still = deformed(small_anatomy)
    middle, _ = small_anatomy.organs[Tissue.LIVER]
    cut = dataclasses.replace(still, resection=Resection(point=middle, normal=np.array([0.0, 0.0, -1.0])))
    before, after = (one.tissues(own_grid(still)).tissue.numpy() for one in (still, cut))
    beyond = (before == Tissue.LIVER) & (np.arange(before.shape[2]) < middle[2])
    assert 0.3 < beyond.sum() / (before == Tissue.LIVER).sum() < 0.7
    assert (after[beyond] == Tissue.INTERIOR).all()
    np.testing.assert_array_equal(after[~beyond], before[~beyond])


def test_livers_are_resected_as_often_as_asked(small_anatomy):
    assert deformed(small_anatomy).resection is None
    cut = [deformed(small_anatomy, seed, resection_probability=0.4).resection is not None for seed in range(60)]
    assert np.mean(cut) == pytest.approx(0.4, abs=0.2)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("missing_kidney_probability", {Tissue.KIDNEY_LEFT, Tissue.KIDNEY_RIGHT}),
        ("missing_spleen_probability", {Tissue.SPLEEN}),
        ("missing_gallbladder_probability", {Tissue.GALLBLADDER}),
    ],
)
def test_what_is_missing_is_drawn_as_what_lies_around(small_anatomy, name, gone):
    patient = deformed(small_anatomy, **{name: 1.0})
    seen = patient.tissues(own_grid(patient)).tissue.numpy()
    missing = np.isin(small_anatomy.tissues, list(gone))
    assert (seen[missing] == Tissue.INTERIOR).all()
    np.testing.assert_array_equal(seen[~missing], small_anatomy.tissues[~missing])


def test_an_inflated_lesion_stretches_its_organ(small_anatomy):
    asked = {"inflation_probability": 1.0, "inflation_mm": (10.0, 10.0), "inflation": (0.5, 0.5)}
    patient = next(
        one for one in (deformed(small_anatomy, seed, **asked) for seed in range(50)) if len(one.inflations) == 1
    )
    (inflation,) = patient.inflations
    still = deformed(small_anatomy)
    grid = own_grid(still)
    before, after = (int((one.tissues(grid).tissue == inflation.tissue).sum()) for one in (still, patient))
    assert after > 1.02 * before
    z, y, x = np.rint(inflation.centre).astype(int)
    assert small_anatomy.tissues[z, y, x] == inflation.tissue


def test_one_generator_draws_one_person(small_anatomy):
    config = BodyConfig()
    grid = upright_grid((20, 30, 40), (4.0, 4.0, 4.0), (-40.0, -60.0, -80.0))
    first, again, other = (
        Patient.draw(small_anatomy, config, np.random.default_rng(seed)).tissues(grid) for seed in (1, 1, 2)
    )
    assert torch.equal(first.tissue, again.tissue)
    assert torch.equal(first.depth_mm, again.depth_mm)
    assert not torch.equal(first.tissue, other.tissue)
