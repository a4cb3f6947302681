"""Fixtures every test may use."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CTs for development, which lies beside the repository and is not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real CTs at {SHARED_DATA}")
    return SHARED_DATA
