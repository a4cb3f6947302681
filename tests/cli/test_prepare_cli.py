"""`viscera phantom --count` and `viscera prepare`, from files to a cache that training can read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.read import read_label_map, read_volume
from viscera.synthesis.phantom_dataset import SCAN_SHARES, random_scan
from viscera.training.cache import MANIFEST, Cache

COARSE = """
[model.localise]
spacing_mm = 14.0
sigma_mm = 3.0
sizes_x_vox = [16, 32, 48]
sizes_y_vox = [16, 32]
sizes_z_vox = [16, 32, 64]

[model.segment]
spacing_mm = 12.0
sigma_mm = 1.0
sizes_x_vox = [32]
sizes_y_vox = [32]
sizes_z_vox = [32]
"""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans; number 5 shows no organ."""
    folder = tmp_path_factory.mktemp("phantoms")
    assert main(["phantom", "-q", "--count", "4", "--seed", "4", "--coarser", "4", "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "coarse.toml"
    path.write_text(COARSE)
    return str(path)


def prepare(dataset: Path, cache: Path, config: str, *options: str) -> int:
    return main(["prepare", str(dataset), "-o", str(cache), "--config", config, *options])


def test_a_data_set_of_phantoms(phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"phantom_{seed:05d}.nii.gz" for seed in range(4, 8)]
    assert sorted(path.name for path in (phantoms / "images").iterdir()) == names
    assert sorted(path.name for path in (phantoms / "labels").iterdir()) == names
    grids = []
    for name in names:
        volume, labels = read_volume(phantoms / "images" / name), read_label_map(phantoms / "labels" / name)
        assert volume.grid.matches(labels.grid)
        grids.append(volume.grid.shape_zyx)
    assert len(set(grids)) == 4
    stamps = [path.stat().st_mtime_ns for path in (phantoms / "images").iterdir()]
    assert main(["phantom", "--count", "4", "--seed", "4", "--coarser", "4", "-o", str(phantoms)]) == 0
    assert [path.stat().st_mtime_ns for path in (phantoms / "images").iterdir()] == stamps  # kept
    assert capsys.readouterr().out == f"wrote 4 scans to {phantoms}\n"


def test_every_kind_of_scan_is_drawn() -> None:
    extents = [
        np.array(scan.shape_zyx) * scan.spacing_zyx_mm
        for scan in (random_scan(np.random.default_rng(seed)) for seed in range(200))
    ]
    assert {"abdomen", "slab", "narrow", "trunk", "elsewhere"} == set(SCAN_SHARES)
    assert min(extent[0] for extent in extents) < 80
    assert max(extent[0] for extent in extents) > 400
    assert 0.05 < np.mean([extent[2] < 265 for extent in extents]) < 0.16


@pytest.mark.parametrize(
    "options",
    [["--labels", "x.nii"], ["--shape", "9", "8", "7"], ["--phase", "portal"], ["--seed", "-1"], ["--coarser", "0"]],
    ids=" ".join,
)
def test_a_data_set_takes_no_settings_of_one_scan(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", "--count", "1", "-o", str(tmp_path / "out"), *options]) == 2
    assert "--count" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_coarser_is_for_data_sets(tmp_path: Path) -> None:
    assert main(["phantom", "-o", str(tmp_path / "a.nii"), "--coarser", "2"]) == 2


def test_prepared_in_one_and_in_two_processes(phantoms: Path, tmp_path: Path, config: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert prepare(phantoms, one, config, "--allow-empty", "--workers", "1") == 0
    assert prepare(phantoms, two, config, "--allow-empty", "--workers", "2") == 0
    assert (one / MANIFEST).read_bytes() == (two / MANIFEST).read_bytes()
    cache = Cache.open(two)
    assert cache.names == tuple(f"phantom_{seed:05d}" for seed in range(4, 8))
    assert cache.names_for("segment") != cache.names_for("localise") == cache.names
    for name in cache.names:
        cache.verify(name)
        assert cache.load(name, "localise").image.max() > 0


def test_bad_cases_are_told_and_the_good_ones_kept(
    phantoms: Path, tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    (data / "images" / "phantom_00004.nii.gz").write_bytes(b"not a scan")
    (data / "labels" / "phantom_00006.nii.gz").unlink()
    assert prepare(data, tmp_path / "cache", config, "--workers", "1") == 1
    out, err = capsys.readouterr()
    told = [line.split(":")[2].strip() for line in err.splitlines()]
    empty = [name for name in Cache.open(tmp_path / "cache").manifest.refused if "background only" in name.reason]
    assert sorted(told) == sorted(["phantom_00004", "phantom_00006", *(one.name for one in empty)])
    assert "refused" in out
    assert "phantom_00007" in Cache.open(tmp_path / "cache").names


def test_run_again_everything_is_kept(
    phantoms: Path, tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for kept in (0, 4):
        assert prepare(phantoms, tmp_path / "cache", config, "--allow-empty", "--workers", "1") == 0
        assert f"4 cases ({kept} kept from before)" in capsys.readouterr().out


def test_labels_by_a_mapping(phantoms: Path, tmp_path: Path, config: str) -> None:
    mapping = tmp_path / "labels.toml"
    mapping.write_text(
        'organs = ["abdominal organ"]\nlesions = [4]\n[labels]\n'
        + "".join(f'{label} = "abdominal organ"\n' for label in range(1, 5))
    )
    options = ["--allow-empty", "--workers", "1", "--labels", str(mapping)]
    assert prepare(phantoms, tmp_path / "cache", config, *options) == 0
    cache = Cache.open(tmp_path / "cache")
    assert cache.manifest.settings.organs == ("abdominal organ",)
    assert {organ.label for name in cache.names for organ in cache.entry(name).organs} == {1}
    assert any(cache.entry(name).lesion_ml > 0 for name in cache.names)


def test_reading_a_cache_needs_no_reader_of_scans() -> None:
    code = "import sys, viscera.training.cache, viscera.training.patches; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not {"nibabel", "pydicom", "gdcm", "openvino", "scipy", "SimpleITK", "PIL"} & set(done.stdout.split())


def test_the_manifest_is_plain_json(phantoms: Path, tmp_path: Path, config: str) -> None:
    assert prepare(phantoms, tmp_path / "cache", config, "--allow-empty", "--workers", "1") == 0
    values = json.loads((tmp_path / "cache" / MANIFEST).read_text())
    assert values["settings"]["segment"]["spacing_mm"] == 12.0
    assert all(len(case["image_sha256"]) == 64 for case in values["cases"])
