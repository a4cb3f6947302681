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
from viscera.drawing import overlay as figures
from viscera.drawing.overlay import preview_png

# 100 x 90 x 80 mm; array axes run to the head, the back and the left.
SHAPE = (20, 30, 40)
GRID = Grid.from_axes(
    SHAPE, spacing_zyx_mm=(5.0, 3.0, 2.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(-40, 20, 300)
)
# On the patient's right, in front, towards the head.
LIVER = (slice(12, 18), slice(3, 9), slice(4, 12))

# The panels' place in the picture: 430 px are 90 mm from front to back. Along the body the organs and 45 mm are shown.
PX_PER_MM = 430 / 90
AXIAL = (10, 10, 10 + round(80 * PX_PER_MM), 440)
CORONAL = (10, 450, 10 + round(80 * PX_PER_MM), 450 + round(85 * PX_PER_MM))
SAGITTAL = (CORONAL[2] + 10, 450, CORONAL[2] + 10 + 430, CORONAL[3])


def scan(*, liver=LIVER, grid=GRID, background=0):
    hu = np.full(grid.shape_zyx, background, dtype=np.int16)
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    if liver is not None:
        labels[liver], hu[liver] = 1, 60
    return Volume(hu=hu, grid=grid), LabelMap(labels=labels, grid=grid)


def picture(volume, label_map):
    return Image.open(io.BytesIO(preview_png(volume, label_map))).convert("RGB")


def contour_box_mm(image, panel, organ=ORGANS[0]):
    """(left, top, right, bottom) of the pixels in the organ's full colour, in mm from the panel's corner."""
    pixels = np.asarray(image.crop(panel), dtype=int)
    rows, columns = np.nonzero(np.abs(pixels - organ.colour).sum(axis=2) < 40)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / PX_PER_MM


class TestOrientationAndScale:
    @pytest.mark.parametrize(
        ("panel", "expected_mm"),
        [
            # x from the right 8 to 24 mm, y from the front 9 to 27, z from the top of what is shown 10 to 40.
            (AXIAL, (8, 9, 24, 27)),
            (CORONAL, (8, 10, 24, 40)),
            (SAGITTAL, (9, 10, 27, 40)),
        ],
        ids=["axial", "coronal", "sagittal"],
    )
    def test_the_organ_lies_where_a_radiologist_expects_it(self, panel, expected_mm):
        assert contour_box_mm(picture(*scan()), panel) == pytest.approx(expected_mm, abs=0.8)

    def test_the_letters_at_the_edges(self):
        assert figures._EDGE_LETTERS == {
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
        scene = figures.scene_of(*scan())
        cuts = figures.organ_cuts(scene)
        assert [cut.plane for cut in cuts] == ["axial"] * 3 + ["coronal", "sagittal"]
        heights = [cut.index for cut in cuts[:3]]
        assert heights == sorted(heights, reverse=True)
        assert set(heights) <= set(range(12, 18))

    def test_small_organs_count_as_much_as_large_ones(self):
        volume, label_map = scan(liver=(slice(2, 18), slice(0, 8), slice(2, 30)))
        labels = label_map.labels.copy()
        labels[3:17, 20:23, 33:35] = 4
        coronal = figures.organ_cuts(figures.scene_of(volume, LabelMap(labels=labels, grid=GRID)))[3]
        # No coronal plane sees both, and each organ is as large in all of its planes: the one nearest the middle wins.
        assert coronal.index == 20

    def test_air_around_the_body_and_the_table_are_left_out(self):
        volume, label_map = scan(background=-1000)
        hu = volume.hu.copy()
        hu[:, 2:16, 3:30] = np.where(label_map.labels[:, 2:16, 3:30] > 0, 60, 0)
        hu[:, 26, :] = 200  # a table, with air between it and the body, bent up beside the body
        hu[:, 14:27, 36:39] = 200
        scene = figures.scene_of(Volume(hu=hu, grid=GRID), label_map)
        _, across_y, across_x = scene.ranges
        assert (across_y, across_x) == (slice(0, 19), slice(0, 35))  # the body and 10 mm


class TestWithoutOrgans:
    def test_the_picture_shows_the_whole_scan_and_says_so(self, monkeypatch):
        written = []
        monkeypatch.setattr(figures, "draw_text", lambda _draw, _at, text, **_: written.append(text))
        picture(*scan(liver=None))
        assert "no organ found" in written
        assert not any("ml" in text for text in written)

    def test_air_alone(self):
        assert picture(*scan(liver=None, background=-1024)).width > 500


class TestLegend:
    def test_names_volumes_and_where_organs_are_cut(self, monkeypatch):
        written = []
        monkeypatch.setattr(figures, "draw_text", lambda _draw, _at, text, **_: written.append(text))
        picture(*scan(liver=(slice(12, 20), *LIVER[1:])))
        assert "liver" in written
        assert "11.5 ml" in written  # 8 * 6 * 8 voxels of 0.03 ml
        assert "reaches the scan's edge:\nsuperior" in written
        assert "spleen" not in written

    def test_each_organ_has_its_colour(self):
        volume, label_map = scan(liver=None)
        labels = label_map.labels.copy()
        for organ in ORGANS:
            labels[8:12, 4:12, 9 * (organ.index - 1) + 1 : 9 * organ.index] = organ.index
        image = picture(volume, LabelMap(labels=labels, grid=GRID))
        lefts = [contour_box_mm(image, AXIAL, organ)[0] for organ in ORGANS]
        assert lefts == pytest.approx([2, 20, 38, 56], abs=0.8)


class TestShapes:
    @pytest.mark.parametrize("shape", [(1, 30, 40), (20, 1, 40), (20, 30, 1), (2, 3, 1), (200, 11, 12)])
    def test_thin_and_long_scans_are_drawn(self, shape):
        grid = Grid.from_axes(
            shape, spacing_zyx_mm=(5.0, 3.0, 2.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0)
        )
        assert picture(*scan(liver=(slice(0, 1), slice(0, 1), slice(0, 1)), grid=grid)).height <= 1100


def test_the_same_input_gives_the_same_bytes():
    assert preview_png(*scan()) == preview_png(*scan())


def test_grids_that_differ():
    moved = Grid.from_axes(SHAPE, spacing_zyx_mm=(5, 3, 2), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0))
    with pytest.raises(GeometryError, match="grid"):
        preview_png(scan()[0], scan(grid=moved)[1])
