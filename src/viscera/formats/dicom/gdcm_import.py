"""The import of gdcm, which pydicom and nibabel bring about, kept away from the user's files.

gdcm begins with `import dl` and, failing that, `import DLFCN`: two modules of Python 2, which no installation has. It
would take any folder or file of these names on the path, such as one beside the user's script, and break or run it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_SHADOWED = ("dl", "DLFCN")


class _GdcmLoader(SourceFileLoader):
    """Runs gdcm while the names in `_SHADOWED` mean no module; what they meant before, they mean again afterwards."""

    def exec_module(self, module: ModuleType) -> None:
        known = {name: sys.modules[name] for name in _SHADOWED if name in sys.modules}
        sys.modules.update(dict.fromkeys(_SHADOWED))  # type: ignore[arg-type]  # None: `import` raises ImportError
        try:
            super().exec_module(module)
        finally:
            for name in _SHADOWED:
                del sys.modules[name]
            sys.modules.update(known)


class _GdcmFinder:
    """Finds gdcm where Python finds it, and leaves every other module to Python."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "gdcm" else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _GdcmLoader(spec.loader.name, spec.loader.path)
        return spec


def guard_gdcm() -> None:
    """Make every later import of gdcm in this process blind to the user's files; call it before pydicom or nibabel."""
    if _GdcmFinder not in sys.meta_path:
        sys.meta_path.insert(0, _GdcmFinder)
