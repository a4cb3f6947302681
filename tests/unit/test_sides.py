"""Left and right: a scan that looks mirrored is told from one whose liver is merely in doubt."""

import numpy as np
import pytest

from viscera.engines import Answer
from viscera.labels import ORGANS
from viscera.sides import SURE_DSC, mirror_doubt

REGION = np.arange(4 * 4 * 8, dtype=np.float32).reshape(4, 4, 8)


def answer(liver):
    """Half of the region is liver with this probability, so its expected Dice coefficient is that of each voxel."""
    probabilities = np.zeros((5, *REGION.shape), dtype=np.float32)
    probabilities[1, ..., :4] = liver
    probabilities[0] = 1 - probabilities[1]
    return Answer(probabilities)


def expected(liver):
    return 2 * liver / (1 + liver)  # 2 n p / (n + n p)


def never(image):
    raise AssertionError("the mirror image was looked at")


def test_a_sure_liver_is_not_looked_at_twice():
    liver = 0.8
    assert expected(liver) >= SURE_DSC
    assert mirror_doubt(REGION, answer(liver), ORGANS, never) is None


def test_the_mirror_image_is_flipped_from_left_to_right():
    seen = []

    def segment(image):
        seen.append(image)
        return answer(0.6)

    mirror_doubt(REGION, answer(0.6), ORGANS, segment)
    np.testing.assert_array_equal(seen[0], REGION[:, :, ::-1])


@pytest.mark.parametrize(("here", "there", "doubted"), [(0.6, 0.6, False), (0.6, 0.62, False), (0.6, 0.7, True)])
def test_only_a_clearly_better_liver_in_the_mirror_image_is_doubtful(here, there, doubted):
    doubt = mirror_doubt(REGION, answer(here), ORGANS, lambda _: answer(there))
    assert (doubt is not None) == doubted
    if doubted:
        assert f"of {expected(here):.2f}, and of {expected(there):.2f}" in doubt


def test_a_liver_in_the_mirror_image_alone_is_doubtful():
    assert mirror_doubt(REGION, answer(0.0), ORGANS, lambda _: answer(0.9)) is not None


def test_a_model_without_a_liver_is_never_in_doubt():
    assert mirror_doubt(REGION, answer(0.6), ORGANS[1:], never) is None
