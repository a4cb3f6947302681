"""The version of the package, as written into results."""

from __future__ import annotations


def version() -> str:
    """Return the installed version, or that of the source tree the package is run from."""
    import tomllib
    from importlib import metadata
    from pathlib import Path

    try:
        return metadata.version("viscera")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[3] / "pyproject.toml"
        if not project.is_file():
            return "unknown"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
