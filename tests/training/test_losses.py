"""The published losses against hand-worked values and finite differences."""

import math

import pytest
import torch

from viscera.training.losses import (
    generalised_dice_loss,
    localisation_loss,
    localisation_terms,
    merged_logits,
    merged_maps,
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


# Organs that are not annotated

PARTLY = torch.tensor([[[[0, 2, 0, 0, 255, 2]]]])  # labels 1 and 3 are not annotated, one voxel is unknown


def output_of(*, labels=4, dtype=torch.float64, seed=11):
    generator = torch.Generator().manual_seed(seed)
    fused, local, spatial = torch.randn(3, 1, labels, 1, 1, 6, generator=generator, dtype=dtype)
    return torch.softmax(fused, dim=1), local, spatial


def reference_terms(output, labels, unannotated, weights):
    """The same terms voxel by voxel from the classes' probabilities, in plain Python floats."""
    probabilities, local, spatial = (values[0, :, 0, 0].T.tolist() for values in output)
    truth = labels[0, 0, 0].tolist()
    known = [voxel for voxel, label in enumerate(truth) if label != 255]
    merged = [0, *unannotated]
    classes = [merged, *([label] for label in range(1, len(probabilities[0])) if label not in unannotated)]
    overlap = total = 1e-8
    for labels_of_class in classes:
        inside = {voxel for voxel in known if truth[voxel] in labels_of_class}
        weight = 1 / (len(inside) ** 2 + 1e-4)
        p = {voxel: sum(probabilities[voxel][label] for label in labels_of_class) for voxel in known}
        overlap += weight * sum(p[voxel] for voxel in inside)
        total += weight * (len(inside) + sum(value**2 for value in p.values()))
    terms = {"dice": 1 - 2 * overlap / total}
    for name, weight, logits in zip(("local", "spatial"), weights, (local, spatial), strict=True):
        surprise = 0.0
        for voxel in known:
            for labels_of_class in classes:
                none = math.prod(1 / (1 + math.exp(logits[voxel][label])) for label in labels_of_class)
                surprise -= math.log(1 - none if truth[voxel] in labels_of_class else none)
        terms[name] = weight * surprise / len(known) / len(classes)
    return terms


@pytest.mark.parametrize("unannotated", [(1, 3), (3,), (1,)])
def test_organs_without_annotation_are_one_class_with_the_background(unannotated):
    output = output_of()
    found = segmentation_terms(output, one_hot(PARTLY, 4).double(), (0.7, 1.3), unannotated)
    expected = reference_terms(output, PARTLY, unannotated, (0.7, 1.3))
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-12)


def test_the_loss_of_one_merged_class_has_the_gradient_of_finite_differences():
    fused, local, spatial = (values.requires_grad_() for values in output_of())
    target = one_hot(PARTLY, 4).double()

    def loss(*logits):
        output = (torch.softmax(logits[0], dim=1), *logits[1:])
        return segmentation_loss(output, target, (0.7, 1.3), (1, 3))

    assert torch.autograd.gradcheck(loss, (fused.detach().requires_grad_(), local, spatial))


def test_nothing_changes_where_all_organs_are_annotated():
    output, target = output_of(dtype=torch.float32), one_hot(PARTLY, 4)
    usual = segmentation_terms(output, target, (0.7, 1.3))
    for name, term in segmentation_terms(output, target, (0.7, 1.3), ()).items():
        assert torch.equal(term, usual[name])


def test_an_organ_found_where_it_is_not_annotated_costs_nothing():
    """In background the loss does not tell that organ from background; an annotated one there is an error."""
    target = one_hot(torch.zeros(1, 1, 1, 6, dtype=torch.long), 3)

    def loss(label):
        logits = torch.full((1, 3, 1, 1, 6), -9.0)
        logits[:, label] = 9.0
        return segmentation_loss((logits.softmax(1), logits, logits), target, (1.0, 1.0), (2,)).item()

    assert loss(2) == pytest.approx(loss(0), abs=1e-3)
    assert loss(1) > loss(0) + 5


def test_merged_logits_stay_finite_and_exact_at_extreme_values():
    logits = torch.tensor([[-200.0, 90.0, -30.0], [-100.0, -100.0, -100.0], [80.0, 80.0, 80.0]])
    logits = logits.T[None, :, None, None].clone().requires_grad_()  # three labels, three voxels
    merged = merged_logits(logits, [1, 2])
    exact = [90.0, -100.0 + math.log(3), 240.0]
    assert merged[0, 0, 0, 0].tolist() == pytest.approx(exact, rel=1e-6)
    merged.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_merged_maps_keep_the_sum_of_probabilities():
    probabilities = output_of()[0]
    merged = merged_maps(probabilities, [3, 1])
    assert merged.shape[1] == 2
    torch.testing.assert_close(merged.sum(1), probabilities.sum(1))
    assert torch.equal(merged[:, 1], probabilities[:, 2])
