"""The published losses against hand-worked values and finite differences."""

import math

import pytest
import torch

from viscera.training.losses import (
    generalised_dice_loss,
    localisation_loss,
    localisation_terms,
    one_hot,
    segmentation_loss,
    segmentation_terms,
)

LABELS = torch.tensor([[[[0, 0, 0, 1]]]])  # one case, three background voxels, one of an organ


def test_one_hot_puts_the_label_on_the_second_axis():
    maps = one_hot(LABELS, 3)
    assert maps.shape == (1, 3, 1, 1, 4)
    assert maps[0, :, 0, 0, 3].tolist() == [0, 1, 0]


def test_dice_loss_of_a_perfect_prediction_is_nothing():
    target = one_hot(LABELS, 2)
    assert generalised_dice_loss(target, target).item() == pytest.approx(0, abs=1e-6)


def test_dice_loss_against_a_value_worked_by_hand():
    target = one_hot(LABELS, 2)
    probabilities = torch.full_like(target, 0.5)
    background, organ = 1 / (9 + 1e-4), 1 / (1 + 1e-4)
    overlap = background * 1.5 + organ * 0.5
    total = background * (3 + 4 * 0.25) + organ * (1 + 4 * 0.25)
    expected = 1 - 2 * (overlap + 1e-8) / (total + 1e-8)
    assert generalised_dice_loss(probabilities, target).item() == pytest.approx(expected, rel=1e-6)


def test_dice_loss_of_a_batch_is_the_mean_of_its_cases():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (2, 3, 4, 5), generator=generator)
    probabilities = torch.rand(2, 3, 3, 4, 5, generator=generator)
    target = one_hot(labels, 3)
    single = [generalised_dice_loss(probabilities[i : i + 1], target[i : i + 1]).item() for i in range(2)]
    assert generalised_dice_loss(probabilities, target).item() == pytest.approx(sum(single) / 2, rel=1e-6)


def test_localisation_loss_adds_the_cross_entropy_only_when_asked():
    logits, target = torch.zeros(1, 2, 1, 1, 4), one_hot(LABELS, 2)
    plain = localisation_loss(logits, target).item()
    assert plain == pytest.approx(generalised_dice_loss(torch.full_like(target, 0.5), target).item())
    assert localisation_loss(logits, target, 2.0).item() == pytest.approx(plain + 2 * math.log(2))


def test_segmentation_loss_weighs_both_cross_entropies():
    target = one_hot(LABELS, 2)
    probabilities, local, spatial = torch.full_like(target, 0.5), torch.zeros_like(target), torch.full_like(target, 2.0)
    dice = generalised_dice_loss(probabilities, target).item()
    of_zero = math.log(2)
    of_two = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2  # half the targets are 1, half 0
    loss = segmentation_loss((probabilities, local, spatial), target, (0.5, 3.0)).item()
    assert loss == pytest.approx(dice + 0.5 * of_zero + 3 * of_two, rel=1e-6)


def test_dice_gradient_points_to_the_truth():
    target = one_hot(LABELS, 2)
    probabilities = torch.full_like(target, 0.5).requires_grad_()
    generalised_dice_loss(probabilities, target).backward()
    assert (probabilities.grad[target > 0] < 0).all()
    assert (probabilities.grad[target == 0] > 0).all()


def random_maps(seed, *, labels=3):
    generator = torch.Generator().manual_seed(seed)
    target = one_hot(torch.randint(0, labels, (1, 2, 3, 4), generator=generator), labels).double()
    logits = [torch.randn(target.shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    return target, logits


def test_gradients_of_the_segmentation_loss_agree_with_finite_differences_in_float64():
    target, logits = random_maps(3)

    def loss(fused, local, spatial):
        terms = segmentation_terms((torch.softmax(fused, dim=1), local, spatial), target, (1.0, 0.5))
        return sum(terms.values())

    assert torch.autograd.gradcheck(loss, logits)


def test_gradients_of_the_localisation_loss_agree_with_finite_differences_in_float64():
    target, logits = random_maps(4, labels=2)
    assert torch.autograd.gradcheck(lambda x: sum(localisation_terms(x, target, 0.5).values()), logits[:1])


def test_float32_losses_agree_with_float64():
    target, (fused, local, spatial) = random_maps(5)
    exact = segmentation_terms((torch.softmax(fused, dim=1), local, spatial), target, (1.0, 1.0))
    single = segmentation_terms(
        (torch.softmax(fused.float(), dim=1), local.float(), spatial.float()), target.float(), (1.0, 1.0)
    )
    for name, value in exact.items():
        assert single[name].item() == pytest.approx(value.item(), rel=1e-6), name


# Voxels of an unknown label

UNKNOWN = torch.tensor([[[[0, 255, 0, 1]]]])
KNOWN = torch.tensor([True, False, True, True])


def test_an_unknown_label_has_no_map():
    assert one_hot(UNKNOWN, 3)[0, :, 0, 0, 1].tolist() == [0, 0, 0]


def test_losses_are_those_of_the_known_voxels_alone():
    generator = torch.Generator().manual_seed(2)
    fused, local, spatial = torch.randn(3, 1, 2, 1, 1, 4, generator=generator)
    output = (torch.softmax(fused, dim=1), local, spatial)
    some = segmentation_terms(output, one_hot(UNKNOWN, 2), (1.0, 0.5))
    alone = segmentation_terms(
        tuple(values[..., KNOWN] for values in output), one_hot(UNKNOWN[..., KNOWN], 2), (1.0, 0.5)
    )
    assert {name: term.item() for name, term in some.items()} == pytest.approx(
        {name: term.item() for name, term in alone.items()}
    )
    assert localisation_loss(local, one_hot(UNKNOWN, 2), 0.7).item() == pytest.approx(
        localisation_loss(local[..., KNOWN], one_hot(UNKNOWN[..., KNOWN], 2), 0.7).item()
    )


def test_unknown_voxels_have_no_gradient():
    logits = torch.randn(3, 1, 2, 1, 1, 4, generator=torch.Generator().manual_seed(5)).requires_grad_()
    fused, local, spatial = logits
    segmentation_loss((torch.softmax(fused, dim=1), local, spatial), one_hot(UNKNOWN, 2), (1.0, 1.0)).backward()
    assert (logits.grad[..., ~KNOWN] == 0).all()
    assert (logits.grad[..., KNOWN] != 0).all()


def test_a_scan_of_unknown_voxels_teaches_nothing():
    logits = torch.zeros(1, 2, 1, 1, 4, requires_grad=True)
    loss = localisation_loss(logits, one_hot(torch.full((1, 1, 1, 4), 255), 2), 1.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert (logits.grad == 0).all()
