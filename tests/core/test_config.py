"""Settings that contradict each other are refused."""

import dataclasses

import pytest

from viscera.core.config import ModelConfig, ScnConfig, StageConfig
from viscera.core.errors import ConfigError

# Four halvings of the image and, at a third of its resolution, three: multiples of 16 and of 24, so of 48.
THIRDS = ScnConfig(local_filters=2, local_levels=5, spatial_filters=2, spatial_levels=4, spatial_factor=3)


def stage(size):
    return StageConfig(spacing_mm=2.0, sigma_mm=1.0, sizes_x_vox=(size,), sizes_y_vox=(48,), sizes_z_vox=(96,))


@pytest.mark.parametrize("size", [72, 24, 16])
def test_sizes_that_only_one_of_the_nets_can_halve_are_refused(size):
    with pytest.raises(ConfigError, match="sizes divisible by 48"):
        ModelConfig(segment=stage(size), scn=THIRDS)


def test_a_size_is_accepted_if_and_only_if_the_network_itself_runs_on_it():
    torch = pytest.importorskip("torch")
    from viscera.model.networks import SpatialConfigurationNet

    small = dataclasses.replace(THIRDS, local_levels=3, spatial_levels=2)  # multiples of 4 and of 6, so of 12
    network = SpatialConfigurationNet(small).eval()
    for size in (6, 8, 12, 18, 24):
        try:
            config = StageConfig(
                spacing_mm=2.0, sigma_mm=1.0, sizes_x_vox=(size,), sizes_y_vox=(12,), sizes_z_vox=(12,)
            )
            ModelConfig(segment=config, scn=small)
            accepted = True
        except ConfigError:
            accepted = False
        try:
            with torch.inference_mode():
                network(torch.zeros(1, 1, 12, 12, size))
            runs = True
        except (RuntimeError, ValueError, ConfigError):
            runs = False
        assert accepted == runs == (size % 12 == 0), size
