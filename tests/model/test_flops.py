"""The published counts, to the last digit, and their agreement with torch's own."""

import math

import pytest

from viscera.core.config import ModelConfig, ScnConfig, UNetConfig
from viscera.core.errors import ConfigError
from viscera.model.flops import Layer, complexity_rows, scn_complexity, unet_complexity

LOCALISER = ModelConfig().localiser
SCN = ModelConfig().scn


def test_localiser_parameters_are_the_papers() -> None:
    assert unet_complexity(LOCALISER, (32, 32, 32)).parameters == 637_474


def test_local_network_parameters_are_the_papers() -> None:
    assert unet_complexity(SCN.local, (32, 32, 32)).parameters == 637_573


def test_spatial_networks_parameters_are_the_papers() -> None:
    assert sum(unet_complexity(spatial, (8, 8, 8)).parameters for spatial in SCN.spatial) == 632_517


def test_segmentation_parameters_are_the_papers() -> None:
    assert scn_complexity(SCN, (32, 32, 32)).parameters == 1_270_090


@pytest.mark.parametrize(("size", "flops"), [((32, 32, 32), 8_613_207_612), ((256, 80, 80), 430_660_377_660)])
def test_localiser_flops_are_the_papers(size: tuple[int, int, int], flops: int) -> None:
    assert unet_complexity(LOCALISER, size).flops == flops


@pytest.mark.parametrize(("size", "flops"), [((32, 32, 32), 8_797_627_020), ((160, 128, 160), 879_762_672_300)])
def test_segmentation_flops_are_the_papers(size: tuple[int, int, int], flops: int) -> None:
    assert scn_complexity(SCN, size).flops == flops


def test_parameters_agree_with_torch_layer_by_layer() -> None:
    torch_networks = pytest.importorskip("viscera.model.networks")
    state = torch_networks.SpatialConfigurationNet(SCN).state_dict()
    counted = {layer.name: layer.parameters for layer in scn_complexity(SCN, (32, 32, 32)).layers if layer.parameters}
    by_torch: dict[str, int] = {}
    for name, tensor in state.items():
        layer = name.rpartition(".")[0]
        by_torch[layer] = by_torch.get(layer, 0) + tensor.numel()
    assert counted == by_torch


def test_flops_of_a_tiny_unet_worked_by_hand() -> None:
    # One level, 2 filters, 1 input, 1 output, 2x3x4 = 24 voxels: four convolutions 3x3x3 and the last 1x1x1.
    config = UNetConfig(inputs=1, outputs=1, filters=2, levels=1)
    per_voxel = (2 * 27 * 1 * 2 + 2) + 3 * (2 * 27 * 2 * 2 + 2) + (2 * 2 * 1 + 1)
    assert unet_complexity(config, (2, 3, 4)).flops == 24 * per_voxel


def test_upsampling_counts_each_axis() -> None:
    config = UNetConfig(inputs=1, outputs=1, filters=3, levels=2)
    layers = {layer.name: layer for layer in unet_complexity(config, (2, 4, 6)).layers}
    coarse_voxels = 1 * 2 * 3
    assert layers["expanding.0.upsample"] == Layer(
        name="expanding.0.upsample", channels=3, size_zyx_vox=(2, 4, 6), flops=3 * 3 * coarse_voxels * (2 + 4 + 8) + 15
    )


def test_rows_end_with_the_total() -> None:
    complexity = scn_complexity(ScnConfig(), (32, 64, 96))
    rows = complexity_rows(complexity)
    assert rows[-1] == ("total", "5 x 32 x 64 x 96", complexity.parameters, complexity.flops)
    assert math.fsum(row[3] for row in rows[:-1]) == complexity.flops


@pytest.mark.parametrize("size", [(32, 32, 40), (0, 32, 32), (-32, 32, 32)])
def test_a_size_the_network_cannot_halve_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="multiples of 32 voxels"):
        scn_complexity(SCN, size)
