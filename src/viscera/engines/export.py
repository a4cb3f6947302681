"""Trained weights made into a bundle: graphs written, checked against torch, and stored with the weights and the card.

Needs the extra `train`. Exporting the same weights and card gives the same bytes.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig, StageConfig
from viscera.core.errors import BundleError, reason
from viscera.engines.openvino_import import import_openvino
from viscera.engines.torch_engine import as_outputs, load_network, read_weights
from viscera.model.bundle import GRAPHS, WEIGHTS, Bundle, ModelCard, Stage, write_bundle
from viscera.model.onnx_graph import localise_graph, segment_graph

if TYPE_CHECKING:
    from torch import Tensor

# The largest difference between graph and torch, both in float32, relative to the largest output or to 1.
GRAPH_TOLERANCE = 1e-4
_CHECK_SEED = 20211129


def export_bundle(
    folder: Path, card: ModelCard, *, localise_weights: Path, segment_weights: Path, overwrite: bool = False
) -> Bundle:
    """The bundle of two trained networks, written to the new `folder`.

    Args:
        folder: Of the bundle; must not exist, unless `overwrite` and it holds a bundle.
        card: What to write on the card; its `files` are filled in. `card.model` must be the training's settings.
        localise_weights: safetensors file with the state dict of `UNet(card.model.localiser)`. Copied without its
            metadata, names in order.
        segment_weights: The same of `SpatialConfigurationNet(card.model.scn)`.
        overwrite: Whether a bundle in `folder` is replaced.

    Raises:
        BundleError: If weights do not fit the settings, hold NaN or infinity, if a graph differs from torch by more
            than GRAPH_TOLERANCE, or `folder` is taken.
        MissingExtraError: If torch, safetensors or onnx is not installed.
    """
    contents: dict[str, bytes] = {}
    sources: dict[Stage, Path] = {"localise": localise_weights, "segment": segment_weights}
    with tempfile.TemporaryDirectory() as copies:
        for stage, weights in sources.items():
            # A training that goes on may replace its file between the graph and the weights: both come from one copy.
            copy = _copied(weights, Path(copies) / WEIGHTS[stage])
            contents[GRAPHS[stage]] = export_graph(stage, card.model, copy)
            contents[WEIGHTS[stage]] = _clean_weights(copy)
    return write_bundle(folder, card, contents, overwrite=overwrite)


def export_graph(stage: Stage, model: ModelConfig, weights: Path) -> bytes:
    """The checked ONNX file of one stage: batch and sizes open, "image" in, "logits" out.

    The segmentation's has "probabilities" and "disagreement" out.

    Raises:
        BundleError, MissingExtraError: As in `export_bundle`.
    """
    arrays = {name: tensor.numpy() for name, tensor in read_weights(weights).items()}
    if broken := sorted(name for name, array in arrays.items() if not np.isfinite(array).all()):
        raise _error(stage, "finite weights", f"NaN or infinity in {broken[0]}", "Use the weights of an earlier step")
    graph = localise_graph(model.localiser, arrays) if stage == "localise" else segment_graph(model.scn, arrays)
    difference = graph_difference(stage, model, weights, graph)
    if not difference <= GRAPH_TOLERANCE:
        raise _error(stage, f"at most {GRAPH_TOLERANCE} of difference from torch", f"{difference:.2g}", "Report this")
    return graph


def graph_difference(stage: Stage, model: ModelConfig, weights: Path, graph: bytes) -> float:
    """The largest difference between `graph` in OpenVINO and torch, both in float32, relative to max(1, |output|).

    Over every output of the stage; infinite if the graph's are others in number or shape. Compared on noise of the
    stage's smallest size, and on a batch of two of a size with three different sides where the stage allows one.
    """
    import torch

    core = import_openvino().Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    network = load_network(stage, model, weights)
    random = np.random.default_rng(_CHECK_SEED)
    differences: list[float] = []
    for shape in _check_shapes(model.localise if stage == "localise" else model.segment):
        image = random.uniform(-1, 1, size=shape).astype(np.float32)
        with torch.inference_mode():
            expected = [values.numpy() for values in as_outputs(stage, network(torch.from_numpy(image)), model)]
        found = list(compiled([image]).values())
        if [values.shape for values in found] != [values.shape for values in expected]:
            return math.inf
        differences += [_relative(one, other) for one, other in zip(found, expected, strict=True)]
    return max(differences)


def _relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))


def _check_shapes(stage: StageConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axes = (stage.sizes_z_vox, stage.sizes_y_vox, stage.sizes_x_vox)
    smallest = tuple(sizes[0] for sizes in axes)
    varied = tuple(sizes[min(step, len(sizes) - 1)] for sizes, step in zip(axes, (1, 0, 2), strict=True))
    return (1, 1, *smallest), (2, 1, *varied)


def _copied(weights: Path, copy: Path) -> Path:
    try:
        shutil.copyfile(weights, copy)
    except OSError as error:
        raise BundleError(
            f"reading the weights {weights}",
            expected="a safetensors file",
            got=reason(error),
            remedy="Check the path",
        ) from error
    return copy


def _clean_weights(path: Path) -> bytes:
    from safetensors.torch import save

    tensors: Mapping[str, Tensor] = read_weights(path)
    content: bytes = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    return content


def _error(stage: Stage, expected: str, got: str, remedy: str) -> BundleError:
    return BundleError(f"exporting the network of stage {stage}", expected=expected, got=got, remedy=remedy)
