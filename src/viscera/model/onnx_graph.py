"""The networks as ONNX graphs, written layer by layer from their weights; needs the `onnx` package.

The graphs compute what `networks` computes in inference, with batch and sizes left open. They are written out rather
than traced, so the same weights always give the same bytes, and so that an expanding block's first convolution can be
split in two, one over the skip and one over the upsampled features: their sum is the convolution over both
concatenated, without the largest tensor of the network (a fifth of the peak memory and a tenth of the time in
OpenVINO). `export` checks every graph against the torch network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ScnConfig, UNetConfig
from viscera.core.errors import BundleError, MissingExtraError

Weights = Mapping[str, NDArray[np.float32]]
# A graph's input or output: its name, its channels and what its sizes are called.
_End = tuple[str, int, tuple[str, str, str]]

# ONNX 1.12 and later read these; OpenVINO and ONNX Runtime have long done so.
OPSET = 17
IR_VERSION = 8
INPUT = "image"
# The segmentation's second answer; graphs written before it was there have the probabilities only.
DISAGREEMENT = "disagreement"
_SIZES = ("z", "y", "x")
_COARSE_SIZES = ("coarse_z", "coarse_y", "coarse_x")


def localise_graph(config: UNetConfig, weights: Weights) -> bytes:
    """The ONNX file of a U-Net: `image` (b, inputs, z, y, x) to `logits` (b, outputs, z, y, x).

    Raises:
        BundleError: If a weight is missing, has another shape than the layer, or belongs to none.
        MissingExtraError: If the `onnx` package is not installed.
    """
    writer = _GraphWriter(weights)
    _write_unet(writer, config, "", INPUT, "logits")
    return writer.file("localise", (INPUT, config.inputs, _SIZES), ("logits", config.outputs, _SIZES))


def segment_graph(config: ScnConfig, weights: Weights) -> bytes:
    """The ONNX file of a SpatialConfiguration-Net: `image` (b, 1, z, y, x) to `probabilities` (b, labels, z, y, x).

    Its second output is the `disagreement` of both nets (`networks.disagreement`), coarser by `spatial_factor`.

    Raises:
        BundleError: If a weight is missing, has another shape than the layer, or belongs to none.
        MissingExtraError: If the `onnx` package is not installed.
    """
    writer = _GraphWriter(weights)
    _write_unet(writer, config.local, "local.", INPUT, "local.logits")
    local = writer.node("Sigmoid", ["local.logits"], "local.maps")
    coarse_logits = _write_spatial(writer, config, local)
    logits = _write_cubic_upsampling(writer, config, coarse_logits)
    spatial = writer.node("Sigmoid", [logits], "fuse.spatial")
    _write_fusion(writer, (local, spatial), logits, "probabilities")
    _write_disagreement(writer, config, (local, spatial), DISAGREEMENT)
    outputs = ("probabilities", config.labels, _SIZES), (DISAGREEMENT, config.labels, _COARSE_SIZES)
    return writer.file("segment", (INPUT, 1, _SIZES), *outputs)


class _GraphWriter:
    """Collects nodes and constants in order; every weight it is given must be used exactly as the layers ask."""

    def __init__(self, weights: Weights) -> None:
        self.onnx = _import_onnx()
        self._weights = weights
        self._unused = set(weights)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """The name `output` of the only output of a new node."""
        return self.nodes(kind, inputs, [output], **attributes)[0]

    def nodes(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """The names `outputs` of a new node that has several."""
        self._nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """The name of a new constant."""
        array: NDArray[Any] = np.ascontiguousarray(values, dtype=dtype)
        self._constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The weight `name`, which must have `shape`."""
        found = self._weights.get(name)
        if found is None or found.shape != shape:
            raise _weights_error(f"{name} of shape {shape}", "none" if found is None else f"shape {found.shape}")
        self._unused.discard(name)
        return found

    def file(self, name: str, image: _End, *outputs: _End) -> bytes:
        """The finished, checked ONNX file, with batch and sizes open."""
        if self._unused:
            raise _weights_error("only weights of the network's layers", ", ".join(sorted(self._unused)[:3]))
        helper = self.onnx.helper
        ends = [
            helper.make_tensor_value_info(end, self.onnx.TensorProto.FLOAT, ["batch", channels, *sizes])
            for end, channels, sizes in (image, *outputs)
        ]
        graph = helper.make_graph(self._nodes, name, ends[:1], ends[1:], initializer=self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="viscera",
        )
        self.onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _write_unet(writer: _GraphWriter, config: UNetConfig, prefix: str, image: str, output: str) -> None:
    features, skips = image, []
    for level in range(config.levels):
        name = f"{prefix}contracting.{level}"
        if level > 0:
            features = _write_pooling(writer, features, 2, f"{name}.pool")  # (f, n) -> (f, n/2)
        features = _write_first(writer, config, name, [features], config.inputs if level == 0 else config.filters)
        features = _write_second(writer, config, name, features)
        skips.append(features)
    scales = writer.constant(f"{prefix}scales", [1, 1, 2, 2, 2])
    for level in reversed(range(config.levels)):
        name = f"{prefix}expanding.{level}"
        parts = [skips.pop()]
        if level < config.levels - 1:
            parts.append(_write_linear_upsampling(writer, features, scales, f"{name}.upsample"))  # n/2 -> n
        features = _write_first(writer, config, name, parts, config.filters)
        features = _write_second(writer, config, name, features)
    _write_convolution(writer, f"{prefix}output", [features], (config.filters, config.outputs, 1), output)


