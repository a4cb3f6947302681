"""The recipe for a long training, end to end with a tiny setting; installing the copy of the code is played."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("scipy")

from safetensors.torch import load_file

from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.synthesis.phantom import PhantomConfig, make_phantom
from viscera.synthesis.tissues import DONOR_TISSUES

ROOT = Path(__file__).resolve().parents[2]
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
workers = 0
label_sigma_vox = 0.0

[model]
margin_mm = 10.0

[model.segment]
spacing_mm = 12.0
sigma_mm = 1.0
sizes_x_vox = [32]
sizes_y_vox = [32]
sizes_z_vox = [32]
"""
# In place of an environment and of installing into it: the program is the copy of the code, run by this Python.
PYTHON = """#!/usr/bin/env bash
set -eu
mkdir -p "$3/bin"
cat > "$3/bin/pip" <<'END'
#!/usr/bin/env bash
set -eu
program="$(dirname "$0")/viscera"
source="${3%\\[train\\]}"
printf '#!/usr/bin/env bash\\nPYTHONPATH="%s/src" exec "$REAL_PYTHON" -m viscera "$@"\\n' "$source" > "$program"
chmod +x "$program"
END
chmod +x "$3/bin/pip"
"""
PHANTOM = PhantomConfig(shape_zyx=(48, 80, 96), spacing_zyx_mm=(6.0, 4.5, 4.0))


def label_map(labels, path):
    grid = Grid.from_axes(
        labels.shape, spacing_zyx_mm=(2.0, 2.0, 2.0), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(0.0, 0.0, 0.0)
    )
    write_label_map(LabelMap(labels=labels.astype(np.uint8), grid=grid), path)


@pytest.fixture(scope="module")
def given(small_tissues, tmp_path_factory):
    """All that the recipe is given: maps of a host and a donor, a CT and a file that is none, a labelled CT."""
    folder = tmp_path_factory.mktemp("given")
    host = np.where(np.isin(small_tissues, list(STRUCTURES)), small_tissues, 0)
    donor = np.zeros_like(host)
    for number, tissue in DONOR_TISSUES.items():
        donor[host == tissue] = number
    label_map(host, folder / "hosts" / "host.nii.gz")
    label_map(donor, folder / "donors" / "donor.nii.gz")
    (folder / "names.json").write_text(json.dumps(STRUCTURES))
    write_volume(make_phantom(5, config=PHANTOM).volume, folder / "real" / "patient.nii.gz")
    (folder / "real" / "broken.nii.gz").write_bytes(b"no scan")
    phantom = make_phantom(6, config=PHANTOM)
    write_volume(phantom.volume, folder / "held_out.nii.gz")
    write_label_map(phantom.label_map, folder / "held_out_labels.nii.gz")
    (folder / "validation.csv").write_text("name,image,labels\nheld_out,held_out.nii.gz,held_out_labels.nii.gz\n")
    (folder / "tiny.toml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the recipe copies the code out of a git checkout")
    programs = tmp_path_factory.mktemp("programs")
    (programs / "python3").write_text(PYTHON)
    (programs / "python3").chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "REAL_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def recipe(out, given, environment, *settings):
    names = ("hosts", "names.json", "donors", "real", "validation.csv", "tiny.toml")
    return subprocess.run(
        [ROOT / "recipes" / "train.sh", out, *(given / name for name in names), *settings],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.mark.timeout(900)  # several processes, on a machine that may be busy
def test_one_command_makes_the_data_and_trains_and_resumes(given, environment, tmp_path):
    out = tmp_path / "out"
    first = recipe(out, given, environment)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "broken" in first.stderr  # is named, and does not stop the rest
    card = json.loads((out / "run" / "card.json").read_text())
    assert (card["iterations"], card["cases"], card["validation_cases"]) == (2, 3, 1)  # host, host with donor, patient
    weights, shipped = (
        load_file(path)
        for path in (
            out / "run" / "weights.safetensors",
            ROOT / "src" / "viscera" / "model" / "bundles" / "fast" / "segment.safetensors",
        )
    )
    assert weights.keys() == shipped.keys()
    change = max(float((weights[name] - shipped[name]).abs().max()) for name in weights)
    assert 0 < change < 0.01  # began with the shipped weights
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and "run" not in path.parts}

    (given / "tiny.toml").write_text(SETTINGS + "# edited meanwhile\n")
    again = recipe(out, given, environment, "iterations=3")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "copied at the first call" in again.stderr
    assert json.loads((out / "run" / "card.json").read_text())["iterations"] == 3
    assert {path: path.stat().st_mtime_ns for path in made} == made  # no data made twice


def test_too_few_arguments_print_the_usage(environment):
    done = subprocess.run(
        [ROOT / "recipes" / "train.sh", "out"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage: recipes/train.sh OUT HOSTS NAMES.json" in done.stderr
