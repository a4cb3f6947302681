"""The wheel and the sdist: built, checked, and installed alone into a fresh environment, where the demo runs."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = ("No matching distribution", "Could not find a version", "Failed to establish", "Temporary failure")


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The output of a command that has to succeed; without packages to install the test is skipped."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=1500)
    text = done.stdout + done.stderr
    if done.returncode and any(words in text for words in NO_NETWORK):
        pytest.skip(f"{command[-1]}: no package index: {text.splitlines()[-1]}")
    assert done.returncode == 0, text
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT), cwd=folder)
    return folder


@pytest.mark.timeout(1600)
def test_both_hold_what_they_should_and_pass_the_index_checks(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    for path in (ROOT / "src" / "viscera").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT / "src").as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    assert {"LICENSE", "THIRD_PARTY.txt", "ATTRIBUTION.txt"} <= {
        name.rsplit("/", 1)[1] for name in names if "dist-info/licenses" in name
    }
    with tarfile.open(sdist) as archive:
        inner = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CITATION.cff", "CONTRIBUTING.md", "mkdocs.yml", "tests/test_wheel.py", "docs/README.md"} <= inner
    pytest.importorskip("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist), cwd=built)


@pytest.mark.timeout(1600)
def test_the_wheel_alone_segments_a_real_ct(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    binaries = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    run(str(binaries / "python"), "-m", "pip", "install", "--quiet", str(wheel), cwd=tmp_path)
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    shown = run(str(binaries / "viscera"), "demo", "--threads", "2", cwd=tmp_path, env=clean)
    assert "real CT: liver " in shown
    assert (tmp_path / "viscera-demo" / "labels_preview.png").stat().st_size > 100_000
