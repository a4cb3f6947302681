"""Keeps the imports of gdcm, pydicom and their like away from the user's files.

gdcm begins with `import dl` and, failing that, `import DLFCN`: two modules of Python 2, which no installation has. It
would take any file or folder of these names on the path, such as one by the user's script, and run it or break. The
others take any folder that is named like one of their optional packages for that package, and break.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_NEVER_MODULES = ("dl", "DLFCN")
# Optional packages, by the one that looks for them while it is imported.
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "gdcm": (),
    "nibabel": ("indexed_gzip",),
    "pydicom": ("pylibjpeg", "openjpeg", "libjpeg", "rle"),
    "requests": ("chardet", "simplejson"),
    "urllib3": ("brotli", "brotlicffi", "zstandard"),
}


class _BlindLoader(SourceFileLoader):
    """Runs a module while some names mean no module; what they meant before, they mean again afterwards."""

    def exec_module(self, module: ModuleType) -> None:
        hidden = [name for name in _OPTIONAL[module.__name__] if _is_folder(name)]
        if module.__name__ == "gdcm":
            hidden += _NEVER_MODULES
        known = {name: sys.modules[name] for name in hidden if name in sys.modules}
        blocked: dict[str, Any] = dict.fromkeys(hidden)  # None: `import` raises ImportError
        sys.modules.update(blocked)
        try:
            super().exec_module(module)
        finally:
            for name in hidden:
                del sys.modules[name]
            sys.modules.update(known)


def _is_folder(name: str) -> bool:
    """Whether an import would take a folder without `__init__.py`, a namespace package."""
    spec = PathFinder.find_spec(name)
    return spec is not None and spec.origin is None


class _BlindFinder:
    """Finds the packages of `_OPTIONAL` where Python finds them, and leaves every other module to Python."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _OPTIONAL else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _BlindLoader(spec.loader.name, spec.loader.path)
        return spec


def guard_imports() -> None:
    """Make later imports of gdcm, pydicom and their like in this process blind to the user's files."""
    if _BlindFinder not in sys.meta_path:
        sys.meta_path.insert(0, _BlindFinder)
