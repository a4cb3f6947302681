"""The preview: which way round it is, its scale, its slices, and what it says."""

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid, Reorientation
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap, Volume
from viscera.drawing import overlay, panel
from viscera.drawing.overlay import preview_png
from viscera.drawing.panel import BOTTOM_PX, SIDE_PX, TOP_PX, draw_panel, panel_size_px
from viscera.drawing.scene import organ_cuts, scene_of
from viscera.quality.rules import OrganQuality, OrganSignals, QcStatus, Reason

# 100 x 90 x 80 mm; array axes run to the head, the back and the left.
SHAPE = (20, 30, 40)
GRID = Grid.from_axes(
    SHAPE, spacing_zyx_mm=(5.0, 3.0, 2.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(-40, 20, 300)
)
# On the patient's right, in front, towards the head.
LIVER = (slice(12, 18), slice(3, 9), slice(4, 12))

# The slices' place in the picture: 430 px are 90 mm from front to back. Along the body the organs and 45 mm are shown.
PX_PER_MM = 430 / 90
LEFT, TOP = 10 + SIDE_PX, 10 + TOP_PX
AXIAL = (LEFT, TOP, LEFT + round(80 * PX_PER_MM), TOP + 430)
BELOW = AXIAL[3] + BOTTOM_PX + 10 + TOP_PX
CORONAL = (LEFT, BELOW, LEFT + round(80 * PX_PER_MM), BELOW + round(85 * PX_PER_MM))
BESIDE = CORONAL[2] + SIDE_PX + 10 + SIDE_PX
SAGITTAL = (BESIDE, BELOW, BESIDE + 430, CORONAL[3])


def scan(*, liver=LIVER, grid=GRID, background=0):
    hu = np.full(grid.shape_zyx, background, dtype=np.int16)
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    if liver is not None:
        labels[liver], hu[liver] = 1, 60
    return Volume(hu=hu, grid=grid), LabelMap(labels=labels, grid=grid)


def picture(volume, label_map, quality=()):
    return Image.open(io.BytesIO(preview_png(volume, label_map, quality=quality))).convert("RGB")


def judged(organ, status, *reasons, sentences=("Look here.",)):
    """The quality of one organ."""
    signals = OrganSignals(organ=organ, volume_ml=1.0)
    return OrganQuality(organ=organ, status=status, reasons=reasons, sentences=sentences, signals=signals)


@pytest.fixture
def written(monkeypatch):
    """What is written into the legend."""
    words = []
    monkeypatch.setattr(overlay, "draw_text", lambda _draw, _at, text, **_: words.append(text))
    return words


def contour_box_mm(image, area, organ=ORGANS[0]):
    """(left, top, right, bottom) of the pixels in the organ's full colour, in mm from the slice's corner."""
    pixels = np.asarray(image.crop(area), dtype=int)
    rows, columns = np.nonzero(np.abs(pixels - organ.colour).sum(axis=2) < 40)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / PX_PER_MM


class TestOrientationAndScale:
    @pytest.mark.parametrize(
        ("area", "expected_mm"),
        [
            # x from the right 8 to 24 mm, y from the front 9 to 27, z from the top of what is shown 10 to 40.
            (AXIAL, (8, 9, 24, 27)),
            (CORONAL, (8, 10, 24, 40)),
            (SAGITTAL, (9, 10, 27, 40)),
        ],
        ids=["axial", "coronal", "sagittal"],
    )
    def test_the_organ_lies_where_a_radiologist_expects_it(self, area, expected_mm):
        assert contour_box_mm(picture(*scan()), area) == pytest.approx(expected_mm, abs=0.8)

    def test_the_letters_at_the_edges(self):
        assert panel._EDGE_LETTERS == {
            "axial": "RLAP",
            "coronal": "RLSI",
            "sagittal": "APSI",
        }  # left right top bottom

    @pytest.mark.parametrize(
        ("axes", "flipped"),
        [
            (axes, flips)
            for axes, flips in zip(
                itertools.permutations(range(3)),
                [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1)],
                strict=True,
            )
        ],
    )
    def test_the_picture_does_not_depend_on_how_the_array_is_stored(self, axes, flipped):
        volume, label_map = scan()
        turn = Reorientation(axes=axes, flipped=tuple(map(bool, flipped)))
        grid = turn.apply_to_grid(GRID)
        turned = Volume(hu=turn.apply(volume.hu), grid=grid), LabelMap(labels=turn.apply(label_map.labels), grid=grid)
        assert preview_png(*turned) == preview_png(volume, label_map)

    def test_an_oblique_grid_is_shown_along_the_nearest_axes(self):
        angle = math.radians(15)
        turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        affine = GRID.affine.copy()
        affine[:3, :3] = turn @ affine[:3, :3]
        image = picture(*scan(grid=Grid(shape_zyx=SHAPE, affine=affine)))
        assert contour_box_mm(image, AXIAL) == pytest.approx((8, 9, 24, 27), abs=0.8)


