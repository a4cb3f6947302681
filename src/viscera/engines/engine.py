"""What an engine is: it runs both networks of a bundle, on any device."""

from __future__ import annotations

from typing import NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig
from viscera.core.errors import ConfigError
from viscera.model.bundle import Stage
from viscera.model.flops import require_size


class NetworkOutput(NamedTuple):
    """A stage's network's output for an image (b, 1, z, y, x), float32.

    Attributes:
        output: Stage "localise" gives logits (b, 2, z, y, x), "segment" probabilities (b, labels, z, y, x) that sum
            to 1.
        disagreement: Of the segmentation's local and spatial nets (`networks.disagreement`), in [0, 1],
            (b, labels, z/f, y/f, x/f) for a spatial factor f; None for the localisation, and where the bundle's graph
            is from before it was there.
    """

    output: NDArray[np.float32]
    disagreement: NDArray[np.float32] | None = None


class Engine(Protocol):
    """Runs both stages' networks. `prepare` and `run` may be called from any thread; one `run` at a time."""

    @property
    def name(self) -> str:
        """What computes: "openvino", "torch-cuda" or "torch-cpu"."""

    @property
    def precision(self) -> str:
        """The precision of the convolutions, "f32" or "bf16"."""

    def prepare(self) -> None:
        """Start loading libraries and networks in the background; optional, errors appear in the first `run`."""

    def compile_ahead(self, stage: Stage, shape: tuple[int, ...], *, extra_bytes: int = 0) -> None:
        """Start compiling the stage's network for images of `shape` (b, 1, z, y, x) in the background; optional.

        Args:
            stage: The network.
            shape: Of the image it will be run on.
            extra_bytes: Bytes that will be in use then in addition to those in use now.

        Raises:
            MemoryBudgetError: If the network cannot run on it within the memory limit.
        """

    def run(self, stage: Stage, image: NDArray[np.float32]) -> NetworkOutput:
        """The network's output for `image` (b, 1, z, y, x) in [-1, 1].

        Raises:
            ConfigError: For an image of another kind, or a side the network cannot halve often enough.
            MemoryBudgetError: If the network cannot run within the memory limit, or the device has too little.
        """


def require_image(model: ModelConfig, stage: Stage, image: NDArray[np.float32]) -> None:
    """Raise ConfigError unless `image` is float32 (b, 1, z, y, x) with sides that the stage's network can halve."""
    if stage not in get_args(Stage):
        raise ConfigError("running a network", expected=" or ".join(get_args(Stage)), got=stage, remedy="Correct it")
    if image.dtype != np.float32 or image.ndim != 5 or image.shape[0] < 1 or image.shape[1] != 1:
        raise ConfigError(
            f"running the network of stage {stage}",
            expected="a float32 image (b, 1, z, y, x)",
            got=f"{image.dtype} of shape {image.shape}",
            remedy="Add the batch and channel axes, convert to float32",
        )
    network = model.localiser if stage == "localise" else model.scn
    require_size(image.shape[2:], network.size_multiple_vox)
