"""Liver, kidneys, spleen and pancreas in an abdominal CT.

    import viscera

    segmenter = viscera.Segmenter.load()
    result = segmenter("ct.nii.gz")
    print(result.organs["liver"].volume_ml)

The names below are loaded when first used, so that importing the package costs nothing and loads neither torch nor
openvino.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viscera.case import CaseOptions as CaseOptions
    from viscera.core.errors import BundleError as BundleError
    from viscera.core.errors import ConfigError as ConfigError
    from viscera.core.errors import GeometryError as GeometryError
    from viscera.core.errors import MemoryBudgetError as MemoryBudgetError
    from viscera.core.errors import MissingExtraError as MissingExtraError
    from viscera.core.errors import NothingFoundError as NothingFoundError
    from viscera.core.errors import ReadError as ReadError
    from viscera.core.errors import VisceraError as VisceraError
    from viscera.core.errors import WriteError as WriteError
    from viscera.core.geometry import Grid as Grid
    from viscera.core.volume import LabelMap as LabelMap
    from viscera.core.volume import Volume as Volume
    from viscera.evaluation.evaluate import evaluate_cases as evaluate_cases
    from viscera.formats.nifti_write import write_label_map as write_label_map
    from viscera.model.bundle import list_bundles as list_bundles
    from viscera.pipeline import Allowed as Allowed
    from viscera.read import read_label_map as read_label_map
    from viscera.read import read_volume as read_volume
    from viscera.result import OrganResult as OrganResult
    from viscera.result import Probabilities as Probabilities
    from viscera.result import Segmentation as Segmentation
    from viscera.segmenter import SegmentedCase as SegmentedCase
    from viscera.segmenter import Segmenter as Segmenter
    from viscera.segmenter import segment_file as segment_file
    from viscera.segmenter import segment_volume as segment_volume

    __version__: str

_NAMES = {
    "case": ("CaseOptions",),
    "segmenter": ("SegmentedCase", "Segmenter", "segment_file", "segment_volume"),
    "core.errors": (
        "BundleError",
        "ConfigError",
        "GeometryError",
        "MemoryBudgetError",
        "MissingExtraError",
        "NothingFoundError",
        "ReadError",
        "VisceraError",
        "WriteError",
    ),
    "evaluation.evaluate": ("evaluate_cases",),
    "core.geometry": ("Grid",),
    "model.bundle": ("list_bundles",),
    "pipeline": ("Allowed",),
    "read": ("read_label_map", "read_volume"),
    "core.volume": ("LabelMap", "Volume"),
    "result": ("OrganResult", "Probabilities", "Segmentation"),
    "formats.nifti_write": ("write_label_map",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604  # all of them strings


def __getattr__(name: str) -> Any:
    """The public `name`, imported on first use."""
    if name == "__version__":
        from viscera.core.version import version

        return version()
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"viscera.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
