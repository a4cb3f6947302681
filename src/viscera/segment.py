"""Run a network on one image and check its output before anything is read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import BundleError
from viscera.engines.engine import Answer

if TYPE_CHECKING:
    from viscera.core.config import ScnConfig
    from viscera.engines.engine import Engine


def network_output(
    engine: Engine, stage: Literal["localise", "segment"], image: NDArray[np.float32], channels: int
) -> NDArray[np.float32]:
    """Return the output (channels, z, y, x) of a stage's network for one image (z, y, x), finite everywhere.

    Args:
        engine: Runs the network.
        stage: "localise" gives logits (background, foreground), "segment" one probability per label.
        image: As the network reads it, in [-1, 1].
        channels: How many channels the model's output has.

    Raises:
        BundleError: If the output has another shape, or anything in it is not a finite number.
    """
    output = engine.run(stage, image[np.newaxis, np.newaxis])
    return _checked(output.output, stage, (1, channels, *image.shape))


def segmentation_output(engine: Engine, image: NDArray[np.float32], config: ScnConfig) -> Answer:
    """Return the segmentation network's output for one image (z, y, x), without the batch axis, finite everywhere.

    Probabilities (labels, z, y, x), and the disagreement of its nets, coarser by `config.spatial_factor`, if the
    bundle's graph has it.

    Raises:
        BundleError: As in `network_output`.
    """
    output = engine.run("segment", image[np.newaxis, np.newaxis])
    probabilities = _checked(output.output, "segment", (1, config.labels, *image.shape))
    if output.disagreement is None:
        return Answer(probabilities)
    coarse = (side // config.spatial_factor for side in image.shape)
    return Answer(probabilities, _checked(output.disagreement, "segment", (1, config.labels, *coarse)))


def _checked(values: NDArray[np.float32], stage: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The only item of the batch, which must have `shape` and be finite."""
    if values.shape != shape:
        raise BundleError(
            f"running the {stage} network",
            expected=f"an output of shape {shape} (batch, channel, z, y, x)",
            got=f"{values.shape}",
            remedy="Use a bundle whose networks match its model card",
        )
    checked: NDArray[np.float32] = values[0]
    # One sum tells whether any value is infinite or not a number, without a mask as large as the output.
    if not np.isfinite(checked.sum(dtype=np.float64)):
        raise BundleError(
            f"running the {stage} network",
            expected="finite values",
            got="values that are infinite or not a number",
            remedy="Run with precision f32, and check the bundle's checksums",
        )
    return checked
