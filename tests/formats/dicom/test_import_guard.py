"""Files beside the user's script or in the working directory are never taken for modules."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import viscera
from viscera.__main__ import forget_working_directory

SERIES = np.diag([3.0, 2.0, 1.0, 1.0])
READ = """
import sys
from pathlib import Path
{before}
from viscera.read import read_volume
print(read_volume(Path({series!r})).hu.shape)
assert hasattr(sys.modules["gdcm"], "ImageReader")
{after}
"""


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("name", ["dl", "DLFCN"])
@pytest.mark.parametrize("kind", ["folder", "file", "file imported before"])
def test_what_gdcm_would_import_is_not_taken_from_the_users_files(tmp_path, labelled_ct, name, kind):
    beside = tmp_path / "beside"
    beside.mkdir()
    before = after = ""
    if kind == "folder":
        (beside / name).mkdir()
    else:
        (beside / f"{name}.py").write_text("print('the user\\'s own')\n")
        before = f"import {name}; own = {name}" if "before" in kind else ""
        after = f"assert {name!r} in sys.modules and sys.modules[{name!r}] is own" if before else f"import {name}"
    text = READ.format(series=str(labelled_ct(SERIES).folder), before=before, after=after)
    (beside / "script.py").write_text(text)
    done = ran(beside, "script.py")
    assert done.returncode == 0, done.stderr
    shape, own = "(10, 11, 12)", "the user's own"
    lines = {"folder": [shape], "file": [shape, own], "file imported before": [own, shape]}
    assert done.stdout.splitlines() == lines[kind]


def test_folders_named_like_packages_that_are_looked_for_do_no_harm(tmp_path, labelled_ct):
    beside = tmp_path / "beside"
    names = ["viscera", "dl", "pylibjpeg", "openjpeg", "libjpeg", "rle", "indexed_gzip", "compression"]
    names += ["chardet", "simplejson", "brotli", "brotlicffi", "zstandard"]
    for name in names:
        (beside / name).mkdir(parents=True)
    after = "import nibabel.nifti1, viscera.pacs.dicomweb"
    after += "\nfrom importlib.util import find_spec\nif find_spec('requests'): import requests"
    (beside / "script.py").write_text(READ.format(series=str(labelled_ct(SERIES).folder), before="", after=after))
    done = ran(beside, "script.py")
    assert (done.returncode, done.stdout) == (0, "(10, 11, 12)\n"), done.stderr


def test_the_module_run_as_a_program_imports_nothing_from_the_working_directory(tmp_path):
    for name in ("numpy", "argparse", "nibabel", "openvino", "pydicom", "tqdm", "PIL"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the working directory')\n")
    done = ran(tmp_path, "-m", "viscera", "segment", "none.nii.gz", "-o", "out.nii.gz")
    assert done.returncode == 1, done.stderr
    assert "none.nii.gz" in done.stderr
    assert "working directory" not in done.stderr


def test_the_working_directory_goes_from_the_path_unless_the_package_lies_there(tmp_path, monkeypatch):
    sources = str(Path(viscera.__file__).parents[1])
    for folder, left in ((str(tmp_path), ["elsewhere"]), (sources, [sources, "elsewhere"])):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [folder, "elsewhere"])
        forget_working_directory()
        assert sys.path == left
    monkeypatch.setattr(sys, "path", ["elsewhere", str(tmp_path)])  # put there by the user
    monkeypatch.chdir(tmp_path)
    forget_working_directory()
    assert sys.path == ["elsewhere", str(tmp_path)]
