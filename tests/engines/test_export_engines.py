"""Weights to bundle to engine: the graphs, both engines against torch, and what each refuses."""

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
safetensors_torch = pytest.importorskip("safetensors.torch")

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig  # noqa: E402
from viscera.core.errors import BundleError, ConfigError, MemoryBudgetError, MissingExtraError  # noqa: E402
from viscera.engines import choice as engines  # noqa: E402
from viscera.engines import export  # noqa: E402
from viscera.engines.choice import make_engine  # noqa: E402
from viscera.engines.engine import NetworkOutput  # noqa: E402
from viscera.engines.export import GRAPH_TOLERANCE, export_bundle, export_graph, graph_difference  # noqa: E402
from viscera.engines.openvino_engine import OpenVinoEngine  # noqa: E402
from viscera.engines.openvino_import import import_openvino  # noqa: E402
from viscera.engines.openvino_tiled import TiledNetwork, partition_of  # noqa: E402
from viscera.engines.torch_engine import TorchEngine, load_network  # noqa: E402
from viscera.engines.torch_tiled import streamed_bytes  # noqa: E402
from viscera.model.bundle import Bundle, ModelCard, Stage, load_bundle  # noqa: E402
from viscera.model.networks import SpatialConfigurationNet, UNet  # noqa: E402

# How far OpenVINO in float32 may be from torch in any probability or logit.
ENGINE_TOLERANCE = 1e-4
# bf16 keeps 8 bits; the networks here have logits of about 1.
BF16_TOLERANCE = 0.05
# Float32 sums in another order.
SLAB_TOLERANCE = 1e-5

