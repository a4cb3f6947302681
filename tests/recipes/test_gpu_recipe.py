"""The recipe for a GPU that is there for minutes, end to end on the CPU with a tiny setting."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from safetensors.torch import load_file, save_file  # noqa: E402

from viscera.synthesis.anatomy import ANATOMIES, Anatomy  # noqa: E402
from viscera.synthesis.build import make_anatomy  # noqa: E402
from viscera.synthesis.tissues import Tissue  # noqa: E402
from viscera.training.cache import MANIFEST, Cache  # noqa: E402
from viscera.training.distributed import joined_world  # noqa: E402
from viscera.training.step import make_network  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes" / "gpu.sh"
SETTINGS = """
iterations = 1000000
learning_rate = 1e-3
precision = "f32"
save_every = 1000
validation_every = 3
log_every = 1
workers = 1
label_sigma_vox = 0.5

[model]
margin_mm = 20.0
localise = {spacing_mm = 20.0, sigma_mm = 6.0, sizes_x_vox = [16, 24], sizes_y_vox = [16, 24], sizes_z_vox = [8, 16]}
segment = {spacing_mm = 20.0, sigma_mm = 4.0, sizes_x_vox = [16, 24], sizes_y_vox = [16], sizes_z_vox = [8, 16]}
localiser = {inputs = 1, outputs = 2, filters = 4, levels = 3}
scn = {local_filters = 4, local_levels = 2, spatial_filters = 2, spatial_levels = 2, spatial_factor = 2}
"""
# What the machine with the GPU lacks: training must not need it.
ABSENT = (
    "nibabel",
    "openvino",
    "pydicom",
    "gdcm",
    "PIL",
    "matplotlib",
    "rich",
    "isal",
    "onnx",
    "SimpleITK",
    "highdicom",
    "pynvml",
)


@pytest.fixture
def gpu(monkeypatch):
    """The recipe's parts can be imported."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder for PYTHONPATH that hides the packages the machine with the GPU lacks."""
    folder = tmp_path_factory.mktemp("bare")
    hidden = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"  # importing them fails
    (folder / "sitecustomize.py").write_text(hidden)
    return folder


