"""Left and right: a mirrored scan is noted, a doubtful one is not."""

import numpy as np
import pytest

from viscera.sides import right_share, side_notes

SHAPE = (6, 10, 21)  # x runs to the left; the body's middle is column 10


def scout():
    image = np.full(SHAPE, -0.5, dtype=np.float32)
    image[:, 2:8, 2:19] = 0.02
    return image


def answer(right_columns, left_columns):
    logits = np.zeros((2, *SHAPE), dtype=np.float32)
    logits[1, 2:4, 3:6, 10 - right_columns : 10] = 1
    logits[1, 2:4, 3:6, 11 : 11 + left_columns] = 1
    return logits


def never(image):
    raise AssertionError("the mirror image was looked at")


@pytest.mark.parametrize(("right", "left", "share"), [(4, 0, 1.0), (0, 4, 0.0), (3, 1, 0.75), (2, 2, 0.5)])
def test_share_counts_the_foreground_right_of_the_middle(right, left, share):
    assert right_share(scout(), answer(right, left)) == pytest.approx(share)


def test_the_middle_is_the_bodys_not_the_images():
    image = np.full(SHAPE, -0.5, dtype=np.float32)
    image[:, 2:8, 0:9] = 0.02  # the body's middle is column 4
    assert right_share(image, answer(4, 0)) < 0.1


def test_no_foreground_has_no_share():
    assert np.isnan(right_share(scout(), answer(0, 0)))


def test_a_scan_with_most_organs_on_the_right_is_not_looked_at_twice():
    assert side_notes(scout(), answer(4, 1), never) == ()


def test_a_doubtful_scan_whose_mirror_image_is_no_better_passes():
    seen = []

    def localise(image):
        seen.append(image)
        return answer(2, 2)

    image = scout()
    image[:, 3, 4] = 0.3
    assert side_notes(image, answer(2, 2), localise) == ()
    np.testing.assert_array_equal(seen[0], image[:, :, ::-1])


def test_a_scan_whose_mirror_image_looks_like_a_patient_is_noted():
    (note,) = side_notes(scout(), answer(2, 2), lambda image: answer(4, 1))
    assert "may be mirrored: 50% of its organs lie on the right, 80% in its mirror image" in note
