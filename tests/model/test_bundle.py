"""Bundles: written whole or not at all, verified before use, and refused for each single fault."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viscera.core.config import CleanConfig, ModelConfig, QualityConfig, ScnConfig
from viscera.core.errors import BundleError, WriteError
from viscera.core.organs import ORGANS
from viscera.model import bundle as module
from viscera.model.bundle import CARD, FILES, Bundle, ModelCard, list_bundles, load_bundle, write_bundle

CONTENTS = {name: f"content of {name}".encode() for name in FILES}


def card() -> ModelCard:
    return ModelCard(
        name="test",
        version="1.2",
        description="A bundle for tests, with an umlaut: ü",
        licence="CC0-1.0",
        model=ModelConfig(margin_mm=12.5),
        training={"cases": 3, "data": ["phantoms"]},
        metrics={"dice": {"liver": 0.5}},
        limits=("No children.", "No contrast phases."),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "made" / "bundle", card(), CONTENTS).folder


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / CARD
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_a_written_bundle_is_read_back_whole(folder: Path) -> None:
    found = load_bundle(folder)
    assert dataclasses.replace(found.card, files={}) == card()
    assert found.folder == folder


def test_a_card_from_before_quality_and_cleaning_loads_with_the_published_ones(folder: Path) -> None:
    edit(folder, lambda c: [c["model"].pop(name) for name in ("clean", "cleaning", "quality")])
    assert load_bundle(folder).card.model == ModelConfig(margin_mm=12.5)
    assert load_bundle(folder).card.model.clean is False


def test_a_bundle_carries_its_own_limits(tmp_path: Path) -> None:
    liver = dataclasses.replace(QualityConfig().liver, expected_dsc_min=0.85)
    model = ModelConfig(
        clean=True, cleaning=CleanConfig(keep_share=0.3), quality=QualityConfig(liver=liver, distance_max_mm=200.0)
    )
    made = write_bundle(tmp_path / "b", dataclasses.replace(card(), model=model), CONTENTS)
    assert load_bundle(made.folder).card.model == model


def test_a_bundle_names_its_files(folder: Path) -> None:
    found = load_bundle(folder)
    names = [found.graph("localise"), found.graph("segment"), found.weights("localise"), found.weights("segment")]
    assert [path.name for path in names] == list(FILES)
    assert [path.read_bytes() for path in names] == list(CONTENTS.values())


def test_writing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_bundle(tmp_path / "again", card(), CONTENTS).folder
    assert (again / CARD).read_bytes() == (folder / CARD).read_bytes()


def test_writing_leaves_nothing_else_behind(folder: Path) -> None:
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, *FILES])


def test_the_checksum_is_sha256(folder: Path) -> None:
    expected = hashlib.sha256(b"content of segment.onnx").hexdigest()
    assert load_bundle(folder).card.files["segment.onnx"] == expected


# Each fault of a folder


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: expected sha256"):
        load_bundle(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: expected a file, got none"):
        load_bundle(folder)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / FILES[0]).unlink()
    (folder / FILES[0]).mkdir()
    with pytest.raises(BundleError, match="expected a file"):
        load_bundle(folder)


def test_a_file_beyond_the_limit_is_refused_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_LIMIT_BYTES", 5)
    with pytest.raises(BundleError, match="expected at most 5 bytes"):
        load_bundle(folder)


def test_a_card_beyond_the_limit_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CARD_LIMIT_BYTES", 5)
    with pytest.raises(BundleError, match="expected at most 5 bytes"):
        load_bundle(folder)


@pytest.mark.skipif(os.name != "posix", reason="devices as files")
def test_a_card_that_is_a_device_is_refused_unread(folder: Path) -> None:
    (folder / CARD).unlink()
    (folder / CARD).symlink_to("/dev/null")  # of /dev/zero there would be no end
    with pytest.raises(BundleError, match="expected a file, got something else"):
        load_bundle(folder)


def test_a_folder_without_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"card\.json: expected a readable model card"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "no json", "[1]", "null", "[" * 100_000, '{"format": 1, "format": 1}', '{"format": NaN}']
)
def test_a_card_of_another_form_is_refused(folder: Path, text: str) -> None:
    (folder / CARD).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name": "test"', '"name": "test", "name": "other"', "a field is given twice"),
        ('"liver": 0.5', '"liver": NaN', "NaN is not a number of JSON"),
    ],
)
def test_a_card_that_json_would_let_pass_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    text = (folder / CARD).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (folder / CARD).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def test_a_card_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / CARD).write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match="readable model card"):
        load_bundle(folder)


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown field": (lambda c: c.update(script="x.py"), "unknown or missing: script"),
    "missing field": (lambda c: c.pop("licence"), "unknown or missing: licence"),
    "later format": (lambda c: c.update(format=2), "expected card format 1, got 2"),
    "number for a name": (lambda c: c.update(name=3), "expected name as str, got int"),
    "text for limits": (lambda c: c.update(limits="none"), "expected limits as list, got str"),
    "number among limits": (lambda c: c["limits"].append(3), "expected limits as a list of str"),
    "number among organs": (lambda c: c["organs"].append(3), "expected organs as a list of dict"),
    "list for training": (lambda c: c.update(training=[]), "expected training as dict, got list"),
    "unknown setting": (lambda c: c["model"].update(magic=1), "magic"),
    "unknown inner setting": (lambda c: c["model"]["scn"].update(magic=1), "magic"),
    "limit out of range": (lambda c: c["model"]["quality"]["spleen"].update(parts=0), "OrganLimits.parts"),
    "limit missing": (lambda c: c["model"]["quality"]["spleen"].pop("parts"), "every field without a default"),
    "setting out of range": (lambda c: c["model"].update(margin_mm=-1), "margin_mm"),
    "unknown organ field": (lambda c: c["organs"][0].update(weight=1), "weight"),
    "unsafe organ name": (lambda c: c["organs"][0].update(name="]]>"), "a plain name"),
    "organ twice": (lambda c: c["organs"][0].update(name="spleen"), "one of them twice"),
    "colour out of range": (lambda c: c["organs"][0].update(colour=[1, 2, 300]), "the colour"),
    "colour of two values": (lambda c: c["organs"][0].update(colour=[1, 2]), "colour"),
    "no organ": (lambda c: c["organs"].clear(), "0 organs"),
    "organs in another order": (lambda c: c["organs"].reverse(), "the indices"),
    "organ index missing": (lambda c: c["organs"][0].update(index=9), "the indices"),
    "organ missing": (lambda c: c["organs"].pop(), "expected 4 labels, one more than organs, got 5"),
    "other number of labels": (
        lambda c: c["model"]["scn"].update(labels=7),
        "expected 5 labels, one more than organs, got 7",
    ),
    "localiser of another kind": (lambda c: c["model"]["localiser"].update(outputs=3), "2 outputs, got 1 and 3"),
    "checksum missing": (lambda c: c["files"].pop("segment.onnx"), "checksums"),
    "file outside the folder": (lambda c: c["files"].update({"../evil.onnx": "0" * 64}), "checksums"),
    "checksum in capitals": (lambda c: c["files"].update({k: v.upper() for k, v in c["files"].items()}), "sha256"),
    "checksum of another kind": (lambda c: c["files"].update({"segment.onnx": 7}), "segment.onnx: expected sha256 7"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_card_is_refused(folder: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    edit(folder, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def test_an_untouched_card_passes_after_a_rewrite(folder: Path) -> None:
    edit(folder, lambda values: None)
    assert load_bundle(folder).card.name == "test"


def test_other_colours_do_not_make_a_bundle_unreadable(folder: Path) -> None:
    edit(folder, lambda c: c["organs"][0].update(colour=[1, 2, 3]))
    assert load_bundle(folder).card.organs[0].colour == (1, 2, 3) != ORGANS[0].colour


# Writing


def test_an_existing_folder_is_kept(folder: Path) -> None:
    with pytest.raises(BundleError, match="expected no such folder yet, got a bundle"):
        write_bundle(folder, card(), CONTENTS)
    assert load_bundle(folder).card.version == "1.2"


def test_an_existing_bundle_is_replaced_on_demand(folder: Path) -> None:
    write_bundle(folder, dataclasses.replace(card(), version="2"), CONTENTS, overwrite=True)
    assert load_bundle(folder).card.version == "2"
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(BundleError, match="got something else"):
        write_bundle(tmp_path / "photos", card(), CONTENTS, overwrite=True)


@pytest.mark.parametrize("contents", [{}, CONTENTS | {"../evil": b""}, dict(list(CONTENTS.items())[1:])])
def test_other_files_than_a_bundles_are_not_written(tmp_path: Path, contents: dict[str, bytes]) -> None:
    with pytest.raises(BundleError, match="Pass these four files"):
        write_bundle(tmp_path / "bundle", card(), contents)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"dice": float("nan")}},
        {"training": {"when": object()}},
        {"model": ModelConfig(scn=ScnConfig(labels=3))},
        {"organs": ORGANS[:2]},
    ],
)
def test_a_card_that_would_not_be_read_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "bundle", dataclasses.replace(card(), **changes), CONTENTS)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="writing the bundle"):
        write_bundle(tmp_path / "file" / "bundle", card(), CONTENTS)


def test_a_replacement_that_fails_leaves_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "fresh":
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(WriteError, match="no space"):
        write_bundle(folder, dataclasses.replace(card(), version="2"), CONTENTS, overwrite=True)
    assert load_bundle(folder).card.version == "1.2"


# Shipped bundles


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(module, "SHIPPED_FOLDER", tmp_path)
    monkeypatch.setattr(module, "DEFAULT_BUNDLE", "first")
    write_bundle(tmp_path / "second", card(), CONTENTS)
    return write_bundle(tmp_path / "first", card(), CONTENTS)


def test_the_default_bundle_is_the_shipped_one(shipped: Bundle) -> None:
    assert load_bundle() == shipped


def test_a_shipped_bundle_is_found_by_name(shipped: Bundle) -> None:
    assert load_bundle("second").folder.name == "second"


def test_shipped_bundles_are_listed_in_order(shipped: Bundle) -> None:
    assert list_bundles() == ("first", "second")


@pytest.mark.parametrize("name", ["third", "../first", "", ".", "first/"])
def test_another_name_is_refused_with_the_list(shipped: Bundle, name: str) -> None:
    with pytest.raises(BundleError, match="first, second"):
        load_bundle(name)


@pytest.mark.parametrize("name", list_bundles())
def test_every_bundle_in_the_package_is_whole(name: str) -> None:
    assert load_bundle(name).card.name == name
