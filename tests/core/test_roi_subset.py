"""Some organs out of those of a bundle."""

import numpy as np
import pytest

from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.roi_subset import chosen_organs, keep_organs
from viscera.core.volume import LabelMap


def test_the_chosen_organs_are_in_the_bundles_order() -> None:
    assert [organ.name for organ in chosen_organs(ORGANS, ["spleen", "liver"])] == ["liver", "spleen"]
    assert chosen_organs(ORGANS, []) == tuple(ORGANS)


@pytest.mark.parametrize(
    ("name", "said"),
    [("pancras", "Give pancreas."), ("Liver", "Give liver."), ("aorta", "Give some of these.")],
)
def test_an_unknown_organ_is_refused_with_the_known_names(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match="expected names out of liver, kidney, spleen, pancreas, got") as refused:
        chosen_organs(ORGANS, ["liver", name])
    assert said in str(refused.value)


def test_other_labels_become_background_and_these_stay() -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 6
    label_map = LabelMap(labels=labels, grid=Grid(shape_zyx=(2, 3, 4), affine=np.diag([3.0, 2.0, 1.0, 1.0])))
    kept = keep_organs(label_map, chosen_organs(ORGANS, ["spleen", "liver"]))
    np.testing.assert_array_equal(kept.labels, np.where(np.isin(labels, [1, 3]), labels, 0))
    assert kept.grid is label_map.grid
