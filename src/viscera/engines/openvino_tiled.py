"""A network's graph cut into subgraphs that are computed slab by slab, exactly, in a fraction of the memory.

Nearly all of a network's memory is at full resolution. There a feature is the result of a few convolutions of three
planes each, so a slab of planes with a halo of as many planes as they reach is all it takes to compute it: the same
values as in the whole network, as zero padding at the slab's border reaches no further than the halo. The subgraphs are

    contract    a slab of the image to the slab's pooled features, the input of the level below
    below       all of these to what the levels below give
    expand      a slab of the image and of that to the slab's logits (and the local maps, pooled)
    spatial     the segmentation's spatial nets, which are coarse
    fuse        a slab of both nets' logits to the slab's probabilities

The features between the contracting and the expanding half are computed twice instead of being kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig, UNetConfig
from viscera.core.errors import BundleError
from viscera.engines.engine import NetworkOutput
from viscera.engines.openvino_import import import_openvino
from viscera.engines.tiles import Slab, covering_slabs
from viscera.model.bundle import Stage
from viscera.model.onnx_graph import DISAGREEMENT, INPUT, features_value, pooled_value
from viscera.model.structure import BLOCK_HALO

Array = NDArray[np.float32]
Shape = tuple[int, ...]
# Compiles a graph for the processor.
Compile = Callable[[Any], Any]

# Planes on either side that the blocks of the finest level read; upsampling by two fits into the latter.
_CONTRACT_HALO = BLOCK_HALO
_UNET_HALO = 2 * BLOCK_HALO
# Coarse planes that a cubic interpolation reads on either side.
_CUBIC_HALO = 2

# What OpenVINO needs at its peak, fitted to measurements with openvino 2026.4 in both precisions on images from
# 48x64x80 to 160x128x160, which it meets within a fifth: feature maps of the finest level held at once, outputs held
# at once while nets are fused, and what compiled kernels take at any size.
_MAPS_HELD = 3.2
_OUTPUTS_HELD = 8
_KERNELS_BYTES = 110 * 10**6


@dataclass(frozen=True, kw_only=True)
class Subgraph:
    """One piece of a graph: the names of the values it reads and of those it gives."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The subgraphs of a stage's graph, by the names `onnx_graph` gives its values.

    Attributes:
        contract, below, expand: Of the U-Net that works at full resolution.
        spatial, fuse: Of the segmentation; None for the localisation.
        unet: That U-Net's configuration.
        factor: How much coarser the spatial nets work; 1 for the localisation.
    """

    contract: Subgraph
    below: Subgraph
    expand: Subgraph
    spatial: Subgraph | None
    fuse: Subgraph | None
    unet: UNetConfig
    factor: int

    @property
    def multiple(self) -> int:
        """What a slab's planes must be divisible by."""
        return math.lcm(2, self.factor)

    @property
    def halo(self) -> int:
        """The planes a slab of the U-Net reads on either side, whole blocks of them."""
        return -(-_UNET_HALO // self.multiple) * self.multiple


def partition_of(stage: Stage, model: ModelConfig) -> Partition:
    """The subgraphs of a stage's network."""
    prefix = "" if stage == "localise" else "local."
    unet = model.localiser if stage == "localise" else model.scn.local
    pooled, below = f"{prefix}{pooled_value(1)}", f"{prefix}{features_value(1)}"
    logits = f"{prefix}logits"
    maps = () if stage == "localise" else ("spatial.maps",)
    return Partition(
        contract=Subgraph(inputs=(INPUT,), outputs=(pooled,)),
        below=Subgraph(inputs=(pooled,), outputs=(below,)),
        expand=Subgraph(inputs=(INPUT, below), outputs=(logits, *maps)),
        spatial=Subgraph(inputs=(INPUT, *maps), outputs=("spatial.logits",)) if maps else None,
        fuse=Subgraph(inputs=(logits, "spatial.logits"), outputs=("probabilities", DISAGREEMENT)) if maps else None,
        unet=unet,
        factor=model.scn.spatial_factor if maps else 1,
    )


def whole_bytes(partition: Partition, shape: Shape, itemsize: int) -> int:
    """The memory the whole network needs for an image of `shape` (b, 1, z, y, x), its output included.

    `itemsize` is that of the convolutions' precision, 4 or 2 bytes.
    """
    return _KERNELS_BYTES + round(_MAPS_HELD * itemsize * _map_size(partition, shape)) + _output_bytes(partition, shape)


def tiled_bytes(partition: Partition, shape: Shape, planes: int, itemsize: int) -> int:
    """The memory it needs in slabs of `planes` planes; least for one block of planes (`Partition.multiple`)."""
    below = 4 * _map_size(partition, shape) // 8  # float32 between the subgraphs
    slab = _slab(partition, shape, planes, partition.halo)
    expand = below * slab[2] // shape[2] + below + _output_bytes(partition, shape) + 2 * _output_bytes(partition, slab)
    expand += round(_MAPS_HELD * itemsize * _map_size(partition, slab))
    needed = max(expand, 2 * below + round(_MAPS_HELD * itemsize * _map_size(partition, shape)) // 8)
    if partition.fuse is not None:
        slab = _slab(partition, shape, planes, _CUBIC_HALO * partition.factor)
        needed = max(needed, 2 * _output_bytes(partition, shape) + _OUTPUTS_HELD * _output_bytes(partition, slab))
    return _KERNELS_BYTES + needed


def least_bytes(partition: Partition, shape: Shape, itemsize: int) -> int:
    """The least memory it can do with."""
    return min(whole_bytes(partition, shape, itemsize), tiled_bytes(partition, shape, partition.multiple, itemsize))


def fitting_planes(partition: Partition, shape: Shape, budget: int, itemsize: int) -> int | None:
    """Planes for the fewest slabs with which the network needs at most `budget` bytes; None if none are thin enough.

    The planes are shared out evenly: all slabs read equally many, so a thin last one would be wasted work.
    """
    blocks = shape[2] // partition.multiple
    shared = (-(-blocks // count) * partition.multiple for count in range(1, blocks + 1))
    return next((planes for planes in shared if tiled_bytes(partition, shape, planes, itemsize) <= budget), None)


def _slab(partition: Partition, shape: Shape, planes: int, halo: int) -> Shape:
    return (*shape[:2], min(shape[2], planes + 2 * halo), *shape[3:])


def _map_size(partition: Partition, shape: Shape) -> int:
    return partition.unet.filters * math.prod(shape)


def _output_bytes(partition: Partition, shape: Shape) -> int:
    return partition.unet.outputs * math.prod(shape) * 4


class TiledNetwork:
    """A stage's network for images of one shape, computed in slabs of a number of planes.

    Args:
        graph: The network as OpenVINO reads it; it is not changed.
        path: Where it was read from, for messages.
        partition: Its subgraphs.
        planes: Of each slab, a multiple of `partition.multiple`.
        compiled: Compiles a subgraph.
    """

    def __init__(self, graph: Any, path: Path, partition: Partition, planes: int, compiled: Compile) -> None:
        self._graph = graph
        self._path = path
        self._partition = partition
        self._planes = planes
        self._compile = compiled
        self._compiled: dict[tuple[Subgraph, tuple[Shape, ...]], Any] = {}

    def infer(self, image: Array) -> NetworkOutput:
        """The network's output for `image` (b, 1, z, y, x), as the whole network gives it."""
        pieces = covering_slabs(image.shape[2], self._planes, _CONTRACT_HALO)
        (pooled,) = self._tiled(self._partition.contract, pieces, [(image, 1)], [2])
        (below,) = self._once(self._partition.below, [pooled])
        del pooled
        pieces = covering_slabs(image.shape[2], self._planes, self._partition.halo)
        factor = self._partition.factor
        if self._partition.spatial is None or self._partition.fuse is None:
            (logits,) = self._tiled(self._partition.expand, pieces, [(image, 1), (below, 2)], [1])
            return NetworkOutput(logits)
        logits, maps = self._tiled(self._partition.expand, pieces, [(image, 1), (below, 2)], [1, factor])
        del below
        (spatial,) = self._once(self._partition.spatial, [image, maps])
        pieces = covering_slabs(image.shape[2], self._planes, _CUBIC_HALO * factor)
        fuse = self._partition.fuse
        if DISAGREEMENT not in {node.get_friendly_name() for node in self._graph.get_ops()}:
            fuse = Subgraph(inputs=fuse.inputs, outputs=fuse.outputs[:1])  # a graph from before it was there
        factors = [1, factor][: len(fuse.outputs)]
        return NetworkOutput(*self._tiled(fuse, pieces, [(logits, 1), (spatial, factor)], factors))

    def _tiled(
        self, subgraph: Subgraph, pieces: Sequence[Slab], inputs: Sequence[tuple[Array, int]], factors: Sequence[int]
    ) -> list[Array]:
        """The subgraph's outputs, put together from those of all slabs; each array with how much coarser it is."""
        depth = pieces[-1].stop
        wholes: list[Array] = []
        runs = self._runs(subgraph, ([whole[:, :, piece.coarser(f).read] for whole, f in inputs] for piece in pieces))
        for piece, given in zip(pieces, runs, strict=True):
            for number, (values, factor) in enumerate(zip(given, factors, strict=True)):
                if number == len(wholes):
                    shape = (*values.shape[:2], depth // factor, *values.shape[3:])
                    wholes.append(np.empty(shape, dtype=np.float32))
                slab = piece.coarser(factor)
                wholes[number][:, :, slab.given] = values[:, :, slab.kept]
        return wholes

    def _once(self, subgraph: Subgraph, inputs: Sequence[Array]) -> list[Array]:
        (outputs,) = [[values.copy() for values in outputs] for outputs in self._runs(subgraph, iter([inputs]))]
        return outputs

    def _runs(self, subgraph: Subgraph, inputs: Iterator[Sequence[Array]]) -> Iterator[list[Array]]:
        """Its outputs for each of `inputs`, all of the same shapes; each valid until the next is asked for."""
        compiled: Any = None
        request: Any = None
        for arrays in inputs:
            held = [np.ascontiguousarray(array) for array in arrays]  # alive until the request has read them
            if compiled is None:
                compiled = self._compiled_for(subgraph, tuple(array.shape for array in held))
                request = compiled.create_infer_request()
            for number, array in enumerate(held):
                request.set_input_tensor(number, _tensor(array))
            request.infer(share_outputs=True)
            yield [request.get_output_tensor(number).data for number in range(len(subgraph.outputs))]
        del request
        compiled.release_memory()

    def _compiled_for(self, subgraph: Subgraph, shapes: tuple[Shape, ...]) -> Any:
        if (subgraph, shapes) not in self._compiled:
            self._compiled[subgraph, shapes] = self._compile(self._cut(subgraph, shapes))
        return self._compiled[subgraph, shapes]

    def _cut(self, subgraph: Subgraph, shapes: Sequence[Shape]) -> Any:
        """The operations between its inputs and outputs, for inputs of these shapes."""
        openvino = import_openvino()
        graph = self._graph.clone()
        nodes = {node.get_friendly_name(): node for node in graph.get_ops()}
        if missing := [name for name in (*subgraph.inputs, *subgraph.outputs) if name not in nodes]:
            raise BundleError(
                f"cutting the graph {self._path} to fit the memory limit",
                expected="the names of a graph written by viscera",
                got=f"none called {', '.join(missing)}",
                remedy="Export the bundle again, or raise the memory limit",
            )
        parameters = []
        for name, shape in zip(subgraph.inputs, shapes, strict=True):
            node = nodes[name]
            if node.get_type_name() != "Parameter":
                entry = openvino.opset13.parameter(list(shape), np.float32, name=name)
                node.output(0).replace(entry.output(0))
                node = entry
            parameters.append(node)
        results = [openvino.opset13.result(nodes[name]) for name in subgraph.outputs]
        cut = openvino.Model(results, parameters, "subgraph")
        cut.reshape({entry.output(0): list(shape) for entry, shape in zip(parameters, shapes, strict=True)})
        return cut


def _tensor(array: Array) -> Any:
    return import_openvino().Tensor(array, shared_memory=True)
