"""From label maps to a training on synthetic CTs, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map
from viscera.read import read_label_map, read_volume

pytestmark = pytest.mark.usefixtures("one_thread")

STRUCTURES = {
    1: "liver",
    2: "kidney_right",
    3: "spleen",
    4: "pancreas",
    5: "kidney_left",
    7: "gallbladder",
    8: "stomach",
    12: "colon",
    14: "lung_upper_lobe_left",
    17: "aorta",
    22: "vertebrae_L1",
}
SETTINGS = """
iterations = 2
precision = "f32"
save_every = 1
validation_every = 2
log_every = 1
workers = 1
label_sigma_vox = 0.5

[model]
margin_mm = 20.0
localise = {spacing_mm = 20.0, sigma_mm = 6.0, sizes_x_vox = [16, 24], sizes_y_vox = [16, 24], sizes_z_vox = [8, 16]}
segment = {spacing_mm = 20.0, sigma_mm = 4.0, sizes_x_vox = [16, 24], sizes_y_vox = [16], sizes_z_vox = [8, 16]}
localiser = {inputs = 1, outputs = 2, filters = 4, levels = 3}
scn = {local_filters = 4, local_levels = 2, spatial_filters = 2, spatial_levels = 2, spatial_factor = 2}

[synthesis.acquisition]
slice_mm = [2.0, 7.0]
"""


def written(labels: "np.ndarray", path: Path) -> Path:
    grid = Grid.from_axes(
        labels.shape, spacing_zyx_mm=(2.0, 2.0, 2.0), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(0.0, 0.0, 0.0)
    )
    write_label_map(LabelMap(labels=labels.astype(np.uint8), grid=grid), path)
    return path


@pytest.fixture(scope="module")
def maps(small_tissues, tmp_path_factory):
    """A trunk, a donor and the table of the trunk's structures, as files."""
    from viscera.synthesis.tissues import DONOR_TISSUES

    folder = tmp_path_factory.mktemp("maps")
    trunk = np.where(np.isin(small_tissues, list(STRUCTURES)), small_tissues, 0)
    donor = np.zeros_like(trunk)
    for number, tissue in DONOR_TISSUES.items():
        donor[trunk == tissue] = number
    (folder / "names.json").write_text(json.dumps(STRUCTURES))
    return written(trunk, folder / "trunk.nii.gz"), written(donor, folder / "donor.nii.gz"), folder / "names.json"


