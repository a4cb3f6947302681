"""Which series is read of several, and when two images are one: by what a radiologist would take, and by content."""

import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless, generate_uid

from viscera.batch.discover import list_scans
from viscera.core.errors import GeometryError, ReadError
from viscera.formats.dicom.files import dicom_sources
from viscera.formats.dicom.read import read_dicom
from viscera.formats.dicom.series import ct_series
from viscera.formats.dicom.series_ranking import SeriesTraits, image_kind
from viscera.read import read_volume

from .test_read_dicom import ct, enhanced, save, series

PLAIN = image_kind(("ORIGINAL", "PRIMARY", "AXIAL"))
MIP = ["DERIVED", "SECONDARY", "REFORMATTED", "MIP"]


def sitk_hu(folder):
    """The series in a folder as SimpleITK reads it, (slice, row, column)."""
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def traits(**changes):
    known = {"kind": PLAIN, "axial": True, "places": 60, "gap_mm": 5.0, "even": True}
    return SeriesTraits(**{**known, "description": "", "body_part": "", "number": "2", "uid": "1.2", **changes})


# Which series.


def kind(*terms, **words):
    return image_kind(tuple(terms), **words)


MANY = {"places": 500, "gap_mm": 1.0, "number": "1"}  # what used to win


@pytest.mark.parametrize(
    ("worse", "why"),
    [
        ({"kind": kind("ORIGINAL", "PRIMARY", "AXIAL", rescale_type="Z_EFF")}, "is not in Hounsfield units"),
        ({"kind": kind("ORIGINAL", "PRIMARY", "VOLUME", "EFF_ATOMIC_NUM")}, "is not in Hounsfield units"),
        ({"kind": kind("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MIP")}, "is a projection or rendering (MIP, MinIP)"),
        ({"kind": kind("ORIGINAL", "PRIMARY", "AXIAL"), "axial": False}, "is not axial"),
        ({"kind": kind(description="Iodine (Water)")}, "is a spectral map or virtual image"),
        ({"kind": kind("DERIVED", "SECONDARY", "AXIAL")}, "was derived from other images"),
        ({"kind": kind("ORIGINAL", "PRIMARY", "MPR")}, "was derived from other images"),
        ({"even": False}, "has no even and usual slice distance"),
        ({"gap_mm": 0.1, "places": 4000}, "has no even and usual slice distance"),
        ({"description": "Thorax 1.0", "body_part": "ABDOMEN"}, "is named after another part of the body"),
        ({"gap_mm": 0.3}, "covers less of the body"),
    ],
)
def test_each_reason_outweighs_the_number_of_slices(worse, why):
    best, other = traits(), traits(**{**MANY, **worse})
    assert best.rank() < other.rank()
    assert other.drawback(best) == why


def test_of_equal_ones_that_with_most_slices_then_the_abdomen_then_the_number_is_first():
    best_first = [
        traits(places=200, gap_mm=1.5),
        traits(body_part="ABDOMEN", number="9"),
        traits(number="3"),
        traits(number="10"),
        traits(places=5),
    ]
    assert sorted((best_first[place] for place in (3, 0, 4, 2, 1)), key=SeriesTraits.rank) == best_first


@pytest.mark.parametrize(
    "terms",
    [
        ("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MIP"),
        ("DERIVED", "SECONDARY", "REFORMATTED", "MIN_IP"),
        ("DERIVED", "SECONDARY", "MIP_COR"),
        ("DERIVED", "PRIMARY", "VOLUME", "NONE", "MAX_IP"),  # the last: Volume Based Calculation Technique
        ("DERIVED", "SECONDARY", "VRT"),
    ],
)
def test_projections_are_known_by_their_header(terms):
    assert kind(*terms).projection


@pytest.mark.parametrize("name", ["MIP 10mm", "AX MinIP", "abd_mip", "Thick Slab MIPs", "Maximum intensity"])
def test_a_projection_is_known_by_its_name_unless_it_says_that_it_is_an_original(name):
    assert kind("DERIVED", "SECONDARY", "AXIAL", description=name).projection
    assert not kind("ORIGINAL", "PRIMARY", "AXIAL", description=name).projection


@pytest.mark.parametrize("name", ["Abdomen 5.0 B30f", "MIPO study", "Tumip", "SIMIP", "MPR cor"])
def test_other_names_are_no_projections(name):
    assert not kind("DERIVED", "SECONDARY", "AXIAL", description=name).projection


@pytest.mark.parametrize(
    "terms",
    [
        ("ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"),
        ("DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"),
        ("ORIGINAL", "SECONDARY", "SCREEN SAVE"),
        ("DERIVED", "SECONDARY", "DOSE_INFO"),
    ],
)
def test_localisers_and_dose_sheets_are_no_slices(terms):
    assert not kind(*terms).slices


