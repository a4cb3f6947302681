"""Parts of the verbs that need no model."""

import json
from pathlib import Path
from typing import Any

import pytest

from viscera.case import preview_path
from viscera.cli.demo import seconds_text
from viscera.cli.export import read_card
from viscera.cli.main import main
from viscera.cli.segment_tables import cases_csv, cases_json, summary
from viscera.core.config import ModelConfig
from viscera.core.errors import ConfigError, ReadError
from viscera.quality.statistics import OrganStatistics
from viscera.segmenter import bundle_source

CARD: dict[str, Any] = {"name": "a", "version": "1", "description": "b", "licence": "c"}
LIVER = OrganStatistics(
    organ="liver", voxels=1000, volume_ml=1510.4, mean_hu=101.25, sd_hu=20.0, border_faces=("superior",)
)
SPLEEN = OrganStatistics(organ="spleen", voxels=0, volume_ml=0.0, mean_hu=None, sd_hu=None, border_faces=())
KIDNEY = OrganStatistics(organ="kidney", voxels=50, volume_ml=311.6, mean_hu=150.0, sd_hu=9.0, border_faces=())


def card_file(folder: Path, values: Any) -> Path:
    path = folder / "card.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_card_of_four_texts_has_the_published_model(tmp_path: Path) -> None:
    card = read_card(card_file(tmp_path, CARD))
    assert (card.name, card.version, card.description, card.licence) == ("a", "1", "b", "c")
    assert card.model == ModelConfig()
    assert card.limits == ()


def test_a_card_keeps_what_it_says_of_model_and_training(tmp_path: Path) -> None:
    said = {"model": {"margin_mm": 10}, "training": {"cases": 3}, "metrics": {"dsc": 0.5}, "limits": ["No children."]}
    card = read_card(card_file(tmp_path, CARD | said))
    assert card.model == ModelConfig(margin_mm=10.0)
    assert (card.training, card.metrics, card.limits) == ({"cases": 3}, {"dsc": 0.5}, ("No children.",))


def test_the_card_of_a_bundle_serves_as_a_card(tmp_path: Path) -> None:
    written = {"format": 1, "organs": ["liver", "kidney", "spleen", "pancreas"], "files": {"localise.onnx": "0" * 64}}
    assert read_card(card_file(tmp_path, CARD | written)).files == {}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], ReadError),
        ({"name": "a"}, ReadError),
        (CARD | {"colour": "red"}, ReadError),
        (CARD | {"version": 1}, ReadError),
        (CARD | {"limits": "none"}, ReadError),
        (CARD | {"model": {"margin": 3}}, ConfigError),
    ],
    ids=["list", "missing", "unknown", "number for text", "text for list", "unknown setting"],
)
def test_a_card_that_is_none_is_refused(values: Any, kind: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(kind):
        read_card(card_file(tmp_path, values))


def test_a_card_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="card"):
        read_card(tmp_path / "card.json")


def test_text_without_separator_names_a_shipped_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle_source("fast") == "fast"
    assert bundle_source("./fast") == bundle_source("fast/") == Path("fast")
    assert bundle_source("models/fast") == Path("models/fast")
    assert bundle_source(Path("fast")) == Path("fast")


def test_a_folder_with_a_card_is_meant_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fast").mkdir()
    assert bundle_source("fast") == "fast"
    (tmp_path / "fast" / "card.json").touch()
    assert bundle_source("fast") == Path("fast")


@pytest.mark.parametrize(("name", "preview"), [("a.nii.gz", "a_preview.png"), ("a.b.nii", "a.b_preview.png")])
def test_a_preview_lies_beside_its_labels(name: str, preview: str) -> None:
    assert preview_path(Path("x") / name) == Path("x") / preview


def test_the_summary_tells_absent_organs_and_those_at_the_border() -> None:
    assert summary([LIVER, KIDNEY, SPLEEN]) == "liver 1510 ml (at the border), kidney 312 ml, spleen not found"


def test_the_tables_of_many_cases_name_each_case() -> None:
    rows = cases_csv({"one": [LIVER], "two": [LIVER, SPLEEN]}).splitlines()
    assert rows[0].startswith("case,organ,voxels,volume_ml")
    assert [row.split(",")[:2] for row in rows[1:]] == [["one", "liver"], ["two", "liver"], ["two", "spleen"]]
    entries = json.loads(cases_json({"one": [LIVER], "two": [SPLEEN]}))
    assert [(entry["case"], entry["organs"][0]["mean_hu"]) for entry in entries] == [("one", 101.25), ("two", None)]


def test_seconds_are_listed_and_summed() -> None:
    assert seconds_text({"read": 0.25, "write": 1.5}) == "seconds: read 0.25, write 1.50; 1.75 in total"


def test_a_phantom_and_its_labels_are_two_files(tmp_path: Path) -> None:
    path = str(tmp_path / "a.nii")
    assert main(["phantom", "-o", path, "--labels", path]) == 2
    assert not Path(path).exists()
