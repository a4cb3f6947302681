"""Pseudo-labels of a scan of balls, by an engine whose probabilities are known."""

import numpy as np
import pytest

from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.volume import Volume
from viscera.engines.engine import NetworkOutput
from viscera.model.bundle import ModelCard
from viscera.training.cache import UNKNOWN_LABEL
from viscera.training.pseudo_labels import PseudoLabelConfig, trusted_labels

GRID = Grid.from_axes(
    (60, 50, 70), spacing_zyx_mm=(4.0, 5.0, 4.0), direction_zyx=np.eye(3)[[2, 1, 0]], origin_xyz_mm=(0.0, 0.0, 0.0)
)
LIVER, SPLEEN, DOUBTFUL = (100, 200, 300)  # HU of the three balls


class KnownEngine:
    """Liver and spleen by their HU: the liver certain, the spleen as likely as `spleen`, and 0.55 liver elsewhere."""

    name, precision = "known", "f32"

    def __init__(self, spleen=0.9):
        self.spleen = spleen

    def prepare(self):
        pass

    def compile_ahead(self, stage, shape, **_):
        pass

    def run(self, stage, image):
        hu = image[0, 0] * 2048
        if stage == "localise":
            return NetworkOutput(np.stack([np.zeros_like(hu), np.where(hu > 50, 1, -1)])[None].astype(np.float32))
        values = np.zeros((5, *hu.shape), np.float32)
        liver, spleen, doubtful = (np.abs(hu - middle) < 50 for middle in (LIVER, SPLEEN, DOUBTFUL))
        values[1] = np.where(liver, 0.99, np.where(doubtful, 0.55, 0.0))
        values[3] = np.where(spleen, self.spleen, 0.0)
        values[0] = 1 - values.sum(0)
        return NetworkOutput(values[None])


def ball(centre, radius=60.0):
    z, y, x = np.meshgrid(*(np.arange(n) for n in GRID.shape_zyx), indexing="ij")
    points = GRID.world(np.stack([z, y, x], axis=-1))
    return ((points - centre) ** 2).sum(-1) < radius**2


BALLS = {LIVER: ball((70, 120, 120)), SPLEEN: ball((210, 120, 120)), DOUBTFUL: ball((140, 40, 60), 30.0)}


def labelled(engine, config=None):
    hu = np.full(GRID.shape_zyx, -100, np.int16)
    for value, inside in BALLS.items():
        hu[inside] = value
    card = ModelCard(name="known", version="1", description="", licence="", organs=ORGANS)
    return trusted_labels(Volume(hu=hu, grid=GRID), engine, card, config)


def share(found, value, label):
    inside = BALLS[value]
    return (found.label_map.labels[inside] == label).mean()


def test_what_is_certain_is_labelled_and_what_is_not_is_unknown():
    found = labelled(KnownEngine())
    assert found.doubted == ("kidney", "pancreas")  # which it does not find at all
    assert share(found, LIVER, 1) > 0.9
    assert share(found, SPLEEN, 3) > 0.8
    assert share(found, DOUBTFUL, UNKNOWN_LABEL) > 0.7
    assert share(found, DOUBTFUL, 1) < 0.2


def test_an_organ_expected_to_be_bad_is_unknown_as_a_whole():
    found = labelled(KnownEngine(spleen=0.65), PseudoLabelConfig(least_expected_dsc={"spleen": 0.9}))
    assert found.doubted == ("spleen",)
    assert found.expected_dsc["spleen"] == pytest.approx(2 * 0.65 / (1 + 0.65), abs=0.02)  # p everywhere in it
    assert share(found, SPLEEN, UNKNOWN_LABEL) > 0.85
    assert not (found.label_map.labels == 3).any()


def test_the_limits_are_settings():
    lenient = PseudoLabelConfig(least_probability=0.5, least_expected_dsc={"spleen": 0.2})
    found = labelled(KnownEngine(spleen=0.65), lenient)
    assert found.doubted == ()
    assert share(found, SPLEEN, 3) > 0.8


def test_limits_beyond_one_are_refused():
    with pytest.raises(ConfigError, match="PseudoLabelConfig"):
        PseudoLabelConfig(least_probability=1.5)