def thick_and_thin(folder, **mip):
    """10 original slices, and 20 of a projection made of them that lie closer."""
    original = series()
    save(folder, original)
    high = np.maximum(ct(20, seed=4), ct(20, seed=5))  # nothing like the originals
    changes = {"uid": "1.2.9", "SeriesNumber": "1", "ImageType": MIP, **mip}
    save(folder, series(high, step=(0, 0, 1.5), **changes), seed=1)
    return folder


def test_a_projection_with_more_slices_is_not_read(tmp_path):
    folder = thick_and_thin(tmp_path)
    volume = read_dicom(folder)
    save(tmp_path / "alone", series())
    np.testing.assert_array_equal(volume.hu, sitk_hu(tmp_path / "alone"))
    assert volume.notes == (
        "Of 2 CT series, series 2 (Abdomen), 10 slices, was read; the next best, series 1 (Abdomen), 20 slices, is a "
        "projection or rendering (MIP, MinIP).",
    )


def test_the_same_series_is_read_from_a_zip(tmp_path):
    folder = thick_and_thin(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    from_zip, from_folder = read_volume(tmp_path / "study.zip"), read_volume(folder)
    np.testing.assert_array_equal(from_zip.hu, from_folder.hu)
    assert from_zip.notes == from_folder.notes


def test_a_derived_series_with_more_slices_is_not_read(tmp_path):
    folder = thick_and_thin(tmp_path, ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    volume = read_dicom(folder)
    np.testing.assert_array_equal(volume.hu, ct())
    assert "was derived from other images" in volume.notes[0]


@pytest.mark.parametrize("units", ["Z_EFF", "ED", "EDW", "MGML", "PCT"])
def test_the_hu_beside_a_spectral_map_are_read(tmp_path, units):
    folder = thick_and_thin(tmp_path, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], RescaleType=units)
    np.testing.assert_array_equal(read_dicom(folder).hu, ct())


def test_a_map_in_an_enhanced_object_is_not_taken_for_hu(tmp_path):
    """The rescale type of an enhanced object stands with each frame."""
    one = enhanced(range(10))
    for frame in one.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence[0].RescaleType = "Z_EFF"
    one.save_as(tmp_path / "map.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match="in units 'Z_EFF'"):
        read_dicom(tmp_path)
    save(tmp_path, series(ct(seed=7), uid="1.2.50"))
    np.testing.assert_array_equal(read_dicom(tmp_path).hu, ct(seed=7))


def test_an_enhanced_projection_is_known_by_its_technique(tmp_path):
    one = enhanced(range(10))
    for frame in one.PerFrameFunctionalGroupsSequence:
        frame_type = pydicom.Dataset()
        frame_type.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
        frame_type.VolumeBasedCalculationTechnique = "MAX_IP"
        frame.CTImageFrameTypeSequence = [frame_type]
    one.save_as(tmp_path / "mip.dcm", enforce_file_format=True)
    (note,) = read_dicom(tmp_path).notes
    assert note.startswith("The images are projections")


def test_a_projection_alone_or_on_request_is_read_with_a_note(tmp_path):
    volume = read_dicom(thick_and_thin(tmp_path), series="1")
    assert volume.hu.shape[0] == 20
    assert any("organs are not shown as large as they are" in note for note in volume.notes)


def test_a_projection_within_the_series_of_its_originals_is_left_out(tmp_path):
    save(tmp_path, series())
    save(tmp_path, series(ct(seed=4), ImageType=MIP), seed=1)  # the same Series Instance UID, other objects
    np.testing.assert_array_equal(read_dicom(tmp_path).hu, ct())


def test_derived_images_at_the_places_of_originals_of_one_series_are_left_out(tmp_path):
    save(tmp_path, series())
    save(tmp_path, series(ct(seed=4), ImageType=["DERIVED", "SECONDARY", "AXIAL"]), seed=1)
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.hu, ct())
    assert "was derived from other images" in volume.notes[0]


def test_a_few_images_marked_as_derived_stay_in_their_series(tmp_path):
    """As when some slices were compressed or anonymised by another program."""
    datasets = series()
    for one in datasets[3:6]:
        one.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    np.testing.assert_array_equal(read_dicom(save(tmp_path, datasets)).hu, ct())


def test_several_phases_in_one_series_give_way_to_one_that_can_be_stacked(tmp_path):
    save(tmp_path, series(ct(40, seed=5), uid="1.2.4", SeriesNumber="1"))
    save(tmp_path, series(ct(40, seed=6), uid="1.2.4", SeriesNumber="1"), seed=1)
    save(tmp_path, series(), seed=2)
    np.testing.assert_array_equal(read_dicom(tmp_path).hu, ct())


def test_an_image_without_type_is_no_derived_one(tmp_path):
    datasets = series()
    for one in datasets:
        del one.ImageType
    with dicom_sources(save(tmp_path, datasets)) as sources:
        assert ct_series(sources)[0].traits.kind == replace(PLAIN)


def test_a_batch_passes_over_projections_and_maps(tmp_path):
    whole = {"step": (0, 0, 12.0)}
    save(tmp_path / "study", series(**whole))
    save(tmp_path / "study", series(ct(20), step=(0, 0, 6.0), uid="1.2.9", ImageType=MIP), seed=1)
    save(tmp_path / "maps", series(**whole, RescaleType="MGML"), seed=2)  # under the identifier of the original
    listing = list_scans([tmp_path])
    assert [(scan.path, scan.series) for scan in listing.scans] == [(tmp_path / "study", "1.2.3")]
    assert listing.passed_over == 1


# Which images.


def test_another_version_of_the_images_under_their_identifiers_is_refused_by_name(tmp_path):
    """As after a filter that kept the identifiers: half of each was read once."""
    original = series()
    save(tmp_path / "CT" / "original", original)
    for one in original:
        one.PixelData = (np.frombuffer(one.PixelData, "<u2") // 2).astype("<u2").tobytes()
    save(tmp_path / "CT" / "filtered", original)
    with pytest.raises(ReadError, match=r"two that differ: filtered/X0_(\d) and original/X0_\1\.") as caught:
        read_dicom(tmp_path / "CT")
    assert "one image under each SOP Instance UID" in str(caught.value)
    for name, factor in (("original", 1), ("filtered", 2)):
        expected = [path.pixel_array for path in map(pydicom.dcmread, (tmp_path / "CT" / name).iterdir())]
        found = read_dicom(tmp_path / "CT" / name).hu + 1024
        assert sorted(image.tobytes() for image in found.astype(np.uint16)) == sorted(
            image.tobytes() for image in expected
        ), factor


def test_another_rescale_is_another_image(tmp_path):
    original = series()
    save(tmp_path, original)
    for one in original:
        one.RescaleIntercept = "-1000"
    with pytest.raises(ReadError, match="two that differ"):
        read_dicom(save(tmp_path, original, seed=1))


def test_one_changed_voxel_of_one_slice_is_found(tmp_path):
    original = series()
    save(tmp_path, original)
    changed = bytearray(original[7].PixelData)
    changed[40] ^= 1
    original[7].PixelData = bytes(changed)
    with pytest.raises(ReadError, match="two that differ"):
        read_dicom(save(tmp_path, original, seed=1))


def test_equal_images_of_another_encoding_are_copies(tmp_path):
    original = series()
    save(tmp_path / "ct", original)
    shutil.copytree(tmp_path / "ct", tmp_path / "alone")
    for one in original:
        one.compress(RLELossless, generate_instance_uid=False)
    volume = read_dicom(save(tmp_path / "ct", original, seed=1))
    np.testing.assert_array_equal(volume.hu, sitk_hu(tmp_path / "alone"))
    assert volume.notes == ("10 repeated copies of slices were passed over.",)


def test_equal_images_under_new_identifiers_are_copies(tmp_path):
    """As when a study was anonymised twice."""
    original = series()
    save(tmp_path, original)
    for one in original:
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    volume = read_dicom(save(tmp_path, original, seed=1))
    np.testing.assert_array_equal(volume.hu, ct())
    assert volume.notes == ("10 repeated copies of slices were passed over.",)


def test_other_images_under_new_identifiers_are_refused_as_before(tmp_path):
    save(tmp_path, series())
    with pytest.raises(GeometryError, match="10 of 20 at the place of another"):
        read_dicom(save(tmp_path, series(ct(seed=4)), seed=1))


@pytest.mark.parametrize("changed", [False, True])
def test_two_enhanced_objects_under_one_identifier(tmp_path, changed):
    one = enhanced((3, 0, 7, 1, 9, 8, 2, 6, 5, 4))
    one.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    one.PatientComments = "sent again"  # other bytes, the same images
    if changed:
        one.PixelData = one.PixelData[:-2] + b"\x10\x00"
    one.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    if changed:
        with pytest.raises(ReadError, match=r"two that differ: a\.dcm and b\.dcm"):
            read_dicom(tmp_path)
    else:
        np.testing.assert_array_equal(read_dicom(tmp_path).hu, ct())
