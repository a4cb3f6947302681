"""Volumes, densities and border contact of organs."""

import csv
import io
import json
import math

import numpy as np
import pytest

from viscera.core.config import QualityConfig
from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid, Reorientation
from viscera.core.volume import LabelMap, Volume
from viscera.quality.rules import OrganSignals, assess
from viscera.quality.statistics import organ_statistics, statistics_csv, statistics_json, with_quality

SHAPE = (10, 11, 12)
# Canonical directions: array axes run to the head, the back and the left.
GRID = Grid.from_axes(
    SHAPE, spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(-5.0, 7.0, 11.0)
)
LIVER, KIDNEY, SPLEEN, PANCREAS = range(4)


def scan(grid=GRID, **organs):
    """A CT of 0 HU with blocks of labels; organs: name=(label, ranges, hu)."""
    hu, labels = np.zeros(grid.shape_zyx, dtype=np.int16), np.zeros(grid.shape_zyx, dtype=np.uint8)
    for label, ranges, value in organs.values():
        part = tuple(slice(*pair) for pair in ranges)
        labels[part], hu[part] = label, value
    return Volume(hu=hu, grid=grid), LabelMap(labels=labels, grid=grid)


INSIDE = ((3, 5), (4, 7), (2, 6))  # 2 x 3 x 4 = 24 voxels of 0.006 ml


def test_volume_of_a_block():
    liver = organ_statistics(*scan(liver=(1, INSIDE, 60)))[LIVER]
    assert (liver.organ, liver.voxels, liver.volume_ml) == ("liver", 24, pytest.approx(0.144))


def test_volume_on_a_sheared_grid_is_base_times_height():
    affine = GRID.affine.copy()
    affine[1, 0] = 1.7  # a tilted gantry: slices shifted against each other, each as thick and as far as before
    sheared = Grid(shape_zyx=SHAPE, affine=affine)
    assert organ_statistics(*scan(sheared, liver=(1, INSIDE, 60)))[LIVER].volume_ml == pytest.approx(0.144)


def test_density():
    volume, label_map = scan(liver=(1, INSIDE, 60), spleen=(3, ((6, 8), (1, 2), (1, 2)), np.array([[[-20]], [[50]]])))
    liver, _, spleen, _ = organ_statistics(volume, label_map)
    assert (liver.mean_hu, liver.sd_hu) == (60.0, 0.0)
    assert (spleen.mean_hu, spleen.sd_hu) == (15.0, 35.0)


def test_density_equals_numpy_on_noise():
    random = np.random.default_rng(3)
    volume = Volume(hu=random.integers(-1024, 3071, SHAPE).astype(np.int16), grid=GRID)
    label_map = LabelMap(labels=random.integers(0, 5, SHAPE).astype(np.uint8), grid=GRID)
    for index, row in enumerate(organ_statistics(volume, label_map), start=1):
        values = volume.hu[label_map.labels == index].astype(float)
        assert (row.mean_hu, row.sd_hu) == (pytest.approx(values.mean()), pytest.approx(values.std()))


def test_an_absent_organ():
    kidney = organ_statistics(*scan(liver=(1, INSIDE, 60)))[KIDNEY]
    assert (kidney.voxels, kidney.volume_ml, kidney.mean_hu, kidney.sd_hu) == (0, 0.0, None, None)
    assert not kidney.touches_border


def test_an_organ_inside_touches_no_border():
    liver = organ_statistics(*scan(liver=(1, INSIDE, 60)))[LIVER]
    assert (liver.border_faces, liver.touches_border) == ((), False)


FACES = {
    "inferior": ((0, 1), (4, 5), (4, 5)),
    "superior": ((9, 10), (4, 5), (4, 5)),
    "anterior": ((4, 5), (0, 1), (4, 5)),
    "posterior": ((4, 5), (10, 11), (4, 5)),
    "right": ((4, 5), (4, 5), (0, 1)),
    "left": ((4, 5), (4, 5), (11, 12)),
}