class TestSlices:
    def test_axial_slices_run_from_head_to_foot_through_the_organs(self):
        scene = scene_of(*scan())
        cuts = organ_cuts(scene)
        assert [cut.plane for cut in cuts] == ["axial"] * 3 + ["coronal", "sagittal"]
        heights = [cut.index for cut in cuts[:3]]
        assert heights == sorted(heights, reverse=True)
        assert set(heights) <= set(range(12, 18))

    def test_small_organs_count_as_much_as_large_ones(self):
        volume, label_map = scan(liver=(slice(2, 18), slice(0, 8), slice(2, 30)))
        labels = label_map.labels.copy()
        labels[3:17, 20:23, 33:35] = 4
        coronal = organ_cuts(scene_of(volume, LabelMap(labels=labels, grid=GRID)))[3]
        # No coronal plane sees both, and each organ is as large in all of its planes: the one nearest the middle wins.
        assert coronal.index == 20

    def test_air_around_the_body_and_the_table_are_left_out(self):
        volume, label_map = scan(background=-1000)
        hu = volume.hu.copy()
        hu[:, 2:16, 3:30] = np.where(label_map.labels[:, 2:16, 3:30] > 0, 60, 0)
        hu[:, 26, :] = 200  # a table, with air between it and the body, bent up beside the body
        hu[:, 14:27, 36:39] = 200
        scene = scene_of(Volume(hu=hu, grid=GRID), label_map)
        _, across_y, across_x = scene.ranges
        assert (across_y, across_x) == (slice(0, 19), slice(0, 35))  # the body and 10 mm


class TestWithoutOrgans:
    def test_the_picture_shows_the_whole_scan_and_says_so(self, written):
        picture(*scan(liver=None))
        assert "no organ found" in written
        assert not any(text.endswith("ml") for text in written)

    def test_air_alone(self):
        assert picture(*scan(liver=None, background=-1024)).width > 500


class TestLegend:
    def test_names_volumes_and_where_organs_are_cut(self, written):
        picture(*scan(liver=(slice(12, 20), *LIVER[1:])))
        assert "liver" in written
        assert "11.5 ml" in written  # 8 * 6 * 8 voxels of 0.03 ml
        assert "It reaches the scan's edge (superior)." in written
        # Absent organs are named.
        assert written[written.index("spleen") + 1] == "not found"
        assert "ok" not in written

    def test_each_organ_has_its_colour(self):
        volume, label_map = scan(liver=None)
        labels = label_map.labels.copy()
        for organ in ORGANS:
            labels[8:12, 4:12, 9 * (organ.index - 1) + 1 : 9 * organ.index] = organ.index
        image = picture(volume, LabelMap(labels=labels, grid=GRID))
        lefts = [contour_box_mm(image, AXIAL, organ)[0] for organ in ORGANS]
        assert lefts == pytest.approx([2, 20, 38, 56], abs=0.8)


