"""Segmentations of 3D Slicer: read by their names, in layers, cut to the organs, with long headers.

The headers are as 3D Slicer 5 and slicerio write them; SimpleITK reads the voxels independently.
"""

import gzip

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.core.errors import GeometryError, ReadError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS, named_organ
from viscera.core.volume import LabelMap, Volume
from viscera.evaluation.evaluate import evaluate_cases
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.read import read_label_map, read_volume

pytest.importorskip("SimpleITK")

# (z, y, x) of the whole scan: 10 x 11 x 12 voxels at 3 x 2 x 1 mm, LPS.
GRID = Grid.from_axes(
    (10, 11, 12), spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(-7.0, 5.0, 9.0)
)
TISSUE = "SCT^85756007^Tissue"
TERMS = (
    "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list~{}~{}~^^~Anatomic codes~^^~^^|"
)


def truth():
    """Liver 1, kidney 2 (in two places), spleen 3, pancreas 4: pairwise different in size and place."""
    labels = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    labels[3:7, 2:6, 2:5] = 1
    labels[2:4, 8:10, 3:4] = 2
    labels[3:5, 8:10, 9:10] = 2
    labels[5:7, 7:9, 8:10] = 3
    labels[4:5, 5:6, 6:8] = 4
    return labels


def segment(number, name, value=None, layer=None, *, tags="|"):
    fields = {"ID": f"Segment_{number}", "Name": name, "LabelValue": value, "Layer": layer, "Tags": tags}
    return [f"Segment{number}_{key}:={field}" for key, field in fields.items() if field is not None]


def coded(kind, category="SCT^123037004^Anatomical Structure"):
    return TERMS.format(category, kind)


def save(path, array_zyx, lines, start_zyx=(0, 0, 0), *, compressed=True):
    """A .seg.nrrd of `array_zyx`, with layers behind if it has four axes, whose first voxel is `start_zyx` of GRID."""
    shape = array_zyx.shape
    layered = array_zyx.ndim == 4
    x, y, z = GRID.world(np.array(start_zyx))
    sizes = [*([shape[3]] if layered else []), shape[2], shape[1], shape[0]]
    head = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if layered else ''}(1,0,0) (0,2,0) (0,0,3)",
        f"kinds: {'list ' if layered else ''}domain domain domain",
        f"encoding: {'gzip' if compressed else 'raw'}",
        f"space origin: ({x},{y},{z})",
        *lines,
        f"Segmentation_ReferenceImageExtentOffset:={start_zyx[2]} {start_zyx[1]} {start_zyx[0]}",
        "Segmentation_SourceRepresentation:=Binary labelmap",
    ]
    data = np.ascontiguousarray(array_zyx, dtype=np.uint8).tobytes()
    text = "\n".join(head) + "\n\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() + (gzip.compress(data) if compressed else data))
    return path


# The order in which somebody drew them, and values of their own.
VALUES = {"spleen": 1, "Left kidney": 2, "liver": 3, "right_kidney": 5, "Pancreas": 4, "Gallbladder": 6}


def drawn():
    """The same organs with the values of VALUES, and a gallbladder."""
    labels, own = truth(), np.zeros(GRID.shape_zyx, dtype=np.uint8)
    own[labels == 3], own[labels == 1], own[labels == 4] = 1, 3, 4
    own[:, :, :8][labels[:, :, :8] == 2], own[:, :, 8:][labels[:, :, 8:] == 2] = 5, 2
    own[8, 1, 1] = 6
    return own


def named():
    return [line for number, (name, value) in enumerate(VALUES.items()) for line in segment(number, name, value, 0)]


def test_segments_are_known_by_their_names_not_by_their_numbers(tmp_path):
    read = read_label_map(save(tmp_path / "a.seg.nrrd", drawn(), named()))
    np.testing.assert_array_equal(read.labels, truth())
    assert read.notes == ("Labels that are no organ of the table were passed over: Gallbladder.",)


def test_they_are_scored_as_what_they_are_called(tmp_path):
    save(tmp_path / "ref" / "case1.seg.nrrd", drawn(), named())
    (tmp_path / "pred").mkdir()
    write_label_map(LabelMap(labels=truth(), grid=GRID), tmp_path / "pred" / "case1.nii.gz")
    scores = evaluate_cases(tmp_path / "ref", tmp_path / "pred").scores
    assert [(score.case, score.dsc) for score in scores] == [("case1", 1.0)] * 4


def test_the_command_tells_what_was_passed_over(tmp_path, capsys):
    path = save(tmp_path / "case1.seg.nrrd", drawn(), named())
    write_label_map(LabelMap(labels=truth(), grid=GRID), tmp_path / "case1.nii.gz")
    assert main(["evaluate", str(path), str(tmp_path / "case1.nii.gz"), "--workers", "1"]) == 0
    assert "case1: Reference: Labels that are no organ of the table were passed over: Gallbladder." in (
        capsys.readouterr().err
    )


