"""Reading DICOM SEG: codes of other programs, left-out slices, and every reason to refuse."""

import shutil
import subprocess
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom")

from viscera.cli.main import main
from viscera.core.errors import GeometryError, ReadError, VisceraError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.provenance import Origin
from viscera.core.volume import LabelMap
from viscera.evaluation.evaluate import evaluate_cases
from viscera.formats.dicom.seg_write import write_dicom_seg
from viscera.formats.nifti_write import write_label_map
from viscera.read import read_label_map

# Slices of 11 rows x 12 columns; liver 1, kidney 2, spleen 3; the pancreas is absent.
AFFINE = np.array([[0.0, 0, 1, -10], [0, 2, 0, 20], [3, 0, 0, -30], [0, 0, 0, 1]])
SLICES = 10


@pytest.fixture
def seg(labelled_ct, tmp_path):
    """A BINARY SEG of all slices as a data set, not yet changed, and its label map."""
    ct = labelled_ct(AFFINE)
    write_dicom_seg(ct.label_map, ct.source, tmp_path / "seg.dcm", Origin(bundle="b", bundle_version="1"))
    return pydicom.dcmread(tmp_path / "seg.dcm"), ct.label_map


def save(dataset, folder: Path) -> Path:
    with pydicom.config.disable_value_validation():
        dataset.save_as(folder / "changed.dcm")
    return folder / "changed.dcm"


def read(dataset, folder: Path):
    return read_label_map(save(dataset, folder))


def set_code(segment, value, scheme="SCT"):
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    code.CodeValue, code.CodingSchemeDesignator = value, scheme


def without_frames(dataset, keep):
    """The data set with only the frames for which `keep(segment, slice)` is true."""
    size = dataset.Rows * dataset.Columns
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    kept = []
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        place = round((float(groups.PlanePositionSequence[0].ImagePositionPatient[2]) + 30) / 3)
        if keep(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber, place):
            kept.append(number)
    frames = [bits[number * size : (number + 1) * size] for number in kept]
    packed = np.packbits(np.concatenate(frames), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[number] for number in kept]
    dataset.NumberOfFrames = len(kept)
    return dataset


def test_a_left_and_a_right_kidney_are_kidney(seg, tmp_path):
    dataset, label_map = seg
    liver, kidney, spleen, pancreas = dataset.SegmentSequence
    set_code(liver, "18639004")  # left kidney structure
    set_code(spleen, "9846003")  # right kidney structure
    liver.SegmentLabel, spleen.SegmentLabel = "Left kidney", "Segment 3"
    modifier = pydicom.Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = "24028007", "SCT", "Right"
    kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    for segment in dataset.SegmentSequence:
        category = segment.SegmentedPropertyCategoryCodeSequence[0]
        category.CodeValue, category.CodeMeaning = "123037004", "Body structure"
    labels = read(dataset, tmp_path).labels
    np.testing.assert_array_equal(labels, 2 * (label_map.labels > 0))
    assert pancreas.SegmentLabel == "pancreas"


SIDES = (ORGANS[0], replace(ORGANS[1], name="right", laterality="right"), ORGANS[2], ORGANS[3])
SIDES += (replace(ORGANS[1], index=5, name="left", laterality="left"),)


@pytest.mark.parametrize(
    ("value", "scheme", "index"), [("7771000", "SCT", 5), ("G-A101", "SRT", 5), ("24028007", "SCT", 2)]
)
@pytest.mark.parametrize("place", ["type", "segment", "region"])
def test_the_side_is_found_wherever_programs_write_it(seg, tmp_path, place, value, scheme, index):
    dataset, label_map = seg
    kidney = dataset.SegmentSequence[1]
    kidney.SegmentLabel = "x"
    modifier = pydicom.Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = value, scheme, "side"
    if place == "type":
        kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    elif place == "segment":
        kidney.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    else:
        region = deepcopy(kidney.SegmentedPropertyTypeCodeSequence[0])
        region.AnatomicRegionModifierSequence = [modifier]
        kidney.AnatomicRegionSequence = [region]
    found = read_label_map(save(dataset, tmp_path), SIDES)
    np.testing.assert_array_equal(found.labels, np.where(label_map.labels == 2, index, label_map.labels))


