"""Preparing: bad cases are named and never end the others; good ones are stored whole and made again if changed."""

import dataclasses
import hashlib
import json
import re
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load, save

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import ConfigError, GeometryError, ReadError
from viscera.core.geometry import Grid
from viscera.core.resample import nearest_labels
from viscera.core.volume import LabelMap, Volume
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.synthesis.phantom import THIGHS_Z_MM, PhantomConfig, make_phantom
from viscera.training.array_files import deflated_arrays, deflated_image, deflated_labels
from viscera.training.cache import CASES, MANIFEST, Cache, LabelRule, read_arrays
from viscera.training.datasets import find_dataset
from viscera.training.label_mapping import LabelMapping
from viscera.training.prepare import (
    SAME_PLACE_MM,
    PrepareConfig,
    checked_case,
    extended,
    occupied,
    prepare_dataset,
    stored_grid,
)

SMALL = ModelConfig(
    localise=StageConfig(
        spacing_mm=14.0, sigma_mm=3.0, sizes_x_vox=(16, 32), sizes_y_vox=(16, 32), sizes_z_vox=(16, 32)
    ),
    segment=StageConfig(spacing_mm=12.0, sigma_mm=1.0, sizes_x_vox=(32,), sizes_y_vox=(32,), sizes_z_vox=(32,)),
    localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3),
    scn=ScnConfig(local_filters=4, local_levels=3, spatial_filters=2, spatial_levels=3),
)
CONFIG = PrepareConfig(model=SMALL)
ABDOMEN = PhantomConfig(shape_zyx=(30, 28, 36), spacing_zyx_mm=(9.0, 11.0, 12.0))
THIGHS = PhantomConfig(shape_zyx=(12, 20, 24), spacing_zyx_mm=(12, 16, 18), centre_z_mm=THIGHS_Z_MM)
MAPPING = LabelMapping()


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(3, config=ABDOMEN)


def put(folder, name, volume, label_map):
    write_volume(volume, folder / "images" / f"{name}.nii.gz")
    write_label_map(label_map, folder / "labels" / f"{name}.nii.gz")
    return find_dataset(folder)


def changed(label_map, **changes):
    values = {"labels": label_map.labels, "grid": label_map.grid} | changes
    return LabelMap(**values)


def moved(grid, mm):
    affine = grid.affine.copy()
    affine[0, 3] += mm
    return Grid(shape_zyx=grid.shape_zyx, affine=affine)


def flipped(label_map):
    """The same labels stored the other way round along z and x."""
    affine = label_map.grid.affine.copy()
    for axis in (0, 2):
        affine[:3, 3] += affine[:3, axis] * (label_map.grid.shape_zyx[axis] - 1)
        affine[:3, axis] *= -1
    labels = np.ascontiguousarray(np.flip(label_map.labels, (0, 2)))
    return LabelMap(labels=labels, grid=Grid(shape_zyx=labels.shape, affine=affine))


def test_labels_stored_another_way_round_are_turned(phantom, tmp_path):
    dataset = put(tmp_path, "a", phantom.volume, flipped(phantom.label_map))
    volume, labels = checked_case(dataset.cases[0], MAPPING)
    np.testing.assert_array_equal(labels.labels, phantom.label_map.labels)
    np.testing.assert_array_equal(volume.hu, phantom.volume.hu)


@pytest.mark.parametrize("mm", [0.9 * SAME_PLACE_MM, 1.2 * SAME_PLACE_MM])
def test_labels_must_lie_where_the_ct_lies(phantom, tmp_path, mm):
    labels = changed(phantom.label_map, grid=moved(phantom.label_map.grid, mm))
    dataset = put(tmp_path, "a", phantom.volume, labels)
    if mm < SAME_PLACE_MM:
        assert checked_case(dataset.cases[0], MAPPING)[1].labels.any()
    else:
        with pytest.raises(GeometryError, match="one grid"):
            checked_case(dataset.cases[0], MAPPING)


