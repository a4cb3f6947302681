"""A bundle as a MONAI bundle: a folder that `monai.bundle` reads and runs, with this package doing the work.

    configs/metadata.json     what the segmentation network reads and gives, in MONAI's terms
    configs/inference.json    both networks, and the workflow that segments every scan of a folder
    models/NAME/              the bundle itself: card, weights, graphs, checksums
    docs/README.md            what is in it and what it needs

Nothing is converted, so nothing can differ: MONAI builds the networks of `networks` from the bundle's safetensors.
Writing it needs neither torch nor MONAI.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from viscera.core.errors import BundleError, WriteError, reason
from viscera.core.version import version
from viscera.model.bundle import CARD, FILES, Bundle, write_folder

METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
README = "docs/README.md"
# What MONAI's own bundles name here; the lowest versions this was tried with.
_REQUIRED = {"viscera": None, "torch": "2.10", "safetensors": "0.5"}
_MONAI_VERSION = "1.5.1"
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"

_README = """\
# {name} {version}

{description}

Licence of the weights: {licence}.

Limits:

{limits}

This MONAI bundle holds two networks and the settings they belong to, as the Python package `viscera` reads them
(`models/{name}`; its `card.json` says more). MONAI loads both networks from the safetensors files:

- `localiser_def`: one channel in, logits of background and foreground out, on a CT smoothed and sampled at
  {localise_mm:g} mm;
- `network_def`: one channel in; out come probabilities of {labels}, then the logits
  of its local and its spatial nets, on the region around the organs, smoothed and sampled at {segment_mm:g} mm.

What lies between a scan and these inputs (reading, smoothing, sampling, the box around the organs, resampling of the
labels to the scan) is no MONAI transform: `evaluator` in `configs/inference.json` is a `viscera.Segmenter`, which does
all of it. So `viscera[train]` must be installed next to MONAI.

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir LABELS

segments every file and folder in SCANS (NIfTI, NRRD, MetaImage, folders of DICOM), one label file for each.
"""


def write_monai_bundle(folder: Path, bundle: Bundle) -> Path:
    """Write `bundle` as a MONAI bundle to the new `folder`, whole or not at all, and return the folder.

    Raises:
        BundleError: If `folder` is taken.
        WriteError: If it cannot be written.
    """
    if folder.exists():
        raise BundleError(
            f"writing the MONAI bundle {folder}",
            expected="no such folder yet",
            got="one",
            remedy="Choose another folder, or remove it",
        )
    name = bundle.card.name
    texts = {
        METADATA: _json_text(_metadata(bundle)),
        INFERENCE: _json_text(_inference(name)),
        README: _readme(bundle),
    }
    try:
        copied = {f"models/{name}/{file}": (bundle.folder / file).read_bytes() for file in (CARD, *FILES)}
        write_folder(folder, {path: text.encode() for path, text in texts.items()} | copied)
    except OSError as error:
        raise WriteError(
            f"writing the MONAI bundle {folder}",
            expected="a folder that can be written",
            got=reason(error),
            remedy="Check free space and rights, or choose another folder",
        ) from error
    return folder


def _metadata(bundle: Bundle) -> dict[str, Any]:
    card = bundle.card
    names = ["background", *(organ.name for organ in card.organs)]
    channels = {str(index): name for index, name in enumerate(names)}
    multiple = f"{card.model.scn.size_multiple_vox}*n"
    common = {"type": "image", "spatial_shape": [multiple] * 3, "dtype": "float32", "is_patch_data": False}
    image = {"format": "hounsfield", "modality": "CT", "num_channels": 1, "value_range": [-1, 1]}
    labels = {"format": "segmentation", "num_channels": len(names), "value_range": [0, 1]}
    return {
        "schema": _SCHEMA,
        "version": card.version,
        "changelog": {card.version: f"written by viscera {version()} on {datetime.now(UTC):%Y-%m-%d}"},
        "monai_version": _MONAI_VERSION,
        "pytorch_version": _REQUIRED["torch"],
        "numpy_version": "2.0",
        "required_packages_version": {name: lowest or version() for name, lowest in _REQUIRED.items()},
        "name": card.name,
        "task": "Segmentation of abdominal organs in CT",
        "description": card.description,
        "authors": "see the card",
        "copyright": f"licence of the weights: {card.licence}",
        "intended_use": "Research; not a medical device",
        "network_data_format": {
            "inputs": {"image": common | image | {"channel_def": {"0": "image"}}},
            "outputs": {"pred": common | labels | {"channel_def": channels}},
        },
    }


def _inference(name: str) -> dict[str, Any]:
    network = "$load_network('{0}', @viscera_bundle.card.model, @viscera_bundle.weights('{0}'))"
    label_file = "Path(@output_dir) / (Path(path).name.split('.')[0] + '.nii.gz')"
    return {
        "imports": [
            "$import torch",
            "$import viscera",
            "$from pathlib import Path",
            "$from viscera.model.bundle import load_bundle",
            "$from viscera.engines.torch_engine import load_network",
        ],
        "bundle_root": ".",
        "dataset_dir": "$str(Path(@bundle_root) / 'data')",
        "output_dir": "$str(Path(@bundle_root) / 'eval')",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "viscera_bundle": f"$load_bundle(Path(@bundle_root) / 'models' / '{name}')",
        "localiser_def": network.format("localise"),
        "localiser": "$@localiser_def.to(@device)",
        "network_def": network.format("segment"),
        "network": "$@network_def.to(@device)",
        "inferer": {"_target_": "SimpleInferer"},
        "datalist": "$sorted(str(path) for path in Path(@dataset_dir).iterdir())",
        "dataset": {"_target_": "Dataset", "data": "@datalist"},
        "evaluator": "$viscera.Segmenter.load(@viscera_bundle.folder, device=@device.type)",
        "initialize": ["$Path(@output_dir).mkdir(parents=True, exist_ok=True)"],
        "run": [f"$[@evaluator.segment_file(path, {label_file}) for path in @datalist]"],
    }


def _readme(bundle: Bundle) -> str:
    card = bundle.card
    return _README.format(
        name=card.name,
        version=card.version,
        description=card.description,
        licence=card.licence.rstrip("."),
        limits="\n".join(f"- {limit}" for limit in card.limits) or "- none stated",
        labels=", ".join(["background", *(organ.name for organ in card.organs)]),
        localise_mm=card.model.localise.spacing_mm,
        segment_mm=card.model.segment.spacing_mm,
    )


def _json_text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=4, ensure_ascii=False) + "\n"
