"""The MONAI bundle: its files, and MONAI itself loading the networks and running the workflow."""

import json
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.core.errors import BundleError
from viscera.model.bundle import CARD, FILES, load_bundle
from viscera.model.monai_bundle import INFERENCE, METADATA, README, write_monai_bundle


@pytest.fixture(scope="module")
def monai_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle, written by the command line."""
    folder = tmp_path_factory.mktemp("monai") / "fast"
    assert main(["export", "-q", "--monai", str(folder)]) == 0
    return folder


def test_the_folder_holds_configs_models_and_documentation(monai_bundle: Path) -> None:
    found = {str(path.relative_to(monai_bundle)) for path in monai_bundle.rglob("*") if path.is_file()}
    assert found == {METADATA, INFERENCE, README, *(f"models/fast/{name}" for name in (CARD, *FILES))}


def test_the_bundle_in_it_is_whole(monai_bundle: Path) -> None:
    assert load_bundle(monai_bundle / "models" / "fast").card == load_bundle().card


def test_the_metadata_names_channels_and_packages(monai_bundle: Path) -> None:
    metadata = json.loads((monai_bundle / METADATA).read_text(encoding="utf-8"))
    data = metadata["network_data_format"]
    channels = {"0": "background", "1": "liver", "2": "kidney", "3": "spleen", "4": "pancreas"}
    assert data["outputs"]["pred"]["channel_def"] == channels
    assert data["outputs"]["pred"]["num_channels"] == 5
    assert data["inputs"]["image"]["spatial_shape"] == ["32*n"] * 3
    assert {"viscera", "torch", "safetensors"} <= metadata["required_packages_version"].keys()
    assert metadata["version"] == load_bundle().card.version


def test_the_readme_tells_what_monai_gets(monai_bundle: Path) -> None:
    text = (monai_bundle / README).read_text(encoding="utf-8")
    assert "viscera[train]" in text
    assert "no MONAI transform" in text
    assert all(limit in text for limit in load_bundle().card.limits)


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected no such folder yet"):
        write_monai_bundle(tmp_path, load_bundle())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export --monai m --card card.json", "--monai takes no --card"),
        ("export --card card.json", "required: --localiser, --segmenter, -o (or --monai)"),
    ],
)
def test_half_an_export_is_wrong_usage(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# Loaded by MONAI


@pytest.mark.filterwarnings("ignore")  # MONAI's own
def test_monai_loads_both_networks_with_equal_outputs(monai_bundle: Path) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.bundle")
    from viscera.engines.torch_engine import TorchEngine

    parser = monai.ConfigParser()
    parser.read_config(monai_bundle / INFERENCE)
    parser["bundle_root"] = str(monai_bundle)
    parser["device"] = "$torch.device('cpu')"
    image = torch.rand(1, 1, 32, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    engine = TorchEngine(load_bundle(), device="cpu", precision="f32")
    with torch.inference_mode():
        logits = parser.get_parsed_content("localiser")(image)
        probabilities = parser.get_parsed_content("inferer")(image, parser.get_parsed_content("network"))[0]
    np.testing.assert_array_equal(logits.numpy(), engine.run("localise", image.numpy()).output)
    np.testing.assert_array_equal(probabilities.numpy(), engine.run("segment", image.numpy()).output)


@pytest.mark.filterwarnings("ignore")  # MONAI's own
def test_monai_runs_the_workflow_with_equal_labels(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    monai = pytest.importorskip("monai.bundle")
    from viscera.read import read_label_map
    from viscera.segmenter import Segmenter

    folder = write_monai_bundle(tmp_path / "monai", load_bundle(tiny_bundle))
    (tmp_path / "scans").mkdir()
    scan = tmp_path / "scans" / "one.nii.gz"
    assert main(["phantom", "-q", "-o", str(scan), "--shape", "20", "24", "28", "--spacing", "14", "13", "12"]) == 0
    workflow = monai.ConfigWorkflow(
        config_file=str(folder / INFERENCE),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(tmp_path / "scans"),
        output_dir=str(tmp_path / "labels"),
        device="$torch.device('cpu')",
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    expected = Segmenter.load(tiny_bundle, device="cpu").segment_file(scan, tmp_path / "expected.nii.gz")
    found = read_label_map(tmp_path / "labels" / "one.nii.gz")
    np.testing.assert_array_equal(found.labels, read_label_map(expected.output).labels)
