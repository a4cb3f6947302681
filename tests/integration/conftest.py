"""A tiny model with random weights and small scans: they show that the parts fit, not that labels are right."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from viscera.cli.main import main
from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig

if TYPE_CHECKING:
    from viscera.training.cache import Cache
    from viscera.training.config import TrainConfig

# Coarse stages and a few filters: a case takes some hundredths of a second.
TINY_MODEL = ModelConfig(
    localise=StageConfig(
        spacing_mm=24.0, sigma_mm=8.0, sizes_x_vox=(8, 16, 24), sizes_y_vox=(8, 16), sizes_z_vox=(8, 16, 32)
    ),
    segment=StageConfig(
        spacing_mm=16.0, sigma_mm=5.0, sizes_x_vox=(16, 24, 32), sizes_y_vox=(8, 16, 24), sizes_z_vox=(8, 16, 24)
    ),
    margin_mm=20.0,
    localiser=UNetConfig(inputs=1, outputs=2, filters=2, levels=2),
    scn=ScnConfig(local_filters=2, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2),
)


@pytest.fixture(scope="session")
def export_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Makes a bundle whose localisation finds organs everywhere or nowhere."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    pytest.importorskip("onnx")

    def export(finds: bool) -> Path:
        import dataclasses
        import json

        from viscera.model.networks import SpatialConfigurationNet, UNet

        folder = tmp_path_factory.mktemp("tiny")
        torch.manual_seed(7)
        localiser, segmenter = UNet(TINY_MODEL.localiser), SpatialConfigurationNet(TINY_MODEL.scn)
        with torch.no_grad():
            for values in localiser.parameters():
                values.zero_()
            localiser.output.bias.copy_(torch.tensor([0.0, 1.0 if finds else -1.0]))
        safetensors.save_file(localiser.state_dict(), folder / "localiser.safetensors")
        safetensors.save_file(segmenter.state_dict(), folder / "segmenter.safetensors")
        card = {"name": "tiny", "version": "1", "description": "Random weights.", "licence": "Apache-2.0"}
        (folder / "card.json").write_text(json.dumps({**card, "model": dataclasses.asdict(TINY_MODEL)}))
        weights = ["--localiser", folder / "localiser.safetensors", "--segmenter", folder / "segmenter.safetensors"]
        bundle = folder / "bundle"
        assert main(["export", "-q", *map(str, [*weights, "--card", folder / "card.json", "-o", bundle])]) == 0
        return bundle

    return export


@pytest.fixture(scope="session")
def tiny_bundle(export_tiny: Callable[[bool], Path]) -> Path:
    return export_tiny(True)


@pytest.fixture(scope="session")
def empty_bundle(export_tiny: Callable[[bool], Path]) -> Path:
    return export_tiny(False)


@pytest.fixture(scope="session")
def tiny_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic CT of 20 x 24 x 28 voxels at 12 x 11 x 10 mm."""
    return small_phantom(tmp_path_factory.mktemp("scan") / "ct.nii.gz", seed=1, shape=(20, 24, 28))


@pytest.fixture(scope="session")
def other_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another person on another grid."""
    return small_phantom(tmp_path_factory.mktemp("scan") / "other.nii.gz", seed=2, shape=(31, 23, 27))


def small_phantom(path: Path, *, seed: int, shape: tuple[int, int, int]) -> Path:
    size = ["--shape", *map(str, shape), "--spacing", "12", "11", "10"]
    assert main(["phantom", "-q", "-o", str(path), "--seed", str(seed), *size]) == 0
    return path


@pytest.fixture(scope="session")
def small_training() -> "TrainConfig":
    """Settings of a training whose steps take hundredths of a second."""
    pytest.importorskip("torch")
    from viscera.training.config import TrainConfig

    model = ModelConfig(
        localise=StageConfig(
            spacing_mm=20.0, sigma_mm=6.0, sizes_x_vox=(16, 24), sizes_y_vox=(16, 24), sizes_z_vox=(8, 16)
        ),
        segment=StageConfig(
            spacing_mm=20.0, sigma_mm=4.0, sizes_x_vox=(16, 24), sizes_y_vox=(16,), sizes_z_vox=(8, 16)
        ),
        margin_mm=20.0,
        localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3),
        scn=ScnConfig(local_filters=4, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2),
    )
    return TrainConfig(
        model=model,
        iterations=9,
        learning_rate=1e-3,
        precision="f32",
        save_every=4,
        validation_every=3,
        log_every=2,
        label_sigma_vox=0.5,
        workers=0,
    )


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantoms in folders images/ and labels/, p31 to p34, and thighs, which show no organ."""
    from viscera.formats.nifti_write import write_label_map, write_volume
    from viscera.synthesis.phantom import THIGHS_Z_MM, PhantomConfig, make_phantom

    folder = tmp_path_factory.mktemp("phantoms")
    shape = {"shape_zyx": (24, 20, 22), "spacing_zyx_mm": (12.0, 16.0, 18.0)}
    configs = {f"p{seed}": PhantomConfig(**shape) for seed in (31, 32, 33, 34)}
    configs["thighs"] = PhantomConfig(**{**shape, "shape_zyx": (12, 20, 22)}, centre_z_mm=THIGHS_Z_MM)
    for seed, (name, config) in enumerate(configs.items(), start=31):
        phantom = make_phantom(seed, config=config)
        write_volume(phantom.volume, folder / "images" / f"{name}.nii")
        write_label_map(phantom.label_map, folder / "labels" / f"{name}.nii")
    return folder


@pytest.fixture(scope="session")
def small_cache(
    small_dataset: Path, small_training: "TrainConfig", tmp_path_factory: pytest.TempPathFactory
) -> "Cache":
    """The phantoms prepared for `small_training`."""
    from viscera.training.cache import Cache
    from viscera.training.datasets import find_dataset
    from viscera.training.prepare import PrepareConfig, prepare_dataset

    folder = tmp_path_factory.mktemp("cache")
    prepare_dataset(find_dataset(small_dataset), folder, PrepareConfig(model=small_training.model, allow_empty=True))
    return Cache.open(folder)
