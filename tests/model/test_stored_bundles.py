"""The bundles stored for machines without torch are those the fixtures make with it."""

from pathlib import Path

import pytest

from viscera.model.bundle import load_bundle

STORED = Path(__file__).resolve().parents[1] / "data" / "bundles"


@pytest.mark.parametrize("name", ["tiny", "empty"])
def test_stored_bundles_have_the_tiny_models_settings(name: str, tiny_bundle: Path) -> None:
    """If this fails, copy what the fixtures `tiny_bundle` and `empty_bundle` make over tests/data/bundles."""
    assert load_bundle(STORED / name).card.model == load_bundle(tiny_bundle).card.model
