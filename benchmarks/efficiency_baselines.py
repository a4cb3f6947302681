"""What `efficiency.py` compares viscera with, each a whole case from file to file in a process of its own.

plain        The method as one would write it down: SimpleITK reads, smooths and resamples the whole CT in floating
             point, torch runs the networks in float32, each label's probabilities are resampled to the CT's size, and
             the largest of these five volumes is the label.
onnxruntime  viscera's own path with ONNX Runtime as its engine.
monai        MONAI's sliding window over the CT at 1.5 mm with a U-Net of nnU-Net's default size (DynUNet, 6 levels of
             32 to 320 filters, patches of 128 x 128 x 128 voxels, overlap one half), random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from viscera.core.config import StageConfig
    from viscera.model.bundle import Bundle

AIR_HU = -1024.0
HU_SCALE = 2048.0
NNUNET_FILTERS = (32, 64, 128, 256, 320, 320)
NNUNET_PATCH = (128, 128, 128)
NNUNET_SPACING_MM = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("scan", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    options = parser.parse_args()
    METHODS[options.method](options.scan, options.output, options.bundle)


def plain(scan: Path, output: Path, folder: Path) -> None:
    import torch

    sitk = simple_itk()

    from viscera.engines.torch_engine import load_network
    from viscera.model.bundle import load_bundle

    bundle = load_bundle(folder)
    model = bundle.card.model
    image = sitk.Cast(sitk.ReadImage(str(scan)), sitk.sitkFloat32)
    with torch.inference_mode():
        low_resolution = _resampled(image, _whole(image), model.localise)
        logits = load_network("localise", model, bundle.weights("localise"))(_tensor(low_resolution))
        found = np.argwhere((logits[0, 1] > logits[0, 0]).numpy())
        region = _resampled(image, _box(low_resolution, found, model.margin_mm), model.segment)
        network = load_network("segment", model, bundle.weights("segment"))
        probabilities = network(_tensor(region)).probabilities[0].numpy()
    whole = []
    for label, values in enumerate(probabilities):
        one = sitk.GetImageFromArray(values)
        one.CopyInformation(region)
        beyond = 1.0 if label == 0 else 0.0
        whole.append(sitk.GetArrayFromImage(sitk.Resample(one, image, sitk.Transform(), sitk.sitkLinear, beyond)))
    labels = sitk.GetImageFromArray(np.argmax(np.stack(whole), axis=0).astype(np.uint8))
    labels.CopyInformation(image)
    sitk.WriteImage(labels, str(output), useCompression=True)


def simple_itk() -> Any:
    """The module, most of whose functions are not annotated."""
    import SimpleITK

    return SimpleITK


def _whole(image: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and extent (x, y, z) in mm of an axis-aligned image."""
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist()))
    return centre, size * spacing


def _box(coarse: Any, found: NDArray[np.int64], margin_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and extent (x, y, z) in mm of the voxels `found` (n, zyx) with a margin on each side."""
    low, high = found.min(axis=0)[::-1], found.max(axis=0)[::-1]
    centre = np.array(coarse.TransformContinuousIndexToPhysicalPoint(((low + high) / 2).tolist()))
    return centre, (high - low + 1) * np.array(coarse.GetSpacing()) + 2 * margin_mm


def _resampled(image: Any, box: tuple[NDArray[np.float64], NDArray[np.float64]], stage: StageConfig) -> Any:
    """The image smoothed and resampled on the grid of the smallest allowed size that holds the box."""
    sitk = simple_itk()

    smooth = sitk.SmoothingRecursiveGaussian(image, stage.sigma_mm)
    centre, extent = box
    sizes = (stage.sizes_x_vox, stage.sizes_y_vox, stage.sizes_z_vox)
    spacing = max(stage.spacing_mm, *(e / axis[-1] for e, axis in zip(extent, sizes, strict=True)))
    size = [next((n for n in axis if n >= e / spacing - 1e-6), axis[-1]) for e, axis in zip(extent, sizes, strict=True)]
    sampler = sitk.ResampleImageFilter()
    sampler.SetSize(size)
    sampler.SetOutputSpacing([spacing] * 3)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    sampler.SetOutputDirection(image.GetDirection())
    sampler.SetOutputOrigin((centre - direction @ ((np.array(size) - 1) / 2 * spacing)).tolist())
    sampler.SetDefaultPixelValue(AIR_HU)
    sampler.SetInterpolator(sitk.sitkLinear)
    return sampler.Execute(smooth)


def _tensor(image: Any) -> Any:
    import torch

    sitk = simple_itk()

    values = np.clip(sitk.GetArrayFromImage(image) / HU_SCALE, -1, 1).astype(np.float32)
    return torch.from_numpy(values)[None, None]


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU behind viscera's engine protocol."""

    name, precision = "onnxruntime", "f32"

    def __init__(self, bundle: Bundle) -> None:
        import onnxruntime

        self._sessions = {
            stage: onnxruntime.InferenceSession(bundle.graph(stage), providers=["CPUExecutionProvider"])
            for stage in ("localise", "segment")
        }

    def prepare(self) -> None:
        """Nothing to load."""

    def compile_ahead(self, stage: str, shape: tuple[int, ...], *, extra_bytes: int = 0) -> None:
        """Nothing to compile."""

    def run(self, stage: str, image: NDArray[np.float32]) -> Any:
        """The network's output."""
        from viscera.engines.engine import NetworkOutput

        return NetworkOutput(*self._sessions[stage].run(None, {"image": image}))


def onnxruntime_engine(scan: Path, output: Path, folder: Path) -> None:
    from viscera.model.bundle import load_bundle
    from viscera.segmenter import Segmenter

    bundle = load_bundle(folder)
    Segmenter(bundle=bundle, engine=OnnxRuntimeEngine(bundle)).segment_file(scan, output)


def monai_sliding_window(scan: Path, output: Path, folder: Path) -> None:
    import torch

    sitk = simple_itk()
    from monai.inferers.utils import sliding_window_inference
    from monai.networks.nets.dynunet import DynUNet

    image = sitk.Cast(sitk.ReadImage(str(scan)), sitk.sitkFloat32)
    extent = np.array(image.GetSize()) * np.array(image.GetSpacing())
    size = np.ceil(extent / NNUNET_SPACING_MM).astype(int).tolist()
    fine = sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), [NNUNET_SPACING_MM] * 3, image.GetDirection()
    )
    levels = len(NNUNET_FILTERS)
    network = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=5,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=NNUNET_FILTERS,
    ).eval()
    with torch.inference_mode():
        logits = sliding_window_inference(_tensor(fine), NNUNET_PATCH, 1, network, overlap=0.5, mode="gaussian")
    one = sitk.GetImageFromArray(logits[0].argmax(dim=0).numpy().astype(np.uint8))
    one.CopyInformation(fine)
    labels = sitk.Resample(one, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    sitk.WriteImage(labels, str(output), useCompression=True)


METHODS: dict[str, Callable[[Path, Path, Path], None]] = {
    "plain": plain,
    "onnxruntime": onnxruntime_engine,
    "monai": monai_sliding_window,
}

if __name__ == "__main__":
    main()
