"""Liver, kidneys, spleen and pancreas in an abdominal CT.

The names below are loaded when first used, so that importing the package costs nothing and loads neither torch nor
openvino.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viscera.case import CaseOptions as CaseOptions
    from viscera.case import SegmentedCase as SegmentedCase
    from viscera.case import Segmenter as Segmenter
    from viscera.case import segment_file as segment_file
    from viscera.case import segment_volume as segment_volume
    from viscera.errors import BundleError as BundleError
    from viscera.errors import ConfigError as ConfigError
    from viscera.errors import GeometryError as GeometryError
    from viscera.errors import MemoryBudgetError as MemoryBudgetError
    from viscera.errors import MissingExtraError as MissingExtraError
    from viscera.errors import NothingFoundError as NothingFoundError
    from viscera.errors import ReadError as ReadError
    from viscera.errors import VisceraError as VisceraError
    from viscera.errors import WriteError as WriteError
    from viscera.evaluation.evaluate import evaluate_cases as evaluate_cases
    from viscera.geometry import Grid as Grid
    from viscera.pipeline import Allowed as Allowed
    from viscera.pipeline import Segmentation as Segmentation
    from viscera.read import read_label_map as read_label_map
    from viscera.read import read_volume as read_volume
    from viscera.volume import LabelMap as LabelMap
    from viscera.volume import Volume as Volume
    from viscera.write import write_label_map as write_label_map

    __version__: str

_NAMES = {
    "case": ("CaseOptions", "SegmentedCase", "Segmenter", "segment_file", "segment_volume"),
    "errors": (
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
    "geometry": ("Grid",),
    "pipeline": ("Allowed", "Segmentation"),
    "read": ("read_label_map", "read_volume"),
    "volume": ("LabelMap", "Volume"),
    "write": ("write_label_map",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604  # all of them strings


def __getattr__(name: str) -> Any:
    """The public `name`, imported on first use."""
    if name == "__version__":
        return _version()
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"viscera.{_MODULE_OF[name]}"), name)


def _version() -> str:
    """The installed version, or that of the source tree the package is run from."""
    import tomllib
    from importlib import metadata
    from pathlib import Path

    try:
        return metadata.version("viscera")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        if not project.is_file():
            return "unknown"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def __dir__() -> list[str]:
    return sorted(__all__)