def _write_first(writer: _GraphWriter, config: UNetConfig, block: str, parts: list[str], inputs: int) -> str:
    name = f"{block}.first"
    features = _write_convolution(writer, name, parts, (inputs, config.filters, 3), name)
    return writer.node("LeakyRelu", [features], f"{name}.activation", alpha=config.slope)


def _write_second(writer: _GraphWriter, config: UNetConfig, block: str, features: str) -> str:
    name = f"{block}.second"
    features = _write_convolution(writer, name, [features], (config.filters, config.filters, 3), name)
    return writer.node("LeakyRelu", [features], f"{name}.activation", alpha=config.slope)


def _write_convolution(
    writer: _GraphWriter, name: str, parts: list[str], shape: tuple[int, int, int], output: str
) -> str:
    """A convolution over `parts` as if concatenated; `shape` is (inputs of one part, outputs, kernel side)."""
    inputs, outputs, side = shape
    kernel = writer.weight(f"{name}.weight", (outputs, inputs * len(parts), side, side, side))
    bias = writer.constant(f"{name}.bias", writer.weight(f"{name}.bias", (outputs,)))
    geometry = {"kernel_shape": [side] * 3, "pads": [side // 2] * 6}
    sums = []
    for number, part in enumerate(parts):
        suffix = f".part{number}" if len(parts) > 1 else ""
        weight = writer.constant(f"{name}.weight{suffix}", kernel[:, number * inputs : (number + 1) * inputs])
        operands = [part, weight, bias] if number == 0 else [part, weight]
        sums.append(writer.node("Conv", operands, f"{output}{suffix}", **geometry))
    return writer.node("Add", sums, output) if len(sums) > 1 else sums[0]


def _write_pooling(writer: _GraphWriter, features: str, factor: int, output: str) -> str:
    return writer.node("AveragePool", [features], output, kernel_shape=[factor] * 3, strides=[factor] * 3)


def _write_linear_upsampling(writer: _GraphWriter, features: str, scales: str, output: str) -> str:
    return writer.node(
        "Resize", [features, "", scales], output, mode="linear", coordinate_transformation_mode="half_pixel"
    )


def _write_spatial(writer: _GraphWriter, config: ScnConfig, local_maps: str) -> str:
    factor = config.spatial_factor
    image = _write_pooling(writer, INPUT, factor, "spatial.image")  # (1, n) -> (1, n/4)
    pooled = _write_pooling(writer, local_maps, factor, "spatial.maps")  # (s, n) -> (s, n/4)
    maps = writer.nodes("Split", [pooled], [f"spatial.map.{label}" for label in range(config.labels)], axis=1)
    logits = []
    for label, unet in enumerate(config.spatial):
        others = [maps[organ] for organ in range(1, config.labels) if organ != label]
        seen = writer.node("Concat", [image, *others], f"spatial.{label}.input", axis=1)
        logits.append(f"spatial.{label}.logits")
        _write_unet(writer, unet, f"spatial.{label}.", seen, logits[-1])
    return writer.node("Concat", logits, "spatial.logits", axis=1)  # s x (1, n/4) -> (s, n/4)


def _write_cubic_upsampling(writer: _GraphWriter, config: ScnConfig, coarse: str) -> str:
    """Catmull-Rom interpolation, one axis after the other, as `networks.CubicUpsampling` does it."""
    from viscera.model.networks import cubic_phases

    factor = config.spatial_factor
    phases = cubic_phases(factor).numpy()
    to_batch = writer.constant("upsample.to_batch", [-1, 1, 0, 0, 0], np.int64)
    fine = writer.node("Reshape", [coarse, to_batch], "upsample.input")  # (b, s) -> (b * s, 1)
    for axis in (4, 3, 2):
        name = f"upsample.{'zyx'[axis - 2]}"
        on_axis = [int(other == axis) for other in range(5)]
        growth = writer.constant(f"{name}.growth", [factor if on else 1 for on in on_axis], np.int64)
        shape = writer.node("Mul", [writer.node("Shape", [fine], f"{name}.shape"), growth], f"{name}.fine_shape")
        pads = writer.constant(f"{name}.pads", [2 * on for on in on_axis] * 2, np.int64)
        fine = writer.node("Pad", [fine, pads], f"{name}.padded", mode="edge")  # (1, n) -> (1, n + 4)
        kernel = phases.reshape([factor, *(5 if on else 1 for on in on_axis[1:])])
        fine = writer.node(
            "Conv", [fine, writer.constant(f"{name}.weight", kernel)], f"{name}.phases"
        )  # -> (factor, n)
        order = [0, *range(2, axis + 1), 1, *range(axis + 1, 5)]
        fine = writer.node("Transpose", [fine], f"{name}.interleaved", perm=order)  # (factor, n) -> (n, factor)
        fine = writer.node("Reshape", [fine, shape], f"{name}.output")  # (n, factor) -> (1, factor * n)
    to_labels = writer.constant("upsample.to_labels", [-1, config.labels, 0, 0, 0], np.int64)
    return writer.node("Reshape", [fine, to_labels], "upsample.logits")  # (b * s, 1) -> (b, s)


def _write_fusion(writer: _GraphWriter, maps: tuple[str, str], logits: str, output: str) -> None:
    """The fusion of `networks.fuse`: s + (l - s) * H(s) / ln 2, divided by the sum over the labels."""
    from viscera.model.networks import NORMALISATION_EPSILON

    local, spatial = maps
    negative = writer.node("Neg", [writer.node("Abs", [logits], "fuse.certainty")], "fuse.negative")  # -a
    rest = writer.node("Sigmoid", [negative], "fuse.rest")
    product = writer.node("Mul", [negative, rest], "fuse.product")
    entropy = writer.node("Sub", [writer.node("Softplus", [negative], "fuse.softplus"), product], "fuse.entropy")
    bits = writer.constant("fuse.bits", 1 / math.log(2))
    uncertainty = writer.node("Mul", [entropy, bits], "fuse.uncertainty")
    difference = writer.node("Sub", [local, spatial], "fuse.difference")
    change = writer.node("Mul", [difference, uncertainty], "fuse.change")
    fused = writer.node("Add", [spatial, change], "fuse.fused")
    labels = writer.constant("fuse.axis", [1], np.int64)
    total = writer.node("ReduceSum", [fused, labels], "fuse.total", keepdims=1)
    epsilon = writer.constant("fuse.epsilon", NORMALISATION_EPSILON)
    writer.node("Div", [fused, writer.node("Add", [total, epsilon], "fuse.sum")], output)


def _write_disagreement(writer: _GraphWriter, config: ScnConfig, maps: tuple[str, str], output: str) -> None:
    """The means of |l - s| over blocks, as `networks.disagreement` has them.

    Each label is a batch item of its own here. As channels they would be pooled in another memory layout, which would
    spread to the fusion and cost a twentieth of the network's time in OpenVINO.
    """
    to_batch = writer.constant("disagreement.to_batch", [-1, 1, 0, 0, 0], np.int64)
    local, spatial = (writer.node("Reshape", [name, to_batch], f"disagreement.{name}") for name in maps)
    difference = writer.node("Sub", [local, spatial], "disagreement.difference")  # (b, s) -> (b * s, 1)
    apart = writer.node("Abs", [difference], "disagreement.fine")
    coarse = _write_pooling(writer, apart, config.spatial_factor, "disagreement.coarse")  # (1, n) -> (1, n/4)
    to_labels = writer.constant("disagreement.to_labels", [-1, config.labels, 0, 0, 0], np.int64)
    writer.node("Reshape", [coarse, to_labels], output)  # (b * s, 1) -> (b, s)


def _weights_error(expected: str, got: str) -> BundleError:
    return BundleError(
        "writing the ONNX graph",
        expected=expected,
        got=got,
        remedy="Use the weights and the configuration of one and the same training",
    )


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingExtraError(
            "writing an ONNX graph",
            expected="the package onnx",
            got="none installed",
            remedy="Run: pip install 'viscera[train]'",
        ) from error
    return onnx
