"""Left and right: a scan that looks mirrored is told from one whose liver is merely in doubt."""

import numpy as np
import pytest

from viscera.core.config import QualityConfig
from viscera.core.organs import ORGANS
from viscera.engines.engine import NetworkOutput
from viscera.quality.measurements import expected_dsc, expected_dscs
from viscera.quality.mirroring import SURE_DSC, mirror_finding

REGION = np.arange(8 * 4 * 8, dtype=np.float32).reshape(8, 4, 8)
# Each organ has 64 voxels: 640 ml, as a liver and a spleen may have, more than any pancreas.
VOXEL_ML = 10.0


def answer(*organs):
    """Two planes for each organ with this probability, so its expected Dice coefficient is that of each voxel."""
    probabilities = np.zeros((5, *REGION.shape), dtype=np.float32)
    for number, share in enumerate(organs):
        probabilities[number + 1, 2 * number : 2 * number + 2] = share
    probabilities[0] = 1 - probabilities.sum(axis=0)
    return NetworkOutput(probabilities)


def expected(share):
    return 2 * share / (1 + share)  # 2 n p / (n + n p)


def share(dsc):
    return dsc / (2 - dsc)


def found(here, there, *, voxel_ml=VOXEL_ML, organs=ORGANS):
    """What is found for the organs' expected Dice coefficients as they lie, and in the mirror image."""
    answers = [answer(*map(share, dscs)) for dscs in (here, there)]
    return mirror_finding(REGION, answers[0], organs, lambda _: answers[1], voxel_ml=voxel_ml, quality=QualityConfig())


def never(image):
    raise AssertionError("the mirror image was looked at")


def looked(here, segment, organs=ORGANS):
    return mirror_finding(REGION, answer(here), organs, segment, voxel_ml=VOXEL_ML, quality=QualityConfig())


def test_the_measure_of_all_organs_is_that_of_each():
    output = answer(0.9, 0.6, 0.7).output
    measured = expected_dscs(output)
    assert {label: one.dsc for label, one in measured.items()} == {n: expected_dsc(output, n) for n in (1, 2, 3)}
    assert [measured[label].dsc for label in (1, 2, 3)] == pytest.approx([expected(p) for p in (0.9, 0.6, 0.7)])
    assert {one.voxels for one in measured.values()} == {64}


def test_a_sure_liver_is_not_looked_at_twice():
    assert expected(0.8) >= SURE_DSC
    assert looked(0.8, never) is None


def test_the_mirror_image_is_flipped_from_left_to_right():
    seen = []

    def segment(image):
        seen.append(image)
        return answer(0.6)

    looked(0.6, segment)
    np.testing.assert_array_equal(seen[0], REGION[:, :, ::-1])


def test_a_model_without_a_liver_is_never_in_doubt():
    assert looked(0.6, never, organs=ORGANS[1:]) is None


# Liver, kidney, spleen and pancreas, measured with the bundle that ships.
DOMINANT_LEFT_LOBE = ((0.826, 0.75, 0.858, 0.704), (0.879, 0.809, 0.694, 0.617))
CIRRHOSIS = ((0.824, 0.694, 0.868, 0.759), (0.824, 0.712, 0.814, 0.675))
MIRRORED_HEADER = ((0.786, 0.747, 0.804, 0.70), (0.864, 0.812, 0.88, 0.80))


@pytest.mark.parametrize("patient", [DOMINANT_LEFT_LOBE, CIRRHOSIS])
def test_a_liver_alone_is_no_proof(patient):
    assert found(*patient) is None


@pytest.mark.parametrize(("gain", "doubted"), [(0.02, False), (0.015, False), (0.06, True)])
def test_only_a_clearly_better_liver_in_the_mirror_image_is_doubtful(gain, doubted):
    assert (found((0.75, 0.7, 0.7, 0.7), (0.75 + gain, 0.75, 0.75, 0.7)) is not None) == doubted


def test_organs_that_all_agree_are_overwhelming():
    finding = found(*MIRRORED_HEADER)
    assert finding.overwhelming
    assert "liver 0.79 and 0.86, kidney 0.75 and 0.81" in finding.evidence


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ((0.786, 0.747, 0.804, 0.75), (0.864, 0.812, 0.88, 0.72)),  # the pancreas disagrees
        ((0.786, 0.747, 0.804, 0.75), (0.864, 0.75, 0.88, 0.75)),  # two witnesses
        ((0.75,), (0.9,)),  # the liver alone
        ((), (0.9, 0.9, 0.9, 0.9)),  # nothing as it lies
    ],
)
def test_less_is_doubtful_and_not_overwhelming(here, there):
    finding = found(here, there)
    assert finding is not None
    assert not finding.overwhelming


def test_organs_that_are_hardly_there_are_no_witnesses():
    # 64 ml of liver, kidney and spleen: what a thin slab or a narrow crop shows of them.
    assert not found(*MIRRORED_HEADER, voxel_ml=1.0).overwhelming
