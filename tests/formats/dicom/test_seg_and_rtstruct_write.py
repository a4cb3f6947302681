"""DICOM SEG and RTSTRUCT: where every voxel lies, what the objects say, and what other programs make of them."""

import json
import shutil
import struct
import subprocess
import zipfile
from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

from viscera.core.errors import GeometryError, MissingExtraError, ReadError, WriteError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS, named_organ
from viscera.core.provenance import Origin
from viscera.core.volume import LabelMap
from viscera.formats.dicom.references import source_images
from viscera.formats.dicom.rtstruct_write import outlines, write_rtstruct
from viscera.formats.dicom.seg_write import write_dicom_seg
from viscera.formats.nifti_write import write_label_map
from viscera.read import read_label_map, read_volume

from .conftest import organ_labels

ORIGIN = Origin(bundle="fast", bundle_version="1.2", made=datetime(2024, 5, 6, 7, 8, 9))
SPACING = (3.0, 2.0, 1.0)

# Image Orientation (Patient) of axial slices, by patient position (DICOM PS3.3, C.7.6.2.1.1).
POSITIONS = {
    "HFS": (1, 0, 0, 0, 1, 0), "HFP": (-1, 0, 0, 0, -1, 0), "HFDR": (0, 1, 0, -1, 0, 0), "HFDL": (0, -1, 0, 1, 0, 0),
    "FFS": (-1, 0, 0, 0, 1, 0), "FFP": (1, 0, 0, 0, -1, 0), "FFDR": (0, -1, 0, -1, 0, 0), "FFDL": (0, 1, 0, 1, 0, 0),
}  # fmt: skip