def recipe(*arguments, path=None, code=0):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def part_of(cache, folder, names):
    """A cache with some of the cases of another one."""
    shutil.copytree(cache.folder, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["cases"] = [case for case in manifest["cases"] if case["name"] in names]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def material(small_anatomy, small_tissues, small_cache, small_training, tmp_path_factory):
    """The arguments that pack two anatomies, two real cases and one to validate on."""
    folder = tmp_path_factory.mktemp("material")
    other = small_tissues.copy()
    other[20:26, 24:30, 55:60] = Tissue.SPLEEN
    (folder / "anatomies").mkdir()
    for anatomy in (small_anatomy, make_anatomy("small-other", other)):
        anatomy.save(folder / "anatomies" / f"{anatomy.name}.safetensors")
    (folder / "anatomies" / ANATOMIES).write_text(json.dumps(["small", "small-other"]))
    given = ["--anatomies", folder / "anatomies"]
    given += ["--real", part_of(small_cache, folder / "real", ("p31", "p32"))]
    given += ["--validation", part_of(small_cache, folder / "validation", ("p33",))]
    for stage in ("localise", "segment"):
        (folder / f"{stage}.toml").write_text(SETTINGS)
        torch.manual_seed(8)
        save_file(make_network(stage, small_training.model).state_dict(), folder / f"{stage}.safetensors")
        given += [f"--{stage}-config", folder / f"{stage}.toml"]
        given += [f"--{stage}-weights", folder / f"{stage}.safetensors"]
    return given


@pytest.fixture(scope="module")
def pack(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs") / "pack"
    recipe("pack", folder, *material, "--limit-mb", "4")
    return folder


def runs(out, folder):
    recipe("unpack", out, folder)
    return {stage: load_file(folder / stage / "weights.safetensors") for stage in ("localise", "segment")}


def iterations(out):
    return [part["iterations"] for part in json.loads((out / "state.json").read_text())["parts"]]


def log_without_clock(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in one.items() if name not in ("rate", "seconds")} for one in records]


def test_a_pack_holds_the_source_and_all_data_within_its_limit(pack, material):
    listed = json.loads((pack / "pack.json").read_text())
    assert listed["names"] == {"anatomies": ["small", "small-other"], "real": ["p31", "p32"], "validation": ["p33"]}
    assert sum(path.stat().st_size for path in pack.rglob("*") if path.is_file()) < 4_000_000
    assert (pack / "src" / "viscera" / "model" / "networks.py").read_bytes() == (
        ROOT / "src" / "viscera" / "model" / "networks.py"
    ).read_bytes()
    assert os.access(pack / "recipes" / "gpu.sh", os.X_OK)


def test_what_is_unpacked_is_what_was_packed(pack, material, gpu, tmp_path):
    from gpu.unpack import unpack

    unpack(pack, tmp_path)
    sources = {flag: Path(value) for flag, value in zip(material[::2], material[1::2], strict=True)}
    for name in ("small", "small-other"):
        packed, source = tmp_path / "anatomies" / f"{name}.safetensors", sources["--anatomies"] / f"{name}.safetensors"
        assert packed.read_bytes() == source.read_bytes()
    before, after = Cache.open(sources["--real"]), Cache.open(tmp_path / "real")
    for name in ("p31", "p32"):
        after.verify(name)
        for stage in ("localise", "segment"):
            one, other = before.load(name, stage), after.load(name, stage)
            assert np.abs(one.image.astype(int) - other.image).max() <= 2  # HU: half of the step
            assert (one.labels == other.labels).all()
            assert one.organs == other.organs


@pytest.mark.timeout(900)  # three runs of five processes each, on a machine that may be busy
def test_trainings_go_on_exactly_and_come_back_in_few_small_files(pack, bare, tmp_path):
    """Two parts in places of their own, the first ended by its time, give bit for bit what one training gives."""
    first, second, whole = (tmp_path / name for name in ("first", "second", "whole"))
    said = recipe("run", pack, first, "--seconds", 1.5, "--device", "cpu", "--work", tmp_path / "a", path=bare)
    assert "the CPU computes what the CPU does" in said
    reached = {stage: last for stage, (_, last) in iterations(first)[0].items()}
    assert min(reached.values()) > 0
    ends = [f"--set={stage}.iterations={last + 5}" for stage, last in reached.items()]
    common = ["--device", "cpu", "--seconds", 250, *ends, "--checked"]
    recipe("run", pack, second, "--from", first, "--work", tmp_path / "b", *common, path=bare)
    recipe("run", pack, whole, "--work", tmp_path / "c", *common, path=bare)
    assert iterations(second) == [
        iterations(first)[0],
        {stage: [last, last + 5] for stage, last in reached.items()},
    ]
    one, other = runs(second, tmp_path / "runs1"), runs(whole, tmp_path / "runs2")
    for stage, weights in other.items():
        assert weights.keys() == one[stage].keys()
        assert all(torch.equal(value, one[stage][name]) for name, value in weights.items())
        assert log_without_clock(tmp_path / "runs1" / stage) == log_without_clock(tmp_path / "runs2" / stage)
        assert (tmp_path / "runs1" / stage / "best.safetensors").is_file()
    for out in (first, second, whole):
        files = list(out.rglob("*"))
        assert len(files) <= 8
        assert all(path.parent == out and path.stat().st_size < 16_000_000 for path in files)


def test_states_larger_than_a_file_are_cut_and_joined(pack, gpu, monkeypatch, tmp_path):
    from gpu import state

    work, run = tmp_path / "work", ["--device", "cpu", "--seconds", 0.1, "--checked"]
    recipe("run", pack, tmp_path / "out", "--work", work, *run)
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("state_*"))
    monkeypatch.setattr(state, "PIECE_BYTES", size // 3 + 1)
    files = state.write_state(work, tmp_path / "cut", [{"seconds": 1.0}])
    assert [path.name for path in files] == ["state.json", "state_00", "state_01", "state_02"]
    assert state.read_state(tmp_path / "cut", tmp_path / "runs") == [{"seconds": 1.0}]
    (tmp_path / "cut" / "state_01").write_bytes(b"")
    with pytest.raises(state.ReadError, match="state_01 is not what was written"):
        state.read_state(tmp_path / "cut", tmp_path / "runs")


def test_samples_drawn_by_other_processes_are_the_same(pack, gpu, tmp_path):
    from gpu.data import opened_data
    from gpu.train import config_of
    from gpu.unpack import unpack

    unpack(pack, tmp_path)
    config = config_of(tmp_path, "segment", [])
    with opened_data(tmp_path, 0) as here, opened_data(tmp_path, 2) as there:
        for name in ("small-other", "p32"):
            one, other = (
                data.sample(name, "segment", config, np.random.default_rng(5), "cpu") for data in (here, there)
            )
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def streams(check, monkeypatch):
    original = check.streamed_output
    monkeypatch.setattr(check, "streamed_output", lambda *args: tuple(1.01 * one for one in original(*args)))


def engines(check, monkeypatch):
    original, calls = check.TorchEngine.run, []

    def run(*args):
        answer = original(*args)
        calls.append(0)
        return answer._replace(output=answer.output * 1.01) if len(calls) % 3 == 2 else answer

    monkeypatch.setattr(check.TorchEngine, "run", run)


def steps(check, monkeypatch):
    original, made = check.Trainer.backward, []

    def backward(trainer, image, labels, unannotated=()):
        terms = original(trainer, image, labels, unannotated)
        made.append(0)
        for parameter in trainer.parameters.values() if len(made) % 3 == 2 else ():
            parameter.grad *= 1.01
        return terms

    monkeypatch.setattr(check.Trainer, "backward", backward)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (streams, "localise: network, streamed"),
        (engines, "localise: torch engine"),
        (steps, "localise: gradients of a step"),
    ],
)
@pytest.mark.usefixtures("gpu", "one_thread")
def test_a_device_that_computes_something_else_is_refused(fault, named, pack, monkeypatch, tmp_path):
    from gpu import check
    from gpu.__main__ import main
    from gpu.unpack import unpack

    unpack(pack, tmp_path)
    fault(check, monkeypatch)
    with pytest.raises(check.VisceraError, match=f"expected the CPU's results, {named} to") as refusal:
        check.run(type("Arguments", (), {"work": tmp_path, "device": "cpu", "set": []}))
    assert "1.0e-02 apart" in str(refusal.value)
    assert main(["check", str(tmp_path), "--device", "cpu"]) == 1


