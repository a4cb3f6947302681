"""Measure what `rules` assesses: the labels on the scan's grid, and the network's output for the ROI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viscera.core.components import connected_components, label_boxes, touched_faces
from viscera.core.geometry import Grid, Ranges
from viscera.core.organs import Organ
from viscera.core.volume import LabelMap
from viscera.quality.rules import OrganSignals

if TYPE_CHECKING:
    from viscera.engines.engine import Answer

# Enough for any plausible number of components.
COMPONENTS_KEPT = 4
# Probabilities below this are left out of the expected Dice coefficient: of millions of voxels far from an organ they
# would otherwise weigh as much as a small organ does.
_TRACE = 0.01
# Keeps the logarithm finite; float32 probabilities come closer to 0 and 1 than this without saying more.
_CERTAIN = 1e-6


def organ_signals(
    label_map: LabelMap, organs: Sequence[Organ], output: Answer | None = None, *, factor: int = 1
) -> tuple[OrganSignals, ...]:
    """The signals of each of `organs`, in order.

    Args:
        label_map: On the scan's grid, any orientation.
        organs: What its labels mean.
        output: The segmentation network's, without the batch axis; None leaves its signals unmeasured.
        factor: How much coarser than the probabilities the output's disagreement is.
    """
    # In the scan's own order, whatever it is: views along turned axes are far slower to read.
    labels, boxes = label_map.labels, label_boxes(label_map.labels)
    from_network = {} if output is None else network_signals(output, factor)
    found = []
    for organ in organs:
        signals = OrganSignals(organ=organ.name, volume_ml=0.0)
        if organ.index in boxes:
            box = boxes[organ.index]
            signals = _shape_signals(organ, labels[box], box, label_map.grid)
            if organ.index in from_network:
                signals = replace(signals, **asdict(from_network[organ.index]))
        found.append(signals)
    return tuple(found)


def _shape_signals(organ: Organ, labels: NDArray[np.uint8], box: Ranges, grid: Grid) -> OrganSignals:
    """Measure the `labels` in the organ's `box` of the scan's `grid`."""
    components = connected_components(labels, value=organ.index)
    sizes_ml = components.sizes_vox * grid.voxel_ml
    centre_vox = np.average(components.centres_zyx_vox(), axis=0, weights=components.sizes_vox) + [
        axis.start for axis in box
    ]
    x, y, z = (float(place) for place in grid.world(centre_vox))
    return OrganSignals(
        organ=organ.name,
        volume_ml=float(sizes_ml.sum()),
        border_faces=touched_faces(box, grid),
        centre_xyz_mm=(x, y, z),
        parts_ml=tuple(float(size) for size in sizes_ml[:COMPONENTS_KEPT]),
    )


@dataclass(frozen=True, kw_only=True)
class NetworkSignals:
    """What the network's output says about one label it found; see `OrganSignals`."""

    expected_dsc: float
    entropy_bits: float
    disagreement: float | None


def network_signals(output: Answer, factor: int) -> dict[int, NetworkSignals]:
    """Measure each label but 0 that is the likeliest of some voxel of the ROI, by label.

    Args:
        output: Probabilities (labels, z, y, x) and, if given, the disagreement, coarser by `factor`.
        factor: Divides the sides of the probabilities.
    """
    probabilities = output.output
    likeliest = _likeliest(probabilities)
    found = {}
    for label, box in label_boxes(likeliest).items():
        organ, apart = likeliest == label, output.disagreement
        found[label] = NetworkSignals(
            expected_dsc=_expected_dsc(probabilities[label], organ[box], box),
            entropy_bits=_entropy_bits(probabilities[label], organ, box),
            disagreement=None if apart is None else _mean_within(apart[label], organ, box, factor),
        )
    return found


class ExpectedDsc(NamedTuple):
    """The expected Dice coefficient of a label, and its voxels."""

    dsc: float
    voxels: int


def expected_dscs(probabilities: NDArray[np.float32]) -> dict[int, ExpectedDsc]:
    """`expected_dsc` of each label but 0 that is the likeliest of some voxel, by label."""
    likeliest = _likeliest(probabilities)
    found = {}
    for label, box in label_boxes(likeliest).items():
        inside = likeliest[box] == label
        dsc = _expected_dsc(probabilities[label], inside, box)
        found[label] = ExpectedDsc(dsc=dsc, voxels=int(np.count_nonzero(inside)))
    return found


def expected_dsc(probabilities: NDArray[np.float32], label: int) -> float:
    """Return the expected Dice coefficient of the voxels whose likeliest label it is; probabilities (labels, z, y, x).

    2 E|A and B| / (|A| + E|B|) for these voxels A and a truth B drawn voxel by voxel; 0 if there are none.
    """
    likeliest = _likeliest(probabilities)
    box = label_boxes(likeliest).get(label)
    return 0.0 if box is None else _expected_dsc(probabilities[label], likeliest[box] == label, box)


def _likeliest(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The label of the largest probability, of equal ones the lowest; as `argmax`, but for bytes and in no time."""
    best, labels = probabilities[0].copy(), np.zeros(probabilities.shape[1:], dtype=np.uint8)
    for label in range(1, len(probabilities)):
        # Labels ascend, so the larger number is the later winner.
        leads = (probabilities[label] > best).view(np.uint8)
        np.maximum(labels, leads * np.uint8(label), out=labels)
        np.maximum(best, probabilities[label], out=best)
    return labels


def _expected_dsc(probability: NDArray[np.float32], inside: NDArray[np.bool_], box: Ranges) -> float:
    """2 E|A and B| / (|A| + E|B|) for the labels A and a truth B drawn voxel by voxel from the probabilities."""
    hits = float(probability[box][inside].sum(dtype=np.float64))
    traces = float(probability[probability >= _TRACE].sum(dtype=np.float64))
    return 2 * hits / (int(np.count_nonzero(inside)) + traces)


def _entropy_bits(probability: NDArray[np.float32], organ: NDArray[np.bool_], box: Ranges) -> float:
    """The mean entropy over the organ and the voxels that touch it, also at a corner."""
    z, y, x = (slice(max(axis.start - 1, 0), axis.stop + 1) for axis in box)
    around = organ[z, y, x].copy()
    for axis in range(3):
        along = np.moveaxis(around, axis, 0)
        grown = along.copy()
        grown[1:] |= along[:-1]
        grown[:-1] |= along[1:]
        around = np.moveaxis(grown, 0, axis)
    values = np.clip(probability[z, y, x][around].astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    return float(np.mean(-values * np.log2(values) - (1 - values) * np.log2(1 - values)))


def _mean_within(coarse: NDArray[np.float32], organ: NDArray[np.bool_], box: Ranges, factor: int) -> float:
    """The mean of block values over the organ's voxels."""
    z, y, x = (slice(axis.start // factor, -(-axis.stop // factor)) for axis in box)
    blocks = coarse[z, y, x]
    fine = (slice(axis.start * factor, axis.stop * factor) for axis in (z, y, x))
    sides = [side for count in blocks.shape for side in (count, factor)]
    voxels = np.count_nonzero(organ[tuple(fine)].reshape(sides), axis=(1, 3, 5))
    return float(np.average(blocks, weights=voxels))