def affine_of(orientation, *, step=None) -> np.ndarray:
    """Slices every 3 mm along their normal, or by `step`; 2 mm between rows, 1 mm between columns."""
    column, row = np.array(orientation, dtype=float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = SPACING[0] * np.cross(column, row) if step is None else step
    affine[:3, 1], affine[:3, 2] = SPACING[1] * row, SPACING[2] * column
    affine[:3, 3] = (-12.3, 45.6, -78.9)
    return affine


def turned(degrees: float, axis: int) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = [other for other in range(3) if other != axis]
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


OBLIQUE = (turned(20, 2) @ turned(35, 0))[:, :2].T.ravel()
TILTED = (1, 0, 0, 0, np.cos(0.3), -np.sin(0.3))
GRIDS = {name: affine_of(orientation) for name, orientation in POSITIONS.items()}
GRIDS |= {f"{name} reversed": affine_of(POSITIONS[name], step=-GRIDS[name][:3, 0]) for name in ("HFS", "FFP")}
GRIDS |= {
    "oblique": affine_of(OBLIQUE),
    "tilted": affine_of(TILTED, step=(0, 0, 3)),
    "tilted down": affine_of(TILTED, step=(0, 0, -3)),
}
PLAIN = GRIDS["HFS"]


def rounded(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(point) for point in (points.round(1) + 0.0).tolist()}


def centres(header, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """World positions of pixels by the equation of DICOM PS3.3, C.7.6.2.1.1, from decimal strings."""
    orientation = np.array(header.ImageOrientationPatient, dtype=float)
    row_mm, column_mm = map(float, header.PixelSpacing)
    return (
        np.array(header.ImagePositionPatient, dtype=float)
        + columns[:, None] * column_mm * orientation[:3]
        + rows[:, None] * row_mm * orientation[3:]
    )


def seg_points(path: Path) -> dict[int, set]:
    """Where a BINARY SEG has voxels, by segment; bits are unpacked and places computed without any reader of ours."""
    seg = pydicom.dcmread(path)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    size = seg.Rows * seg.Columns
    shared, found = seg.SharedFunctionalGroupsSequence[0], defaultdict(set)
    for number, groups in enumerate(seg.PerFrameFunctionalGroupsSequence):
        frame = pydicom.Dataset()
        frame.ImagePositionPatient = groups.PlanePositionSequence[0].ImagePositionPatient
        frame.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        frame.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
        pixels = np.flatnonzero(bits[number * size : (number + 1) * size])
        points = centres(frame, pixels // seg.Columns, pixels % seg.Columns)
        found[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber] |= rounded(points)
    return {segment: points for segment, points in found.items() if points}


def crossings(polygon: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel centre whether a ray to the right crosses the polygon (x, y) oddly, and how often it winds."""
    rows, columns = np.indices(shape)
    odd, winding = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=int)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        up, down = (y0 <= rows) & (rows < y1), (y1 <= rows) & (rows < y0)
        crosses = (up | down) & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1))
        odd ^= crosses
        winding += np.where(crosses, np.where(up, 1, -1), 0)
    return odd, winding


def rtstruct_points(path: Path, folder: Path) -> dict[int, set]:
    """Where even-odd filled contours hold pixel centres of the images they refer to, by ROI number."""
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, folder.iterdir())}
    found = defaultdict(set)
    for region in pydicom.dcmread(path).ROIContourSequence:
        for contour in region.get("ContourSequence", ()):
            (reference,) = contour.ContourImageSequence
            image = images[reference.ReferencedSOPInstanceUID]
            orientation = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
            away = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - np.array(
                image.ImagePositionPatient, float
            )
            assert np.abs(away @ np.cross(*orientation)).max() < 1e-3  # on the image's plane
            polygon = away @ orientation.T / np.array(image.PixelSpacing, dtype=float)[[1, 0]]
            odd, _ = crossings(polygon, (image.Rows, image.Columns))
            found[region.ReferencedROINumber] |= rounded(centres(image, *np.nonzero(odd)))
    return dict(found)


@pytest.mark.parametrize("name", GRIDS)
def test_every_voxel_of_a_seg_lies_where_the_cts_voxel_lies(labelled_ct, tmp_path, name):
    ct = labelled_ct(GRIDS[name])
    write_dicom_seg(ct.label_map, ct.source, tmp_path / "seg.dcm", ORIGIN)
    assert seg_points(tmp_path / "seg.dcm") == ct.points


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_seg_read_back_is_the_label_map(labelled_ct, tmp_path, name, kind):
    ct = labelled_ct(GRIDS[name])
    write_dicom_seg(ct.label_map, ct.source, tmp_path / "seg.dcm", ORIGIN, kind=kind)
    read = read_label_map(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read.labels, ct.label_map.labels)
    assert read.grid.matches(ct.label_map.grid)


@pytest.mark.parametrize("name", GRIDS)
def test_filled_contours_are_the_organs_where_the_images_lie(labelled_ct, tmp_path, name):
    ct = labelled_ct(GRIDS[name])
    write_rtstruct(ct.label_map, ct.source, tmp_path / "rt.dcm", ORIGIN)
    assert rtstruct_points(tmp_path / "rt.dcm", ct.folder) == ct.points


def masks():
    yield "a voxel", np.array([[1]])
    yield "a ring", np.pad(np.zeros((1, 1)), 1, constant_values=1)
    yield "an island in a hole", np.pad(np.pad(np.pad([[1]], 1), 1, constant_values=1), 1)
    yield "corners that touch", np.eye(4)
    yield "holes side by side", np.array([[1] * 7, [1, 0, 1, 0, 1, 0, 1], [1] * 7])
    yield "holes above each other", np.array([[1] * 7, [1, 0, 1, 0, 1, 0, 1], [1] * 7]).T
    yield "a hole open at a corner", np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]])
    for seed, density in enumerate((0.3, 0.5, 0.7, 0.9) * 5):
        yield f"noise {seed}", np.random.default_rng(seed).random((17, 23)) < density


@pytest.mark.parametrize(("name", "mask"), list(masks()))
def test_outlines_are_filled_alike_by_every_rule(name, mask):
    mask = np.asarray(mask, dtype=bool)
    even_odd, any_of, wound = np.zeros((3, *mask.shape), dtype=bool)
    for polygon in outlines(mask):
        odd, winding = crossings(polygon, mask.shape)
        even_odd ^= odd
        any_of |= odd
        wound |= winding != 0
    for filled in (even_odd, any_of, wound):
        np.testing.assert_array_equal(filled, mask)


def test_an_outline_has_corners_only():
    (polygon,) = outlines(np.pad(np.ones((4, 6), dtype=bool), 1))
    assert len(polygon) == 8  # each corner of the block is cut


def ran(*command) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["HFS", "FFP", "HFDR", "oblique"])
def test_dcmqi_reads_every_segment_where_it_lies(program, labelled_ct, tmp_path, name):
    dcmqi, sitk = program("segimage2itkimage"), pytest.importorskip("SimpleITK")
    ct = labelled_ct(GRIDS[name])
    write_dicom_seg(ct.label_map, ct.source, tmp_path / "seg.dcm", ORIGIN)
    (tmp_path / "out").mkdir()
    ran(dcmqi, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path / "out", "-t", "nrrd")
    found = {}
    for index in range(1, 5):
        image = sitk.ReadImage(str(tmp_path / "out" / f"{index}.nrrd"))
        places = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1].tolist()
        found[index] = rounded(
            np.array([image.TransformIndexToPhysicalPoint(place) for place in places]).reshape(-1, 3)
        )
    assert found == {4: set(), **ct.points}  # the pancreas is a segment without a voxel


@pytest.mark.parametrize("name", ["HFS", "FFS", "HFP"])
def test_plastimatch_fills_the_contours_where_they_lie(program, labelled_ct, tmp_path, name):
    plastimatch, sitk = program("plastimatch"), pytest.importorskip("SimpleITK")
    ct = labelled_ct(GRIDS[name])
    write_rtstruct(ct.label_map, ct.source, tmp_path / "rt.dcm", ORIGIN)
    ran(plastimatch, "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", ct.folder,
        "--output-prefix", tmp_path / "out", "--prefix-format", "nrrd")  # fmt: skip
    found = {}
    for organ in ORGANS[:3]:
        image = sitk.ReadImage(str(tmp_path / "out" / f"{organ.name}.nrrd"))
        places = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1].tolist()
        found[organ.index] = rounded(np.array([image.TransformIndexToPhysicalPoint(place) for place in places]))
    for index, points in ct.points.items():
        assert len(points & found[index]) * 2 >= 0.99 * (len(points) + len(found[index]))


@pytest.fixture
def validator_says(program):
    """What dciodvfy, of Debian's package dicom3tools, says of a file."""

    def say(path: Path) -> str:
        text = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True, check=False, timeout=60)
        return text.stderr + text.stdout

    return say


def outputs(ct, folder: Path, origin: Origin = ORIGIN) -> dict[str, Path]:
    paths = {"Segmentation": folder / "seg.dcm", "RTStructureSet": folder / "rt.dcm"}
    write_dicom_seg(ct.label_map, ct.source, paths["Segmentation"], origin)
    write_rtstruct(ct.label_map, ct.source, paths["RTStructureSet"], origin)
    return paths


@pytest.mark.parametrize("name", ["HFS", "oblique", "tilted"])
def test_the_validator_finds_no_error(validator_says, labelled_ct, tmp_path, name):
    for kind, path in outputs(labelled_ct(GRIDS[name]), tmp_path).items():
        said = validator_says(path)
        assert kind in said
        assert "Error" not in said, said


SIDED = (
    ORGANS[0],
    replace(ORGANS[1], name="right kidney", laterality="right"),
    ORGANS[2],
    ORGANS[3],
    replace(ORGANS[1], index=5, name="left kidney", laterality="left"),
)


def sided_labels():
    labels = organ_labels()
    labels[4:9, 8:10, 9:11] = 5
    return labels


def side(item):
    """Code, meaning and scheme of the one modifier of a code, nothing if there is none."""
    return [
        (one.CodeValue, one.CodeMeaning, one.CodingSchemeDesignator)
        for one in item.get("SegmentedPropertyTypeModifierCodeSequence", ())
    ]


def test_a_left_and_a_right_kidney_share_a_code_and_differ_in_its_modifier(validator_says, labelled_ct, tmp_path):
    origin = Origin(bundle="fast", bundle_version="1", organs=SIDED)
    ct = labelled_ct(PLAIN, sided_labels())
    for kind, path in outputs(ct, tmp_path, origin).items():
        assert "Error" not in validator_says(path), kind
    segments = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    structures = pydicom.dcmread(tmp_path / "rt.dcm")
    names = {region.ROINumber: region.ROIName for region in structures.StructureSetROISequence}
    assert names == {1: "liver", 2: "right kidney", 3: "spleen", 5: "left kidney"}
    coded = {one.SegmentNumber: one.SegmentedPropertyTypeCodeSequence[0] for one in segments}
    observed = {
        one.ReferencedROINumber: one.RTROIIdentificationCodeSequence[0] for one in structures.RTROIObservationsSequence
    }
    for items in (coded, observed):
        assert items[2].CodeValue == items[5].CodeValue == "64033007"
        assert side(items[2]) == [("24028007", "Right", "SCT")]
        assert side(items[5]) == [("7771000", "Left", "SCT")]
        assert side(items[1]) == side(items[3]) == []


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_sides_are_read_back(labelled_ct, tmp_path, kind):
    ct = labelled_ct(PLAIN, sided_labels())
    origin = Origin(bundle="fast", bundle_version="1", organs=SIDED)
    write_dicom_seg(ct.label_map, ct.source, tmp_path / "seg.dcm", origin, kind=kind)
    np.testing.assert_array_equal(read_label_map(tmp_path / "seg.dcm", SIDED).labels, ct.label_map.labels)
    joined = np.where(ct.label_map.labels == 5, 2, ct.label_map.labels)
    np.testing.assert_array_equal(read_label_map(tmp_path / "seg.dcm").labels, joined)


def test_other_organs_have_a_private_code_that_is_explained(validator_says, labelled_ct, tmp_path):
    organs = (named_organ(1, "gallbladder"), ORGANS[1], named_organ(3, "Vésicule 胆囊"))
    origin = Origin(bundle="mine", bundle_version="1", organs=organs)
    ct = labelled_ct(PLAIN)
    for kind, path in outputs(ct, tmp_path, origin).items():
        assert "Error" not in validator_says(path), kind
        assert pydicom.dcmread(path).CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99VISCERA"
    np.testing.assert_array_equal(read_label_map(tmp_path / "seg.dcm", organs).labels, ct.label_map.labels)
    names = [region.ROIName for region in pydicom.dcmread(tmp_path / "rt.dcm").StructureSetROISequence]
    assert names == [organ.name for organ in organs]


def test_absent_organs_are_empty_segments_and_no_regions(labelled_ct, tmp_path):
    outputs(labelled_ct(PLAIN), tmp_path)
    seg, structures = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "rt.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["liver", "kidney", "spleen", "pancreas"]
    assert seg.NumberOfFrames == 4 * 10  # every slice of every organ
    assert [region.ROIName for region in structures.StructureSetROISequence] == ["liver", "kidney", "spleen"]
    assert all("ContourSequence" in region for region in structures.ROIContourSequence)


def test_no_organ_at_all_is_valid_too(validator_says, labelled_ct, tmp_path):
    ct = labelled_ct(PLAIN, np.zeros((10, 11, 12), dtype=np.uint8))
    for path in outputs(ct, tmp_path).values():
        assert "Error" not in validator_says(path)
    assert not read_label_map(tmp_path / "seg.dcm").labels.any()
    assert len(pydicom.dcmread(tmp_path / "rt.dcm").StructureSetROISequence) == 4


def test_decimal_strings_are_short(labelled_ct, tmp_path):
    affine = affine_of(OBLIQUE)
    affine[:3, 3] = (-123456.789012, 98765.432109, -1 / 3)
    for path in outputs(labelled_ct(affine), tmp_path).values():
        for element in pydicom.dcmread(path).iterall():
            if element.VR == "DS" and element.value is not None:
                values = [element.value] if element.VM == 1 else element.value
                assert all(len(str(value)) <= 16 for value in values), element.keyword


def test_results_say_what_made_them_and_that_it_is_research(labelled_ct, tmp_path):
    outputs(labelled_ct(PLAIN), tmp_path)
    seg, structures = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "rt.dcm")
    for result in (seg, structures):
        assert result.SeriesDescription == "Organs by viscera (Research software, not a medical device)"
        assert result.Manufacturer == "viscera"
    assert seg.ContentDescription == structures.StructureSetROISequence[0].ROIDescription
    segment = seg.SegmentSequence[1]
    category, kind = segment.SegmentedPropertyCategoryCodeSequence[0], segment.SegmentedPropertyTypeCodeSequence[0]
    assert (category.CodingSchemeDesignator, category.CodeValue) == ("SCT", "91723000")
    assert (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning) == ("SCT", "64033007", "Kidney")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "viscera"
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert algorithm.AlgorithmParameters == "bundle=fast,bundle_version=1.2"
    assert seg.ContentDate == structures.StructureSetDate == "20240506"


def test_dcmqi_shows_the_organs_in_their_colours(program, labelled_ct, tmp_path):
    dcmqi = program("segimage2itkimage")
    ct = labelled_ct(PLAIN)
    write_dicom_seg(ct.label_map, ct.source, tmp_path / "seg.dcm", ORIGIN)
    (tmp_path / "out").mkdir()
    ran(dcmqi, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path / "out", "-t", "nrrd")
    described = json.loads((tmp_path / "out" / "meta.json").read_text())["segmentAttributes"]
    shown = {one["SegmentLabel"]: one["recommendedDisplayRGBValue"] for (one,) in described}
    for organ in ORGANS:
        np.testing.assert_allclose(shown[organ.name], organ.colour, atol=2)


def test_results_refer_to_every_image_of_the_series(labelled_ct, tmp_path):
    ct = labelled_ct(PLAIN)
    outputs(ct, tmp_path)
    images = [pydicom.dcmread(path) for path in ct.folder.iterdir()]
    uids = {image.SOPInstanceUID for image in images}
    seg, structures = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "rt.dcm")
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} == uids
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert {one.ReferencedSOPInstanceUID for one in series.ContourImageSequence} == uids
    assert frame.FrameOfReferenceUID == seg.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert structures.PositionReferenceIndicator == ""