def test_a_bundles_own_organs_are_looked_for(tmp_path):
    table = [named_organ(1, "gallbladder"), named_organ(2, "left kidney"), named_organ(3, "right kidney")]
    read = read_label_map(save(tmp_path / "a.seg.nrrd", drawn(), named()), table)
    own = drawn()
    np.testing.assert_array_equal(read.labels, np.select([own == 6, own == 2, own == 5], [1, 2, 3], 0))


def test_layers_are_joined(tmp_path):
    own = drawn()
    # The kidneys and the liver in one layer, the others in a second one; there value 1 is the pancreas.
    array = np.zeros((*GRID.shape_zyx, 2), dtype=np.uint8)
    array[..., 0][own == 3], array[..., 0][own == 2], array[..., 0][own == 5] = 1, 2, 3
    array[..., 1][own == 4], array[..., 1][own == 1] = 1, 2
    lines = [
        *segment(0, "liver", 1, 0),
        *segment(1, "kidney left", 2, 0),
        *segment(2, "kidney right", 3, 0),
        *segment(3, "pancreas", 1, 1),
        *segment(4, "spleen", 2, 1),
    ]
    np.testing.assert_array_equal(read_label_map(save(tmp_path / "a.seg.nrrd", array, lines)).labels, truth())


def test_older_files_have_a_layer_for_each_segment(tmp_path):
    names = ["spleen", "pancreas", "kidney", "liver"]
    array = np.stack([truth() == index for index in (3, 4, 2, 1)], axis=-1)
    lines = [line for number, name in enumerate(names) for line in segment(number, name)]
    np.testing.assert_array_equal(read_label_map(save(tmp_path / "a.seg.nrrd", array, lines)).labels, truth())


def test_two_organs_in_one_voxel_are_refused(tmp_path):
    array = np.stack([truth() == 1, truth() > 0], axis=-1)
    lines = [*segment(0, "liver", 1, 0), *segment(1, "spleen", 1, 1)]
    with pytest.raises(ReadError, match="at most one organ in a voxel, got 48 voxels with two"):
        read_label_map(save(tmp_path / "a.seg.nrrd", array, lines))


def test_a_header_of_more_than_64_kib_is_read(tmp_path):
    padded = [f"Segment{number}_Tags:={'x' * 800}|" for number in range(50, 150)]
    path = save(tmp_path / "a.seg.nrrd", drawn(), [*padded, *named()])
    assert path.read_bytes().index(b"\n\n") > 2**16
    np.testing.assert_array_equal(read_label_map(path).labels, truth())


@pytest.mark.parametrize("start", [(2, 1, 2), (0, 0, 0)])
def test_a_file_cut_to_its_organs_is_put_onto_the_scan(tmp_path, start):
    cut = tuple(slice(first, last) for first, last in zip(start, (9, 11, 11), strict=True))
    path = save(tmp_path / "a.seg.nrrd", drawn()[cut], named(), start)
    placed = read_label_map(path, within=GRID)
    np.testing.assert_array_equal(placed.labels, truth())
    assert placed.grid == GRID
    write_label_map(LabelMap(labels=truth(), grid=GRID), tmp_path / "b.nii.gz")
    for pair in ((path, tmp_path / "b.nii.gz"), (tmp_path / "b.nii.gz", path)):
        assert [score.dsc for score in evaluate_cases(*pair).scores] == [1.0] * 4


def test_two_files_cut_to_different_parts_are_compared(tmp_path):
    one = save(tmp_path / "a.seg.nrrd", drawn()[2:9, 1:11], named(), (2, 1, 0))
    other = save(tmp_path / "b.seg.nrrd", drawn()[1:10, :, 2:11], named(), (1, 0, 2))
    assert [score.dsc for score in evaluate_cases(one, other).scores] == [1.0] * 4


def test_an_extent_beyond_the_scan_is_cut_where_it_is_empty(tmp_path):
    wider = np.pad(drawn(), 2)
    path = save(tmp_path / "a.seg.nrrd", wider, named(), (-2, -2, -2))
    np.testing.assert_array_equal(read_label_map(path, within=GRID).labels, truth())
    wider[0, 0, 0] = 3
    save(path, wider, named(), (-2, -2, -2))
    with pytest.raises(GeometryError, match="1 labelled voxels outside"):
        read_label_map(path, within=GRID)


def test_one_slice_is_read_and_one_voxel_is_an_empty_segmentation(tmp_path):
    path = save(tmp_path / "a.seg.nrrd", drawn()[4:5], named(), (4, 0, 0))
    np.testing.assert_array_equal(read_label_map(path, within=GRID).labels[4], truth()[4])
    path = save(tmp_path / "b.seg.nrrd", np.zeros((1, 1, 1)), named())
    assert not read_label_map(path, within=GRID).labels.any()


