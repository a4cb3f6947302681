"""The largest scans in the memory of small machines: whole processes, as the system counts them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from viscera.core.geometry import Grid
from viscera.core.volume import Volume
from viscera.formats.nifti_write import write_volume
from viscera.synthesis.phantom import make_phantom

# 512 x 512 x 1000 voxels are 524 MB as int16.
ENLARGED = 4
PEAK_BYTES = 1_200_000_000

IN_A_PROCESS = "import sys; from viscera.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def long_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of 512 x 512 x 1000 voxels at 0.8 x 0.8 x 0.7 mm, each voxel of a coarser one repeated."""
    coarse = Grid.from_axes(
        (1000 // ENLARGED, 512 // ENLARGED, 512 // ENLARGED),
        spacing_zyx_mm=(0.7 * ENLARGED, 0.8 * ENLARGED, 0.8 * ENLARGED),
        direction_zyx=np.eye(3)[:, ::-1],
        origin_xyz_mm=(-203.2, -203.2, -340.0),
    )
    hu = make_phantom(1, grid=coarse).volume.hu
    for axis in range(3):
        hu = hu.repeat(ENLARGED, axis=axis)
    fine = Grid.from_axes(
        (1000, 512, 512),
        spacing_zyx_mm=(0.7, 0.8, 0.8),
        direction_zyx=np.eye(3)[:, ::-1],
        origin_xyz_mm=(-204.4, -204.4, -341.05),
    )
    path = tmp_path_factory.mktemp("long") / "ct.nii.gz"
    write_volume(Volume(hu=hu, grid=fine), path)
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is counted by Linux")
def test_a_thousand_slices_stay_within_the_memory_of_a_small_machine(long_scan: Path, tmp_path: Path) -> None:
    import subprocess

    report = tmp_path / "run.json"
    arguments = ["segment", str(long_scan), "-o", str(tmp_path / "out.nii.gz"), "--device", "cpu", "-q"]
    subprocess.run([sys.executable, "-c", IN_A_PROCESS, *arguments, "--report", str(report)], check=True)
    case = json.loads(report.read_text())["cases"][0]
    assert case["peak_memory_mib"] * 2**20 < PEAK_BYTES
    assert case["organs"][0]["volume_ml"] > 500  # the liver was found, so all stages did their work


def test_a_scan_larger_than_the_limit_is_refused_before_it_is_read(long_scan: Path, tmp_path: Path) -> None:
    import subprocess

    # In a process of its own, as OpenVINO and torch's training in one process do not bear a signal raised in it.
    arguments = ["segment", str(long_scan), "-o", str(tmp_path / "out.nii.gz"), "--device", "cpu"]
    command = [sys.executable, "-c", IN_A_PROCESS, *arguments, "--memory-limit", "500MB"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "expected a memory limit of at least" in ended.stderr
    assert "Raise --memory-limit" in ended.stderr
    assert not list(tmp_path.iterdir())


# Foretold and counted

IN_TILES = """
import sys
from pathlib import Path
import numpy as np
from viscera.model.bundle import load_bundle
from viscera.engines.choice import make_engine
from viscera.engines.openvino_tiled import partition_of, tiled_bytes, whole_bytes
from viscera.core.memory import peak_bytes, resident_bytes

stage, limited = sys.argv[1], sys.argv[2] == "limited"
shape = (1, 1, 96, 64, 96)
image = np.random.default_rng(0).random(shape, dtype=np.float32)
bundle = load_bundle()
partition = partition_of(stage, bundle.card.model)
GRAPHS = 40_000_000  # read after the limit is set
foretold = GRAPHS + (tiled_bytes(partition, shape, 16, 4) if limited else whole_bytes(partition, shape, 4))
engine = make_engine(bundle, device="cpu", precision="f32", threads=1)
engine.precision  # loads OpenVINO
before = resident_bytes()
if limited:
    limit = before + foretold
    engine = make_engine(bundle, device="cpu", precision="f32", threads=1, memory_limit=limit)
engine.run(stage, image)
print((peak_bytes() - before) / foretold)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is counted by Linux")
@pytest.mark.parametrize("stage", ["localise", "segment"])
@pytest.mark.parametrize("how", ["whole", "limited"])
def test_a_network_takes_about_the_memory_foretold(stage: str, how: str) -> None:
    import subprocess

    command = [sys.executable, "-c", IN_TILES, stage, how]
    share = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 0.6 < share < 1.15