def test_identifiers_are_new_unless_they_follow_from_something(labelled_ct, tmp_path):
    ct = labelled_ct(PLAIN)

    def uids(identity):
        paths = outputs(ct, tmp_path, Origin(bundle="fast", bundle_version="1", identity=identity))
        return [
            uid
            for path in paths.values()
            for uid in map(pydicom.dcmread(path).get, ("SOPInstanceUID", "SeriesInstanceUID"))
        ]

    assert uids("a") == uids("a")
    assert len({*uids("a"), *uids("b"), *uids(None), *uids(None)}) == 16
    assert all(pydicom.uid.UID(uid).is_valid for uid in uids(None))


def changed(ct, **values):
    """The same series with fields of every image changed; None takes one away."""
    for path in ct.folder.iterdir():
        image = pydicom.dcmread(path)
        for name, value in values.items():
            if value is None:
                delattr(image, name)
            else:
                setattr(image, name, value)
        image.save_as(path)
    return ct.folder


def test_patient_and_study_are_the_sources(validator_says, labelled_ct, tmp_path):
    ct = labelled_ct(PLAIN)
    given = {
        "PatientName": "Müller^Jörg",
        "PatientID": "A 1",
        "PatientSex": "F",
        "StudyDescription": "Bauch",
        "PatientAge": "044Y",
    }
    source = source_images(changed(ct, SpecificCharacterSet="ISO_IR 192", StudyID="7", AccessionNumber="8", **given))
    write_dicom_seg(ct.label_map, source, tmp_path / "seg.dcm", ORIGIN)
    write_rtstruct(ct.label_map, source, tmp_path / "rt.dcm", ORIGIN)
    for name in ("seg.dcm", "rt.dcm"):
        result = pydicom.dcmread(tmp_path / name)
        assert {field: str(result.get(field)) for field in given} == given
        assert (result.StudyID, result.AccessionNumber) == ("7", "8")
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert result.StudyInstanceUID == source.first.StudyInstanceUID
        assert "Error" not in validator_says(tmp_path / name)


