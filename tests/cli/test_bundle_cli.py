"""Bundles made of runs, fine-tuning for other organs, and segmenting with them: by the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.core.errors import BundleError, ConfigError, ReadError
from viscera.model.bundle import load_bundle

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")
pytest.importorskip("scipy")

# The phantoms' liver and spleen under other names; their kidneys and pancreas are background.
MAPPING = """\
organs = ["spleen", "left liver", "right liver"]
[labels]
1 = "left liver"
2 = "background"
3 = "spleen"
4 = "background"
"""
SAMPLING = """\
[model.{stage}]
spacing_mm = {spacing}
sigma_mm = {sigma}
sizes_x_vox = [{sizes_x}]
sizes_y_vox = [{sizes_y}]
sizes_z_vox = [{sizes_z}]
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
def work(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A folder with two scans, their cache for other organs, and both networks tuned on it from the tiny bundle."""
    folder = tmp_path_factory.mktemp("tuned")
    for seed in range(2):
        size = ["--shape", 20 + seed, 24, 28, "--spacing", 14, 13, 12]
        scan, labels = (folder / "data" / part / f"p{seed}.nii.gz" for part in ("images", "labels"))
        assert viscera("phantom", "-o", scan, "--labels", labels, "--seed", seed + 3, *size) == 0
    (folder / "mapping.toml").write_text(MAPPING)
    (folder / "model.toml").write_text(sampling(tiny_bundle))
    cache = folder / "cache"
    settings = ["--labels", folder / "mapping.toml", "--config", folder / "model.toml", "--workers", 1]
    assert viscera("prepare", folder / "data", "-o", cache, *settings) == 0
    for stage in ("localise", "segment"):
        more = ["--set", "iterations=2", "--set", "precision=f32", "--device", "cpu"]
        assert viscera("finetune", tiny_bundle, stage, cache, "-o", folder / stage, *more) == 0
    assert viscera("bundle", folder / "localise", folder / "segment", "-o", folder / "bundle") == 0
    return folder


def sampling(bundle: Path) -> str:
    model = load_bundle(bundle).card.model
    parts = []
    for stage in ("localise", "segment"):
        own = getattr(model, stage)
        sizes = {f"sizes_{axis}": ", ".join(map(str, getattr(own, f"sizes_{axis}_vox"))) for axis in "xyz"}
        parts.append(SAMPLING.format(stage=stage, spacing=own.spacing_mm, sigma=own.sigma_mm, **sizes))
    networks = [
        "[model.localiser]\ninputs = 1\noutputs = 2\nfilters = 2\nlevels = 2",
        "[model.scn]\nlocal_levels = 2\nspatial_levels = 2\nspatial_factor = 2",
    ]
    return f"model.margin_mm = {model.margin_mm}\n" + "\n".join([*parts, *networks])


def test_the_bundle_has_the_caches_organs(work: Path) -> None:
    card = load_bundle(work / "bundle").card
    assert [organ.name for organ in card.organs] == ["spleen", "left liver", "right liver"]
    assert card.organs[0].code.value == "78961009"
    assert card.model.scn.labels == 4
    assert (card.name, card.licence) == ("bundle", "not stated")
    assert card.training["segment"]["cases"] == 2


def test_finetuning_says_what_it_keeps(
    work: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [tiny_bundle, "segment", work / "cache", "-o", tmp_path / "run", "--device", "cpu"]
    assert main(["finetune", *map(str, words), "--set", "iterations=1", "--set", "precision=f32"]) == 0
    assert "initialised: local.output, spatial" in capsys.readouterr().out


def test_segmenting_with_it_speaks_of_its_organs(work: Path, tmp_path: Path) -> None:
    scan, output = work / "data" / "images" / "p0.nii.gz", tmp_path / "out"
    asked = ["--statistics", "--preview", "--report", tmp_path / "report.json", "--allow-empty"]
    assert viscera("segment", scan, "-o", output, "--bundle", work / "bundle", "--device", "cpu", *asked) == 0
    names = ["spleen", "left liver", "right liver"]
    with (output / "statistics.csv").open() as file:
        assert [row["organ"] for row in csv.DictReader(file)] == names
    report = json.loads((tmp_path / "report.json").read_text())
    assert [organ["organ"] for organ in report["cases"][0]["organs"]] == names
    import gzip

    content = gzip.decompress((output / "p0.nii.gz").read_bytes())
    assert b"right liver" in content
    assert b"pancreas" not in content
    again = [scan, "-o", output, "--bundle", work / "bundle", "--device", "cpu", "--statistics", "--skip-existing"]
    assert viscera("segment", *again) == 0
    with (output / "statistics.csv").open() as file:
        assert [row["organ"] for row in csv.DictReader(file)] == names


def test_scoring_by_it_speaks_of_its_organs(work: Path, tmp_path: Path) -> None:
    from viscera.core.volume import LabelMap
    from viscera.formats.nifti_write import write_label_map
    from viscera.read import read_label_map

    truth = read_label_map(work / "data" / "labels" / "p0.nii.gz")
    mapped = LabelMap(labels=np.where(truth.labels == 3, 1, 0).astype(np.uint8), grid=truth.grid)
    path = tmp_path / "labels.nii.gz"
    write_label_map(mapped, path)
    assert viscera("evaluate", path, path, "--bundle", work / "bundle", "--csv", tmp_path / "scores.csv") == 0
    with (tmp_path / "scores.csv").open() as file:
        assert [row["organ"] for row in csv.DictReader(file)] == ["spleen", "left liver", "right liver"]


def test_the_other_network_comes_from_a_bundle(
    work: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_bundle(tiny_bundle)
    assert main(["bundle", str(tiny_bundle), str(work / "segment"), "-o", str(tmp_path / "mixed")]) == 0
    said = capsys.readouterr().out
    made = load_bundle(tmp_path / "mixed")
    assert made.card.files["localise.safetensors"] == base.card.files["localise.safetensors"]
    assert made.card.files["segment.safetensors"] == load_bundle(work / "bundle").card.files["segment.safetensors"]
    assert made.card.model == load_bundle(work / "bundle").card.model
    assert [organ.name for organ in made.card.organs] == ["spleen", "left liver", "right liver"]
    assert made.card.training["localise"]["bundle"] == base.card.name
    assert made.card.training["segment"]["cases"] == 2
    assert made.card.metrics == {}
    assert "localise: the same weights" in said
    assert "segment: other weights" in said
    assert "model.scn.labels: 4 instead of 5" in said
    assert "organs: spleen, left liver, right liver instead of liver, kidney, spleen, pancreas" in said


def test_a_localisation_is_taken_into_a_bundle(work: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert viscera("bundle", tiny_bundle, work / "localise", "-o", tmp_path / "mixed") == 0
    made, base = load_bundle(tmp_path / "mixed"), load_bundle(tiny_bundle)
    assert made.card.files["segment.onnx"] == base.card.files["segment.onnx"]
    assert made.card.files["localise.onnx"] != base.card.files["localise.onnx"]
    assert made.card.organs == base.card.organs
    assert made.card.limits == base.card.limits


def test_an_export_says_what_differs(
    work: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--card", tiny_bundle / "card.json", "-o", tmp_path / "new", "--bundle", tiny_bundle]
    words += ["--localiser", tiny_bundle / "localise.safetensors"]
    words += ["--segmenter", tiny_bundle / "segment.safetensors"]
    assert main(list(map(str, words))) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["  localise: the same weights", "  segment: the same weights"]


def test_weights_of_other_settings_are_refused_with_their_shapes(
    work: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--card", tiny_bundle / "card.json", "-o", tmp_path / "new", "--localiser"]
    words += [tiny_bundle / "localise.safetensors", "--segmenter", work / "segment" / "weights.safetensors"]
    assert viscera("export", *words) == BundleError.exit_code
    assert "of shape (5, 2, 1, 1, 1), got shape (4, 2, 1, 1, 1)" in capsys.readouterr().err


def test_a_folder_that_is_neither_is_refused(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert viscera("bundle", tmp_path, work / "segment", "-o", tmp_path / "new") != 0
    assert "a finished training's folder" in capsys.readouterr().err


CARDS: dict[str, tuple[object, type[Exception], str]] = {
    "unknown field": ({"model": {}}, ConfigError, "got model"),
    "another type": ({"limits": "none"}, ConfigError, "limits from"),
    "too few organs": ({"organs": ["spleen"]}, ConfigError, "3 organs, as the network has"),
    "no object": ([], ReadError, "a JSON object"),
}


@pytest.mark.parametrize("fault", CARDS)
def test_a_faulty_card_is_refused(work: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    values, error, message = CARDS[fault]
    (tmp_path / "card.json").write_text(json.dumps(values))
    words = [work / "localise", work / "segment", "-o", tmp_path / "bundle", "--card", tmp_path / "card.json"]
    assert viscera("bundle", *words) == error.exit_code  # type: ignore[attr-defined]
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [("segment", "localise", "a training of stage localise"), ("localise", "nowhere", "nowhere")],
)
def test_runs_that_do_not_fit_are_refused(
    work: Path, tmp_path: Path, first: str, second: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert viscera("bundle", work / first, work / second, "-o", tmp_path / "bundle") != 0
    assert message in capsys.readouterr().err


def test_settings_of_the_model_are_refused_in_finetuning(
    work: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [tiny_bundle, "segment", work / "cache", "-o", tmp_path / "run", "--config", work / "model.toml"]
    assert viscera("finetune", *words) == ConfigError.exit_code
    assert "Take [model] out" in capsys.readouterr().err