@pytest.mark.parametrize(
    ("value", "index"), [("T-62000", 1), ("T-71000", 2), ("T-71010", 2), ("T-71020", 2), ("T-C3000", 3), ("T-65000", 4)]
)
@pytest.mark.parametrize("scheme", ["SRT", "99SDM"])
def test_codes_of_snomed_rt_are_known(seg, tmp_path, value, index, scheme):
    dataset, label_map = seg
    for segment, other in zip(dataset.SegmentSequence, ("x", "y", "z", "w"), strict=True):
        set_code(segment, other)
        segment.SegmentLabel = segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = f"structure {other}"
    set_code(dataset.SegmentSequence[0], value, scheme)
    np.testing.assert_array_equal(read(dataset, tmp_path).labels, index * (label_map.labels == 1))


def test_segments_that_are_no_organ_are_passed_over(seg, tmp_path):
    dataset, label_map = seg
    set_code(dataset.SegmentSequence[0], "108369006")  # a tumour, wherever it lies
    dataset.SegmentSequence[0].SegmentLabel = "liver"
    found = read(dataset, tmp_path)
    np.testing.assert_array_equal(found.labels, np.where(label_map.labels == 1, 0, label_map.labels))
    assert found.notes == ("Labels that are no organ of the table were passed over: liver.",)


@pytest.mark.parametrize("code", [("85756007", "SCT", "Tissue"), ("T-D0050", "SRT", "Tissue"), ("1", "99X", "Thing")])
def test_segments_with_a_code_for_anything_are_known_by_their_labels(seg, tmp_path, code):
    """As 3D Slicer exports segments whose terminology nobody chose."""
    dataset, label_map = seg
    for segment in dataset.SegmentSequence:
        set_code(segment, *code[:2])
        segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = code[2]
    liver, kidney, spleen, _ = dataset.SegmentSequence
    spleen.SegmentLabel, liver.SegmentLabel, kidney.SegmentLabel = "Liver", "spleen", "kidney_left"
    found = read(dataset, tmp_path)
    np.testing.assert_array_equal(found.labels, np.array([0, 3, 2, 1, 4], dtype=np.uint8)[label_map.labels])


def test_a_label_and_a_code_of_two_organs_are_refused(seg, tmp_path):
    dataset, _ = seg
    dataset.SegmentSequence[0].SegmentLabel = "Spleen"
    with pytest.raises(ReadError, match="the name 'Spleen' with the code of 'Liver'"):
        read(dataset, tmp_path)


def test_slices_that_were_left_out_between_others_are_background(seg, tmp_path):
    dataset, label_map = seg
    found = read(without_frames(dataset, lambda segment, place: 3 <= place <= 8 and place != 5), tmp_path)
    expected = label_map.labels[3:9].copy()
    expected[2] = 0
    np.testing.assert_array_equal(found.labels, expected)
    assert found.grid.origin_xyz_mm == (-10, 20, -21)