def test_no_number_is_no_result(gpu):
    from gpu.check import Result, apart

    assert apart(torch.tensor([1.001]), torch.tensor([1.0])) == pytest.approx(1e-3, rel=1e-3)
    assert not Result("", apart(torch.tensor([float("nan")]), torch.tensor([1.0])), 1.0).holds


def test_a_damaged_pack_is_refused_before_anything_is_done(pack, tmp_path):
    shutil.copytree(pack, tmp_path / "pack")
    damaged = tmp_path / "pack" / "anatomies" / "small.xz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    said = recipe("run", tmp_path / "pack", tmp_path / "out", "--seconds", 1, code=1)
    assert "anatomies/small.xz is not what was packed" in said


def test_a_setting_of_no_network_is_refused(pack, tmp_path):
    out, options = tmp_path / "out", ["--device", "cpu", "--checked", "--set", "learning_rate=1"]
    said = recipe("run", pack, out, "--seconds", 1, *options, code=1)
    assert "localise or segment before the first dot" in said


def test_real_cases_for_which_there_is_no_room_are_named(material, pack, tmp_path):
    listed = json.loads((pack / "pack.json").read_text())
    sizes = [path.stat().st_size for path in (pack / "real" / "cases").glob("p32*")]
    limit = (sum(path.stat().st_size for path in pack.rglob("*") if path.is_file()) + 100_000 - sum(sizes)) / 1e6
    said = recipe("pack", tmp_path / "pack", *material, "--limit-mb", limit)
    assert "real: 1; no room for 1: p32" in said
    assert listed["left_out"]["real"] == []
    said = recipe("pack", tmp_path / "other", *material, "--limit-mb", 0.5, code=2)
    assert "expected at most 0.5 MB in all" in said