@pytest.mark.parametrize("face", FACES)
def test_the_face_of_the_patient_that_is_touched(face):
    spleen = organ_statistics(*scan(spleen=(3, FACES[face], 60)))[SPLEEN]
    assert spleen.border_faces == (face,)


@pytest.mark.parametrize("face", FACES)
def test_faces_do_not_depend_on_how_the_array_is_stored(face):
    volume, label_map = scan(spleen=(3, FACES[face], 60))
    turn = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
    grid = turn.apply_to_grid(GRID)
    turned = Volume(hu=turn.apply(volume.hu), grid=grid), LabelMap(labels=turn.apply(label_map.labels), grid=grid)
    assert organ_statistics(*turned)[SPLEEN].border_faces == (face,)


def test_an_oblique_grid_names_the_nearest_faces():
    angle = math.radians(20)
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    affine = GRID.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    tilted = Grid(shape_zyx=SHAPE, affine=affine)
    assert organ_statistics(*scan(tilted, spleen=(3, FACES["superior"], 60)))[SPLEEN].border_faces == ("superior",)


def test_labels_outside_the_organ_table_are_not_counted():
    assert sum(row.voxels for row in organ_statistics(*scan(other=(9, INSIDE, 60)))) == 0


def test_grids_that_differ():
    volume, _ = scan()
    moved = Grid.from_axes(SHAPE, spacing_zyx_mm=(3, 2, 1), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0))
    with pytest.raises(GeometryError, match="grid"):
        organ_statistics(volume, LabelMap(labels=np.zeros(SHAPE, dtype=np.uint8), grid=moved))


def test_csv():
    rows = list(csv.DictReader(io.StringIO(statistics_csv(organ_statistics(*scan(liver=(1, INSIDE, 60)))))))
    assert [row["organ"] for row in rows] == ["liver", "kidney", "spleen", "pancreas"]
    assert list(rows[0].values()) == ["liver", "24", "0.144", "60.00", "0.00", "no", "", "", "", "", ""]
    assert (rows[1]["volume_ml"], rows[1]["mean_hu"]) == ("0.000", "")


def verdicts():
    signals = [
        OrganSignals(organ="liver", volume_ml=4000.0, border_faces=("left",), parts_ml=(4000.0,)),
        *(OrganSignals(organ=name, volume_ml=0.0) for name in ("kidney", "spleen", "pancreas")),
    ]
    return assess(signals, QualityConfig())


def test_verdicts_stand_beside_the_measures():
    rows = with_quality(organ_statistics(*scan(liver=(1, INSIDE, 60))), verdicts())
    assert (rows[LIVER].quality, rows[LIVER].quality_reasons) == ("check", ("too_large", "at_border"))
    assert (rows[LIVER].voxels, rows[SPLEEN].quality) == (24, "absent")
    table = list(csv.DictReader(io.StringIO(statistics_csv(rows))))
    assert (table[LIVER]["quality"], table[LIVER]["quality_reasons"]) == ("check", "too_large at_border")
    assert (table[SPLEEN]["quality"], table[SPLEEN]["quality_reasons"]) == ("absent", "out_of_scan")
    entries = json.loads(statistics_json(rows))
    assert (entries[LIVER]["quality"], entries[LIVER]["quality_reasons"]) == ("check", ["too_large", "at_border"])


def test_json():
    corner = ((0, 1), (0, 1), (4, 5))
    rows = json.loads(statistics_json(organ_statistics(*scan(pancreas=(4, corner, 60)))))
    assert rows[PANCREAS] == {
        "organ": "pancreas",
        "voxels": 1,
        "volume_ml": pytest.approx(0.006),
        "mean_hu": 60.0,
        "sd_hu": 0.0,
        "border_faces": ["inferior", "anterior"],
        "touches_border": True,
        "quality": None,
        "quality_reasons": [],
        "left_ml": None,
        "right_ml": None,
        "sides_finding": "",
    }
    assert rows[LIVER]["mean_hu"] is None
