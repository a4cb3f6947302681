"""Fixtures every test may use: a tiny model with random weights, small scans, a small anatomy.

What the tiny model finds shows that the parts fit, not that labels are right.
"""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from viscera.synthesis.anatomy import Anatomy
    from viscera.training.cache import Cache
    from viscera.training.config import TrainConfig

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# Folders and files whose tests start processes, train, export networks or draw whole virtual patients.
SLOW = (
    "batch/test_batch_faults.py",
    "benchmarks",
    "cli/test_bundle_cli.py",
    "cli/test_crossval.py",
    "cli/test_dicom_outputs_cli.py",
    "cli/test_interrupt.py",
    "cli/test_no_console.py",
    "cli/test_prepare_cli.py",
    "cli/test_pseudolabel_cli.py",
    "cli/test_synthesis_cli.py",
    "cli/test_train_cli.py",
    "cli/test_view_cli.py",
    "docs/test_batch_guide.py",
    "docs/test_docs_commands.py",
    "docs/test_doctests.py",
    "docs/test_train_guide.py",
    "engines",
    "evaluation/test_benchmark.py",
    "evaluation/test_plots.py",
    "formats/dicom/test_pixels.py",
    "formats/dicom/test_seg_and_rtstruct_write.py",
    "formats/test_robustness_read.py",
    "model/test_shipped_bundle.py",
    "pacs/test_listener.py",
    "pacs/test_orthanc.py",
    "pacs/test_page.py",
    "pacs/test_tls.py",
    "pacs/test_worker.py",
    "recipes",
    "synthesis",
    "test_fork.py",
    "test_peak_memory.py",
    "test_security_claims.py",
    "tools",
    "training",
    "viewer/test_viewer_browser.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by where they lie and what they use; each of these marks can be given to a test itself, too."""
    root = Path(__file__).parent
    for item in (one for one in items if one.path.is_relative_to(root)):
        place = item.path.relative_to(root).as_posix()
        marks = {
            "slow": any(place == one or place.startswith(f"{one}/") for one in SLOW),
            "pacs": place.startswith("pacs/"),
            "real": "shared_data" in getattr(item, "fixturenames", ()),
            "browser": place.endswith("_browser.py"),
        }
        for name, given in marks.items():
            if given:
                item.add_marker(getattr(pytest.mark, name))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled networks of the tests are kept for the tests alone, those of their processes included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Finds another program by its name, beside Python's or on the path; without it the test is skipped."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

    def find(name: str) -> str:
        if (found := shutil.which(name, path=places)) is None:
            pytest.skip(f"the program {name} is not installed")
        return found

    return find


@pytest.fixture(scope="session")
def screen() -> Callable[[str], list[str]]:
    """What stands on a terminal that got a text: lines, with moves up and the clearing of lines done."""

    def show(text: str) -> list[str]:
        rows, row = [""], 0
        text = re.sub(r"\x1b\[(?:[0-9;]*m|\?25[hl])", "", text)  # colours, and the cursor hidden and shown
        for part in re.findall(r"\x1b\[1A|\x1b\[2K|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                row += 1
                rows += [""] if row == len(rows) else []
            elif part == "\x1b[1A":
                row -= 1
            elif part == "\x1b[2K":
                rows[row] = ""
            elif part != "\r":
                rows[row] = part
        return rows

    return show


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CTs for development, which lies beside the repository and is not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real CTs at {SHARED_DATA}")
    return SHARED_DATA


# Balls of a small trunk, voxels (z, y, x) at 2 mm in canonical axes (z to the head, y to the back, x to the left):
# tissue, centre, radii. Every organ has more than 5 ml, and nothing lies symmetrically.
SMALL_TRUNK = (
    ("LUNG", (34, 21, 25), (8, 11, 15)),
    ("LUNG", (34, 22, 51), (8, 12, 12)),
    ("LIVER", (25, 20, 22), (9, 11, 12)),
    ("STOMACH", (27, 15, 42), (6, 6, 8)),
    ("SPLEEN", (25, 27, 58), (7, 6, 5)),
    ("PANCREAS", (17, 20, 40), (5, 5, 9)),
    ("KIDNEY_RIGHT", (13, 31, 25), (8, 5, 6)),
    ("KIDNEY_LEFT", (15, 30, 54), (8, 6, 5)),
    ("COLON", (6, 15, 45), (5, 6, 12)),
    ("GALLBLADDER", (16, 14, 24), (4, 4, 4)),
    ("ARTERY", (20, 29, 41), (90, 3, 3)),
    ("BONE", (20, 36, 39), (90, 5, 6)),
)


@pytest.fixture(scope="session")
def small_tissues() -> "NDArray[np.uint8]":
    """A small trunk as `trunk_map` would make it: uint8 (z, y, x) `Tissue`, its core not yet filled."""
    pytest.importorskip("torch")
    from viscera.synthesis.tissues import Tissue

    places = np.indices((40, 48, 76))
    tissues = np.zeros(places.shape[1:], dtype=np.uint8)
    for name, centre, radii in SMALL_TRUNK:
        away = sum(((place - c) / r) ** 2 for place, c, r in zip(places, centre, radii, strict=True))
        tissues[away <= 1] = Tissue[name]
    return tissues


@pytest.fixture(scope="session")
def small_anatomy(small_tissues: "NDArray[np.uint8]") -> "Anatomy":
    """The anatomy of the small trunk."""
    pytest.importorskip("scipy")
    from viscera.synthesis.build import make_anatomy

    return make_anatomy("small", small_tissues)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are slowest when threads wait for each other on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Coarse stages and a few filters: a case takes some hundredths of a second.
TINY_MODEL = ModelConfig(
    localise=StageConfig(
        spacing_mm=24.0, sigma_mm=8.0, sizes_x_vox=(8, 16, 24), sizes_y_vox=(8, 16), sizes_z_vox=(8, 16, 32)
    ),
    segment=StageConfig(
        spacing_mm=16.0, sigma_mm=5.0, sizes_x_vox=(16, 24, 32), sizes_y_vox=(8, 16, 24), sizes_z_vox=(8, 16, 24)
    ),
    margin_mm=20.0,
    localiser=UNetConfig(inputs=1, outputs=2, filters=2, levels=2),
    scn=ScnConfig(local_filters=2, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2),
)


@pytest.fixture(scope="session")
def export_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Makes a bundle whose localisation finds organs everywhere or nowhere; without torch, copies of stored ones."""
    if importlib.util.find_spec("torch") is None:
        stored = Path(__file__).parent / "data" / "bundles"
        copies = tmp_path_factory.mktemp("tiny")
        return lambda finds: Path(shutil.copytree(stored / ("tiny" if finds else "empty"), copies / f"finds{finds}"))
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    pytest.importorskip("onnx")

    def export(finds: bool) -> Path:
        import dataclasses
        import json

        from viscera.model.networks import SpatialConfigurationNet, UNet

        folder = tmp_path_factory.mktemp("tiny")
        torch.manual_seed(7)
        localiser, segmenter = UNet(TINY_MODEL.localiser), SpatialConfigurationNet(TINY_MODEL.scn)
        with torch.no_grad():
            for values in localiser.parameters():
                values.zero_()
            localiser.output.bias.copy_(torch.tensor([0.0, 1.0 if finds else -1.0]))
        safetensors.save_file(localiser.state_dict(), folder / "localiser.safetensors")
        safetensors.save_file(segmenter.state_dict(), folder / "segmenter.safetensors")
        card = {"name": "tiny", "version": "1", "description": "Random weights.", "licence": "Apache-2.0"}
        (folder / "card.json").write_text(json.dumps({**card, "model": dataclasses.asdict(TINY_MODEL)}))
        weights = ["--localiser", folder / "localiser.safetensors", "--segmenter", folder / "segmenter.safetensors"]
        bundle = folder / "bundle"
        assert main(["export", "-q", *map(str, [*weights, "--card", folder / "card.json", "-o", bundle])]) == 0
        return bundle

    return export


@pytest.fixture(scope="session")
def tiny_bundle(export_tiny: Callable[[bool], Path]) -> Path:
    return export_tiny(True)


@pytest.fixture(scope="session")
def empty_bundle(export_tiny: Callable[[bool], Path]) -> Path:
    return export_tiny(False)


@pytest.fixture(scope="session")
def tiny_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic CT of 20 x 24 x 28 voxels at 12 x 11 x 10 mm."""
    return small_phantom(tmp_path_factory.mktemp("scan") / "ct.nii.gz", seed=1, shape=(20, 24, 28))


@pytest.fixture(scope="session")
def other_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another person on another grid."""
    return small_phantom(tmp_path_factory.mktemp("scan") / "other.nii.gz", seed=2, shape=(31, 23, 27))


def small_phantom(path: Path, *, seed: int, shape: tuple[int, int, int]) -> Path:
    size = ["--shape", *map(str, shape), "--spacing", "12", "11", "10"]
    assert main(["phantom", "-q", "-o", str(path), "--seed", str(seed), *size]) == 0
    return path


@pytest.fixture(scope="session")
def small_training() -> "TrainConfig":
    """Settings of a training whose steps take hundredths of a second."""
    pytest.importorskip("torch")
    from viscera.training.config import TrainConfig

    model = ModelConfig(
        localise=StageConfig(
            spacing_mm=20.0, sigma_mm=6.0, sizes_x_vox=(16, 24), sizes_y_vox=(16, 24), sizes_z_vox=(8, 16)
        ),
        segment=StageConfig(
            spacing_mm=20.0, sigma_mm=4.0, sizes_x_vox=(16, 24), sizes_y_vox=(16,), sizes_z_vox=(8, 16)
        ),
        margin_mm=20.0,
        localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3),
        scn=ScnConfig(local_filters=4, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2),
    )
    return TrainConfig(
        model=model,
        iterations=9,
        learning_rate=1e-3,
        precision="f32",
        save_every=4,
        validation_every=3,
        log_every=2,
        label_sigma_vox=0.5,
        workers=0,
    )


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantoms in folders images/ and labels/, p31 to p34, and thighs, which show no organ."""
    from viscera.formats.nifti_write import write_label_map, write_volume
    from viscera.synthesis.phantom import THIGHS_Z_MM, PhantomConfig, make_phantom

    folder = tmp_path_factory.mktemp("phantoms")
    shape = {"shape_zyx": (24, 20, 22), "spacing_zyx_mm": (12.0, 16.0, 18.0)}
    configs = {f"p{seed}": PhantomConfig(**shape) for seed in (31, 32, 33, 34)}
    configs["thighs"] = PhantomConfig(**{**shape, "shape_zyx": (12, 20, 22)}, centre_z_mm=THIGHS_Z_MM)
    for seed, (name, config) in enumerate(configs.items(), start=31):
        phantom = make_phantom(seed, config=config)
        write_volume(phantom.volume, folder / "images" / f"{name}.nii")
        write_label_map(phantom.label_map, folder / "labels" / f"{name}.nii")
    return folder


@pytest.fixture(scope="session")
def small_cache(
    small_dataset: Path, small_training: "TrainConfig", tmp_path_factory: pytest.TempPathFactory
) -> "Cache":
    """The phantoms prepared for `small_training`."""
    from viscera.training.cache import Cache
    from viscera.training.datasets import find_dataset
    from viscera.training.prepare import PrepareConfig, prepare_dataset

    folder = tmp_path_factory.mktemp("cache")
    prepare_dataset(find_dataset(small_dataset), folder, PrepareConfig(model=small_training.model, allow_empty=True))
    return Cache.open(folder)


# What `pip install -e '.[test]'` leaves out; tests that need one of them say so instead of failing.
NOT_IN_TEST_EXTRA = ("torch", "scipy", "SimpleITK", "onnxscript", "monai", "surface_distance")


def missing_package(error: BaseException | None, text: str) -> str | None:
    """Which of the packages left out is the reason of an error, if it is not installed."""
    absent = [name for name in NOT_IN_TEST_EXTRA if importlib.util.find_spec(name) is None]
    needs_one = isinstance(error, ImportError | MissingExtraError) or "ModuleNotFoundError" in text
    return next((name for name in absent if name in text), None) if needs_one else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[pytest.CollectReport]:
    """Skip a module whose imports need a package that is left out."""
    report = yield
    if report.failed and (name := missing_package(None, str(report.longrepr))):
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: {name} is not installed")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[pytest.TestReport]:
    """Skip a test that needs such a package."""
    report = yield
    if report.failed and call.excinfo and (name := missing_package(call.excinfo.value, str(call.excinfo.value))):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"Skipped: {name} is not installed")
    return report
