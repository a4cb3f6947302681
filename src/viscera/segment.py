"""Running a network on one image and checking its answer, before anything is read out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.errors import BundleError

if TYPE_CHECKING:
    from viscera.engines import Engine


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
    if answer.shape != (1, channels, *image.shape):
        raise BundleError(
            f"running the {stage} network",
            expected=f"an answer of shape {(1, channels, *image.shape)} (batch, channel, z, y, x)",
            got=f"{answer.shape}",
            remedy="Use a bundle whose networks match its model card",
        )
    checked: NDArray[np.float32] = answer[0]
    # One sum tells whether any value is infinite or not a number, without a mask as large as the answer.
    if not np.isfinite(checked.sum(dtype=np.float64)):
        raise BundleError(
            f"running the {stage} network",
            expected="finite values",
            got="values that are infinite or not a number",
            remedy="Run with precision f32, and check the bundle's checksums",
        )
    return checked