@pytest.fixture(scope="module")
def made(maps, tmp_path_factory):
    """The folder of anatomies that `viscera anatomies` makes of them."""
    trunk, donor, names = maps
    folder = tmp_path_factory.mktemp("made") / "anatomies"
    command = ["anatomies", "-q", "--trunks", str(trunk), "--structures", str(names), "--donors", str(donor)]
    assert main([*command, "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def people(small_anatomy, tmp_path_factory):
    """A folder of two anatomies, quickly made."""
    folder = tmp_path_factory.mktemp("people")
    for name in ("one", "other"):
        small_anatomy.save(folder / f"{name}.safetensors")
    (folder / "anatomies.json").write_text('["one", "other"]')
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(SETTINGS)
    return path


def test_trunks_are_made_alone_and_with_each_donor_and_heads_beside_them(made, small_anatomy):
    from viscera.synthesis.anatomy import Anatomy

    names = json.loads((made / "anatomies.json").read_text())
    assert names == ["head-0", "head-1", "head-2", "trunk", "trunk-donor"]
    trunk, both, head = (Anatomy.load(made / f"{name}.safetensors") for name in ("trunk", "trunk-donor", "head-0"))
    assert trunk.organs.keys() == both.organs.keys() == small_anatomy.organs.keys()
    np.testing.assert_array_equal(trunk.tissues[:, 30:-30, 30:-30] == 3, small_anatomy.tissues == 3)
    # The donor's organs are the trunk's own; but its left kidney is mirrored to the right.
    np.testing.assert_array_equal(both.tissues == 4, trunk.tissues == 4)
    assert (both.tissues == 2).sum() == pytest.approx((trunk.tissues == 5).sum(), rel=0.01)
    assert not head.organs


def test_what_is_there_already_is_kept(made, maps, capsys):
    trunk, donor, names = maps
    before = {path: path.stat().st_mtime_ns for path in made.glob("*.safetensors")}
    (made / "trunk-donor.safetensors").unlink()
    command = ["anatomies", "--hosts", str(trunk), "--structures", str(names), "--donors", str(donor)]
    assert main([*command, "-o", str(made)]) == 0
    assert capsys.readouterr().out == f"{made}: 5 anatomies of 1 hosts and 1 donors\n"
    after = {path: path.stat().st_mtime_ns for path in made.glob("*.safetensors")}
    assert {path.stem for path in after if after[path] != before[path]} == {"trunk-donor"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('{"1": "tentacle"}', "tentacle"),
        ('{"300": "liver"}', "the id 300"),
        ('{"one": "liver"}', "names.json"),
        ("[1]", "names.json"),
        (None, "names.json"),
    ],
    ids=["unknown structure", "id too high", "no id", "no table", "no file"],
)
def test_a_wrong_table_of_structures_is_one_line(table, words, maps, tmp_path, capsys):
    names = tmp_path / "names.json"
    if table is not None:
        names.write_text(table)
    assert main(["anatomies", "--trunks", str(maps[0]), "--structures", str(names), "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("viscera: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()


def test_synthesised_scans_are_files_and_a_picture(people, tmp_path, capsys):
    out, sheet = tmp_path / "scans", tmp_path / "sheet.png"
    command = ["synthesise", str(people), "--count", "2", "--seed", "4", "--voxel", "4"]
    assert main([*command, "-o", str(out), "--sheet", str(sheet)]) == 0
    assert capsys.readouterr().out == f"wrote {sheet}\nwrote 2 scans to {out}\n"
    assert sheet.read_bytes().startswith(b"\x89PNG")
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.nii.gz"))
    names = ("synthetic_00004.nii.gz", "synthetic_00005.nii.gz")
    assert files == [f"{part}/{name}" for part in ("images", "labels") for name in names]
    for name in names:
        volume, labels = read_volume(out / "images" / name), read_label_map(out / "labels" / name)
        assert volume.grid.matches(labels.grid)
        assert labels.labels.any()
        assert labels.labels.max() <= 4


def test_a_seed_is_a_scan(people, tmp_path):
    for folder, seed, count in (("a", "4", "2"), ("b", "5", "1")):
        command = ["synthesise", "-q", str(people), "--voxel", "5", "--count", count, "--seed", seed]
        assert main([*command, "-o", str(tmp_path / folder)]) == 0
    first, again = (read_volume(tmp_path / one / "images" / "synthetic_00005.nii.gz") for one in ("a", "b"))
    np.testing.assert_array_equal(first.hu, again.hu)
    other = read_volume(tmp_path / "a" / "images" / "synthetic_00004.nii.gz")
    assert other.hu.shape != first.hu.shape or (other.hu != first.hu).any()


@pytest.mark.parametrize(
    ("others", "code", "words"),
    [
        ([], 2, "-o or --sheet"),
        (["--seed", "-1"], 2, "a seed of 0 or more"),
        (["--voxel", "0"], 2, "a voxel size above 0"),
        (["--set", "synthesis.body.fat=3"], 2, "fat"),
    ],
)
def test_wrong_arguments_of_synthesise_are_one_line(others, code, words, people, tmp_path, capsys):
    output = [] if not others else ["-o", str(tmp_path / "out")]
    assert main(["synthesise", str(people), *output, *others]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_anatomies_is_named(tmp_path, capsys):
    assert main(["synthesise", str(tmp_path), "--sheet", str(tmp_path / "s.png")]) == 1
    assert "Make them with viscera anatomies" in capsys.readouterr().err


def trained(people, run, settings, *others):
    return main(
        ["train", "segment", str(people), "-o", str(run), "--config", str(settings), "--device", "cpu", "-q", *others]
    )


def test_a_training_on_anatomies_goes_on_exactly(people, small_cache, settings, tmp_path):
    held_out = ["--validation-cache", str(small_cache.folder)]
    assert trained(people, tmp_path / "whole", settings, *held_out) == 0
    assert trained(people, tmp_path / "parts", settings, *held_out, "--set", "iterations=1") == 0
    first = (tmp_path / "parts" / "weights.safetensors").read_bytes()
    assert trained(people, tmp_path / "parts", settings, *held_out) == 0
    whole, parts = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "parts"))
    assert parts == whole != first
    card = json.loads((tmp_path / "whole" / "card.json").read_text())
    assert (card["iterations"], card["cases"], card["validation_cases"]) == (2, 2, 4)
    records = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [sorted(record["validation"]) for record in records if "validation" in record] == [
        ["kidney", "liver", "pancreas", "spleen"]
    ]


def test_the_number_of_workers_changes_nothing(people, settings, tmp_path):
    for workers in ("0", "2"):
        assert trained(people, tmp_path / workers, settings, "--set", f"workers={workers}") == 0
    first, second = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("0", "2"))
    assert first == second


def test_some_anatomies_can_be_chosen(people, settings, tmp_path):
    assert trained(people, tmp_path / "run", settings, "--names", "other", "--set", "iterations=1") == 0
    assert json.loads((tmp_path / "run" / "card.json").read_text())["cases"] == 1


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["--validation", "one"], "--validation-cache with anatomies"),
        (["--fold", "1"], "--validation-cache with anatomies"),
        (["--set", "model.scn.labels=3"], "model.scn.labels = 3"),
        (["--names", "nobody"], "nobody"),
    ],
)
def test_what_does_not_go_with_anatomies_is_one_line(others, words, people, settings, tmp_path, capsys):
    assert trained(people, tmp_path / "run", settings, *others) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("viscera: error: ")
    assert err.count("\n") == 1
    assert words in err


def test_a_validation_cache_is_for_anatomies_only(small_cache, settings, tmp_path, capsys):
    held_out = ["--validation-cache", str(small_cache.folder)]
    assert trained(small_cache.folder, tmp_path / "run", settings, *held_out) == 2
    assert "--validation-cache and --real only with anatomies" in capsys.readouterr().err


def test_real_label_maps_are_read(shared_data):
    from viscera.synthesis.build import donor_map, trunk_map
    from viscera.synthesis.tissues import DONOR_TISSUES, Tissue

    folder = shared_data / "labels"
    names = {int(number): name for number, name in json.loads((folder / "ts_classes.json").read_text()).items()}
    trunk = trunk_map(read_label_map(folder / "ts_s0001.nii.gz"), names)
    donor = donor_map(read_label_map(folder / "multiorgan_007.nii.gz"))
    for tissues, side in ((trunk, Tissue.KIDNEY_RIGHT), (donor, Tissue.GALLBLADDER)):
        liver, spleen, right = (
            np.argwhere(tissues == tissue).mean(0) for tissue in (Tissue.LIVER, Tissue.SPLEEN, side)
        )
        assert liver[2] < spleen[2]  # x runs to the left
        assert right[2] < spleen[2]
    assert set(np.unique(donor)) <= {0, *DONOR_TISSUES.values()}
    assert 500 < (donor == Tissue.LIVER).sum() * 0.008 < 3500