def test_labels_of_another_shape_are_refused(phantom, tmp_path):
    grid = phantom.label_map.grid
    cut = LabelMap(labels=phantom.label_map.labels[1:], grid=Grid(shape_zyx=(29, 28, 36), affine=grid.affine))
    with pytest.raises(GeometryError, match="shapes"):
        checked_case(put(tmp_path, "a", phantom.volume, cut).cases[0], MAPPING)


def bad_data(folder, phantom):
    """A good case, and one of each that must be refused."""
    volume, labels = phantom.volume, phantom.label_map
    put(folder, "good", volume, labels)
    put(folder, "shifted", volume, changed(labels, grid=moved(labels.grid, 3.0)))
    put(folder, "strange", volume, changed(labels, labels=np.where(labels.labels == 2, 77, labels.labels)))
    put(folder, "empty", volume, changed(labels, labels=np.zeros_like(labels.labels)))
    put(folder, "magnetic", Volume(hu=np.abs(volume.hu), grid=volume.grid), labels)
    (folder / "images" / "broken.nii.gz").write_bytes(b"no scan")
    shutil.copy(folder / "labels" / "good.nii.gz", folder / "labels" / "broken.nii.gz")
    return put(folder, "zother", volume, labels)


REASONS = {
    "broken": "broken",
    "empty": "background only",
    "magnetic": "HU",
    "shifted": "one grid",
    "strange": r"[77]",
}


def test_bad_cases_are_named_and_the_good_ones_stored(phantom, tmp_path):
    seen = []
    manifest = prepare_dataset(bad_data(tmp_path / "data", phantom), tmp_path / "cache", CONFIG, on_case=seen.append)
    assert [entry.name for entry in manifest.cases] == ["good", "zother"]
    assert [refused.name for refused in manifest.refused] == sorted(REASONS)
    assert all(REASONS[refused.name] in refused.reason for refused in manifest.refused)
    assert len(seen) == 7
    assert Cache.open(tmp_path / "cache").manifest == manifest
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".part"]


def test_what_is_kept_of_a_case(phantom, tmp_path):
    ids = phantom.label_map.labels.copy()
    ids[(ids == 1) & (np.indices(ids.shape)[0] % 2 == 0)] = 9  # every other slice of the liver is a tumour
    rules = (*MAPPING.rules, LabelRule(id=9, label=1, lesion=True))
    dataset = put(tmp_path, "a", phantom.volume, changed(phantom.label_map, labels=ids))
    dataset = dataclasses.replace(dataset, mapping=LabelMapping(rules=rules))
    entry = prepare_dataset(dataset, tmp_path / "cache", CONFIG).cases[0]
    assert [organ.label for organ in entry.organs] == [1, 2, 3, 4]
    for organ in entry.organs:
        mask = phantom.label_map.labels == organ.label
        low, high = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
        np.testing.assert_allclose(organ.box.lower_zyx_mm, low * (9.0, 11.0, 12.0))
        np.testing.assert_allclose(organ.box.upper_zyx_mm, high * (9.0, 11.0, 12.0))
        assert organ.ml == pytest.approx(mask.sum() * 9 * 11 * 12 / 1000)
    assert entry.lesion_ml == pytest.approx((ids == 9).sum() * 1.188)
    assert entry.organs[1].lesion_ml == 0
    assert (entry.shape_zyx, entry.spacing_zyx_mm) == ((30, 28, 36), pytest.approx((9.0, 11.0, 12.0)))
    cache = Cache.open(tmp_path / "cache")
    assert cache.load("a", "segment").lesion_ml == pytest.approx(entry.lesion_ml)
    cache.verify("a")


@pytest.fixture
def prepared(phantom, tmp_path):
    """A data set of two cases, its cache, and a way to make it again that tells which cases were kept."""
    put(tmp_path / "data", "a", phantom.volume, phantom.label_map)
    put(tmp_path / "data", "b", phantom.volume, phantom.label_map)

    def again(config=CONFIG):
        kept = {}
        prepare_dataset(
            find_dataset(tmp_path / "data"), tmp_path / "cache", config, on_case=lambda o: kept.update({o.name: o.kept})
        )
        return kept

    assert again() == {"a": False, "b": False}
    return tmp_path, again