def test_coding_is_exact_also_where_differences_wrap_around(gpu, tmp_path):
    from gpu.coding import Parsed, coarser, decoded, encoded
    from safetensors.numpy import save

    rng = np.random.default_rng(2)
    image = rng.choice(np.array([-32768, -1024, 0, 3, 32767], np.int16), (5, 6, 7))
    labels = rng.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    data = save({"image": image, "labels": labels, "empty": np.empty((0, 2), np.uint8)}, {"name": "ä"})
    parsed = Parsed.of(data)
    (tmp_path / "one.xz").write_bytes(encoded(parsed))
    assert decoded(tmp_path / "one.xz").content() == data
    for step in (3, 4, 1000):
        rounded = coarser(parsed, step)
        (tmp_path / "two.xz").write_bytes(encoded(rounded, step=step))
        again = decoded(tmp_path / "two.xz")
        assert again.content() == rounded.content()
        most = np.where(np.abs(image.astype(int)) > 32000, step, step / 2)  # at the ends of int16 there is no next one
        assert (np.abs(again.tensors["image"].astype(int) - image) <= most).all()
    with pytest.raises(ValueError, match="bytes after the last tensor"):
        Parsed.of(data + b"x")


def test_depths_that_follow_from_the_tissues_are_not_stored(gpu, small_anatomy, tmp_path):
    from gpu.coding import Parsed, decoded, encoded

    sizes = {}
    for name, anatomy in {
        "computed": small_anatomy,
        "other": dataclasses.replace(small_anatomy, depth=small_anatomy.depth[::-1].copy()),
    }.items():
        anatomy.save(tmp_path / f"{name}.safetensors")
        data = (tmp_path / f"{name}.safetensors").read_bytes()
        (tmp_path / f"{name}.xz").write_bytes(encoded(Parsed.of(data)))
        assert decoded(tmp_path / f"{name}.xz").content() == data
        sizes[name] = (tmp_path / f"{name}.xz").stat().st_size
    assert sizes["computed"] < sizes["other"] / 3
    assert Anatomy.load(tmp_path / "other.safetensors").name == small_anatomy.name


def test_the_first_names_are_spread_over_the_list(gpu):
    from gpu.pack import spread

    assert spread(list("abcdef")) == ["a", "e", "c", "b", "f", "d"]
    assert spread(["a"]) == ["a"]


def test_a_single_gpu_is_known_by_its_number(monkeypatch):
    """Threads that prepare samples choose it for themselves, and torch takes no device without a number there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with joined_world("auto") as world:
        assert world.device == torch.device("cuda", 0)
        assert world.gpus == ("cuda:0",)


def test_settings_of_the_recipe_are_the_published_sampling(gpu):
    from viscera.core.config import ModelConfig
    from viscera.training.config import read_train_config

    config = read_train_config(ROOT / "recipes" / "gpu" / "segment.toml")
    assert config.model.segment == ModelConfig().segment
    assert read_train_config(ROOT / "recipes" / "gpu" / "localise.toml").model.localise == ModelConfig().localise
