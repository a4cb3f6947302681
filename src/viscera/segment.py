"""Running a network on one image and checking its answer, before anything is read out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import BundleError
from viscera.engines.engine import NetworkOutput

if TYPE_CHECKING:
    from viscera.core.config import ScnConfig
    from viscera.engines.engine import Engine


def network_answer(
    engine: Engine, stage: Literal["localise", "segment"], image: NDArray[np.float32], channels: int
) -> NDArray[np.float32]:
    """The answer (channels, z, y, x) of a stage's network to one image (z, y, x), finite everywhere.

    Args:
        engine: Runs the network.
        stage: "localise" answers with logits (background, foreground), "segment" with one probability per label.
        image: As the network reads it, in [-1, 1].
        channels: How many channels the model's answer has.

    Raises:
        BundleError: If the network answers with another shape, or with anything that is not a finite number.
    """
    answer = engine.run(stage, image[np.newaxis, np.newaxis])
    return _checked(answer.output, stage, (1, channels, *image.shape))


def segment_answer(engine: Engine, image: NDArray[np.float32], config: ScnConfig) -> NetworkOutput:
    """The segmentation network's answer to one image (z, y, x), without the batch axis, finite everywhere.

    Probabilities (labels, z, y, x), and the disagreement of its nets, coarser by `config.spatial_factor`, if the
    bundle's graph tells it.

    Raises:
        BundleError: As in `network_answer`.
    """
    answer = engine.run("segment", image[np.newaxis, np.newaxis])
    probabilities = _checked(answer.output, "segment", (1, config.labels, *image.shape))
    if answer.disagreement is None:
        return NetworkOutput(probabilities)
    coarse = (side // config.spatial_factor for side in image.shape)
    return NetworkOutput(probabilities, _checked(answer.disagreement, "segment", (1, config.labels, *coarse)))


def _checked(values: NDArray[np.float32], stage: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The only item of the batch, which must have `shape` and be finite."""
    if values.shape != shape:
        raise BundleError(
            f"running the {stage} network",
            expected=f"an answer of shape {shape} (batch, channel, z, y, x)",
            got=f"{values.shape}",
            remedy="Use a bundle whose networks match its model card",
        )
    checked: NDArray[np.float32] = values[0]
    # One sum tells whether any value is infinite or not a number, without a mask as large as the answer.
    if not np.isfinite(checked.sum(dtype=np.float64)):
        raise BundleError(
            f"running the {stage} network",
            expected="finite values",
            got="values that are infinite or not a number",
            remedy="Run with precision f32, and check the bundle's checksums",
        )
    return checked
