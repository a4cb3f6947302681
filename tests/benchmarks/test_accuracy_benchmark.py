"""The accuracy benchmark from scans to tables and card, and the engines that replace a part of the method."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from viscera.core.errors import BundleError, GeometryError
from viscera.core.geometry import Reorientation
from viscera.core.organs import ORGANS, named_organ
from viscera.core.volume import LabelMap, Volume
from viscera.crop import roi_box
from viscera.evaluation.ablation import KnownBox, torch_pair
from viscera.evaluation.benchmark import labelled_box, localised_organs
from viscera.evaluation.benchmark_tables import write_card_metrics
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.model.bundle import FILES, load_bundle
from viscera.segmenter import Segmenter
from viscera.synthesis.phantom import PhantomConfig, make_phantom

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy.py"
TURN = Reorientation(axes=(1, 2, 0), flipped=(False, True, True))


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("accuracy_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(1, config=PhantomConfig(shape_zyx=(20, 24, 28), spacing_zyx_mm=(12.0, 11.0, 10.0)))


@pytest.fixture(scope="module")
def data(phantom, tmp_path_factory):
    """A data folder with one labelled scan, its labels stored along other axes, and one that is no CT."""
    folder = tmp_path_factory.mktemp("data")
    write_volume(phantom.volume, folder / "real" / "ts_slab_ct.nii.gz")
    turned = LabelMap(labels=TURN.apply(phantom.label_map.labels), grid=TURN.apply_to_grid(phantom.label_map.grid))
    write_label_map(turned, folder / "real" / "ts_slab_labels.nii.gz")
    grey = Volume(hu=np.full(phantom.volume.grid.shape_zyx, 200, dtype=np.int16), grid=phantom.volume.grid)
    write_volume(grey, folder / "robustness" / "mr_abdomen_by_mistake.nii.gz")
    return folder


@pytest.fixture
def run(benchmark, data, monkeypatch, one_thread):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["accuracy.py", "--data", str(data), *map(str, arguments)])
        benchmark.main()

    return run


class TestBenchmark:
    def test_tables_json_and_pictures(self, run, tiny_bundle, tmp_path, capsys):
        cases = ("--cases", "ts_slab", "mr_abdomen_by_mistake")
        run("--bundle", tiny_bundle, "--margin", 10, "--margin", 32, *cases, "--out", tmp_path, "--pictures")
        runs = json.loads((tmp_path / "accuracy.json").read_text())
        assert [one["setting"]["margin_mm"] for one in runs] == [10.0, 32.0]
        slab, mistake = runs[0]["cases"]
        assert slab["reference"] == "another model"
        assert all(one["in_reference"] and one["in_box"] == 1.0 for one in slab["organs"])
        assert mistake["refusal"].startswith("reading robustness/mr_abdomen_by_mistake.nii.gz")
        assert (tmp_path / "accuracy.md").read_text().count("## tiny 1, margin mm") == 2
        assert "| ts_slab" in capsys.readouterr().out
        assert (tmp_path / "1-bundle-margin-10" / "ts_slab.png").is_file()

    def test_a_card_is_updated(self, run, tiny_bundle, tmp_path):
        bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
        run("--write-card", bundle, "--cases", "ts_slab")
        metrics = load_bundle(bundle).card.metrics
        assert set(metrics["real CTs, DSC"]["ts_slab (reference: another model)"]) == {
            "liver",
            "kidney",
            "spleen",
            "pancreas",
        }

    def test_the_local_net_alone_and_the_references_box(self, run, tiny_bundle, tmp_path):
        settings = ("--bundle", tiny_bundle, "--cases", "ts_slab", "--out", tmp_path)
        run(*settings, "--local-only", "--oracle-box")
        (one,) = json.loads((tmp_path / "accuracy.json").read_text())
        assert (one["setting"]["labels"], one["setting"]["box"]) == ("local net alone", "the reference's")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data", "nowhere"], "no real CTs in nowhere"),
            (["--pictures"], "--pictures needs --out"),
            (["--write-card", "bundle", "--local-only"], "as it is"),
        ],
    )
    def test_what_cannot_be_done_is_said(self, run, arguments, message, capsys):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert message in capsys.readouterr().err


def test_the_box_before_the_margin_is_the_pipelines_own(tiny_bundle, phantom):
    segmenter = Segmenter.load(tiny_bundle, device="cpu")
    model = segmenter.bundle.card.model
    found = localised_organs(phantom.volume, segmenter.engine, model)
    region = segmenter.segment_volume(phantom.volume, allow_empty=True).roi
    turn = phantom.volume.grid.to_canonical()
    assert region == roi_box(turn.apply_to_grid(phantom.volume.grid), found.box, model.margin_mm)
    assert found.spacing_mm == 24.0


def test_nothing_localised(empty_bundle, phantom):
    segmenter = Segmenter.load(empty_bundle, device="cpu")
    assert localised_organs(phantom.volume, segmenter.engine, segmenter.bundle.card.model).box is None


@pytest.mark.parametrize("turn", [Reorientation(axes=(0, 1, 2), flipped=(False, False, False)), TURN])
def test_a_known_box_is_what_the_pipeline_crops_to(tiny_bundle, phantom, turn):
    segmenter = Segmenter.load(tiny_bundle, device="cpu")
    model = segmenter.bundle.card.model
    grid = turn.apply_to_grid(phantom.volume.grid)
    volume = Volume(hu=np.ascontiguousarray(turn.apply(phantom.volume.hu)), grid=grid)
    box = labelled_box(phantom.label_map)
    known = replace(segmenter, engine=KnownBox(segmenter.engine, model, grid, box))
    region = known.segment_volume(volume, allow_empty=True).roi
    found = localised_organs(volume, known.engine, model).box
    bounds = zip(found.lower_zyx_mm, box.lower_zyx_mm, box.upper_zyx_mm, found.upper_zyx_mm, strict=True)
    for low, exact_low, exact_high, high in bounds:
        assert exact_low - 24.0 < low <= exact_low
        assert exact_high <= high < exact_high + 24.0
    canonical = grid.to_canonical().apply_to_grid(grid)
    assert region == roi_box(canonical, found, model.margin_mm)
    assert found != localised_organs(volume, segmenter.engine, model).box


class TestNetworkPair:
    IMAGE = np.random.default_rng(3).uniform(-1, 1, (2, 1, 8, 16, 24)).astype(np.float32)

    def test_the_networks_of_a_bundle_give_what_its_engine_gives(self, tiny_bundle, one_thread):
        from viscera.engines.torch_engine import TorchEngine

        bundle = load_bundle(tiny_bundle)
        engine, pair = TorchEngine(bundle, device="cpu"), torch_pair(bundle)
        for stage in ("localise", "segment"):
            np.testing.assert_array_equal(pair.run(stage, self.IMAGE).output, engine.run(stage, self.IMAGE).output)

    def test_the_local_net_alone(self, tiny_bundle, one_thread):
        import torch

        bundle = load_bundle(tiny_bundle)
        whole, pair = torch_pair(bundle), torch_pair(bundle, local_only=True)
        local = pair._networks["segment"].local
        with torch.inference_mode():
            expected = torch.sigmoid(local(torch.from_numpy(self.IMAGE))).numpy()
        maps = pair.run("segment", self.IMAGE).output
        np.testing.assert_allclose(maps, expected, atol=1e-6)
        assert not np.allclose(maps, whole.run("segment", self.IMAGE).output, atol=0.01)
        logits = (one.run("localise", self.IMAGE).output for one in (pair, whole))
        np.testing.assert_array_equal(*logits)

    def test_networks_in_training_are_not_disturbed(self, tiny_bundle, one_thread):
        pair = torch_pair(load_bundle(tiny_bundle))
        network = pair._networks["segment"].train()
        first, second = (pair.run("segment", self.IMAGE).output for _ in range(2))
        np.testing.assert_array_equal(first, second)  # no dropout, no noise
        assert network.training
        network.eval()
        pair.run("segment", self.IMAGE)
        assert not network.training


class TestCard:
    @pytest.fixture
    def bundle(self, tiny_bundle, tmp_path):
        return shutil.copytree(tiny_bundle, tmp_path / "bundle")

    def test_figures_are_replaced_and_all_else_stays(self, bundle):
        before = load_bundle(bundle).card
        contents = {name: (bundle / name).read_bytes() for name in FILES}
        write_card_metrics(bundle, {"phantoms": 1, "real CTs, DSC": {"a": 0.5}, "no abdominal CT": "x"})
        write_card_metrics(bundle, {"real CTs, DSC": {"b": 0.25}})
        after = load_bundle(bundle).card
        assert after.metrics == {"phantoms": 1, "real CTs, DSC": {"b": 0.25}}
        assert replace(after, metrics=before.metrics) == before
        assert {name: (bundle / name).read_bytes() for name in FILES} == contents

    def test_other_files_in_the_folder_are_not_lost(self, bundle):
        (bundle / "notes.txt").write_text("mine")
        with pytest.raises(BundleError, match=r"also notes\.txt"):
            write_card_metrics(bundle, {})
        assert (bundle / "notes.txt").read_text() == "mine"


def test_a_reference_of_another_scan_is_an_error(benchmark, data, phantom):
    grid = phantom.volume.grid
    moved = replace(grid, affine=grid.affine + np.eye(4)[[0]].T * [0.0, 0.0, 0.0, 1.0])
    slab = next(real for real in benchmark.CASES if real.case.name == "ts_slab")
    with pytest.raises(GeometryError, match="the reference of ts_slab"):
        benchmark.reference_of(slab, Volume(hu=phantom.volume.hu, grid=moved), data, ORGANS)


def test_references_are_told_in_the_bundles_own_labels(benchmark, data, phantom):
    slab = next(real for real in benchmark.CASES if real.case.name == "ts_slab")
    organs = (named_organ(1, "pancreas"), named_organ(2, "stomach"), named_organ(3, "liver"))
    reference = benchmark.reference_of(slab, phantom.volume, data, organs)
    expected = np.select([phantom.label_map.labels == 4, phantom.label_map.labels == 1], [1, 3])
    np.testing.assert_array_equal(reference.labels, expected)
    assert {1, 3} <= set(np.unique(expected))


def test_networks_in_memory_are_measured_as_their_bundle_is(benchmark, data, tiny_bundle, one_thread):
    bundle = load_bundle(tiny_bundle)
    pair = torch_pair(bundle)
    plan = benchmark.Plan(data=data, cases=("ts_slab",), tolerances_mm=(1.0, 3.0))
    networks = (pair._networks[stage] for stage in ("localise", "segment"))
    in_memory = benchmark.measured(benchmark.segmenter_in_memory(*networks, bundle.card.model, name="trial"), plan)
    from_bundle = benchmark.measured(Segmenter(bundle=bundle, engine=pair), plan)
    assert in_memory.bundle == "trial in memory"
    assert in_memory.setting == {"margin_mm": 20.0, "engine": "torch-cpu", "precision": "f32"}
    assert in_memory.cases[0].organs == from_bundle.cases[0].organs
    assert len(in_memory.cases[0].organs[0].nsd) == 2
