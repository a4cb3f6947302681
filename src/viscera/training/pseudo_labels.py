"""Labels of CTs that nobody labelled, by a trained bundle, where they can be trusted; unknown elsewhere.

Self-training: a bundle that learnt on synthetic CTs labels real ones, and the next one learns from both. What the
bundle doubts carries no loss: voxels in which no label is likely enough, all of an organ whose expected Dice
coefficient is too low, and the components that post-processing would remove.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError
from viscera.core.volume import LabelMap, Volume
from viscera.crop import roi_grid
from viscera.engines.engine import Engine, NetworkOutput
from viscera.localise import organ_box
from viscera.model.bundle import ModelCard
from viscera.pipeline import low_resolution_grid
from viscera.postprocess import small_components
from viscera.preprocess import network_input
from viscera.quality.measurements import network_signals
from viscera.restore import restore_labels
from viscera.segment import network_output, segmentation_output
from viscera.training.cache import UNKNOWN_LABEL


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig:
    """What is trusted.

    Attributes:
        least_probability: Voxels whose likeliest label is less likely are unknown.
        least_expected_dsc: By organ; an organ expected below it is unknown wherever it may be.
        trace_probability: And it may be wherever its probability reaches this.
    """

    least_probability: float = 0.9
    least_expected_dsc: Mapping[str, float] = field(
        default_factory=lambda: {"liver": 0.8, "kidney": 0.7, "spleen": 0.75, "pancreas": 0.6}
    )
    trace_probability: float = 0.05

    def __post_init__(self) -> None:
        shares = (self.least_probability, self.trace_probability, *self.least_expected_dsc.values())
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                "setting PseudoLabelConfig", expected="values in [0, 1]", got=str(shares), remedy="Correct the values"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class PseudoLabels:
    """Labels to train on, on the CT's grid, and what the bundle expects of each organ's Dice coefficient.

    `doubted` names the organs that were left out as unknown.
    """

    label_map: LabelMap
    expected_dsc: Mapping[str, float]
    doubted: tuple[str, ...]


def trusted_labels(
    volume: Volume, engine: Engine, card: ModelCard, config: PseudoLabelConfig | None = None
) -> PseudoLabels:
    """Return the trusted labels of a CT, `UNKNOWN_LABEL` where there is doubt.

    Beyond the region of interest everything is background.

    Raises:
        NothingFoundError: If no organ is found.
        BundleError: If a network's output is not usable.
    """
    config = config or PseudoLabelConfig()
    model = card.model
    turn = volume.grid.to_canonical()
    hu, grid = turn.apply(volume.hu), turn.apply_to_grid(volume.grid)
    low_grid = low_resolution_grid(grid, model)
    logits = network_output(
        engine, "localise", network_input(hu, grid, low_grid, model.localise), model.localiser.outputs
    )
    target = roi_grid(grid, organ_box(logits, low_grid, grid, least_ml=model.least_organs_ml), model)
    output = segmentation_output(engine, network_input(hu, grid, target, model.segment), model.scn)

    signals = network_signals(output, model.scn.spatial_factor)
    expected = {
        organ.name: signals[organ.index].expected_dsc if organ.index in signals else 0.0 for organ in card.organs
    }
    doubted = tuple(name for name, value in expected.items() if value < config.least_expected_dsc.get(name, 0.0))
    indices = [organ.index for organ in card.organs if organ.name in doubted]
    doubt = _doubtful(output, indices, config).astype(np.float32)

    back = turn.inverse()
    place = back.apply_to_grid(target)
    labels = restore_labels(back.apply(output.output), place, volume.grid)
    strays = small_components(LabelMap(labels=labels, grid=volume.grid), volume, card.organs, model.postprocessing)
    labels[restore_labels(back.apply(np.stack([1 - doubt, doubt])), place, volume.grid) == 1] = UNKNOWN_LABEL
    for _, voxels in strays:
        labels[voxels] = UNKNOWN_LABEL
    return PseudoLabels(label_map=LabelMap(labels=labels, grid=volume.grid), expected_dsc=expected, doubted=doubted)


def _doubtful(output: NetworkOutput, doubted: list[int], config: PseudoLabelConfig) -> NDArray[np.bool_]:
    """Return the voxels (z, y, x) of the region of interest whose label is not to be trusted."""
    doubtful: NDArray[np.bool_] = output.output.max(axis=0) < config.least_probability
    for index in doubted:
        doubtful |= output.output[index] >= config.trace_probability
    return doubtful