@pytest.mark.parametrize(
    "odd",
    [
        {"PatientName": "山田^太郎", "SpecificCharacterSet": "ISO_IR 192"},
        {"PatientSex": "male", "PatientBirthDate": "1970.01.01", "StudyTime": "noon"},
        {"PatientID": "x" * 100, "PatientName": "a=b=c=d=e"},
        {"PatientName": None, "PatientSex": None, "StudyDate": None, "StudyTime": None, "ReferringPhysicianName": None},
        {"SliceThickness": None, "PositionReferenceIndicator": None},
    ],
)
def test_odd_or_missing_data_of_the_patient_keep_nobody_from_results(labelled_ct, tmp_path, odd):
    ct = labelled_ct(PLAIN)
    with pydicom.config.disable_value_validation():
        folder = changed(ct, **odd)
    source = source_images(folder)
    write_dicom_seg(ct.label_map, source, tmp_path / "seg.dcm", ORIGIN)
    write_rtstruct(ct.label_map, source, tmp_path / "rt.dcm", ORIGIN)
    for name in ("seg.dcm", "rt.dcm"):
        with pydicom.config.disable_value_validation():
            result = pydicom.dcmread(tmp_path / name)
            assert str(result.PatientName) == (odd.get("PatientName", "A^Synthetic") or "")
            assert result.PatientID == odd.get("PatientID", "A")
            assert result.PatientSex in ("O", "")
    assert read_label_map(tmp_path / "seg.dcm").grid.matches(ct.label_map.grid)