class TestDoubt:
    def test_status_and_reasons_stand_in_the_legend(self, written):
        quality = [
            judged(
                "liver",
                QcStatus.CHECK,
                Reason.TOO_SMALL,
                sentences=("One reason that is too long to stand in a line of the legend.",),
            ),
            judged("spleen", QcStatus.ABSENT, Reason.MISSING, sentences=("It was not found.",)),
        ]
        picture(*scan(), quality)
        after = written.index("liver")
        lines = written[after + 2 : written.index("", after)]
        assert lines[0] == "check"
        assert len(lines) == 3
        assert " ".join(lines[1:]) == "One reason that is too long to stand in a line of the legend."
        assert written[written.index("spleen") + 1 :][:3] == ["not found", "absent", "It was not found."]

    def test_only_organs_to_be_checked_have_dashed_contours(self):
        volume, label_map = scan()
        plain, dashed = (
            np.asarray(picture(volume, label_map, [judged("liver", status)]).crop(AXIAL), dtype=int)
            for status in (QcStatus.OK, QcStatus.CHECK)
        )
        full = [int((np.abs(pixels - ORGANS[0].colour).sum(axis=2) < 40).sum()) for pixels in (plain, dashed)]
        assert 0.3 * full[0] < full[1] < 0.7 * full[0]

    def test_slices_go_through_the_fragments_of_an_organ_in_pieces(self):
        volume, label_map = scan()
        labels = label_map.labels.copy()
        labels[3:5, 22:25, 30:34] = 1
        label_map = LabelMap(labels=labels, grid=GRID)
        cuts = organ_cuts(scene_of(volume, label_map))
        assert not {cut.index for cut in cuts[:3]} & {3, 4}
        doubtful = organ_cuts(scene_of(volume, label_map, doubts={"liver": (Reason.FRAGMENTED,)}))
        assert doubtful[2].index in (3, 4)
        assert doubtful[3].index in range(22, 25)
        assert doubtful[4].index in range(30, 34)

    def test_a_small_organ_to_be_checked_is_cut_by_an_axial_slice(self):
        volume, label_map = scan(liver=(slice(2, 18), slice(3, 9), slice(4, 12)))
        labels = label_map.labels.copy()
        labels[16, 20:22, 20:23] = 4
        label_map = LabelMap(labels=labels, grid=GRID)
        heights = [
            [cut.index for cut in organ_cuts(scene_of(volume, label_map, doubts=doubts))[:3]]
            for doubts in ({}, {"pancreas": (Reason.TOO_SMALL,)})
        ]
        assert 16 not in heights[0]
        assert heights[1][0] == 16
        assert heights[1][1:] == heights[0][1:]

    def test_an_organ_at_the_edge_alone_keeps_the_axial_slices(self):
        volume, label_map = scan(liver=(slice(8, 20), *LIVER[1:]))
        usual = organ_cuts(scene_of(volume, label_map))
        assert organ_cuts(scene_of(volume, label_map, doubts={"liver": (Reason.AT_BORDER,)}))[:3] == usual[:3]

    def test_stray_labels_far_away_do_not_draw_the_slices_off_the_organs(self):
        grid = Grid.from_axes(
            (300, 30, 40), spacing_zyx_mm=(5.0, 3.0, 2.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0)
        )
        volume, label_map = scan(liver=(slice(100, 130), *LIVER[1:]), grid=grid)
        labels = label_map.labels.copy()
        labels[0, 3, 4] = labels[299, 3, 4] = 1
        heights = [cut.index for cut in organ_cuts(scene_of(volume, LabelMap(labels=labels, grid=grid)))[:3]]
        assert set(heights) <= set(range(100, 130))


class TestShapes:
    @pytest.mark.parametrize("count", [1, 3, 20])
    def test_nothing_is_written_on_a_slice_however_thin(self, count, monkeypatch):
        grid = Grid(shape_zyx=(count, 30, 40), affine=GRID.affine)
        volume, label_map = scan(liver=None, grid=grid, background=-1000)  # black
        scene = scene_of(volume, label_map)
        for cut in organ_cuts(scene):
            drawn = np.asarray(draw_panel(scene, cut, organ_cuts(scene)))
            rows, columns = (axis for axis in range(3) if axis != cut.axis)
            height, width = scene.size_px(rows), scene.size_px(columns)
            black = (drawn == 0).all(axis=2)
            assert black.sum() == width * height
            assert drawn.shape[1::-1] == panel_size_px(width, height)

    def test_a_body_too_tall_for_the_scale_is_shrunk_in_the_other_planes_alone(self):
        grid = Grid(shape_zyx=(400, 30, 40), affine=GRID.affine)
        scene = scene_of(*scan(liver=None, grid=grid))
        assert scene.scaled_for("axial") is scene
        assert scene.scaled_for("coronal").size_px(0) == 560

    @pytest.mark.parametrize("shape", [(1, 30, 40), (20, 1, 40), (20, 30, 1), (2, 3, 1), (200, 11, 12)])
    def test_thin_and_long_scans_are_drawn(self, shape):
        grid = Grid.from_axes(
            shape, spacing_zyx_mm=(5.0, 3.0, 2.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0)
        )
        assert picture(*scan(liver=(slice(0, 1), slice(0, 1), slice(0, 1)), grid=grid)).height <= 1200


def test_the_same_input_gives_the_same_bytes():
    assert preview_png(*scan()) == preview_png(*scan())


def test_grids_that_differ():
    moved = Grid.from_axes(SHAPE, spacing_zyx_mm=(5, 3, 2), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0))
    with pytest.raises(GeometryError, match="grid"):
        preview_png(scan()[0], scan(grid=moved)[1])
