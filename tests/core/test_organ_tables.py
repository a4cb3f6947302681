"""Labels are data: another organ table decides names, colours and scores everywhere."""

import dataclasses
import io
import json

import numpy as np
import pytest

from viscera.cli.export import read_card
from viscera.core.config import ModelConfig, ScnConfig, organ_table
from viscera.core.errors import BundleError, ConfigError, ReadError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS, Code, Organ, named_organ, organ_table_fault
from viscera.core.volume import LabelMap, Volume
from viscera.drawing.overlay import preview_png
from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.evaluation.scores import CaseScore, Evaluation, ScoringConfig
from viscera.evaluation.statistics import summarise
from viscera.evaluation.tables import cases_text, summary_text
from viscera.formats.nifti_write import write_label_map
from viscera.model.bundle import FILES, ModelCard, load_bundle, write_bundle
from viscera.quality.statistics import organ_statistics
from viscera.synthesis.phantom import PhantomConfig, make_phantom

OTHERS = organ_table(["spleen", "gallbladder", "left adrenal gland"])
GRID = Grid(shape_zyx=(4, 5, 6), affine=np.diag([1.0, 2.0, 3.0, 1.0])[[2, 1, 0, 3]])


def label_map(values):
    labels = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    labels.flat[: len(values)] = values
    return LabelMap(labels=labels, grid=GRID)


class TestTable:
    def test_a_known_name_keeps_its_colour_and_code(self):
        assert OTHERS[0] == dataclasses.replace(ORGANS[2], index=1)

    def test_a_new_name_gets_a_colour_of_its_own_and_a_private_code(self):
        colours = [organ.colour for organ in (*ORGANS, *OTHERS[1:])]
        assert len(set(colours)) == len(colours)
        assert OTHERS[2].code == Code(value="LEFT ADRENAL GLA", meaning="left adrenal gland", scheme="99VISCERA")
        assert len(OTHERS[2].code.value) <= 16

    def test_an_organ_may_be_given_in_full(self):
        values = dataclasses.asdict(Organ(index=1, name="heart", colour=(1, 2, 3), code=Code(value="1", meaning="H")))
        assert organ_table([values])[0].colour == (1, 2, 3)

    def test_the_default_table_is_sound(self):
        assert organ_table_fault(ORGANS) is None

    @pytest.mark.parametrize(
        ("names", "fault"),
        [
            ([], "0 organs"),
            (["a", "a"], "twice"),
            (["]]>"], "the name"),
            (["a\nb"], "the name"),
            ([""], "the name"),
            (["x" * 65], "the name"),
            ([str(number) for number in range(256)], "256 organs"),
        ],
    )
    def test_an_unsound_table_is_refused(self, names, fault):
        with pytest.raises(ConfigError, match=fault):
            organ_table(names)

    def test_indices_count_from_one(self):
        assert "[2, 3]" in str(organ_table_fault([named_organ(2, "a"), named_organ(3, "b")]))


def test_the_label_file_names_the_organs(tmp_path):
    path = tmp_path / "labels.nii"
    write_label_map(label_map([1, 2, 3]), path, OTHERS)
    content = path.read_bytes()
    assert b"[CDATA[gallbladder]]" in content
    assert b"liver" not in content


def test_statistics_are_of_the_tables_organs():
    hu = np.arange(GRID.shape_zyx[0] * 30, dtype=np.int16).reshape(GRID.shape_zyx)
    rows = organ_statistics(Volume(hu=hu, grid=GRID), label_map([1, 1, 2, 4]), OTHERS)
    assert [(row.organ, row.voxels) for row in rows] == [("spleen", 2), ("gallbladder", 1), ("left adrenal gland", 0)]
    assert rows[1].mean_hu == 2


def test_scores_are_of_the_tables_organs():
    config = ScoringConfig(organs=OTHERS)
    scores = evaluate_label_maps(label_map([1, 1, 2]), label_map([1, 1, 3]), config=config)
    assert [score.organ for score in scores] == [organ.name for organ in OTHERS]
    assert [score.dsc for score in scores] == [1.0, 0.0, 0.0]


def test_a_label_outside_the_table_is_not_scored_silently():
    with pytest.raises(ReadError, match="labels 0 to 3, got 4"):
        evaluate_label_maps(label_map([4]), label_map([1]), config=ScoringConfig(organs=OTHERS))


def test_a_mapping_may_reach_the_tables_last_label():
    ScoringConfig(organs=OTHERS, reference_labels={7: 3})
    with pytest.raises(ConfigError, match=r"labels mapped to 0\.\.3"):
        ScoringConfig(organs=OTHERS, reference_labels={7: 4})


def test_tables_follow_the_organ_table():
    names = ["gallbladder", "spleen"]
    values = {"dsc": 0.5, "nsd": 0.5, "reference_ml": 1, "prediction_ml": 1}
    scores = tuple(CaseScore(case="a", organ=name, **values) for name in names)
    assert [row.organ for row in summarise(scores, OTHERS)] == ["spleen", "gallbladder", "mean"]
    evaluation = Evaluation(scores=scores, organs=OTHERS)
    assert "gallbladder" in summary_text(evaluation)
    assert "gallbladder" in cases_text(evaluation)


def test_the_preview_has_the_tables_colours():
    from PIL import Image

    phantom = make_phantom(3, config=PhantomConfig(shape_zyx=(24, 40, 52), spacing_zyx_mm=(12.0, 8.0, 7.0)))
    organs = organ_table([{**dataclasses.asdict(ORGANS[0]), "colour": [0, 255, 0]}])
    data = preview_png(phantom.volume, phantom.label_map, organs)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)
    colours = set(map(tuple, np.unique(pixels, axis=0).tolist()))
    assert (0, 255, 0) in colours
    assert not {organ.colour for organ in ORGANS} & colours


class TestBundle:
    CARD = ModelCard(
        name="others",
        version="1",
        description="Other organs.",
        licence="CC0-1.0",
        model=ModelConfig(scn=ScnConfig(labels=len(OTHERS) + 1)),
        organs=OTHERS,
    )
    CONTENTS = {name: name.encode() for name in FILES}  # noqa: RUF012

    def test_it_is_accepted(self, tmp_path):
        write_bundle(tmp_path / "bundle", self.CARD, self.CONTENTS)
        assert load_bundle(tmp_path / "bundle").card.organs == OTHERS

    def test_the_network_must_have_a_label_for_each_organ(self, tmp_path):
        card = dataclasses.replace(self.CARD, model=ModelConfig())
        with pytest.raises(BundleError, match="4 labels, one more than organs, got 5"):
            write_bundle(tmp_path / "bundle", card, self.CONTENTS)

    def test_a_card_for_export_may_name_organs(self, tmp_path):
        path = tmp_path / "card.json"
        texts = dict.fromkeys(("name", "version", "description", "licence"), "x")
        path.write_text(json.dumps({**texts, "organs": ["spleen", "gallbladder", "left adrenal gland"]}))
        assert read_card(path).organs == OTHERS
        path.write_text(json.dumps(texts))
        assert read_card(path).organs == ORGANS
