"""The networks layer by layer: shapes, interpolation, noise, fusion, and who sees what."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from viscera.core.config import ModelConfig, ScnConfig, UNetConfig  # noqa: E402
from viscera.model.networks import (  # noqa: E402
    CubicUpsampling,
    ScnOutput,
    SpatialConfigurationNet,
    UNet,
    disagreement,
    fuse,
    parameter_count,
    salt_and_pepper,
)
from viscera.model.structure import cubic_phases  # noqa: E402

SMALL = ScnConfig(local_filters=4, local_levels=3, spatial_filters=3, spatial_levels=2)
SIZE = (8, 16, 24)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are too small to share
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small() -> SpatialConfigurationNet:
    torch.manual_seed(7)
    return SpatialConfigurationNet(SMALL).eval()


def image_of(batch: int, size: tuple[int, int, int] = SIZE) -> "torch.Tensor":
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(batch)) * 2 - 1


def test_parameter_counts_are_the_papers() -> None:
    config = ModelConfig()
    scn = SpatialConfigurationNet(config.scn)
    counts = [parameter_count(m) for m in (UNet(config.localiser), scn.local, scn.spatial, scn)]
    assert counts == [637_474, 637_573, 632_517, 1_270_090]


@pytest.mark.parametrize("size", [(4, 8, 12), (12, 4, 20)])
def test_unet_keeps_the_size(size: tuple[int, int, int]) -> None:
    network = UNet(UNetConfig(inputs=2, outputs=3, filters=4, levels=3)).eval()
    assert network(torch.zeros(1, 2, *size)).shape == (1, 3, *size)


def test_every_scn_output_has_the_images_size(small: SpatialConfigurationNet) -> None:
    assert [tuple(values.shape) for values in small(image_of(2))] == [(2, 5, *SIZE)] * 3


def test_probabilities_sum_to_one(small: SpatialConfigurationNet) -> None:
    assert torch.allclose(small(image_of(1)).probabilities.sum(dim=1), torch.ones(1, *SIZE), atol=1e-6)


def test_batch_of_two_is_two_batches_of_one(small: SpatialConfigurationNet) -> None:
    both = small(image_of(2))
    for item in range(2):
        alone = small(image_of(2)[item : item + 1])
        for together, single in zip(both, alone, strict=True):
            torch.testing.assert_close(together[item : item + 1], single, atol=1e-5, rtol=1e-4)


def test_initial_weights_have_the_variance_of_he() -> None:
    torch.manual_seed(3)
    network = UNet(UNetConfig(inputs=1, outputs=2, filters=32, levels=2))
    weight = network.expanding[0].first.weight
    expected = math.sqrt(2 / (64 * 27))
    assert weight.std().item() == pytest.approx(expected, rel=0.01)
    assert weight.abs().max().item() <= 2 * expected / 0.8796 + 1e-6


def test_initial_biases_are_zero() -> None:
    network = UNet(UNetConfig(inputs=1, outputs=2, filters=4, levels=2))
    assert all(bool((value == 0).all()) for name, value in network.named_parameters() if name.endswith("bias"))


# Catmull-Rom upsampling


def catmull_rom(values: NDArray[np.float64], axis: int, factor: int) -> NDArray[np.float64]:
    """An own reference in float64: the four-point formula at each output position, borders repeated."""
    length = values.shape[axis]
    matrix = np.zeros((length * factor, length))
    for fine in range(length * factor):
        position = (fine + 0.5) / factor - 0.5
        left = math.floor(position)
        t = position - left
        weights = (
            0.5 * (-t + 2 * t**2 - t**3),
            0.5 * (2 - 5 * t**2 + 3 * t**3),
            0.5 * (t + 4 * t**2 - 3 * t**3),
            0.5 * (-(t**2) + t**3),
        )
        for step, weight in enumerate(weights):
            matrix[fine, min(max(left - 1 + step, 0), length - 1)] += weight
    return np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_cubic_upsampling_agrees_with_the_formula(factor: int) -> None:
    values = np.random.default_rng(5).normal(size=(2, 3, 4, 5, 6))
    expected = values
    for axis in (2, 3, 4):
        expected = catmull_rom(expected, axis, factor)
    found = CubicUpsampling(factor)(torch.from_numpy(values).float()).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_cubic_phases_worked_by_hand() -> None:
    # Output 4k lies 0.375 before voxel k, so t = 0.625 after k-1.
    t = 0.625
    expected = [0.5 * (-t + 2 * t**2 - t**3), 0.5 * (2 - 5 * t**2 + 3 * t**3), 0.5 * (t + 4 * t**2 - 3 * t**3)]
    assert cubic_phases(4)[0].tolist() == pytest.approx([*expected, 0.5 * (-(t**2) + t**3), 0.0], abs=1e-7)


def test_cubic_upsampling_keeps_a_constant_up_to_the_border() -> None:
    assert torch.allclose(CubicUpsampling(4)(torch.full((1, 2, 3, 4, 5), 7.0)), torch.tensor(7.0), atol=1e-5)


def test_cubic_upsampling_keeps_a_ramp_inside() -> None:
    ramp = torch.arange(8.0).reshape(1, 1, 1, 1, 8)
    found = CubicUpsampling(4)(ramp)[0, 0, 0, 0, 8:-8]
    expected = (torch.arange(32.0) + 0.5) / 4 - 0.5
    torch.testing.assert_close(found, expected[8:-8], atol=1e-5, rtol=0)


def test_cubic_weights_are_no_part_of_the_state(small: SpatialConfigurationNet) -> None:
    assert not any(name.startswith("upsample") for name in small.state_dict())


# Who sees what


def organ_changed(logits: "torch.Tensor", label: int) -> "torch.Tensor":
    changed = logits.clone()
    changed[:, label] += 3
    return changed


@pytest.mark.parametrize("label", range(1, 5))
def test_a_spatial_net_never_sees_its_own_map(small: SpatialConfigurationNet, label: int) -> None:
    logits = small(image_of(1)).local_logits
    before = small.spatial_inputs(*small.coarse(image_of(1), logits))
    after = small.spatial_inputs(*small.coarse(image_of(1), organ_changed(logits, label)))
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [other == label for other in range(5)]


def test_no_spatial_net_sees_the_background_map(small: SpatialConfigurationNet) -> None:
    logits = small(image_of(1)).local_logits
    before = small.spatial_inputs(*small.coarse(image_of(1), logits))
    after = small.spatial_inputs(*small.coarse(image_of(1), organ_changed(logits, 0)))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_spatial_inputs_are_the_pooled_image_and_the_other_organs_in_order(small: SpatialConfigurationNet) -> None:
    logits = torch.zeros(1, 5, *SIZE)
    logits += torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0]).reshape(1, 5, 1, 1, 1)
    inputs = small.spatial_inputs(*small.coarse(torch.full((1, 1, *SIZE), 0.25), logits))
    first = inputs[2][0, :, 0, 0, 0].tolist()
    assert first == pytest.approx([0.25, *(1 / (1 + math.exp(-logit)) for logit in (1, 3, 4))])
    assert [tuple(x.shape[1:]) for x in inputs] == [(5, 2, 4, 6)] + [(4, 2, 4, 6)] * 4


def test_no_gradient_flows_from_the_spatial_to_the_local_net(small: SpatialConfigurationNet) -> None:
    small(image_of(1)).spatial_logits.sum().backward()
    assert all(parameter.grad is None for parameter in small.local.parameters())
    assert all(parameter.grad is not None for parameter in small.spatial.parameters())


def test_fused_probabilities_train_both_nets(small: SpatialConfigurationNet) -> None:
    small(image_of(1)).probabilities[:, 1].sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in small.local.parameters())


# Fusion


def logits_of(*values: float) -> "torch.Tensor":
    return torch.tensor(values).reshape(1, -1, 1, 1, 1)


def test_where_the_spatial_net_is_undecided_the_local_net_decides() -> None:
    fused = fuse(logits_of(2.0, -1.0), logits_of(0.0, 0.0)).flatten()
    local = torch.sigmoid(torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(fused, local / local.sum())


def test_where_the_spatial_net_is_certain_it_decides() -> None:
    fused = fuse(logits_of(-9.0, 9.0, 9.0), logits_of(200.0, -200.0, 200.0)).flatten()
    torch.testing.assert_close(fused, torch.tensor([0.5, 0.0, 0.5]))


def test_fusion_worked_by_hand() -> None:
    # s = 0.8: H = -(0.8 ln 0.8 + 0.2 ln 0.2) / ln 2 = 0.7219281; with l = 0.3: 0.3 H + 0.8 (1 - H) = 0.4390360.
    # The second label has s = 0.5, so H = 1 and fused = l = 0.6.
    local = logits_of(math.log(0.3 / 0.7), math.log(0.6 / 0.4))
    spatial = logits_of(math.log(0.8 / 0.2), 0.0)
    fused = fuse(local, spatial).flatten().tolist()
    assert fused == pytest.approx([0.4390360 / 1.0390360, 0.6 / 1.0390360], abs=1e-6)


@pytest.mark.parametrize("logit", [1e4, -1e4, 3e38])
def test_fusion_of_extreme_logits_is_finite_with_finite_gradients(logit: float) -> None:
    spatial = logits_of(logit, 0.0).requires_grad_()
    local = logits_of(-logit, 1.0).requires_grad_()
    fused = fuse(local, spatial)
    fused[:, 0].sum().backward()
    tensors = [fused, spatial.grad, local.grad]
    assert all(tensor is not None and bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_fusion_of_all_zero_labels_is_finite() -> None:
    assert torch.isfinite(fuse(logits_of(-1e4, -1e4), logits_of(-1e4, -1e4))).all()


# Disagreement


def test_disagreement_worked_by_hand() -> None:
    # Blocks of 2 voxels a side along x only: |sigmoid(l) - sigmoid(s)| is 0.3, 0.1 | 0, 0.8 along x everywhere.
    local = torch.tensor([0.8, 0.5, 0.5, 0.9]).logit().expand(1, 1, 2, 2, 4)
    spatial = torch.tensor([0.5, 0.6, 0.5, 0.1]).logit().expand(1, 1, 2, 2, 4)
    found = disagreement(ScnOutput(local, local, spatial), 2)
    assert found.shape == (1, 1, 1, 1, 2)
    assert found.flatten().tolist() == pytest.approx([0.2, 0.4], abs=1e-6)


def test_disagreement_is_as_coarse_as_the_spatial_nets(small: SpatialConfigurationNet) -> None:
    output = small(image_of(2))
    assert disagreement(output, SMALL.spatial_factor).shape == (2, 5, 2, 4, 6)
    same = output._replace(spatial_logits=output.local_logits)
    assert not disagreement(same, SMALL.spatial_factor).any()


def test_disagreement_of_extreme_logits_is_one() -> None:
    found = disagreement(ScnOutput(logits_of(0.0), logits_of(1e4), logits_of(-3e38)), 1)
    assert found.flatten().tolist() == [1.0]


# Training noise


def test_inference_is_free_of_noise(small: SpatialConfigurationNet) -> None:
    assert torch.equal(small(image_of(1)).probabilities, small(image_of(1)).probabilities)


def test_training_is_noisy(small: SpatialConfigurationNet) -> None:
    small.train()
    torch.manual_seed(1)
    assert not torch.equal(small(image_of(1)).spatial_logits, small(image_of(1)).spatial_logits)


def test_dropout_shares() -> None:
    config = ScnConfig(local_filters=1, local_levels=1, spatial_filters=1, spatial_levels=1, noise_scales=())
    network = SpatialConfigurationNet(config).train()
    torch.manual_seed(2)
    ones = torch.ones(2000, 1, 4, 4, 4)
    inputs = network.spatial_inputs(*network.coarse(ones, torch.zeros(2000, 5, 4, 4, 4)))[0]
    image, maps = inputs[:, 0], inputs[:, 1:]
    assert set(image.unique().tolist()) == {0.0, 2.0}
    assert (image == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert sorted(maps.unique().tolist()) == pytest.approx([0.0, 0.5 / 0.75**2])
    assert (maps == 0).float().mean().item() == pytest.approx(1 - 0.75**2, abs=0.02)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_salt_and_pepper_sets_whole_cells_of_the_given_share(scale: int) -> None:
    torch.manual_seed(4)
    noisy = salt_and_pepper(torch.full((3, 4, 8, 16, 24), 0.5), 0.1, scale)
    cells = noisy.reshape(3, 4, 8 // scale, scale, 16 // scale, scale, 24 // scale, scale)
    assert torch.equal(cells.amin(dim=(3, 5, 7)), cells.amax(dim=(3, 5, 7)))
    deviation = 4 * math.sqrt(0.05 * 0.95 / (noisy.numel() / scale**3))
    assert (noisy == 0).float().mean().item() == pytest.approx(0.05, abs=deviation)
    assert (noisy == 1).float().mean().item() == pytest.approx(0.05, abs=deviation)


def test_salt_and_pepper_cuts_cells_at_the_border() -> None:
    assert salt_and_pepper(torch.zeros(1, 1, 3, 5, 7), 0.5, 4).shape == (1, 1, 3, 5, 7)