def test_what_is_done_is_kept(prepared):
    folder, again = prepared
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "cache" / CASES).iterdir()}
    manifest = (folder / "cache" / MANIFEST).read_bytes()
    assert again() == {"a": True, "b": True}
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache" / CASES).iterdir()} == stamps
    assert (folder / "cache" / MANIFEST).read_bytes() == manifest


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "entry"])
def test_what_is_damaged_is_made_again(prepared, damage):
    folder, again = prepared
    path = folder / "cache" / CASES / ("a.json" if damage == "entry" else "a.segment.safetensors")
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-9] if damage == "cut" else whole[:-3] + b"xyz")
    cache = Cache.open(folder / "cache")
    if damage != "entry":
        with pytest.raises(ReadError, match="viscera prepare again"):
            cache.verify("a")
    assert again() == {"a": False, "b": True}
    assert path.read_bytes() == whole
    cache.verify("a")


def test_what_has_changed_is_made_again(prepared, phantom):
    folder, again = prepared
    hu = phantom.volume.hu + np.int16(1)
    write_volume(Volume(hu=hu, grid=phantom.volume.grid), folder / "data" / "images" / "b.nii.gz")
    assert again() == {"a": True, "b": False}
    assert again(dataclasses.replace(CONFIG, padding_mm=20.0)) == {"a": False, "b": False}


def test_a_stopped_preparation_goes_on(phantom, tmp_path):
    for name in "abcdef":
        put(tmp_path / "data", name, phantom.volume, phantom.label_map)
    dataset, done = find_dataset(tmp_path / "data"), []

    def stop(outcome):
        done.append(outcome.name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(dataset, tmp_path / "cache", CONFIG, on_case=stop)
    begun = {path.name[0] for path in (tmp_path / "cache" / CASES).glob("*.json")}
    assert done[0] in begun
    assert len(begun) < 6
    with pytest.raises(ReadError, match="viscera prepare"):
        Cache.open(tmp_path / "cache")
    outcomes = {}
    prepare_dataset(dataset, tmp_path / "cache", CONFIG, on_case=lambda o: outcomes.update({o.name: o.kept}))
    assert outcomes[done[0]]
    assert Cache.open(tmp_path / "cache").names == tuple("abcdef")


def test_an_error_nobody_foresaw_is_the_cases_own(phantom, tmp_path, monkeypatch):
    for name in "ab":
        put(tmp_path / "data", name, phantom.volume, phantom.label_map)
    import viscera.training.prepare as module

    real = module.read_volume
    monkeypatch.setattr(module, "read_volume", lambda path: 1 // 0 if path.name.startswith("a") else real(path))
    manifest = prepare_dataset(find_dataset(tmp_path / "data"), tmp_path / "cache", CONFIG)
    assert [entry.name for entry in manifest.cases] == ["b"]
    assert manifest.refused[0].name == "a"
    assert "ZeroDivisionError" in manifest.refused[0].reason


def test_scans_without_organs_on_request_for_localisation(tmp_path):
    thighs = make_phantom(1, config=THIGHS)
    dataset = put(tmp_path / "data", "legs", thighs.volume, thighs.label_map)
    allowing = dataclasses.replace(CONFIG, allow_empty=True)
    prepare_dataset(dataset, tmp_path / "cache", allowing)
    cache = Cache.open(tmp_path / "cache")
    assert (cache.names_for("localise"), cache.names_for("segment")) == (("legs",), ())
    case = cache.load("legs", "localise")
    assert (case.organs, case.labels.any(), case.lesion_ml) == (None, False, 0)
    with pytest.raises(ConfigError, match="legs for segment"):
        cache.load("legs", "segment")
    assert prepare_dataset(dataset, tmp_path / "cache", CONFIG).cases == ()  # no longer allowed, so not kept


@pytest.mark.parametrize("damage", ["cut", "other", "header"])
def test_a_damaged_case_is_not_loaded(prepared, damage):
    folder, _ = prepared
    path = folder / "cache" / CASES / "a.localise.safetensors"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-9])
    elif damage == "other":
        shutil.copy(folder / "cache" / CASES / "a.segment.safetensors", path)
    else:
        path.write_bytes(b"\xff" * 8 + whole[8:])
    with pytest.raises(ReadError, match=r"a\.localise"):
        Cache.open(folder / "cache").load("a", "localise")