# Names as archives have them, and the character set that their headers declare.
STORED_NAMES = {
    "Shift-JIS, not declared": ("表^太郎".encode("shift_jis"), None),
    "GBK, not declared": (b"\x82\x5c^\x8f\x5c", None),
    "GB18030": ("表昞^俓".encode("gb18030"), "GB18030"),
    "ISO 2022": (b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "\\ISO 2022 IR 87"),
    "Latin-1": ("Müller^Jörg".encode("latin-1"), "ISO_IR 100"),
    "Latin-1, not declared": ("Müller^Jörg".encode("latin-1"), None),
    "Latin-1, declared as UTF-8": ("Müller^Jörg".encode("latin-1"), "ISO_IR 192"),
    "an unknown character set": ("Müller^Jörg".encode("latin-1"), "ISO_IR 999"),
    "a backslash": (b"AC\\ME^A", "ISO_IR 192"),
    "blanks and empty parts": (b" A B ^C^^^ ", "ISO_IR 100"),
}
_PLACE = "X" * 64


def stored(ct, charset, **values: bytes):
    """The series with these bytes in every image, put where other text was so that nothing encodes or checks them."""
    changed(
        ct, SpecificCharacterSet=charset or "ISO_IR 6", **{name: _PLACE[: len(value)] for name, value in values.items()}
    )
    for path in ct.folder.iterdir():
        raw = path.read_bytes()
        for name, value in values.items():
            tag = pydicom.tag.Tag(name)
            begin = struct.pack("<HH", tag.group, tag.element) + pydicom.datadict.dictionary_VR(tag).encode()
            place = raw.index(begin, 132) + 8
            assert raw[place : place + len(value)] == _PLACE[: len(value)].encode()
            raw = raw[:place] + value + raw[place + len(value) :]
        if charset is None:
            place = raw.index(b"\x08\x00\x05\x00CS")
            raw = raw[:place] + raw[place + 8 + raw[place + 6] :]
        path.write_bytes(raw)
    return source_images(ct.folder)


