"""The networks on the CPU with OpenVINO, read from the bundle's ONNX graphs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import BundleError, ConfigError, MemoryBudgetError, VisceraError, reason
from viscera.core.memory import require_memory, resident_bytes
from viscera.engines.engine import NetworkOutput, require_image
from viscera.engines.forks import keep_in_forks, loading, require_process
from viscera.engines.openvino_cache import prepare_folder
from viscera.engines.openvino_import import import_openvino
from viscera.engines.openvino_tiled import (
    Shape,
    TiledNetwork,
    fitting_planes,
    least_bytes,
    partition_of,
    whole_bytes,
)
from viscera.model.bundle import STAGES, Bundle, Stage

# Without a limit a network is computed at once up to this, and beyond it in slabs that stay within: at most 0.6 of
# the memory for at most half as much time again.
COMFORTABLE_BYTES = 512 * 10**6
# A large scan leaves it less, as far as it can do with less.
COMFORTABLE_PROCESS_BYTES = 1100 * 10**6
LEAST_BYTES = 300 * 10**6

# What ONNX calls the place of weights outside the graph (key of TensorProto.external_data, onnx.proto).
EXTERNAL_DATA = b"location"

_log = logging.getLogger(__name__)


class _Compiling:
    """Whether this process has begun to compile: OpenVINO's threads, which a fork loses, are the process's."""

    process: int | None = None


class OpenVinoEngine:
    """OpenVINO on the CPU.

    The graphs leave all sizes open, but a network is compiled for the size at hand: that takes 0.2 s, and spares a
    fifth of the time and of the memory of a network that adapts itself. The last one of each stage is kept, without
    its working memory. A network that would need too much memory is computed in slabs, with the same output; see
    `openvino_partition`.

    A process forked before the first network is compiled can use it, one forked later cannot (see `forks`). A copy that
    pickle makes is as good as a new one.

    Args:
        bundle: The verified bundle.
        precision: "f32", "bf16" or "auto", which is bf16 if the processor multiplies in it.
        threads: None for as many as OpenVINO chooses.
        memory_limit: Bytes the whole process may hold; None is no limit.
        cache: Folder for compiled networks; None keeps none.

    Raises:
        ConfigError: For bf16 on a processor without it.
    """

    name = "openvino"

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "auto",
        threads: int | None = None,
        memory_limit: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self._bundle = bundle
        self._asked = precision
        self._threads = threads
        self._memory_limit = memory_limit
        self._cache = None if cache is None else prepare_folder(cache)
        self._running = threading.Lock()
        self._kept: dict[Stage, tuple[Shape, _Network]] = {}
        keep_in_forks(self)
        if precision == "bf16" and not self._has_bf16:
            raise ConfigError(
                "choosing the precision bf16",
                expected="a processor that multiplies in bf16 (AVX512-BF16 or AMX)",
                got="one without",
                remedy="Use f32 or auto",
            )

    def __reduce__(self) -> tuple[Callable[[], OpenVinoEngine], tuple[()]]:
        """How to make it again in another process: locks and compiled networks cannot be taken there."""
        again = partial(
            OpenVinoEngine,
            self._bundle,
            precision=self._asked,
            threads=self._threads,
            memory_limit=self._memory_limit,
            cache=self._cache,
        )
        return again, ()

    @property
    def precision(self) -> str:
        """The precision of the convolutions, "f32" or "bf16"; the first question loads OpenVINO."""
        if self._asked == "auto":
            return "bf16" if self._has_bf16 else "f32"
        return self._asked

    def prepare(self) -> None:
        """Start loading OpenVINO and reading both graphs in the background; errors appear in the first `run`."""
        threading.Thread(target=self._prepare, name="viscera-prepare").start()

    def compile_ahead(self, stage: Stage, shape: Shape, *, extra_bytes: int = 0) -> None:
        """Refuse what cannot fit, and start compiling the stage's network for `shape`; see `Engine.compile_ahead`."""
        _begin_compiling()
        self._require_memory(stage, shape, extra_bytes)
        threading.Thread(target=self._compile_quietly, args=(stage, shape), name="viscera-compile").start()

    def run(self, stage: Stage, image: NDArray[np.float32]) -> NetworkOutput:
        """The network's output for `image`; see `Engine.run`."""
        require_image(self._bundle.card.model, stage, image)
        _begin_compiling()
        with self._running:
            try:
                return self._network_for(stage, image.shape).infer(np.ascontiguousarray(image))
            except (MemoryError, RuntimeError) as error:  # OpenVINO raises nothing narrower
                self._kept.pop(stage, None)
                raise _run_error(f"running the network of stage {stage} on {image.shape}", error) from error

    def _network_for(self, stage: Stage, shape: Shape) -> _Network:
        kept_shape, network = self._kept.pop(stage, (None, None))
        if network is None or kept_shape != shape:
            del network  # before the new one needs its place
            network = self._build(stage, shape)
        self._kept[stage] = (shape, network)
        return network

    def _build(self, stage: Stage, shape: Shape) -> _Network:
        """The stage's network for images of `shape`: whole if there is memory for it, else in slabs."""
        partition, graph = partition_of(stage, self._bundle.card.model), self._graphs[stage].clone()
        graph.reshape(list(shape))
        self._require_outputs(stage, graph, shape)
        budget = self._budget(stage, shape)
        if whole_bytes(partition, shape, self._itemsize) <= budget:
            return WholeNetwork(self._compiled(graph))
        planes = fitting_planes(partition, shape, budget, self._itemsize) or partition.multiple
        return TiledNetwork(self._graphs[stage], self._bundle.graph(stage), partition, planes, self._compiled)

    def _budget(self, stage: Stage, shape: Shape) -> int:
        """Bytes the network may take: what the limit leaves, else what is both fast and lean."""
        held = resident_bytes() or 0
        if self._memory_limit is None:
            return min(COMFORTABLE_BYTES, max(COMFORTABLE_PROCESS_BYTES - held, LEAST_BYTES))
        self._require_memory(stage, shape)
        return self._memory_limit - held

    def _require_memory(self, stage: Stage, shape: Shape, extra_bytes: int = 0) -> None:
        """Raise MemoryBudgetError if the network cannot run within the limit, with `extra_bytes` more in use."""
        if self._memory_limit is not None:
            partition = partition_of(stage, self._bundle.card.model)
            needed = least_bytes(partition, shape, self._itemsize)
            doing = f"running the {stage} network on an image of {shape[2:]} voxels (z, y, x)"
            require_memory(doing, needed, self._memory_limit, held=(resident_bytes() or 0) + extra_bytes)

    @property
    def _itemsize(self) -> int:
        return 2 if self.precision == "bf16" else 4

    def _compiled(self, graph: Any) -> Any:
        if self._cache is not None:
            try:
                # OpenVINO checks what it finds there, and compiles again where it is damaged or from another version.
                settings = self._settings() | {"CACHE_DIR": str(self._cache)}
                return self._core.compile_model(graph, "CPU", settings)
            except RuntimeError as error:  # a full disk, a folder that is gone; a broken graph fails below as well
                _log.info("compiling without the cache %s: %s", self._cache, error)
                self._cache = None
        return self._core.compile_model(graph, "CPU", self._settings())

    def _require_outputs(self, stage: Stage, graph: Any, shape: Shape) -> None:
        model = self._bundle.card.model
        channels = model.localiser.outputs if stage == "localise" else model.scn.labels
        fine = (shape[0], channels, *shape[2:])
        expected = f"one output {fine} for an image {shape}"
        allowed = [[fine]]
        if stage == "segment":
            coarse = (shape[0], channels, *(side // model.scn.spatial_factor for side in shape[2:]))
            allowed.append([fine, coarse])
            expected = f"{expected}, or {coarse} as a second one"
        found = [tuple(output.get_partial_shape().to_shape()) for output in graph.outputs]
        if found not in allowed:
            raise _graph_error(self._bundle.graph(stage), expected, str(found))

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned, the threads of several processes would share the first cores and leave the others idle.
            "ENABLE_CPU_PINNING": False,
        }
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        return settings

    def _prepare(self) -> None:
        try:
            _ = self._graphs
        except BundleError:
            return  # the first `run` meets it again, where it can be reported

    def _compile_quietly(self, stage: Stage, shape: Shape) -> None:
        try:
            with self._running:
                self._network_for(stage, shape)
        except (VisceraError, MemoryError, RuntimeError):
            return  # the run meets it again, where it can be reported

    @cached_property
    def _core(self) -> Any:
        with loading:
            return import_openvino().Core()

    @cached_property
    def _has_bf16(self) -> bool:
        with loading:
            return "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    @property
    def _graphs(self) -> dict[Stage, Any]:
        with loading:
            return self._read_graphs

    @cached_property
    def _read_graphs(self) -> dict[Stage, Any]:
        return {stage: self._read_graph(self._bundle.graph(stage)) for stage in STAGES}

    def _read_graph(self, path: Path) -> Any:
        try:
            # From its bytes: next to a path, OpenVINO looks for files that the card has no checksum of.
            content = path.read_bytes()
            if EXTERNAL_DATA in content:
                raise _graph_error(path, "a graph that holds its weights", "one that has them in another file")
            return self._core.read_model(content)
        except (OSError, RuntimeError) as error:
            raise _graph_error(path, "an ONNX graph that OpenVINO reads", reason(error)) from error


class _Network(Protocol):
    """A stage's network for images of one shape."""

    def infer(self, image: NDArray[np.float32]) -> NetworkOutput:
        """The network's output for `image`."""


class WholeNetwork:
    """A compiled network that is computed at once."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def infer(self, image: NDArray[np.float32]) -> NetworkOutput:
        """The network's output for `image`."""
        request = self._compiled.create_infer_request()  # its own outputs, which the arrays below keep alive
        request.set_input_tensor(import_openvino().Tensor(image, shared_memory=True))
        request.infer(share_outputs=True)  # else it copies the outputs, too
        output = NetworkOutput(
            *(request.get_output_tensor(number).data for number in range(len(self._compiled.outputs)))
        )
        self._compiled.release_memory()
        return output


def _begin_compiling() -> None:
    """Notes that this process is about to compile; raises ConfigError in one forked from another that was."""
    require_process(_Compiling.process, has="has begun to compile networks")
    _Compiling.process = os.getpid()


def _graph_error(path: Path, expected: str, got: str) -> BundleError:
    return BundleError(f"reading the graph {path}", expected=expected, got=got, remedy="Export the bundle again")


def _run_error(doing: str, error: Exception) -> VisceraError:
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        remedy = "Close other programs, or use a machine with more memory"
        return MemoryBudgetError(doing, expected="enough free memory", got=str(error) or "none left", remedy=remedy)
    return BundleError(doing, expected="a graph OpenVINO can run", got=str(error), remedy="Export the bundle again")