@pytest.mark.parametrize(
    "tags",
    [
        coded("SCT^10200004^Liver"),
        coded("SRT^T-62000^Liver"),
        coded(TISSUE, TISSUE),  # what Slicer gives to every new segment
        coded("SCT^181268008^Entire liver"),
    ],
)
def test_codes_and_names_that_agree(tmp_path, tags):
    lines = [*segment(0, "Liver", 7, 0, tags=tags), *segment(1, "spleen", 1, 0)]
    array = np.select([truth() == 1, truth() == 3], [7, 1], 0)
    expected = np.where(np.isin(truth(), (1, 3)), truth(), 0)
    np.testing.assert_array_equal(read_label_map(save(tmp_path / "a.seg.nrrd", array, lines)).labels, expected)


def test_a_code_tells_what_a_name_does_not(tmp_path):
    lines = segment(0, "Segment_1", 1, 0, tags=coded("SCT^78961009^Spleen"))
    read = read_label_map(save(tmp_path / "a.seg.nrrd", truth() == 3, lines))
    np.testing.assert_array_equal(read.labels, 3 * (truth() == 3))


def test_names_that_say_nothing_leave_the_numbers(tmp_path):
    lines = [line for number in range(1, 5) for line in segment(number, f"Segment_{number}", number, 0)]
    np.testing.assert_array_equal(read_label_map(save(tmp_path / "a.seg.nrrd", truth(), lines)).labels, truth())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (segment(0, "liver", 1, 0, tags=coded("SCT^78961009^Spleen")), "a name and a code that mean one organ"),
        (segment(0, "liver", 1, 0, tags=coded("SCT^272673000^Bone")), "'liver' with the code of 'Bone'"),
        (segment(0, "Leber", 1, 0), "named or coded as liver, kidney, spleen, pancreas, got Leber"),
        ([*segment(0, "liver", 1, 0), *segment(1, "spleen", 1, 0)], "both 'liver' and 'spleen'"),
        ([*segment(0, "spleen", 9, 0), *segment(1, "liver", 2, 0)], "voxels of the label 1, 3, 4 without one"),
        (segment(0, "liver", "one", 0), "a whole number as a segment's LabelValue"),
        ([*segment(0, "liver", 1, 0), "Segment0_Name:=spleen"], "'Segment0_Name' twice"),
        ([*segment(0, "liver", 1, 3)], "voxels in 4 layers, got fewer"),
        ([*segment(0, "liver", 1, 0), "Segmentation_MasterRepresentation:=Fractional labelmap"], "a binary labelmap"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, lines, said):
    with pytest.raises(ReadError, match=said):
        read_label_map(save(tmp_path / "a.seg.nrrd", truth(), lines))


def test_a_part_of_an_organ_is_not_the_organ(tmp_path):
    category = "SCT^49755003^Morphologically Altered Structure"
    lines = [
        *segment(0, "liver", 1, 0),
        *segment(1, "liver tumour", 2, 0),
        *segment(2, "Spleen", 3, 0, tags=coded("SCT^78961009^Spleen", category)),
        *segment(3, "Pancreas", 4, 0, tags=coded("SCT^4147007^Mass")),
    ]
    read = read_label_map(save(tmp_path / "a.seg.nrrd", truth(), lines))
    np.testing.assert_array_equal(read.labels, truth() == 1)
    assert "passed over: liver tumour, Spleen, Pancreas" in read.notes[0]


def test_it_is_no_ct(tmp_path):
    path = save(tmp_path / "a.seg.nrrd", drawn(), named())
    with pytest.raises(ReadError, match="expected a CT, got a segmentation"):
        read_volume(path)


def test_the_page_has_its_names(tmp_path):
    hu = np.full(GRID.shape_zyx, -500, dtype=np.int16)
    hu[truth() > 0] = 60
    write_volume(Volume(hu=hu, grid=GRID), tmp_path / "ct.nii.gz")
    path = save(tmp_path / "ct.seg.nrrd", drawn()[2:9], named(), (2, 0, 0))
    assert main(["report", str(tmp_path / "ct.nii.gz"), str(path), "-o", str(tmp_path / "page.html")]) == 0
    import re

    page = re.sub(r"<[^>]+>", " ", (tmp_path / "page.html").read_text(encoding="utf-8"))
    volumes = {organ.name: np.count_nonzero(truth() == organ.index) * 0.006 for organ in ORGANS}
    assert volumes == pytest.approx({"liver": 0.288, "kidney": 0.048, "spleen": 0.048, "pancreas": 0.012})
    assert re.search(r"liver\s+0\.3\b|liver\s+[^a-z]*0\.3", page)
