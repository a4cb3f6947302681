"""From labelled scans to a cross-validation table and a bundle that segments: every step by the command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.core.errors import ConfigError, ReadError
from viscera.core.geometry import Reorientation
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map
from viscera.model.bundle import load_bundle
from viscera.read import read_label_map, read_volume

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("scipy")

CASES = 8
TURNED = "p1"  # whose label file runs along other axes than its CT
ITERATIONS = {"localise": 40, "segment": 80}
SETTINGS = """\
iterations = {iterations}
learning_rate = 1e-2
lambdas = [0.1, 0.1]
precision = "f32"
ema_decay = 0.9
label_sigma_vox = 0.5
log_every = 5
save_every = 50
validation_every = 50
workers = 0

[augment]
translation_mm = 5.0
rotation_rad = 0.05
scale = 0.05
axis_scale = 0.0
elastic_mm = 0.0

[model.localise]
spacing_mm = 16.0
sigma_mm = 4.0
sizes_x_vox = [16]
sizes_y_vox = [16]
sizes_z_vox = [16]

[model.segment]
spacing_mm = 14.0
sigma_mm = 3.0
sizes_x_vox = [16]
sizes_y_vox = [16]
sizes_z_vox = [16]

[model.localiser]
inputs = 1
outputs = 2
filters = 4
levels = 3
dropout = 0.0

[model.scn]
local_filters = 4
local_levels = 3
spatial_filters = 2
spatial_levels = 2
spatial_factor = 2
dropout = 0.0
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def viscera(*words: object) -> int:
    return main([words[0], "-q", *map(str, words[1:])])  # type: ignore[list-item]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, its cache, the settings, and a finished cross-validation of two folds."""
    folder = tmp_path_factory.mktemp("work")
    for seed in range(CASES):
        size = ["--shape", 26 + seed, 30, 34, "--spacing", 13, 11, 12]
        scan, labels = (folder / "data" / part / f"p{seed}.nii.gz" for part in ("images", "labels"))
        assert viscera("phantom", "-o", scan, "--labels", labels, "--seed", seed + 3, *size) == 0
    turn_labels(folder / "data" / "labels" / f"{TURNED}.nii.gz")
    for stage, iterations in ITERATIONS.items():
        (folder / f"{stage}.toml").write_text(SETTINGS.format(iterations=iterations))
    assert viscera("prepare", folder / "data", "-o", folder / "cache", "--config", config(folder), "--workers", 1) == 0
    assert crossval(folder, "cv") == 0
    return folder


def turn_labels(path: Path) -> None:
    """Writes the labels along other axes than the CT's, in the same place."""
    turn, before = Reorientation(axes=(1, 0, 2), flipped=(True, False, False)), read_label_map(path)
    turned = LabelMap(labels=np.ascontiguousarray(turn.apply(before.labels)), grid=turn.apply_to_grid(before.grid))
    write_label_map(turned, path)


def config(folder: Path) -> Path:
    return folder / "segment.toml"


def crossval(folder: Path, run: str, *more: object) -> int:
    settings = [word for stage in ("localise", "segment") for word in (f"--{stage}-config", folder / f"{stage}.toml")]
    words = [folder / "cache", "-o", folder / run, "--folds", 2, *settings, "--device", "cpu", *more]
    return viscera("crossval", *words)


def folds(folder: Path) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = json.loads((folder / "cv" / "splits.json").read_text())["folds"]
    return found


def test_every_case_is_held_out_once(work: Path) -> None:
    held_out = [name for fold in folds(work) for name in fold["val"]]
    assert sorted(held_out) == [f"p{seed}" for seed in range(CASES)]
    assert all(not set(fold["train"]) & set(fold["val"]) for fold in folds(work))