STAGE = StageConfig(
    spacing_mm=6.0,
    sigma_mm=3.0,
    sizes_x_vox=(16, 24, 32),
    sizes_y_vox=(8, 16),
    sizes_z_vox=(8, 24),
)
MODEL = ModelConfig(
    localise=STAGE,
    segment=STAGE,
    localiser=UNetConfig(inputs=1, outputs=2, filters=8, levels=3),
    scn=ScnConfig(local_filters=8, local_levels=3, spatial_filters=4, spatial_levels=2),
)
CARD = ModelCard(name="tiny", version="1", description="Random weights", licence="CC0-1.0", model=MODEL)
SHAPES = [(1, 1, 8, 16, 24), (2, 1, 24, 8, 16)]
STAGES: tuple[Stage, ...] = ("localise", "segment")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[Stage, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(11)
    networks: dict[Stage, torch.nn.Module] = {
        "localise": UNet(MODEL.localiser),
        "segment": SpatialConfigurationNet(MODEL.scn),
    }
    for stage, network in networks.items():
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(value, std=0.1)
        safetensors_torch.save_file(network.state_dict(), folder / stage, metadata={"path": "/home/someone"})
    return {stage: folder / stage for stage in networks}


@pytest.fixture(scope="module")
def bundle(weights: dict[Stage, Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return export_bundle(folder, CARD, localise_weights=weights["localise"], segment_weights=weights["segment"])


def image_of(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape) + shape[2]).uniform(-1, 1, shape).astype(np.float32)


def by_torch(bundle: Bundle, stage: Stage, image: NDArray[np.float32]) -> NetworkOutput:
    network = load_network(stage, bundle.card.model, bundle.weights(stage))
    with torch.inference_mode():
        output = network(torch.from_numpy(image))
    if stage == "localise":
        return NetworkOutput(output.numpy())
    apart = np.abs(torch.sigmoid(output.local_logits).numpy() - torch.sigmoid(output.spatial_logits).numpy())
    return NetworkOutput(output.probabilities.numpy(), block_means(apart, MODEL.scn.spatial_factor))


def block_means(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    lead, (z, y, x) = values.shape[:2], (side // factor for side in values.shape[2:])
    means: NDArray[np.float32] = values.reshape(*lead, z, factor, y, factor, x, factor).mean(axis=(3, 5, 7))
    return means


def assert_close(found: NetworkOutput, expected: NetworkOutput, tolerance: float) -> None:
    np.testing.assert_allclose(found.output, expected.output, atol=tolerance, rtol=0)
    assert (found.disagreement is None) == (expected.disagreement is None)
    if found.disagreement is not None and expected.disagreement is not None:
        assert found.disagreement.dtype == np.float32
        np.testing.assert_allclose(found.disagreement, expected.disagreement, atol=tolerance, rtol=0)


def without_disagreement(bundle: Bundle, folder: Path) -> Bundle:
    """A bundle as they were made before the segmentation's graph had its second output."""
    model = onnx.load(bundle.graph("segment"))
    kept = [end for end in model.graph.output if end.name != "disagreement"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    (folder / "segment.onnx").write_bytes(model.SerializeToString())
    (folder / "localise.onnx").write_bytes(bundle.graph("localise").read_bytes())
    return dataclasses.replace(bundle, folder=folder)


# Export


def test_an_exported_bundle_loads(bundle: Bundle) -> None:
    assert load_bundle(bundle.folder) == bundle


def test_export_is_deterministic(bundle: Bundle, weights: dict[Stage, Path], tmp_path: Path) -> None:
    again = export_bundle(
        tmp_path / "again", CARD, localise_weights=weights["localise"], segment_weights=weights["segment"]
    )
    assert again.card.files == bundle.card.files


def test_exported_weights_are_the_given_ones_without_metadata(bundle: Bundle, weights: dict[Stage, Path]) -> None:
    for stage in STAGES:
        given = safetensors_torch.load_file(weights[stage])
        kept = safetensors_torch.load_file(bundle.weights(stage))
        assert given.keys() == kept.keys()
        assert all(torch.equal(given[name], kept[name]) for name in given)
        assert b"someone" not in bundle.weights(stage).read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_graphs_say_nothing_of_where_they_were_made(bundle: Bundle, stage: Stage) -> None:
    model = onnx.load(bundle.graph(stage))
    assert (model.doc_string, model.graph.doc_string, list(model.metadata_props)) == ("", "", [])
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    strings = re.findall(rb"[\x20-\x7e]{6,}", b"".join(node.SerializeToString() for node in model.graph.node))
    assert not [text for text in strings if b"/home" in text or b".py" in text]


@pytest.mark.parametrize("stage", STAGES)
def test_graphs_leave_batch_and_sizes_open(bundle: Bundle, stage: Stage) -> None:
    graph = onnx.load(bundle.graph(stage)).graph
    ends = {end.name: [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim] for end in graph.input}
    ends |= {end.name: [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim] for end in graph.output}
    outputs: dict[str, list[object]] = {"logits": ["batch", 2, "z", "y", "x"]}
    if stage == "segment":
        coarse = ["batch", 5, "coarse_z", "coarse_y", "coarse_x"]
        outputs = {"probabilities": ["batch", 5, "z", "y", "x"], "disagreement": [*coarse]}
    assert ends == {"image": ["batch", 1, "z", "y", "x"], **outputs}


@pytest.mark.parametrize("stage", STAGES)
def test_linear_upsampling_has_torchs_alignment(bundle: Bundle, stage: Stage) -> None:
    nodes = [node for node in onnx.load(bundle.graph(stage)).graph.node if node.op_type == "Resize"]
    modes = {tuple(sorted((a.name, a.s.decode()) for a in node.attribute)) for node in nodes}
    assert modes == {(("coordinate_transformation_mode", "half_pixel"), ("mode", "linear"))}


@pytest.mark.parametrize("stage", STAGES)
def test_graphs_agree_with_torch(bundle: Bundle, stage: Stage) -> None:
    content = bundle.graph(stage).read_bytes()
    assert graph_difference(stage, MODEL, bundle.weights(stage), content) <= GRAPH_TOLERANCE / 10


def test_a_graph_of_other_weights_is_noticed(bundle: Bundle, weights: dict[Stage, Path], tmp_path: Path) -> None:
    tensors = safetensors_torch.load_file(weights["segment"])
    tensors["spatial.3.expanding.0.first.weight"][0, 0] += 0.2
    safetensors_torch.save_file(tensors, tmp_path / "other")
    content = bundle.graph("segment").read_bytes()
    assert graph_difference("segment", MODEL, tmp_path / "other", content) > GRAPH_TOLERANCE


def test_a_graph_whose_disagreement_is_another_is_noticed(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph("segment"))
    (absolute,) = (node for node in model.graph.node if node.output[0] == "disagreement.fine")
    absolute.op_type = "Neg"
    assert graph_difference("segment", MODEL, bundle.weights("segment"), model.SerializeToString()) > GRAPH_TOLERANCE


def test_a_graph_without_disagreement_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    older = without_disagreement(bundle, tmp_path)
    content = older.graph("segment").read_bytes()
    assert graph_difference("segment", MODEL, bundle.weights("segment"), content) == np.inf


def test_a_graph_that_differs_from_torch_is_not_exported(
    weights: dict[Stage, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "GRAPH_TOLERANCE", 0.0)
    with pytest.raises(BundleError, match="difference from torch"):
        export_graph("segment", MODEL, weights["segment"])


def test_the_published_sizes_export(tmp_path: Path) -> None:
    model = ModelConfig()
    safetensors_torch.save_file(UNet(model.localiser).state_dict(), tmp_path / "weights")
    assert len(export_graph("localise", model, tmp_path / "weights")) < 2.7e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("output.bias"), r"output\.bias of shape \(2,\), got none"),
        (lambda t: t.update({"output.bias": torch.zeros(3)}), r"output\.bias of shape \(2,\), got shape \(3,\)"),
        (lambda t: t.update({"extra": torch.zeros(3)}), "only weights of the network's layers, got extra"),
        (lambda t: t["output.bias"].fill_(float("nan")), r"NaN or infinity in output\.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[Stage, Path], tmp_path: Path, change, message: str) -> None:
    tensors = safetensors_torch.load_file(weights["localise"])
    change(tensors)
    safetensors_torch.save_file(tensors, tmp_path / "changed")
    with pytest.raises(BundleError, match=message):
        export_graph("localise", MODEL, tmp_path / "changed")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(BundleError, match="expected a safetensors file"):
        export_graph("localise", MODEL, tmp_path / "weights")


# Engines


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_openvino_in_f32_agrees_with_torch(bundle: Bundle, stage: Stage, shape: tuple[int, ...]) -> None:
    engine = make_engine(bundle, device="cpu", precision="f32", threads=1)
    found = engine.run(stage, image_of(shape))
    channels = 2 if stage == "localise" else 5
    assert (found.output.dtype, found.output.shape) == (np.float32, (shape[0], channels, *shape[2:]))
    assert_close(found, by_torch(bundle, stage, image_of(shape)), ENGINE_TOLERANCE)


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_stays_close(bundle: Bundle, stage: Stage) -> None:
    engine = make_engine(bundle, device="cpu", threads=1)
    if engine.precision != "bf16":
        pytest.skip("no bf16 on this processor")
    image = image_of(SHAPES[0])
    assert_close(engine.run(stage, image), by_torch(bundle, stage, image), BF16_TOLERANCE)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_torch_engine_agrees_with_torch(bundle: Bundle, precision: str) -> None:
    engine = TorchEngine(bundle, device="cpu", precision=precision)
    tolerance = 1e-6 if precision == "f32" else BF16_TOLERANCE
    for stage in STAGES:
        found = engine.run(stage, image_of(SHAPES[1]))
        assert_close(found, by_torch(bundle, stage, image_of(SHAPES[1])), tolerance)


def test_batch_of_two_is_two_batches_of_one(bundle: Bundle) -> None:
    engine = make_engine(bundle, device="cpu", precision="f32", threads=1)
    image = image_of(SHAPES[1])
    both = engine.run("segment", image)
    for item in range(2):
        alone = engine.run("segment", image[item : item + 1])
        assert both.disagreement is not None
        assert_close(NetworkOutput(both.output[item : item + 1], both.disagreement[item : item + 1]), alone, 1e-5)


def test_a_graph_from_before_the_disagreement_still_runs(bundle: Bundle, tmp_path: Path) -> None:
    engine = make_engine(without_disagreement(bundle, tmp_path), device="cpu", precision="f32", threads=1)
    found = engine.run("segment", image_of(SHAPES[0]))
    assert found.disagreement is None
    expected = by_torch(bundle, "segment", image_of(SHAPES[0]))
    np.testing.assert_allclose(found.output, expected.output, atol=ENGINE_TOLERANCE, rtol=0)


def test_a_localisation_has_no_disagreement(bundle: Bundle) -> None:
    for engine in (make_engine(bundle, device="cpu", threads=1), TorchEngine(bundle, device="cpu")):
        assert engine.run("localise", image_of(SHAPES[0])).disagreement is None


def test_runs_do_not_depend_on_runs_before(bundle: Bundle) -> None:
    engine = make_engine(bundle, device="cpu", precision="f32", threads=1)
    first = engine.run("segment", image_of(SHAPES[0]))
    assert first.disagreement is not None
    kept = NetworkOutput(first.output.copy(), first.disagreement.copy())
    for shape in (*reversed(SHAPES), SHAPES[0]):
        engine.run("localise", image_of(shape))
        last = engine.run("segment", image_of(shape))
    assert_close(first, kept, 0)
    assert_close(last, kept, 0)


def test_images_need_not_be_contiguous(bundle: Bundle) -> None:
    engine = make_engine(bundle, device="cpu", precision="f32", threads=1)
    image = image_of((1, 1, 24, 8, 16))
    turned = image.transpose(0, 1, 4, 3, 2)
    assert_close(engine.run("localise", turned), engine.run("localise", np.ascontiguousarray(turned)), 0)


# Says whether all threads may run on all cores while a compiled network runs, in a process without other engines.
WATCHED = """
import os, sys, threading
from contextlib import suppress
from pathlib import Path
import numpy as np
from viscera.model.bundle import load_bundle  # noqa: E402
from viscera.engines.openvino_engine import OpenVinoEngine  # noqa: E402
def watch():
    while not done.is_set():
        for task in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):
                may.add(frozenset(os.sched_getaffinity(int(task))))
engine = OpenVinoEngine(load_bundle(Path(sys.argv[1])), precision="f32", threads=1)
image, done, may = np.zeros((1, 1, 32, 32, 32), np.float32), threading.Event(), set()
engine.run("segment", image)
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
for _ in range(30):
    engine.run("segment", image)
done.set()
watcher.join()
print(may == {frozenset(os.sched_getaffinity(0))})
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed in /proc")
def test_no_thread_is_pinned_to_a_core(bundle: Bundle) -> None:
    """Pinned, the threads of several processes would share the first cores."""
    command = [sys.executable, "-c", WATCHED, str(bundle.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "True\n", done.stderr


def test_a_prepared_engine_gives_the_same(bundle: Bundle) -> None:
    for kind in (OpenVinoEngine(bundle, precision="f32"), TorchEngine(bundle, device="cpu")):
        kind.prepare()
        image = image_of(SHAPES[0])
        assert_close(kind.run("localise", image), by_torch(bundle, "localise", image), ENGINE_TOLERANCE)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 1, 8, 12, 16), np.float32), r"multiples of 8 voxels, got 8 x 12 x 16"),
        (np.zeros((1, 1, 8, 0, 16), np.float32), r"multiples of 8 voxels"),
        (np.zeros((1, 2, 8, 8, 16), np.float32), r"a float32 image \(b, 1, z, y, x\), got float32 of shape"),
        (np.zeros((8, 8, 16), np.float32), r"a float32 image"),
        (np.zeros((1, 1, 8, 8, 16), np.float64), r"a float32 image .* got float64"),
    ],
)
def test_images_the_network_cannot_take_are_refused(bundle: Bundle, image: NDArray[np.float32], message: str) -> None:
    for engine in (make_engine(bundle, device="cpu"), TorchEngine(bundle, device="cpu")):
        with pytest.raises(ConfigError, match=message):
            engine.run("segment", image)


def test_an_unknown_stage_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="expected localise or segment, got restore"):
        make_engine(bundle, device="cpu").run("restore", image_of(SHAPES[0]))  # type: ignore[arg-type]


@pytest.mark.parametrize("wish", [{"device": "tpu"}, {"precision": "int8"}, {"threads": 0}])
def test_unknown_wishes_are_refused(bundle: Bundle, wish: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_engine(bundle, **wish)  # type: ignore[arg-type]


def test_bf16_on_a_processor_without_it_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoEngine, "_has_bf16", False)
    with pytest.raises(ConfigError, match="AVX512-BF16"):
        make_engine(bundle, device="cpu", precision="bf16")
    assert make_engine(bundle, device="cpu").precision == "f32"


def test_auto_is_bf16_where_the_processor_has_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoEngine, "_has_bf16", True)
    assert make_engine(bundle, device="cpu").precision == "bf16"


def test_cuda_without_a_gpu_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="without a usable GPU"):
        make_engine(bundle, device="cuda")


def test_cuda_without_torch_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"viscera\[gpu\]"):
        make_engine(bundle, device="cuda")


def test_auto_without_a_trace_of_a_gpu_is_openvino(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "gpu_may_exist", lambda: False)
    monkeypatch.setattr(engines, "_torch_finds_a_gpu", lambda: pytest.fail("torch was asked"))
    assert make_engine(bundle).name == "openvino"


def test_a_trace_of_a_gpu_that_torch_cannot_use_is_openvino(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "gpu_may_exist", lambda: True)
    monkeypatch.setattr(engines, "_torch_finds_a_gpu", lambda: False)
    assert make_engine(bundle).name == "openvino"


def test_a_gpu_is_looked_for_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_GPU_MARKS", (tmp_path / "nvidiactl",))
    assert not engines.gpu_may_exist()
    (tmp_path / "nvidiactl").touch()
    assert engines.gpu_may_exist()


# Damaged or swapped files, which checksums of a wrongly made bundle would not show


def test_a_graph_that_is_no_onnx_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "localise.onnx").write_bytes(b"not a graph")
    broken = dataclasses.replace(bundle, folder=tmp_path)
    with pytest.raises(BundleError, match="an ONNX graph that OpenVINO reads"):
        make_engine(broken, device="cpu").run("localise", image_of(SHAPES[0]))


def test_a_graph_with_weights_in_another_file_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(bundle.graph("localise"))
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save_model(model, tmp_path / "localise.onnx", **options)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    split = dataclasses.replace(bundle, folder=tmp_path)
    with pytest.raises(BundleError, match="expected a graph that holds its weights, got one that has them in another"):
        make_engine(split, device="cpu").run("localise", image_of(SHAPES[0]))


def test_a_graph_of_another_format_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.Core().read_model(bundle.graph("localise")), tmp_path / "localise.xml")
    (tmp_path / "localise.xml").rename(tmp_path / "localise.onnx")
    assert (tmp_path / "localise.bin").stat().st_size > 0
    other = dataclasses.replace(bundle, folder=tmp_path)
    with pytest.raises(BundleError, match="an ONNX graph that OpenVINO reads"):
        make_engine(other, device="cpu").run("localise", image_of(SHAPES[0]))


def test_swapped_graphs_are_reported(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "localise.onnx").write_bytes(bundle.graph("segment").read_bytes())
    (tmp_path / "segment.onnx").write_bytes(bundle.graph("localise").read_bytes())
    swapped = dataclasses.replace(bundle, folder=tmp_path)
    with pytest.raises(BundleError, match=r"expected one output \(1, 2, 8, 16, 24\)"):
        make_engine(swapped, device="cpu").run("localise", image_of(SHAPES[0]))


def test_a_second_output_of_another_size_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, scn=dataclasses.replace(MODEL.scn, spatial_factor=2))
    other = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, model=model))
    with pytest.raises(BundleError, match=r"or \(1, 5, 4, 8, 12\) as a second one"):
        make_engine(other, device="cpu").run("segment", image_of(SHAPES[0]))


def test_swapped_weights_are_reported(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"loading the weights .* got no contracting\.0.* differences in all\."):
        load_network("localise", MODEL, bundle.weights("segment"))


def test_weights_of_another_shape_are_reported_with_both_shapes(bundle: Bundle) -> None:
    model = dataclasses.replace(MODEL, localiser=dataclasses.replace(MODEL.localiser, outputs=3))
    with pytest.raises(BundleError, match=r"output\.bias of shape \(2,\) where the settings have \(3,\)"):
        load_network("localise", model, bundle.weights("localise"))


# Reporting home


def run_python(code: str, home: Path) -> str:
    environment = {"HOME": str(home), "USERPROFILE": str(home), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    return result.stdout.strip()


def test_openvino_is_imported_without_its_reports(tmp_path: Path) -> None:
    code = """
import socket, sys
def refuse(*args, **kwargs): raise SystemExit("a connection was opened")
socket.socket = socket.create_connection = refuse
from viscera.engines.openvino_import import import_openvino  # noqa: E402
import_openvino().Core()
print([name for name in sys.modules if "telemetry" in name or name.startswith("openvino.tools.ovc")])
"""
    assert run_python(code, tmp_path) == "[]"
    assert not list(tmp_path.iterdir())


def test_engines_load_nothing_heavy_before_they_run(tmp_path: Path) -> None:
    code = (
        "import sys, viscera.engines.choice, viscera.model.bundle, viscera.engines.export; "
        "print({'torch', 'openvino'} & set(sys.modules))"
    )
    assert run_python(code, tmp_path) == "set()"


def test_a_program_that_has_openvino_keeps_it() -> None:
    assert import_openvino() is sys.modules["openvino"]


# A network in slabs, or plane by plane


@pytest.mark.parametrize("planes", [4, 8, 12, 24])
@pytest.mark.parametrize("stage", STAGES)
def test_openvino_in_slabs_is_the_whole_network(bundle: Bundle, stage: Stage, planes: int) -> None:
    image = image_of((2, 1, 24, 16, 8))
    engine = make_engine(bundle, device="cpu", precision="f32", threads=1)
    whole = engine.run(stage, image)
    assert_close(in_slabs(bundle, stage, planes).infer(image), whole, SLAB_TOLERANCE)


def test_a_graph_from_before_the_disagreement_runs_in_slabs(bundle: Bundle, tmp_path: Path) -> None:
    older = without_disagreement(bundle, tmp_path)
    image = image_of((1, 1, 24, 16, 8))
    found = in_slabs(older, "segment", 4).infer(image)
    assert found.disagreement is None
    expected = make_engine(older, device="cpu", precision="f32", threads=1).run("segment", image)
    np.testing.assert_allclose(found.output, expected.output, atol=SLAB_TOLERANCE, rtol=0)


def test_a_graph_with_other_names_cannot_run_in_slabs(bundle: Bundle, tmp_path: Path) -> None:
    graph = onnx.load(bundle.graph("segment"))
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = ["else" if name == "local.contracting.1.pool" else name for name in names]
        node.name = "else" if node.name == "local.contracting.1.pool" else node.name
    renamed = tmp_path / "renamed"
    shutil.copytree(bundle.folder, renamed)
    onnx.save(graph, renamed / "segment.onnx")
    with pytest.raises(BundleError, match=r"none called local\.contracting\.1\.pool\. Export the bundle again"):
        in_slabs(dataclasses.replace(bundle, folder=renamed), "segment", 4).infer(image_of((1, 1, 24, 16, 8)))


@pytest.mark.parametrize("stage", STAGES)
def test_the_torch_engine_streams_within_a_limit(bundle: Bundle, stage: Stage) -> None:
    image = image_of((2, 1, 24, 16, 8))
    unet = MODEL.localiser if stage == "localise" else MODEL.scn.local
    limit = streamed_bytes(unet, image.shape, 4, 4)
    limited = TorchEngine(bundle, device="cpu", precision="f32", memory_limit=limit)
    assert limited._planes(stage, image.shape) == 4
    assert_close(limited.run(stage, image), by_torch(bundle, stage, image), 1e-5)


def test_what_no_slab_fits_is_refused_before_it_runs(bundle: Bundle) -> None:
    image = image_of((1, 1, 24, 16, 8))
    for engine in (
        TorchEngine(bundle, device="cpu", memory_limit=10_000),
        make_engine(bundle, device="cpu", memory_limit=10_000_000),
    ):
        for act in (lambda e: e.compile_ahead("segment", image.shape), lambda e: e.run("segment", image)):
            with pytest.raises(MemoryBudgetError, match="expected a memory limit of at least"):
                act(engine)


def test_memory_that_will_be_in_use_counts(bundle: Bundle) -> None:
    engine = make_engine(bundle, device="cpu", memory_limit=10**10)
    engine.compile_ahead("localise", SHAPES[0], extra_bytes=10**9)
    with pytest.raises(MemoryBudgetError, match="expected a memory limit of at least"):
        engine.compile_ahead("localise", SHAPES[0], extra_bytes=10**10)


def test_a_limit_is_at_least_one_byte(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="choosing a memory limit: expected at least 1, got 0"):
        make_engine(bundle, device="cpu", memory_limit=0)


def in_slabs(bundle: Bundle, stage: Stage, planes: int) -> TiledNetwork:
    core = import_openvino().Core()
    graph = core.read_model(bundle.graph(stage))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    partition = partition_of(stage, MODEL)
    return TiledNetwork(
        graph, bundle.graph(stage), partition, planes, lambda cut: core.compile_model(cut, "CPU", settings)
    )


# Compiled networks


def test_a_cached_network_gives_the_same(bundle: Bundle, tmp_path: Path) -> None:
    image = image_of(SHAPES[0])
    expected = make_engine(bundle, device="cpu", precision="f32", threads=1).run("segment", image)
    for _ in range(2):  # the second takes it from there
        cached = make_engine(bundle, device="cpu", precision="f32", threads=1, cache=tmp_path / "new" / "cache")
        assert_close(cached.run("segment", image), expected, 0)
    assert list((tmp_path / "new" / "cache").iterdir())


@pytest.mark.parametrize("damage", ["empty", "cut", "altered"])
def test_a_damaged_cache_is_as_good_as_none(bundle: Bundle, tmp_path: Path, damage: str) -> None:
    image = image_of(SHAPES[0])
    expected = make_engine(bundle, device="cpu", precision="f32", threads=1, cache=tmp_path).run("segment", image)
    kept = {"data": expected.output.copy()}
    for blob in tmp_path.iterdir():
        content = bytearray(blob.read_bytes())
        if damage == "altered":
            content[100::500] = bytes(byte ^ 0xFF for byte in content[100::500])
        blob.write_bytes({"empty": b"", "cut": bytes(content[: len(content) // 2]), "altered": bytes(content)}[damage])
    found = make_engine(bundle, device="cpu", precision="f32", threads=1, cache=tmp_path).run("segment", image)
    np.testing.assert_array_equal(found.output, kept["data"])


def test_a_cache_that_cannot_be_written_is_done_without(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    engine = make_engine(bundle, device="cpu", threads=1, cache=tmp_path / "file" / "cache")
    assert engine.run("segment", image_of(SHAPES[0])).output.shape == (1, 5, *SHAPES[0][2:])
