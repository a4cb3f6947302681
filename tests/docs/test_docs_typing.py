"""Every piece of Python in the documentation passes mypy --strict, as it stands, against the installed package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import viscera

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def python_of(page: Path) -> str:
    """The Python of a page, its blocks one after the other as a reader would run them."""
    return "\n\n".join(_BLOCK.findall(page.read_text(encoding="utf-8")))


def checked(folder: Path, sources: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What mypy says of the sources, with the settings of a user who has none."""
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nignore_missing_imports = True\nmypy_path = {Path(viscera.__file__).parents[1]}\n"
        "[mypy-viscera.*]\nfollow_imports = silent\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *(f"{name}.py" for name in sources)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


# From an empty cache mypy reads all of torch, numpy and nibabel: a minute on a free core.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_example_is_typed(tmp_path: Path) -> None:
    sources = {
        "page_" + re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix(""))): text
        for page in PAGES
        if (text := python_of(page))
    }
    assert len(sources) >= 4
    found = checked(tmp_path, sources)
    assert found.returncode == 0, found.stdout


def test_a_wrong_example_would_be_seen(tmp_path: Path) -> None:
    wrong = "import viscera\n\nr = viscera.Segmenter.load()('ct.nii.gz')\nprint(r.organs['liver'].volume_litres)\n"
    found = checked(tmp_path, {"page_wrong": wrong})
    assert found.returncode == 1
    assert "volume_litres" in found.stdout
