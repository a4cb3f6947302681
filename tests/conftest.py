"""Fixtures every test may use."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from viscera.synthesis.anatomy import Anatomy

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled networks of the tests are kept for the tests alone, those of their processes included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Finds another program by its name, beside Python's or on the path; without it the test is skipped."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

    def find(name: str) -> str:
        if (found := shutil.which(name, path=places)) is None:
            pytest.skip(f"the program {name} is not installed")
        return found

    return find


@pytest.fixture(scope="session")
def screen() -> Callable[[str], list[str]]:
    """What stands on a terminal that got a text: lines, with moves up and the clearing of lines done."""

    def show(text: str) -> list[str]:
        rows, row = [""], 0
        for part in re.findall(r"\x1b\[1A|\x1b\[2K|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                row += 1
                rows += [""] if row == len(rows) else []
            elif part == "\x1b[1A":
                row -= 1
            elif part == "\x1b[2K":
                rows[row] = ""
            elif part != "\r":
                rows[row] = part
        return rows

    return show


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CTs for development, which lies beside the repository and is not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real CTs at {SHARED_DATA}")
    return SHARED_DATA


# Balls of a small trunk, voxels (z, y, x) at 2 mm in canonical axes (z to the head, y to the back, x to the left):
# tissue, centre, radii. Every organ has more than 5 ml, and nothing lies symmetrically.
SMALL_TRUNK = (
    ("LUNG", (34, 21, 25), (8, 11, 15)),
    ("LUNG", (34, 22, 51), (8, 12, 12)),
    ("LIVER", (25, 20, 22), (9, 11, 12)),
    ("STOMACH", (27, 15, 42), (6, 6, 8)),
    ("SPLEEN", (25, 27, 58), (7, 6, 5)),
    ("PANCREAS", (17, 20, 40), (5, 5, 9)),
    ("KIDNEY_RIGHT", (13, 31, 25), (8, 5, 6)),
    ("KIDNEY_LEFT", (15, 30, 54), (8, 6, 5)),
    ("COLON", (6, 15, 45), (5, 6, 12)),
    ("GALLBLADDER", (16, 14, 24), (4, 4, 4)),
    ("ARTERY", (20, 29, 41), (90, 3, 3)),
    ("BONE", (20, 36, 39), (90, 5, 6)),
)


@pytest.fixture(scope="session")
def small_tissues() -> "NDArray[np.uint8]":
    """A small trunk as `trunk_map` would make it: uint8 (z, y, x) `Tissue`, its core not yet filled."""
    pytest.importorskip("torch")
    from viscera.synthesis.tissues import Tissue

    places = np.indices((40, 48, 76))
    tissues = np.zeros(places.shape[1:], dtype=np.uint8)
    for name, centre, radii in SMALL_TRUNK:
        away = sum(((place - c) / r) ** 2 for place, c, r in zip(places, centre, radii, strict=True))
        tissues[away <= 1] = Tissue[name]
    return tissues


@pytest.fixture(scope="session")
def small_anatomy(small_tissues: "NDArray[np.uint8]") -> "Anatomy":
    """The anatomy of the small trunk."""
    pytest.importorskip("scipy")
    from viscera.synthesis.build import make_anatomy

    return make_anatomy("small", small_tissues)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are slowest when threads wait for each other on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