def test_a_seg_without_empty_slices_is_put_onto_the_grid_of_its_ct(seg, tmp_path):
    dataset, label_map = seg
    path = save(
        without_frames(dataset, lambda segment, place: bool((label_map.labels[place] == segment).any())), tmp_path
    )
    assert read_label_map(path).grid.shape_zyx[0] == 9
    turned = Grid(
        shape_zyx=label_map.grid.shape_zyx,
        affine=label_map.grid.affine @ np.array([[-1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    np.testing.assert_array_equal(read_label_map(path, within=label_map.grid).labels, label_map.labels)
    np.testing.assert_array_equal(read_label_map(path, within=turned).labels, label_map.labels[::-1])
    assert read_label_map(path, within=turned).grid is turned


def test_a_seg_of_slices_beyond_the_grid_is_refused(seg, tmp_path):
    dataset, label_map = seg
    affine = label_map.grid.affine.copy()
    affine[:3, 3] += (0, 0, 60)
    with pytest.raises(GeometryError, match="labelled voxels outside"):
        read_label_map(save(dataset, tmp_path), within=Grid(shape_zyx=label_map.grid.shape_zyx, affine=affine))


@pytest.mark.parametrize("moved_mm", [(0, 0, 1.0), (0.5, 0, 0)])
def test_a_seg_is_put_onto_no_grid_it_does_not_lie_on(seg, tmp_path, moved_mm):
    dataset, label_map = seg
    affine = label_map.grid.affine.copy()
    affine[:3, 3] += moved_mm
    path = save(without_frames(dataset, lambda segment, place: place < 6), tmp_path)
    other = Grid(shape_zyx=label_map.grid.shape_zyx, affine=affine)
    assert read_label_map(path, within=other).grid.shape_zyx == (6, 11, 12)


def test_one_slice_has_its_declared_spacing(seg, tmp_path):
    dataset, label_map = seg
    found = read(without_frames(dataset, lambda segment, place: place == 4), tmp_path)
    np.testing.assert_array_equal(found.labels, label_map.labels[4:5])
    assert found.grid.spacing_zyx_mm == (3, 2, 1)


def test_a_seg_among_images_in_a_folder_is_found(seg, labelled_ct, tmp_path):
    dataset, label_map = seg
    images = labelled_ct(AFFINE, name="images").folder
    save(dataset, images)
    np.testing.assert_array_equal(read_label_map(images).labels, label_map.labels)
    shutil.copy(images / "changed.dcm", images / "again.dcm")
    with pytest.raises(ReadError, match=r"expected one DICOM segmentation \(SEG\), got 2 of them"):
        read_label_map(images)


def test_a_seg_by_another_program_is_read(shared_data):
    label_map = read_label_map(shared_data / "robustness" / "dicom_seg_liver_3slice")
    # Counted with numpy.unpackbits over the whole object.
    assert np.bincount(label_map.labels.ravel()).tolist() == [679334, 107098]
    assert label_map.grid.shape_zyx == (3, 512, 512)


def test_a_seg_by_dcmqi_is_read(program, labelled_ct, tmp_path):
    dcmqi = program("itkimage2segimage")
    sitk = pytest.importorskip("SimpleITK")
    ct = labelled_ct(AFFINE)
    write_label_map(ct.label_map, tmp_path / "labels.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / "labels.nrrd"))
    code = '{"CodeValue": "%s", "CodingSchemeDesignator": "SCT", "CodeMeaning": "%s"}'
    segments = ", ".join(
        f'{{"labelID": {index}, "SegmentLabel": "{name}", "SegmentAlgorithmType": "MANUAL", '
        f'"SegmentedPropertyCategoryCodeSequence": {code % ("123037004", "Anatomical Structure")}, '
        f'"SegmentedPropertyTypeCodeSequence": {code % (value, name)}}}'
        for index, name, value in ((1, "Liver", "10200004"), (2, "Kidney", "64033007"), (3, "Spleen", "78961009"))
    )
    (tmp_path / "meta.json").write_text(
        '{"ContentCreatorName": "A", "SeriesDescription": "S", "SeriesNumber": "300", "InstanceNumber": "1", '
        f'"segmentAttributes": [[{segments}]]}}'
    )
    command = [dcmqi, "--inputImageList", tmp_path / "labels.nrrd", "--inputDICOMDirectory", ct.folder]
    command += ["--inputMetadata", tmp_path / "meta.json", "--outputDICOM", tmp_path / "seg.dcm", "--skip"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    assert (tmp_path / "seg.dcm").is_file(), done.stdout + done.stderr
    np.testing.assert_array_equal(
        read_label_map(tmp_path / "seg.dcm", within=ct.label_map.grid).labels, ct.label_map.labels
    )


def test_evaluate_takes_segs(seg, tmp_path, capsys):
    dataset, label_map = seg
    (tmp_path / "truth").mkdir()
    (tmp_path / "found").mkdir()
    write_label_map(label_map, tmp_path / "truth" / "a.nii.gz")
    sparse = without_frames(dataset, lambda segment, place: bool((label_map.labels[place] == segment).any()))
    save(sparse, tmp_path / "found").rename(tmp_path / "found" / "a_seg.dcm")
    for pair in (("truth", "found"), ("found", "truth")):
        assert main(["evaluate", *(str(tmp_path / name) for name in pair), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "100.00" in out
    scores = evaluate_cases(tmp_path / "truth", tmp_path / "found").scores
    assert [score.dsc for score in scores] == [1.0] * 4


def test_where_a_folder_has_the_nifti_too_the_nifti_is_scored(seg, tmp_path):
    dataset, label_map = seg
    (tmp_path / "out").mkdir()
    set_code(dataset.SegmentSequence[0], "78961009")  # were the SEG scored, the liver would be absent
    save(dataset, tmp_path / "out").rename(tmp_path / "out" / "a_seg.dcm")
    (tmp_path / "out" / "a_rtstruct.dcm").write_bytes(b"not looked at")
    write_label_map(label_map, tmp_path / "out" / "a.nii.gz")
    assert {score.dsc for score in evaluate_cases(tmp_path / "out", tmp_path / "out").scores} == {1.0}


def set_frame(dataset, **changes):
    for sequence, (name, value) in changes.items():
        setattr(dataset.PerFrameFunctionalGroupsSequence[3][sequence][0], name, value)


def overlap(dataset):
    """Every segment's voxels are the first one's."""
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    quarter = dataset.Rows * dataset.Columns * SLICES
    packed = np.packbits(np.tile(bits[:quarter], 4), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)


def unknown_codes(dataset):
    for segment in dataset.SegmentSequence:
        set_code(segment, "0")
        segment.SegmentLabel = segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = "Heart"


BAD = {
    "fractional": (lambda d: setattr(d, "SegmentationType", "FRACTIONAL"), "BINARY or LABELMAP, got FRACTIONAL"),
    "no type": (lambda d: delattr(d, "SegmentationType"), "got no type"),
    "a CT": (
        lambda d: (setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), setattr(d, "Modality", "CT")),
        "got 1 of CT",
    ),
    "a structure set": (
        lambda d: (setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.3"), setattr(d, "Modality", "RTSTRUCT")),
        r"got 1 of RTSTRUCT.*structure sets \(RTSTRUCT\) are not read",
    ),
    "no organ": (unknown_codes, "labels named or coded as liver.*got Heart, Heart, Heart, Heart"),
    "two organs in a voxel": (overlap, "at most one organ in a voxel, got [0-9]+ voxels with two"),
    "rows that lie": (lambda d: setattr(d, "Rows", 1000), "too few bytes for 40 frames of 1000 x 12"),
    "no rows": (lambda d: setattr(d, "Rows", 0), "got 40 frames of 0 x 12"),
    "a huge matrix": (lambda d: setattr(d, "Columns", 65535), "got 40 frames of 11 x 65535"),
    "frames that lie": (lambda d: setattr(d, "NumberOfFrames", 41), "too few bytes for 41 frames"),
    "frames without a place": (lambda d: setattr(d, "NumberOfFrames", 39), "got 40 positions for 39 frames"),
    "a million frames": (lambda d: setattr(d, "NumberOfFrames", 10**6), "too few bytes"),
    "no pixels": (lambda d: delattr(d, "PixelData"), "expected a whole DICOM SEG"),
    "no segments": (lambda d: delattr(d, "SegmentSequence"), "expected a whole DICOM SEG"),
    "no positions": (
        lambda d: [delattr(one, "PlanePositionSequence") for one in d.PerFrameFunctionalGroupsSequence],
        "expected a whole DICOM SEG",
    ),
    "a segment's number is missing": (
        lambda d: delattr(d.PerFrameFunctionalGroupsSequence[3], "SegmentIdentificationSequence"),
        "a frame without a segment",
    ),
    "a position between slices": (
        lambda d: set_frame(d, PlanePositionSequence=("ImagePositionPatient", [-10, 20, -19.4])),
        "evenly spaced slices",
    ),
    "a frame beside the others": (
        lambda d: set_frame(d, PlanePositionSequence=("ImagePositionPatient", [-8, 20, -21])),
        "mm from its place",
    ),
    "a frame miles away": (
        lambda d: set_frame(d, PlanePositionSequence=("ImagePositionPatient", [-10, 20, 3e6])),
        "frames over [0-9]+ slices",
    ),
    "a place that is no number": (
        lambda d: set_frame(d, PlanePositionSequence=("ImagePositionPatient", ["-10", "20", "nan"])),
        "a frame without place",
    ),
    "directions that are none": (
        lambda d: setattr(
            d.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0],
            "ImageOrientationPatient",
            [1, 0, 0, 1, 0, 0],
        ),
        "several directions",
    ),
    "spacing of zero": (
        lambda d: setattr(d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", [0, 1]),
        "a frame without place, direction or spacing",
    ),
    "spacing in metres": (
        lambda d: setattr(d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", [0.002, 0.001]),
        "expected spacings from",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_segs_are_refused_in_one_line(seg, tmp_path, name):
    dataset, _ = seg
    spoil, message = BAD[name]
    with pydicom.config.disable_value_validation():
        spoil(dataset)
    with pytest.raises((ReadError, GeometryError), match=message) as caught:
        read(dataset, tmp_path)
    assert "\n" not in str(caught.value)
    assert "Synthetic" not in str(caught.value)


def test_a_truncated_seg_is_refused(seg, tmp_path):
    data = save(seg[0], tmp_path).read_bytes()
    for length in (140, 400, len(data) // 3, len(data) // 2, len(data) - 100):
        (tmp_path / "short.dcm").write_bytes(data[:length])
        with pytest.raises(VisceraError):
            read_label_map(tmp_path / "short.dcm")


def test_a_deflated_seg_is_refused(seg, tmp_path):
    dataset, _ = seg
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    with pytest.raises(ReadError, match="1 of the deflated transfer syntax"):
        read(dataset, tmp_path)


def test_a_labelmap_whose_packed_frames_are_short_is_refused(labelled_ct, tmp_path):
    ct = labelled_ct(AFFINE)
    write_dicom_seg(
        ct.label_map, ct.source, tmp_path / "a.dcm", Origin(bundle="b", bundle_version="1"), kind="labelmap"
    )
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=SLICES))
    dataset.PixelData = pydicom.encaps.encapsulate([*frames[:4], frames[4][:66], *frames[5:]])
    with pytest.raises(ReadError, match="expected a whole DICOM SEG"):
        read(dataset, tmp_path)


def test_damage_anywhere_ends_in_labels_or_an_error_of_ours(seg, tmp_path):
    data = bytearray(save(seg[0], tmp_path).read_bytes())
    random = np.random.default_rng(5)
    for _ in range(150):
        damaged = data.copy()
        for place in random.integers(132, len(data), 3):
            damaged[place] = random.integers(256)
        (tmp_path / "damaged.dcm").write_bytes(damaged)
        try:
            found = read_label_map(tmp_path / "damaged.dcm")
        except VisceraError:
            continue
        assert isinstance(found, LabelMap)
