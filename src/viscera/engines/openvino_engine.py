"""The networks on the CPU with OpenVINO, read from the bundle's ONNX graphs."""

from __future__ import annotations

import sys
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.bundle import STAGES, Bundle, Stage
from viscera.engines import Answer, require_image
from viscera.errors import BundleError, ConfigError, MemoryBudgetError, VisceraError

# OpenVINO's Python package loads this converter, which reports each import to a web analytics service and needs as
# much time as the rest of the import. Graphs are read without it.
_REPORTING_MODULE = "openvino.tools.ovc"
_import_lock = threading.Lock()


class OpenVinoEngine:
    """OpenVINO on the CPU.

    The graphs leave all sizes open, but a network is compiled for the size at hand: that takes 0.2 s, and spares a
    fifth of the time and of the memory of a network that adapts itself. The last one of each stage is kept, without
    its working memory.

    Args:
        bundle: The verified bundle.
        precision: "f32", "bf16" or "auto", which is bf16 if the processor multiplies in it.
        threads: None for as many as OpenVINO chooses.

    Raises:
        ConfigError: For bf16 on a processor without it.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, *, precision: str = "auto", threads: int | None = None) -> None:
        self._bundle = bundle
        self._asked = precision
        self._threads = threads
        self._loading = threading.Lock()
        self._running = threading.Lock()
        self._compiled: dict[Stage, tuple[tuple[int, ...], Any]] = {}
        if precision == "bf16" and not self._has_bf16:
            raise ConfigError(
                "choosing the precision bf16",
                expected="a processor that multiplies in bf16 (AVX512-BF16 or AMX)",
                got="one without",
                remedy="Use f32 or auto",
            )

    @property
    def precision(self) -> str:
        """The precision of the convolutions, "f32" or "bf16"; the first question loads OpenVINO."""
        if self._asked == "auto":
            return "bf16" if self._has_bf16 else "f32"
        return self._asked

    def prepare(self) -> None:
        """Starts loading OpenVINO and reading both graphs in the background; errors appear in the first `run`."""
        threading.Thread(target=self._prepare, name="viscera-prepare").start()

    def run(self, stage: Stage, image: NDArray[np.float32]) -> Answer:
        """The network's answer to `image`; see `Engine.run`."""
        require_image(self._bundle.card.model, stage, image)
        with self._running:
            try:
                compiled = self._compiled_for(stage, image.shape)
                answer = self._infer(compiled, np.ascontiguousarray(image))
                compiled.release_memory()
            except (MemoryError, RuntimeError) as error:  # OpenVINO raises nothing narrower
                self._compiled.pop(stage, None)
                raise _run_error(f"running the network of stage {stage} on {image.shape}", error) from error
        return answer

    def _infer(self, compiled: Any, image: NDArray[np.float32]) -> Answer:
        request = compiled.create_infer_request()  # its own outputs, which the arrays below keep alive
        request.set_input_tensor(import_openvino().Tensor(image, shared_memory=True))
        request.infer(share_outputs=True)  # else it copies the outputs, too
        return Answer(*(request.get_output_tensor(number).data for number in range(len(compiled.outputs))))

    def _compiled_for(self, stage: Stage, shape: tuple[int, ...]) -> Any:
        kept_shape, compiled = self._compiled.pop(stage, (None, None))
        if kept_shape != shape:
            del compiled  # before the new one needs its place
            graph = self._graphs[stage].clone()
            graph.reshape(list(shape))
            self._require_outputs(stage, graph, shape)
            compiled = self._core.compile_model(graph, "CPU", self._settings())
        self._compiled[stage] = (shape, compiled)
        return compiled

    def _require_outputs(self, stage: Stage, graph: Any, shape: tuple[int, ...]) -> None:
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
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        return settings

    def _prepare(self) -> None:
        try:
            _ = self._graphs
        except BundleError:
            return  # the first `run` meets it again, where it can be reported

    @cached_property
    def _core(self) -> Any:
        return import_openvino().Core()

    @cached_property
    def _has_bf16(self) -> bool:
        return "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    @property
    def _graphs(self) -> dict[Stage, Any]:
        with self._loading:
            return self._read_graphs

    @cached_property
    def _read_graphs(self) -> dict[Stage, Any]:
        graphs = {}
        for stage in STAGES:
            path = self._bundle.graph(stage)
            try:
                graphs[stage] = self._core.read_model(path)
            except RuntimeError as error:
                raise _graph_error(path, "an ONNX graph that OpenVINO reads", str(error)) from error
        return graphs


def import_openvino() -> Any:
    """The module `openvino`, imported so that it reports nothing to anyone.

    Its Python package sends an event to a web analytics service on every import unless the user has opted out. The
    part that does so, its model converter, is kept from loading; OpenVINO itself treats that part as optional, and only
    `openvino.convert_model` is missing then. A program that has imported openvino before has had its own event, which
    cannot be undone here.
    """
    with _import_lock:
        kept_out = "openvino" not in sys.modules and _REPORTING_MODULE not in sys.modules
        if kept_out:
            sys.modules[_REPORTING_MODULE] = None  # type: ignore[assignment]  # makes its import fail
        try:
            import openvino
        finally:
            if kept_out:
                sys.modules.pop(_REPORTING_MODULE, None)
    return openvino


def _graph_error(path: Path, expected: str, got: str) -> BundleError:
    return BundleError(f"reading the graph {path}", expected=expected, got=got, remedy="Export the bundle anew")


def _run_error(doing: str, error: Exception) -> VisceraError:
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        remedy = "Close other programs, or use a machine with more memory"
        return MemoryBudgetError(doing, expected="enough free memory", got=str(error) or "none left", remedy=remedy)
    return BundleError(doing, expected="a graph OpenVINO can run", got=str(error), remedy="Export the bundle anew")