def test_a_case_that_is_not_there(prepared):
    with pytest.raises(ConfigError, match="nobody"):
        Cache.open(prepared[0] / "cache").entry("nobody")


@pytest.mark.parametrize("damage", ["gone", "cut", "format", "list"])
def test_a_damaged_manifest_is_refused(prepared, damage):
    path = prepared[0] / "cache" / MANIFEST
    values = json.loads(path.read_text())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_text(path.read_text()[:-20])
    else:
        path.write_text("[]" if damage == "list" else json.dumps(values | {"format": 99}))
    with pytest.raises(ReadError, match="manifest"):
        Cache.open(prepared[0] / "cache")


def test_edges_continue_beyond_the_scan():
    axes = {"direction_zyx": np.eye(3)[:, ::-1], "origin_xyz_mm": (0.0, 0.0, 0.0)}
    source = Grid.from_axes((1, 2, 3), spacing_zyx_mm=(1, 1, 1), **axes)
    hu = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.int16)
    affine = source.affine.copy()
    affine[:3, 3] -= 2.0  # two voxels before the first, along each axis
    target = Grid(shape_zyx=(4, 5, 6), affine=affine)
    image = extended(hu, source, target, 0.0)
    np.testing.assert_array_equal(image[0], np.pad(hu[0], ((2, 1), (2, 1)), mode="edge"))
    np.testing.assert_array_equal(image, np.broadcast_to(image[:1], image.shape))


def test_nearest_labels_by_hand():
    axes = {"direction_zyx": np.eye(3)[:, ::-1]}
    source = Grid.from_axes((1, 1, 3), spacing_zyx_mm=(4, 4, 4), origin_xyz_mm=(0.0, 0.0, 0.0), **axes)
    target = Grid.from_axes((1, 1, 7), spacing_zyx_mm=(2, 2, 2), origin_xyz_mm=(-1.9, 0.0, 0.0), **axes)
    labels = np.array([[[3, 1, 2]]], dtype=np.uint8)
    # x of the seven: -1.9, 0.1, 2.1, 4.1, 6.1, 8.1, 10.1 mm; voxels end at 2 and 6 mm
    assert nearest_labels(labels, source, target).tolist() == [[[3, 3, 1, 1, 2, 2, 2]]]


def test_occupied_ranges():
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert occupied(mask) is None
    mask[1, 2, 5] = mask[3, 0, 4] = True
    assert occupied(mask) == (slice(1, 4), slice(0, 3), slice(4, 6))


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_stored_grids_hold_what_is_wanted_and_little_more(phantom, stage):
    grid = phantom.volume.grid
    organs = grid.box(occupied(phantom.label_map.labels > 0))
    wide = dataclasses.replace(CONFIG, padding_mm=10.0)
    stored = stored_grid(grid, organs, stage, wide)
    reach = wide.padding_mm + SMALL.margin_mm
    wanted = grid.box() if stage == "localise" else organs.grown(reach).clipped(grid.box())
    inside = stored.box_from(grid, wanted)
    spacing = stored.spacing_zyx_mm[0]
    assert spacing == pytest.approx(getattr(SMALL, stage).spacing_mm / 2)
    low, high = np.array(inside.lower_zyx_mm), stored.extent_zyx_mm - np.array(inside.upper_zyx_mm)
    for gap in (low, high):  # from the array's outer face to what is wanted: its outer centres lie beyond
        assert (gap >= 0.5 * spacing - 1e-6).all()
        assert (gap <= 1.5 * spacing + 1e-6).all()


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="oversampling"):
        PrepareConfig(oversampling=0)


