"""The picture of one case against its reference: what is drawn where, and what is written beside it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from viscera.core.geometry import Grid, Reorientation
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap, Volume
from viscera.drawing.panel import SIDE_PX, TOP_PX, panel_size_px
from viscera.evaluation import overlay_cases as case_figure
from viscera.evaluation.overlay_cases import CaseRow, case_png
from viscera.evaluation.scores import CaseScore

# 100 x 90 x 80 mm of soft tissue; array axes run to the head, the back and the left.
SHAPE = (20, 30, 40)
GRID = Grid.from_axes(
    SHAPE, spacing_zyx_mm=(5.0, 3.0, 2.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(-40, 20, 300)
)
STRIP_PX, HEADER_PX, GAP_PX = 250, 40, 10
WHITE, LIVER = (255, 255, 255), ORGANS[0].colour


def case(shape=SHAPE, *, title="", scores=()):
    """A liver in the reference, and one moved by 10 voxels to the left in the prediction."""
    grid = Grid(shape_zyx=shape, affine=GRID.affine)
    reference, prediction = (np.zeros(shape, dtype=np.uint8) for _ in range(2))
    reference[:, 9:18, 8:16] = 1
    prediction[:, 9:18, 18:26] = 1
    volume = Volume(hu=np.zeros(shape, dtype=np.int16), grid=grid)
    maps = [LabelMap(labels=labels, grid=grid) for labels in (reference, prediction)]
    return CaseRow(title=title, volume=volume, reference=maps[0], prediction=maps[1], scores=scores)


def turned(row, turn):
    grid = turn.apply_to_grid(row.volume.grid)
    maps = [LabelMap(labels=turn.apply(one.labels), grid=grid) for one in (row.reference, row.prediction)]
    volume = Volume(hu=turn.apply(row.volume.hu), grid=grid)
    return CaseRow(title=row.title, volume=volume, reference=maps[0], prediction=maps[1], scores=row.scores)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def panels(picture):
    """The three slices of the first row, without their edges: 330 px are the 90 mm from front to back."""
    width = round(80 * 330 / 90)
    lefts = [STRIP_PX + GAP_PX + SIDE_PX + column * (width + 2 * SIDE_PX + GAP_PX) for column in range(3)]
    top = HEADER_PX + TOP_PX
    return [picture[top + 60 : top + 250, left + 40 : left + width - 40] for left in lefts]


def middle_mm(panel, colour):
    """The middle of the columns with pixels of a colour in mm from the patient's right, None if there are none.

    An outline is so thin that it is mixed with what it crosses; the CT is much darker.
    """
    near = 300 if colour == WHITE else 40
    columns = np.nonzero(np.abs(panel - colour).sum(axis=2) < near)[1]
    return ((columns.min() + columns.max() + 1) / 2 + 40) * 90 / 330 if len(columns) else None


def test_the_reference_is_outlined_in_white_on_the_prediction_only():
    ct, reference, prediction = panels(pixels(case_png(case())))
    assert [middle_mm(ct, colour) for colour in (WHITE, LIVER)] == [None, None]
    # The liver lies 16 to 32 mm from the right, the predicted one 36 to 52.
    assert middle_mm(reference, LIVER) == pytest.approx(24, abs=1)
    assert middle_mm(reference, WHITE) is None
    assert middle_mm(prediction, LIVER) == pytest.approx(44, abs=1)
    assert middle_mm(prediction, WHITE) == pytest.approx(24, abs=1)


def test_the_picture_does_not_depend_on_how_the_arrays_are_stored():
    turn = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
    assert case_png(turned(case(), turn)) == case_png(case())


def test_slices_follow_the_reference_and_not_what_was_found_elsewhere(monkeypatch):
    drawn = []
    panel = case_figure.draw_panel
    monkeypatch.setattr(case_figure, "draw_panel", lambda *args, **kw: drawn.append(args[1]) or panel(*args, **kw))
    row = case()
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:7] = row.reference.labels[2:7]
    case_png(replace(row, reference=LabelMap(labels=labels, grid=GRID)))
    assert {cut.plane for cut in drawn} == {"axial", "coronal"}
    assert {cut.index for cut in drawn if cut.plane == "axial"} <= set(range(2, 7))


def test_a_thin_scan_has_no_coronal_slice():
    assert case_figure._THINNEST_PX > 2 * 5 * 330 / 90
    thin, thick = (pixels(case_png(case(shape=(count, 30, 40)))) for count in (2, 20))
    three_rows = HEADER_PX + 3 * (panel_size_px(293, 330)[1] + GAP_PX)
    assert thin.shape[0] == three_rows < thick.shape[0]


def test_what_is_written_beside_the_panels(monkeypatch):
    written = []
    monkeypatch.setattr(case_figure, "draw_text", lambda _draw, _at, text, **_: written.append(text))
    shown = CaseScore(case="a", organ="liver", dsc=0.5, nsd=0.5, reference_ml=80.4, prediction_ml=70.0)
    absent = CaseScore(case="a", organ="kidney", dsc=np.nan, nsd=np.nan, reference_ml=0.0, prediction_ml=3.2)
    case_png(case(title="reference: experts, who drew it slowly", scores=(shown, absent)))
    assert written[:3] == ["CT", "reference", "prediction (white: reference)"]
    assert {"reference: experts, who", "drew it slowly"} <= set(written)
    assert written.index("50.0 %") < written.index("found 70 of 80 ml") < written.index("found 3 ml")
    assert written[-1] == "50.0 %"  # the mean


def test_scores_that_need_more_room_than_the_panels_are_not_cut_off():
    score = CaseScore(case="a", organ="liver", dsc=0.5, nsd=0.5, reference_ml=1.0, prediction_ml=1.0)
    few, many = (pixels(case_png(case(scores=(score,) * count))) for count in (1, 60))
    assert many.shape[0] > few.shape[0]
    assert many.shape[0] >= HEADER_PX + 60 * 2 * 26