def has_stored(path: Path, name: str, value: bytes) -> bool:
    """Whether the file has an element with these very bytes, padded to an even number."""
    tag, value = pydicom.tag.Tag(name), value + b" " * (len(value) % 2)
    representation = pydicom.datadict.dictionary_VR(tag).encode()
    return struct.pack("<HH2sH", tag.group, tag.element, representation, len(value)) + value in path.read_bytes()


@pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning")  # pydicom's, when it reads them here
@pytest.mark.parametrize("case", STORED_NAMES)
def test_patient_and_study_are_copied_byte_for_byte(labelled_ct, tmp_path, case):
    name, charset = STORED_NAMES[case]
    given = {
        "PatientName": name,
        "PatientID": b"7\\" + name,
        "StudyDescription": name + b" ",
        "ReferringPhysicianName": name,
    }
    ct = labelled_ct(PLAIN)
    source = stored(ct, charset, **given)
    write_dicom_seg(ct.label_map, source, tmp_path / "seg.dcm", ORIGIN)
    write_rtstruct(ct.label_map, source, tmp_path / "rt.dcm", ORIGIN)
    for path in (tmp_path / "seg.dcm", tmp_path / "rt.dcm"):
        for field, value in given.items():
            assert has_stored(next(ct.folder.iterdir()), field, value)
            assert has_stored(path, field, value), field
        if charset is None:
            assert "SpecificCharacterSet" not in pydicom.dcmread(path)
        else:
            assert has_stored(path, "SpecificCharacterSet", charset.encode())
    assert read_label_map(tmp_path / "seg.dcm").grid.matches(ct.label_map.grid)


def test_codes_of_the_deidentification_are_copied_byte_for_byte(labelled_ct, tmp_path):
    ct, meaning = labelled_ct(PLAIN), b"\x95\\ \x82\xff\\"
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", _PLACE[: len(meaning)]
    changed(ct, DeidentificationMethodCodeSequence=[code])
    for path in ct.folder.iterdir():
        path.write_bytes(path.read_bytes().replace(_PLACE[: len(meaning)].encode(), meaning))
    source = source_images(ct.folder)
    for path, write in ((tmp_path / "seg.dcm", write_dicom_seg), (tmp_path / "rt.dcm", write_rtstruct)):
        write(ct.label_map, source, path, ORIGIN)
        assert has_stored(path, "CodeMeaning", meaning)
        assert pydicom.dcmread(path).DeidentificationMethodCodeSequence[0].CodeValue == "1"


@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_organs_that_the_patients_character_set_cannot_name(labelled_ct, tmp_path, write):
    origin = Origin(bundle="mine", bundle_version="1", organs=(named_organ(1, "胆囊"), *ORGANS[1:]))
    ct = labelled_ct(PLAIN)
    source = stored(ct, None, PatientName=b"Muller^Jorg")
    write(ct.label_map, source, tmp_path / "out.dcm", origin)
    result = pydicom.dcmread(tmp_path / "out.dcm")
    assert (result.SpecificCharacterSet, result.PatientName) == ("ISO_IR 192", "Muller^Jorg")
    assert "胆囊" in str(result)
    source = stored(ct, "ISO_IR 100", PatientName="Müller^Jörg".encode("latin-1"))
    with pytest.raises(
        WriteError, match=r"expected names of organs in the images' character set, ISO_IR 100.*plain letters"
    ):
        write(ct.label_map, source, tmp_path / "other.dcm", origin)
    assert not (tmp_path / "other.dcm").exists()


@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_a_name_that_pydicom_would_change_is_not_written(labelled_ct, tmp_path, monkeypatch, write):
    ct = labelled_ct(PLAIN)
    source = stored(ct, "ISO_IR 192", PatientName="Müller^Jörg".encode("latin-1"))
    monkeypatch.setattr(pydicom.Dataset, "set_original_encoding", lambda *_, **__: None)
    with pytest.raises(WriteError, match="expected the images' own PatientName") as caught:
        write(ct.label_map, source, tmp_path / "out.dcm", ORIGIN)
    assert "ller" not in str(caught.value)
    assert not (tmp_path / "out.dcm").exists()


@pytest.mark.parametrize("name", ["PatientName", "PatientID"])
def test_images_of_two_persons_in_one_series_are_refused(labelled_ct, name):
    ct = labelled_ct(PLAIN)
    path = sorted(ct.folder.iterdir())[4]
    image = pydicom.dcmread(path)
    setattr(image, name, "B^Other")
    image.save_as(path)
    with pytest.raises(ReadError, match=f"expected one {name} in the series.* got 2") as caught:
        source_images(ct.folder)
    assert "Other" not in str(caught.value)