# Cases that annotate some of the organs


def annotating(dataset, **organs):
    cases = tuple(dataclasses.replace(case, annotated=organs.get(case.name)) for case in dataset.cases)
    return dataclasses.replace(dataset, cases=cases)


def liver_alone(label_map):
    return changed(label_map, labels=np.where(label_map.labels == 1, 1, 0).astype(np.uint8))


def test_what_a_case_annotates_is_stored_with_it(phantom, tmp_path):
    put(tmp_path / "data", "part", phantom.volume, liver_alone(phantom.label_map))
    dataset = put(tmp_path / "data", "whole", phantom.volume, phantom.label_map)
    manifest = prepare_dataset(annotating(dataset, part=("liver",)), tmp_path / "cache", CONFIG)
    assert not manifest.refused
    assert [entry.annotated for entry in manifest.cases] == [("liver",), None]
    cache = Cache.open(tmp_path / "cache")
    assert cache.unannotated("part") == (2, 3, 4)
    assert cache.unannotated("whole") == ()
    # The localisation learns the box around all organs, which such a case does not show.
    assert (cache.names_for("localise"), cache.names_for("segment")) == (("whole",), ("part", "whole"))
    with pytest.raises(ConfigError, match="labels that cover all organs, got those of liver alone"):
        cache.load("part", "localise")


def test_an_organ_that_is_not_known_is_named_with_its_case(phantom, tmp_path):
    dataset = put(tmp_path / "data", "a", phantom.volume, phantom.label_map)
    refused = prepare_dataset(annotating(dataset, a=("liver", "lung")), tmp_path / "cache", CONFIG).refused
    assert "reading what a annotates: expected annotated organs among liver, kidney" in refused[0].reason
    assert "got lung" in refused[0].reason


def test_a_case_is_made_again_when_it_annotates_other_organs(phantom, tmp_path):
    dataset = put(tmp_path / "data", "a", phantom.volume, liver_alone(phantom.label_map))

    def kept(annotated):
        seen = []
        prepare_dataset(annotating(dataset, a=annotated), tmp_path / "cache", CONFIG, on_case=seen.append)
        return seen[0].kept

    assert [kept(("liver",)), kept(("liver",)), kept(("liver", "spleen")), kept(None)] == [False, True, False, False]


def test_labels_of_an_organ_said_not_to_be_annotated_are_refused(phantom, tmp_path):
    dataset = put(tmp_path / "data", "a", phantom.volume, phantom.label_map)
    refused = prepare_dataset(annotating(dataset, a=("liver", "spleen")), tmp_path / "cache", CONFIG).refused
    assert "expected labels of liver, spleen alone" in refused[0].reason
    assert "got labels of kidney, pancreas" in refused[0].reason


def test_the_hash_of_settings_is_that_of_earlier_versions():
    """With another one every cache would be prepared again."""
    values = dataclasses.asdict(CONFIG.settings(MAPPING))
    earlier = {
        {"padding_mm": "reach_mm", "oversampling": "factor"}.get(name, name): one for name, one in values.items()
    }
    assert list(earlier) == ["localise", "segment", "margin_mm", "reach_mm", "factor", "organs", "rules"]
    digest = hashlib.sha256((json.dumps(earlier, indent=1) + "\n").encode()).hexdigest()
    assert CONFIG.settings(MAPPING).sha256() == digest


