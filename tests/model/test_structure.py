"""The U-Net's structure: walked in one order, with every value dropped as soon as it is not needed."""

import pytest

from viscera.core.config import UNetConfig
from viscera.model.flops import unet_complexity
from viscera.model.onnx_graph import features_value, pooled_value
from viscera.model.structure import unet_features


class Spelled:
    """Operations on text: what is computed, written out."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def contract(self, level: int, image: str) -> str:
        return f"c{level}({image})"

    def pool(self, level: int, features: str) -> str:
        return f"p{level}({features})"

    def join(self, level: int, skip: str, below: str) -> str:
        return f"{skip}+u{level}({below})"

    def expand(self, level: int, features: str) -> str:
        return f"e{level}({features})"


@pytest.mark.parametrize(
    ("levels", "expected"),
    [(1, "e0(c0(x))"), (2, "e0(c0(x)+u0(e1(c1(p1(c0(x))))))")],
)
def test_structures_worked_out_by_hand(levels: int, expected: str) -> None:
    assert unet_features(Spelled(levels), "x") == expected


def test_a_deeper_level_is_what_lies_between_pooling_and_upsampling() -> None:
    below = unet_features(Spelled(3), "y", 1)
    assert unet_features(Spelled(3), "x") == f"e0(c0(x)+u0({below.replace('y', 'p1(c0(x))')}))"


def test_the_layers_of_two_levels_in_order() -> None:
    layers = unet_complexity(UNetConfig(inputs=1, outputs=2, filters=3, levels=2), (4, 6, 8)).layers
    assert [(layer.name, layer.channels, layer.size_zyx_vox[0]) for layer in layers] == [
        ("contracting.0.first", 3, 4),
        ("contracting.0.second", 3, 4),
        ("contracting.1.pool", 3, 2),
        ("contracting.1.first", 3, 2),
        ("contracting.1.second", 3, 2),
        ("expanding.1.first", 3, 2),
        ("expanding.1.second", 3, 2),
        ("expanding.0.upsample", 3, 4),
        ("expanding.0.first", 3, 4),
        ("expanding.0.second", 3, 4),
        ("output", 2, 4),
    ]


def test_the_values_a_graph_is_cut_at() -> None:
    assert (pooled_value(1), features_value(1)) == ("contracting.1.pool", "expanding.1.second.activation")
