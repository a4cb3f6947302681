"""Samples, losses and steps keep to their device; where there is no GPU, a stand-in for one shows it."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from gpu_stand_in import GPU, gpu_stand_in, place  # noqa: E402

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig  # noqa: E402
from viscera.engines.torch_tiled import streamed_output  # noqa: E402
from viscera.training.config import TrainConfig  # noqa: E402
from viscera.training.distributed import World  # noqa: E402
from viscera.training.sampler import Sample  # noqa: E402
from viscera.training.step import Trainer  # noqa: E402
from viscera.training.synthetic_patches import synthetic_sample  # noqa: E402
from viscera.training.validation import validate  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ModelConfig(
    localise=StageConfig(spacing_mm=20.0, sigma_mm=6.0, sizes_x_vox=(16, 24), sizes_y_vox=(16,), sizes_z_vox=(8, 16)),
    segment=StageConfig(spacing_mm=16.0, sigma_mm=4.0, sizes_x_vox=(16, 24), sizes_y_vox=(16,), sizes_z_vox=(8, 16)),
    margin_mm=20.0,
    localiser=UNetConfig(inputs=1, outputs=2, filters=3, levels=3),
    scn=ScnConfig(local_filters=3, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2),
)
CONFIG = TrainConfig(model=MODEL, precision="f32", label_sigma_vox=0.5, localise_cross_entropy=1.0)


def test_the_stand_in_refuses_what_a_gpu_refuses():
    with gpu_stand_in():
        one = torch.zeros(3).to(GPU)
        assert (one + 1).device == GPU
        assert (one + 1).cpu().device.type == "cpu"
        with pytest.raises(RuntimeError, match="beside one on the GPU"):
            one + torch.ones(3)
        with pytest.raises(TypeError):
            one.numpy()


@pytest.mark.parametrize("stage", ["localise", "segment"])
@pytest.mark.parametrize("seed", range(4))
def test_synthetic_samples_are_made_on_their_device(stage, seed, small_anatomy):
    here = synthetic_sample(small_anatomy, stage, CONFIG, np.random.default_rng(seed))
    with gpu_stand_in():
        there = synthetic_sample(small_anatomy, stage, CONFIG, np.random.default_rng(seed), GPU)
        assert [tensor.device for tensor in there] == [GPU, GPU]
        there = [tensor.cpu() for tensor in there]
    assert torch.equal(there[0], here[0])
    assert torch.equal(there[1], here[1])


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_steps_checkpoints_validation_and_streaming_stay_on_their_device(stage, small_anatomy):
    image, labels = synthetic_sample(small_anatomy, stage, CONFIG, np.random.default_rng(1))
    with gpu_stand_in():
        trainer = Trainer(stage, CONFIG, world=World(device=GPU))
        place(list(trainer.average.parameters()))
        image, labels = image.to(GPU), labels.to(GPU)
        loss = trainer.step(image, labels).loss
        trainer.restore(trainer.tensors(), trainer.numbers())
        assert trainer.step(image, labels).loss != loss
        assert all(0 <= one <= 1 for one in validate(trainer, ["a"], lambda name: Sample(name, image, labels)))
        with torch.inference_mode():
            streamed = streamed_output(trainer.average, image, 2)
        assert streamed[0].device.type == "cpu"
