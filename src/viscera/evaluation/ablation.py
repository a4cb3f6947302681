"""Engines to find out what a part of the method is worth: another part takes its place, and the path stays the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig
from viscera.core.geometry import Box, Grid
from viscera.engines.engine import Engine, NetworkOutput, require_image
from viscera.model.bundle import Bundle, Stage
from viscera.preprocess import fitted_grid

if TYPE_CHECKING:
    from torch import nn


class NetworkPair:
    """Two torch networks in memory as an engine, for networks that are in no bundle, or to leave a part out.

    Args:
        localiser: A `UNet`; its mode (training or evaluation) is kept.
        segmenter: A `SpatialConfigurationNet`, on the same device; likewise.
        model: What both were made from.
        local_only: Give the local net's sigmoid maps, one per label, instead of the fused probabilities.
    """

    precision = "f32"

    def __init__(
        self, localiser: nn.Module, segmenter: nn.Module, model: ModelConfig, *, local_only: bool = False
    ) -> None:
        self._networks: dict[Stage, nn.Module] = {"localise": localiser, "segment": segmenter}
        self._model = model
        self._local_only = local_only
        self._device = next(localiser.parameters()).device
        self.name = f"torch-{self._device.type}"

    def prepare(self) -> None:
        """Load nothing: the networks are in memory."""

    def compile_ahead(self, stage: Stage, shape: tuple[int, ...], *, extra_bytes: int = 0) -> None:
        """Compile nothing: torch runs any size."""

    def run(self, stage: Stage, image: NDArray[np.float32]) -> NetworkOutput:
        """The network's output for `image`; see `Engine.run`. Sigmoid maps of the local net do not sum to 1."""
        import torch

        require_image(self._model, stage, image)
        network = self._networks[stage]
        was_training = network.training
        network.eval()
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                output = network(torch.from_numpy(np.ascontiguousarray(image)).to(self._device))
                if stage == "segment":
                    output = torch.sigmoid(output.local_logits) if self._local_only else output.probabilities
                values: NDArray[np.float32] = output.float().cpu().numpy()
        finally:
            network.train(was_training)
        return NetworkOutput(values)


class KnownBox:
    """An engine whose localisation gives a box that is known, for one scan; the rest is another engine's.

    The output is foreground in every low-resolution voxel the box touches, so the box it leads to is up to one such
    voxel larger on each side: the best that any localisation at its spacing does.

    Args:
        engine: Runs the segmentation network.
        model: The model's settings.
        grid: The scan's grid.
        box: In mm of the scan's canonical grid.
    """

    def __init__(self, engine: Engine, model: ModelConfig, grid: Grid, box: Box) -> None:
        self._engine = engine
        self.name, self.precision = engine.name, engine.precision
        canonical = grid.to_canonical().apply_to_grid(grid)
        low_grid = fitted_grid(canonical, canonical.box(), model.localise)
        self._logits = np.zeros((1, 2, *low_grid.shape_zyx), dtype=np.float32)
        z, y, x = low_grid.voxels(low_grid.box_from(canonical, box))
        self._logits[0, 1, z, y, x] = 1.0

    def prepare(self) -> None:
        """As the other engine does."""
        self._engine.prepare()

    def compile_ahead(self, stage: Stage, shape: tuple[int, ...], *, extra_bytes: int = 0) -> None:
        """As the other engine does, for the network it runs."""
        if stage == "segment":
            self._engine.compile_ahead(stage, shape, extra_bytes=extra_bytes)

    def run(self, stage: Stage, image: NDArray[np.float32]) -> NetworkOutput:
        """The known box for "localise", regardless of the image; the other engine's output for "segment"."""
        return NetworkOutput(self._logits) if stage == "localise" else self._engine.run(stage, image)


def torch_pair(bundle: Bundle, *, device: str = "cpu", local_only: bool = False) -> NetworkPair:
    """The networks of a bundle from its weights, in float32.

    Raises:
        BundleError: If a file does not hold the network's weights.
        MissingExtraError: If torch or safetensors is not installed.
    """
    from viscera.engines.torch_engine import load_network

    model = bundle.card.model
    localiser, segmenter = (
        load_network(stage, model, bundle.weights(stage)).to(device) for stage in ("localise", "segment")
    )
    return NetworkPair(localiser, segmenter, model, local_only=local_only)