@pytest.mark.parametrize("empty", [{"SOPClassUID": ""}, {"SOPInstanceUID": ""}, {"SOPClassUID": None}])
def test_identifiers_that_only_the_file_meta_information_has(labelled_ct, tmp_path, empty):
    ct = labelled_ct(PLAIN)
    uids = [image.SOPInstanceUID for image in ct.source.images]
    source = source_images(changed(ct, **empty))
    assert [image.SOPInstanceUID for image in source.images] == uids
    assert {image.SOPClassUID for image in source.images} == {pydicom.uid.CTImageStorage}
    assert source.notes == ()
    outputs(ct, tmp_path)


@pytest.mark.parametrize(("name", "uid"), [("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), ("SOPInstanceUID", "1.2.3")])
def test_identifiers_that_contradict_the_file_meta_information(labelled_ct, tmp_path, name, uid):
    ct = labelled_ct(PLAIN)
    path = sorted(ct.folder.iterdir())[4]
    image = pydicom.dcmread(path)
    setattr(image.file_meta, f"MediaStorage{name}", uid)
    image.save_as(path, enforce_file_format=False)
    source = source_images(ct.folder)
    assert [one[name].value for one in source.images] == [one[name].value for one in ct.source.images]
    assert source.notes == (
        f"In 1 of 10 images {name} contradicts MediaStorage{name}; DICOM results refer to the former.",
    )


@pytest.mark.parametrize("empty", ["", None])
def test_images_without_a_study_and_a_series(validator_says, labelled_ct, tmp_path, empty):
    ct = labelled_ct(PLAIN)
    folder = changed(ct, StudyInstanceUID=empty, SeriesInstanceUID=empty)
    source = source_images(folder)
    (note,) = source.notes
    assert note.startswith("The images have no StudyInstanceUID and no SeriesInstanceUID; DICOM results carry made")
    made = {(image.StudyInstanceUID, image.SeriesInstanceUID) for image in source.images}
    assert made == {(image.StudyInstanceUID, image.SeriesInstanceUID) for image in source_images(folder).images}
    ((study, series),) = made
    assert study != series
    assert all(pydicom.uid.UID(uid).is_valid for uid in (study, series))
    write_dicom_seg(ct.label_map, source, tmp_path / "seg.dcm", ORIGIN)
    write_rtstruct(ct.label_map, source, tmp_path / "rt.dcm", ORIGIN)
    for path in (tmp_path / "seg.dcm", tmp_path / "rt.dcm"):
        assert "Error" not in validator_says(path)
        assert pydicom.dcmread(path).StudyInstanceUID == study
    assert pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID == series


def test_images_of_which_some_have_a_study_are_refused(labelled_ct):
    ct = labelled_ct(PLAIN)
    path = sorted(ct.folder.iterdir())[4]
    image = pydicom.dcmread(path)
    image.StudyInstanceUID = ""
    image.save_as(path)
    with pytest.raises(ReadError, match="expected one StudyInstanceUID in the series"):
        source_images(ct.folder)


def test_a_zip_is_the_same_source(labelled_ct, tmp_path):
    ct = labelled_ct(PLAIN)
    with zipfile.ZipFile(tmp_path / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in ct.folder.iterdir():
            archive.write(path, path.name)
    zipped = source_images(tmp_path / "ct.zip")
    assert [image.SOPInstanceUID for image in zipped.images] == [image.SOPInstanceUID for image in ct.source.images]
    assert zipped.grid == ct.source.grid


def test_a_multi_frame_source_is_referred_to_frame_by_frame(validator_says, labelled_ct, tmp_path):
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    ct = labelled_ct(PLAIN)
    (tmp_path / "multi").mkdir()
    uids = [pydicom.uid.generate_uid() for _ in range(2)]
    LegacyConvertedEnhancedCTImage(
        [pydicom.dcmread(path) for path in ct.folder.iterdir()], uids[0], 5, uids[1], 1
    ).save_as(tmp_path / "multi" / "ct.dcm")
    source = source_images(tmp_path / "multi" / "ct.dcm")
    assert source.grid.matches(ct.label_map.grid)
    write_dicom_seg(ct.label_map, source, tmp_path / "seg.dcm", ORIGIN)
    write_rtstruct(ct.label_map, source, tmp_path / "rt.dcm", ORIGIN)
    assert seg_points(tmp_path / "seg.dcm") == ct.points
    np.testing.assert_array_equal(read_label_map(tmp_path / "seg.dcm").labels, ct.label_map.labels)
    image = pydicom.dcmread(tmp_path / "multi" / "ct.dcm")
    for region in pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence:
        for contour in region.ContourSequence:
            number = contour.ContourImageSequence[0].ReferencedFrameNumber
            position = image.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
            assert float(contour.ContourData[2]) == float(position[2])
    for name in ("seg.dcm", "rt.dcm"):
        assert "Error" not in validator_says(tmp_path / name)


def test_of_several_series_the_one_that_was_read_is_the_source(labelled_ct, tmp_path):
    ct, other = labelled_ct(PLAIN), labelled_ct(affine_of(TILTED), name="other")
    both = tmp_path / "both"
    both.mkdir()
    changed(other, SeriesNumber=7)
    for folder in (ct.folder, other.folder):
        for path in folder.iterdir():
            shutil.copy(path, both / f"{folder.name}{path.name}")
    for wanted in (None, "1", "7"):
        chosen = source_images(both, series=wanted)
        assert chosen.grid == read_volume(both, series=wanted).grid
        assert chosen.first.SeriesInstanceUID == (other if wanted == "7" else ct).source.first.SeriesInstanceUID


def test_a_source_that_is_no_dicom_is_refused_before_it_is_read(labelled_ct, tmp_path):
    write_label_map(labelled_ct(PLAIN).label_map, tmp_path / "ct.nii.gz")
    with pytest.raises(ReadError, match=r"expected a CT series in DICOM .* got another file"):
        source_images(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize(("name", "uid"), [("StudyInstanceUID", "none"), ("FrameOfReferenceUID", None)])
def test_images_without_identifiers_are_refused(labelled_ct, name, uid):
    ct = labelled_ct(PLAIN)
    with pydicom.config.disable_value_validation():
        changed(ct, **{name: uid})
    with pytest.raises(ReadError, match=f"no valid {name}.*ask for NIfTI only") as caught:
        source_images(ct.folder)
    assert "Synthetic" not in str(caught.value)


def test_a_series_in_two_frames_of_reference_is_refused(labelled_ct):
    ct = labelled_ct(PLAIN)
    path = sorted(ct.folder.iterdir())[4]
    image = pydicom.dcmread(path)
    image.FrameOfReferenceUID = "1.2.3"
    image.save_as(path)
    with pytest.raises(ReadError, match="expected one FrameOfReferenceUID"):
        source_images(ct.folder)


@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_labels_of_another_grid_are_refused(labelled_ct, tmp_path, write):
    ct = labelled_ct(PLAIN)
    moved = ct.label_map.grid.affine.copy()
    moved[0, 3] += 1
    labels = LabelMap(labels=ct.label_map.labels, grid=Grid(shape_zyx=ct.label_map.grid.shape_zyx, affine=moved))
    with pytest.raises(GeometryError, match="labels on the CT's own grid"):
        write(labels, ct.source, tmp_path / "out.dcm", ORIGIN)
    assert not (tmp_path / "out.dcm").exists()


def test_a_label_without_an_organ_is_refused(labelled_ct, tmp_path):
    ct = labelled_ct(PLAIN, np.full((10, 11, 12), 5, dtype=np.uint8))
    for write in (write_dicom_seg, write_rtstruct):
        with pytest.raises(WriteError, match="got a label 5"):
            write(ct.label_map, ct.source, tmp_path / "out.dcm", ORIGIN)


@pytest.mark.parametrize(("package", "write"), [("highdicom", write_dicom_seg), ("contourpy", write_rtstruct)])
def test_a_missing_package_is_named(labelled_ct, tmp_path, monkeypatch, package, write):
    ct = labelled_ct(PLAIN)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=r"Run: pip install 'viscera\[dicom\]'"):
        write(ct.label_map, ct.source, tmp_path / "out.dcm", ORIGIN)


@pytest.mark.parametrize("name", ["acrin_flt_001", "cptac_pda_c3l_00189", "ts_dicom"])
def test_real_series_round_trip(validator_says, shared_data, tmp_path, name):
    folder = shared_data / "real" / name
    volume, source = read_volume(folder), source_images(folder)
    places = np.indices(volume.grid.shape_zyx, sparse=True)
    labels = np.zeros(volume.grid.shape_zyx, dtype=np.uint8)
    for index, middle in enumerate([(0.5, 0.4, 0.3), (0.6, 0.6, 0.7), (0.3, 0.5, 0.8)], start=1):
        away = [(place / size - part) * 8 for place, size, part in zip(places, labels.shape, middle, strict=True)]
        labels[sum(one**2 for one in away) < 1] = index
    label_map = LabelMap(labels=labels, grid=volume.grid)
    write_dicom_seg(label_map, source, tmp_path / "seg.dcm", ORIGIN)
    write_rtstruct(label_map, source, tmp_path / "rt.dcm", ORIGIN)
    read = read_label_map(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read.labels, labels)
    assert read.grid.matches(volume.grid)
    for file in ("seg.dcm", "rt.dcm"):
        assert "Error" not in validator_says(tmp_path / file)


def test_regions_have_the_organs_colours(labelled_ct, tmp_path):
    outputs(labelled_ct(PLAIN), tmp_path)
    regions = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence
    assert [tuple(region.ROIDisplayColor) for region in regions] == [organ.colour for organ in ORGANS[:3]]