def test_every_case_has_labels_on_its_own_grid_and_scores(work: Path) -> None:
    with (work / "cv" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * CASES
    for number, fold in enumerate(folds(work), start=1):
        for name in fold["val"]:
            labels = read_label_map(work / "cv" / f"fold{number}" / "labels" / f"{name}.nii.gz")
            assert labels.grid.matches(read_volume(work / "data" / "images" / f"{name}.nii.gz").grid)


def test_labels_along_other_axes_are_scored_in_place(work: Path) -> None:
    number = next(number for number, fold in enumerate(folds(work), start=1) if TURNED in fold["val"])
    predicted = read_label_map(work / "cv" / f"fold{number}" / "labels" / f"{TURNED}.nii.gz")
    true = read_label_map(work / "data" / "labels" / f"{TURNED}.nii.gz")
    assert predicted.grid.shape_zyx != true.grid.shape_zyx
    spleens = [one.grid.to_canonical().apply(one.labels) == 3 for one in (predicted, true)]
    dsc = 2 * np.count_nonzero(spleens[0] & spleens[1]) / sum(map(np.count_nonzero, spleens))
    with (work / "cv" / "scores.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if (row["case"], row["organ"]) == (TURNED, "spleen"))
    assert float(row["dsc"]) == pytest.approx(dsc)
    assert dsc > 0.1


def test_training_on_phantoms_finds_the_liver(work: Path) -> None:
    with (work / "cv" / "scores.csv").open() as file:
        liver = [float(row["dsc"]) for row in csv.DictReader(file) if row["organ"] == "liver"]
    assert np.mean(liver) > 0.2


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_the_loss_falls(work: Path, stage: str) -> None:
    lines = (work / "cv" / "fold1" / stage / "log.jsonl").read_text().splitlines()
    losses = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert np.mean(losses[-2:]) < 0.9 * losses[0]


def test_the_table_and_the_figures_are_there(work: Path) -> None:
    assert "all" in (work / "cv" / "table.txt").read_text(encoding="utf-8")
    assert (work / "cv" / "table.md").read_text(encoding="utf-8").count(
        "\n| "
    ) == 5  # the header, its rule, two folds, all
    with (work / "cv" / "table.csv").open() as file:
        assert {row["fold"] for row in csv.DictReader(file)} == {"1", "2", "all"}
    summary = json.loads((work / "cv" / "crossval.json").read_text())
    assert [row["fold"] for row in summary["folds"]] == ["1", "2", "all"]
    assert [(one["stage"], one["trainings"]) for one in summary["trainings"]] == [("localise", 2), ("segment", 2)]
    for plane in ("axial", "coronal"):
        assert (work / "cv" / f"cases_{plane}.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_finished_is_kept(work: Path, tmp_path: Path) -> None:
    again = tmp_path / "cv"
    shutil.copytree(work / "cv", again)
    dropped = folds(work)[1]["val"][0]
    (again / "fold2" / "scores" / f"{dropped}.json").unlink()
    kept = [path for path in again.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".gz")]
    stamps = {path: path.stat().st_mtime_ns for path in kept if dropped not in path.name}
    table = (again / "table.csv").read_bytes()
    assert crossval(work, str(again)) == 0
    assert (again / "table.csv").read_bytes() == table  # the one prediction done again is the same
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_one_fold_at_a_time_and_given_splits(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "cv"
    shutil.copytree(work / "cv", run)
    shutil.rmtree(run / "fold2")
    (run / "splits.json").unlink()
    given = tmp_path / "given.json"
    given.write_text(json.dumps(folds(work)))
    settings = [word for stage in ("localise", "segment") for word in (f"--{stage}-config", work / f"{stage}.toml")]
    words = [work / "cache", "-o", run, "--splits", given, "--fold", 1, *settings, "--device", "cpu"]
    assert main(["crossval", *map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 folds are not finished" in said
    assert "localise: 1 training, " in said
    assert not (run / "fold2").exists()
    with (run / "table.csv").open() as file:
        assert {row["fold"] for row in csv.DictReader(file)} == {"1", "all"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", 5], "the folds it was started with"),
        (["--fold", 3], "1 to 2, got 3"),
        (["--set", "model.scn.labels=3"], "5 labels, as the cache has 4 organs"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    work: Path, more: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crossval(work, "cv", *more) == ConfigError.exit_code
    assert message in capsys.readouterr().err


def test_several_processes_are_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert crossval(work, "cv") == ConfigError.exit_code
    assert "one process, got 2" in capsys.readouterr().err


def test_a_source_that_changed_since_it_was_prepared_is_named(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = tmp_path / "cv", folds(work)[0]["val"][0]
    shutil.copytree(work / "cv", run)
    (run / "fold1" / "scores" / f"{name}.json").unlink()
    scan = work / "data" / "images" / f"{name}.nii.gz"
    content = scan.read_bytes()
    try:
        scan.write_bytes(content + b"x")
        assert crossval(work, str(run)) == ReadError.exit_code
    finally:
        scan.write_bytes(content)
    assert f"{name}: expected the file that was prepared" in capsys.readouterr().err


def test_a_source_that_is_gone_is_named_before_training(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = folds(work)[0]["val"][-1]
    scan, aside = work / "data" / "images" / f"{name}.nii.gz", tmp_path / "aside"
    scan.rename(aside)
    try:
        assert crossval(work, str(tmp_path / "new")) == ReadError.exit_code
    finally:
        aside.rename(scan)
    assert f"{name}: expected the file that was prepared, got nothing there" in capsys.readouterr().err
    assert not (tmp_path / "new" / "fold1").exists()


def test_trained_first_and_scored_later(work: Path, tmp_path: Path) -> None:
    run = tmp_path / "cv"
    assert crossval(work, str(run), "--fold", 1, "--train-only", "--set", "iterations=2") == 0
    assert sorted(path.name for path in (run / "fold1").iterdir()) == ["localise", "segment"]
    stamps = [(run / "fold1" / stage / "weights.safetensors").stat().st_mtime_ns for stage in ("localise", "segment")]
    assert crossval(work, str(run), "--fold", 1, "--set", "iterations=2") == 0
    assert len(list((run / "fold1" / "scores").iterdir())) == CASES / 2
    assert stamps == [
        (run / "fold1" / stage / "weights.safetensors").stat().st_mtime_ns for stage in ("localise", "segment")
    ]


class TestBundle:
    @pytest.fixture(scope="class")
    @staticmethod
    def bundle(work: Path) -> Path:
        pytest.importorskip("onnx")
        fold = work / "cv" / "fold1"
        card = work / "card.json"
        card.write_text(json.dumps({"name": "trained", "licence": "CC0-1.0", "limits": ["Phantoms only."]}))
        assert viscera("bundle", fold / "localise", fold / "segment", "-o", work / "bundle", "--card", card) == 0
        return work / "bundle"

    def test_its_card_holds_both_runs(self, bundle: Path) -> None:
        card = load_bundle(bundle).card
        assert (card.name, card.licence, card.limits) == ("trained", "CC0-1.0", ("Phantoms only.",))
        assert [card.training[stage]["settings"]["iterations"] for stage in ("localise", "segment")] == list(
            ITERATIONS.values()
        )
        for stage in ("localise", "segment"):
            assert card.training[stage]["cases"] == CASES / 2
            assert card.training[stage]["energy"]["kwh"] >= 0
        assert [organ.name for organ in card.organs] == ["liver", "kidney", "spleen", "pancreas"]
        assert card.model.segment.spacing_mm == 14.0

    def test_it_segments_as_the_cross_validation_did(self, work: Path, bundle: Path, tmp_path: Path) -> None:
        name = folds(work)[0]["val"][0]
        scan, output = work / "data" / "images" / f"{name}.nii.gz", tmp_path / "labels.nii.gz"
        assert viscera("segment", scan, "-o", output, "--bundle", bundle, "--device", "cpu", "--precision", "f32") == 0
        before = read_label_map(work / "cv" / "fold1" / "labels" / f"{name}.nii.gz").labels
        assert np.mean(read_label_map(output).labels != before) < 1e-3  # another engine rounds otherwise

    def test_finetuning_begins_with_it(self, work: Path, bundle: Path, tmp_path: Path) -> None:
        words = [bundle, "segment", work / "cache", "-o", tmp_path / "run", "--device", "cpu"]
        assert viscera("finetune", *words, "--set", "iterations=2", "--set", "precision=f32") == 0
        from safetensors.torch import load_file

        begun, own = load_file(tmp_path / "run" / "initial.safetensors"), load_file(bundle / "segment.safetensors")
        assert all(torch.equal(begun[name], own[name]) for name in own)
        tuned = load_file(tmp_path / "run" / "weights.safetensors")
        assert not torch.equal(tuned["local.output.bias"], own["local.output.bias"])