def test_a_cache_of_an_earlier_version_opens_and_is_kept(phantom, tmp_path):
    prepare_dataset(put(tmp_path / "data", "a", phantom.volume, phantom.label_map), tmp_path / "cache", CONFIG)
    for path in (tmp_path / "cache" / MANIFEST, tmp_path / "cache" / CASES / "a.json"):
        text = re.sub(r',\s*"annotated": null', "", path.read_text())
        path.write_text(text.replace('"padding_mm"', '"reach_mm"').replace('"oversampling"', '"factor"'))
        assert "annotated" not in text
    assert '"factor"' in (tmp_path / "cache" / MANIFEST).read_text()
    assert Cache.open(tmp_path / "cache").unannotated("a") == ()
    seen = []
    prepare_dataset(find_dataset(tmp_path / "data"), tmp_path / "cache", CONFIG, on_case=seen.append)
    assert seen[0].kept


# What is stored


@pytest.mark.parametrize("without_isal", [False, True])
def test_deflated_arrays_come_back_exactly(without_isal, monkeypatch):
    if without_isal:
        monkeypatch.setitem(sys.modules, "isal", None)
    rng = np.random.default_rng(3)
    image = rng.choice(np.array([-32768, -1024, 0, 3, 32767], np.int16), (5, 6, 7))
    labels = rng.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    content = load(deflated_arrays(image, labels))
    found = deflated_image(content["image"], image.shape)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(deflated_labels(content["labels"], labels.shape), labels)
    turned = np.asfortranarray(image)
    np.testing.assert_array_equal(deflated_image(load(deflated_arrays(turned, labels))["image"], image.shape), image)
    for damaged, shape in ((content["labels"][:-4], labels.shape), (content["labels"], (3, 4, 6))):
        with pytest.raises(ValueError):
            deflated_labels(damaged, shape)


def test_a_phantom_is_stored_in_a_fraction_of_its_bytes(phantom, tmp_path):
    dataset = put(tmp_path / "data", "a", phantom.volume, phantom.label_map)
    entry = prepare_dataset(dataset, tmp_path / "cache", CONFIG).cases[0]
    for stored in entry.arrays:
        assert stored.bytes < 2 * np.prod(stored.shape_zyx) / 1.5


def test_caches_with_arrays_as_they_are_still_load(phantom, tmp_path):
    prepare_dataset(put(tmp_path / "data", "a", phantom.volume, phantom.label_map), tmp_path / "cache", CONFIG)
    cache = Cache.open(tmp_path / "cache")
    expected = {stage: cache.load("a", stage) for stage in ("localise", "segment")}
    manifest = json.loads((tmp_path / "cache" / MANIFEST).read_text())
    for stored, arrays in zip(cache.entry("a").arrays, manifest["cases"][0]["arrays"], strict=True):
        path = tmp_path / "cache" / CASES / stored.file
        image, labels = read_arrays(path, stored)
        path.write_bytes(save({"image": image, "labels": labels}))
        arrays["bytes"] = path.stat().st_size
        del arrays["deflated_labels_zyx"]
    (tmp_path / "cache" / MANIFEST).write_text(json.dumps(manifest))
    earlier = Cache.open(tmp_path / "cache")
    for stage, case in expected.items():
        np.testing.assert_array_equal(earlier.load("a", stage).image, case.image)
        np.testing.assert_array_equal(earlier.load("a", stage).labels, case.labels)


def test_cases_used_last_are_kept_in_memory_up_to_a_limit(phantom, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        dataset = put(tmp_path / "data", name, phantom.volume, phantom.label_map)
    prepare_dataset(dataset, tmp_path / "cache", CONFIG)
    one = Cache.open(tmp_path / "cache").load("a", "segment")
    monkeypatch.setattr("viscera.training.cache.KEPT_BYTES", 2 * (one.image.nbytes + one.labels.nbytes))
    cache = Cache.open(tmp_path / "cache")
    first, second = cache.load("a", "segment"), cache.load("b", "segment")
    assert cache.load("a", "segment") is first
    cache.load("c", "segment")  # in place of b, which was not used for longest
    assert cache.load("a", "segment") is first
    assert cache.load("b", "segment") is not second
