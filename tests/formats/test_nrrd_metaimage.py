"""Reading NRRD and MetaImage; SimpleITK writes the files and is the oracle for their voxels and geometry."""

import bz2
import gzip
import re
import sys
import tracemalloc

import numpy as np
import pytest

from viscera.core.errors import GeometryError, ReadError
from viscera.read import read_label_map, read_volume

sitk = pytest.importorskip("SimpleITK")

DIRECTION = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


def ct_zyx():
    return np.random.default_rng(5).integers(-1000, 400, (10, 11, 12)).astype(np.int16)


def save(path, array, **options):
    image = sitk.GetImageFromArray(array, **options)
    if image.GetDimension() == 3:
        image.SetSpacing((1.0, 2.0, 3.0))
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.mhd"])
def test_values_and_geometry(tmp_path, name):
    path = save(tmp_path / name, ct_zyx())
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.hu, ct_zyx())
    image = sitk.ReadImage(str(path))
    for x, y, z in [(0, 0, 0), (11, 0, 0), (0, 10, 0), (3, 4, 9)]:
        expected = image.TransformIndexToPhysicalPoint((x, y, z))
        np.testing.assert_allclose(volume.grid.world(np.array([z, y, x])), expected, atol=1e-9)


def test_floats_are_rounded(tmp_path):
    array = ct_zyx().astype(np.float32)
    array[0, 0, :2] = (-3.4, 7.6)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "ct.mha", array)).hu[0, 0, :2], [-3, 8])


def test_label_map(tmp_path):
    labels = (ct_zyx() > 0).astype(np.uint8)
    np.testing.assert_array_equal(read_label_map(save(tmp_path / "l.nrrd", labels)).labels, labels)


def test_colours_are_refused(tmp_path):
    with pytest.raises(ReadError, match="one 3-D volume of real numbers"):
        read_volume(save(tmp_path / "ct.mha", np.zeros((10, 11, 12, 3), np.uint8), isVector=True))


def test_several_volumes_are_refused(tmp_path):
    with pytest.raises(ReadError, match="12 x 11 x 10 x 2 voxels"):
        read_volume(save(tmp_path / "ct.mha", np.zeros((2, 10, 11, 12), np.int16), isVector=False))


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_truncated_file_is_refused(tmp_path, name):
    path = save(tmp_path / name, ct_zyx())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ReadError, match="cut off"):
        read_volume(path)


def test_truncated_plain_file_is_refused(tmp_path):
    path = tmp_path / "ct.mha"
    sitk.WriteImage(sitk.GetImageFromArray(ct_zyx()), str(path), useCompression=False)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ReadError, match="voxels its header claims"):
        read_volume(path)


def test_nrrd_without_space_is_refused(tmp_path):
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 12 11 10\nspacings: 1 2 3\nendian: little\nencoding: raw\n\n"
    (tmp_path / "ct.nrrd").write_bytes(head + ct_zyx().tobytes())
    with pytest.raises(GeometryError, match="patient's axes"):
        read_volume(tmp_path / "ct.nrrd")


def test_meta_image_without_axes_is_refused(tmp_path):
    head = b"ObjectType = Image\nNDims = 3\nDimSize = 12 11 10\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "ct.mha").write_bytes(head + ct_zyx().tobytes())
    with pytest.raises(GeometryError, match="patient's axes"):
        read_volume(tmp_path / "ct.mha")


def test_data_file_elsewhere_is_refused(tmp_path):
    (tmp_path / "inner").mkdir()
    path = save(tmp_path / "inner" / "ct.mhd", ct_zyx())
    (tmp_path / "inner" / "ct.zraw").rename(tmp_path / "ct.zraw")
    path.write_text(path.read_text().replace("ct.zraw", "../ct.zraw"))
    with pytest.raises(ReadError, match="in one next to it"):
        read_volume(path)


def test_header_that_claims_gigabytes_is_refused(tmp_path):
    path = save(tmp_path / "ct.mha", ct_zyx())
    path.write_bytes(path.read_bytes().replace(b"DimSize = 12 11 10", b"DimSize = 2000 2000 2000"))
    with pytest.raises(ReadError, match="voxels its header claims"):
        read_volume(path)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_other_bytes_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ReadError):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_no_other_package_is_needed(tmp_path, monkeypatch, name):
    path = save(tmp_path / name, ct_zyx())
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    np.testing.assert_array_equal(read_volume(path).hu, ct_zyx())


def meta(**changes):
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": " ".join(map(str, DIRECTION)), "Offset": "10 -20 30", "ElementSpacing": "1 2 3",
        "DimSize": "12 11 10", "ElementType": "MET_SHORT", **changes, "ElementDataFile": "LOCAL",
    }  # fmt: skip
    return "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None).encode()


def nrrd(**changes):
    fields = {
        "type": "short", "dimension": "3", "space": "LPS", "sizes": "12 11 10",
        "space directions": "(0.8,0.6,0) (-1.2,1.6,0) (0,0,-3)", "space origin": "(10,-20,30)", "endian": "little",
        "encoding": "raw", **{name.replace("_", " "): value for name, value in changes.items()},
    }  # fmt: skip
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
    return ("NRRD0005\n" + "".join(lines) + "\n").encode()


def assert_read_as_simpleitk_reads_it(path):
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.hu, np.clip(np.rint(sitk.GetArrayFromImage(image)), -32768, 32767))
    for x, y, z in [(0, 0, 0), (11, 0, 0), (0, 10, 0), (3, 4, 9)]:
        expected = image.TransformIndexToPhysicalPoint((x, y, z))
        np.testing.assert_allclose(volume.grid.world(np.array([z, y, x])), expected, atol=1e-9)


META_TYPES = {
    "MET_CHAR": "i1", "MET_SHORT": "i2", "MET_INT": "i4", "MET_LONG": "i4", "MET_LONG_LONG": "i8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", META_TYPES)
def test_every_type_of_meta_image(tmp_path, kind, order):
    voxels = (ct_zyx() // 8).astype(order + META_TYPES[kind])
    head = meta(ElementType=kind, BinaryDataByteOrderMSB=str(order == ">"))
    (tmp_path / "ct.mha").write_bytes(head + voxels.tobytes())
    assert_read_as_simpleitk_reads_it(tmp_path / "ct.mha")
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.mha").hu, voxels)


NRRD_TYPES = {
    "signed char": "i1", "int16": "i2", "short int": "i2", "int": "i4", "int64_t": "i8", "float": "f4", "double": "f8",
}  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", NRRD_TYPES)
def test_every_type_of_nrrd(tmp_path, kind, order):
    voxels = (ct_zyx() // 8).astype(order + NRRD_TYPES[kind])
    (tmp_path / "ct.nrrd").write_bytes(nrrd(type=kind, endian="little" if order == "<" else "big") + voxels.tobytes())
    assert_read_as_simpleitk_reads_it(tmp_path / "ct.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nrrd").hu, voxels)


@pytest.mark.parametrize(
    "space", ["right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "RAS", "LAS", "lps"]
)
def test_every_space_of_nrrd(tmp_path, space):
    (tmp_path / "ct.nrrd").write_bytes(nrrd(space=space) + ct_zyx().tobytes())
    assert_read_as_simpleitk_reads_it(tmp_path / "ct.nrrd")


@pytest.mark.parametrize(
    "changes",
    [
        {"Offset": None, "Position": "10 -20 30"},
        {"Offset": None, "Origin": "10 -20 30"},
        {"Offset": None},
        {"Position": "10 -20 30"},
        {"TransformMatrix": None, "Orientation": "0 1 0 0 0 1 1 0 0"},
        {"TransformMatrix": None, "Rotation": "0 1 0 0 0 1 1 0 0"},
        {"BinaryDataByteOrderMSB": None},
        {"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "False"},
        {"BinaryData": None},
        {"NDims": "4", "DimSize": "12 11 10 1", "ElementSpacing": "1 2 3 1", "Offset": "10 -20 30 0",
         "TransformMatrix": "0.8 0.6 0 0 -0.6 0.8 0 0 0 0 -1 0 0 0 0 1"},
    ],
)  # fmt: skip
def test_every_spelling_of_meta_image(tmp_path, changes):
    (tmp_path / "ct.mha").write_bytes(meta(**changes) + ct_zyx().tobytes())
    volume = read_volume(tmp_path / "ct.mha")
    image = sitk.ReadImage(str(tmp_path / "ct.mha"))
    image = image[:, :, :, 0] if image.GetDimension() == 4 else image
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(image))
    for x, y, z in [(0, 0, 0), (11, 0, 0), (3, 4, 9)]:
        expected = image.TransformIndexToPhysicalPoint((x, y, z))
        np.testing.assert_allclose(volume.grid.world(np.array([z, y, x])), expected, atol=1e-9)


@pytest.mark.parametrize("skipped", [-1, 1000])
def test_meta_image_with_bytes_before_its_voxels(tmp_path, skipped):
    head = meta(HeaderSize=skipped)
    (tmp_path / "ct.mha").write_bytes(head + b"x" * (1000 - len(head)) + ct_zyx().tobytes())
    assert_read_as_simpleitk_reads_it(tmp_path / "ct.mha")


def test_meta_image_with_its_voxels_as_text(tmp_path):
    text = " ".join(map(str, ct_zyx().ravel())).encode()
    (tmp_path / "ct.mha").write_bytes(meta(BinaryData="False") + text)
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.mha").hu, ct_zyx())
    (tmp_path / "ct.mha").write_bytes(meta(BinaryData="False") + text[:-20])
    with pytest.raises(ReadError, match="1320 numbers after the header"):
        read_volume(tmp_path / "ct.mha")


@pytest.mark.parametrize(
    ("changes", "before"),
    [
        ({"byte_skip": 7}, b"1234567"),
        ({"byteskip": -1}, b"more than it has to be"),
        ({"line_skip": 2}, b"one line\nand another\n"),
        ({"dimension": 4, "sizes": "1 12 11 10", "space_directions": "none (0.8,0.6,0) (-1.2,1.6,0) (0,0,-3)"}, b""),
        ({"dimension": 4, "sizes": "12 11 10 1", "space_directions": "(0.8,0.6,0) (-1.2,1.6,0) (0,0,-3) none"}, b""),
        ({"space_origin": None}, b""),
    ],
)
def test_every_layout_of_nrrd(tmp_path, changes, before):
    (tmp_path / "ct.nrrd").write_bytes(nrrd(**changes) + before + ct_zyx().tobytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nrrd").hu, ct_zyx())
    if "dimension" not in changes:
        assert_read_as_simpleitk_reads_it(tmp_path / "ct.nrrd")


def test_nrrd_with_its_voxels_as_text(tmp_path):
    text = "\n".join(map(str, ct_zyx().ravel())).encode()
    (tmp_path / "ct.nrrd").write_bytes(nrrd(encoding="ascii", endian=None) + text)
    assert_read_as_simpleitk_reads_it(tmp_path / "ct.nrrd")


def test_nrrd_packed_by_bzip2(tmp_path):
    packed = bz2.compress(ct_zyx().tobytes())
    (tmp_path / "ct.nrrd").write_bytes(nrrd(encoding="bzip2") + packed)
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nrrd").hu, ct_zyx())
    for broken, got in ((packed[:-30], "cut off"), (packed[:100] + b"x" + packed[101:], "damaged")):
        (tmp_path / "ct.nrrd").write_bytes(nrrd(encoding="bzip2") + broken)
        with pytest.raises(ReadError, match=f"expected a whole bzip2 stream, got .*{got}"):
            read_volume(tmp_path / "ct.nrrd")


def test_meta_image_compressed_by_gzip_is_refused_as_itk_makes_voxels_of_its_bytes(tmp_path):
    (tmp_path / "ct.mha").write_bytes(meta(CompressedData="True") + gzip.compress(ct_zyx().tobytes()))
    with pytest.raises(ReadError, match="expected a whole zlib stream"):
        read_volume(tmp_path / "ct.mha")


def test_memory_is_the_volume_and_little_more(tmp_path):
    array = np.random.default_rng(5).integers(-1000, 400, (150, 200, 200)).astype(np.int16)
    path = save(tmp_path / "ct.mha", array)
    tracemalloc.start()
    try:
        volume = read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(volume.hu, array)
    assert peak < 1.6 * array.nbytes


@pytest.mark.parametrize("axes", ["4294967296", "-1", "999999999", "1e308", ""])
def test_a_number_of_axes_that_ends_the_process_is_refused(tmp_path, axes):
    path = save(tmp_path / "ct.mha", ct_zyx())
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", f"NDims = {axes}".encode()))
    with pytest.raises(ReadError, match="a header of 1 to 4 axes"):
        read_volume(path)


@pytest.mark.parametrize(
    "lines",
    [
        "ElementDataFile = ../ct.zraw\nElementDataFile = LOCAL",
        "ElementDataFile : ../ct.zraw",
        "ElementDataFile = LIST\n../ct.zraw",
        "ElementDataFile = %d.zraw 1 10 1",
        "ElementDataFile = " + "A" * 300,
    ],
)
def test_no_spelling_leads_to_a_file_elsewhere(tmp_path, lines):
    (tmp_path / "inner").mkdir()
    path = save(tmp_path / "inner" / "ct.mhd", ct_zyx())
    (tmp_path / "inner" / "ct.zraw").rename(tmp_path / "ct.zraw")
    (tmp_path / "inner" / "LIST").touch()
    path.write_text(path.read_text().replace("ElementDataFile = ct.zraw", lines))
    with pytest.raises(ReadError):
        read_volume(path)


@pytest.mark.parametrize("line", ["data file: ../ct.raw", "datafile: ../ct.raw", "DATA FILE: LIST"])
def test_no_spelling_leads_from_an_nrrd_to_a_file_elsewhere(tmp_path, line):
    head = save(tmp_path / "ct.nrrd", ct_zyx()).read_bytes().partition(b"\n\n")[0].replace(b"gzip", b"raw")
    (tmp_path / "ct.raw").write_bytes(ct_zyx().tobytes())
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "ct.nrrd"
    path.write_bytes(head + b"\n" + line.encode() + b"\n\n")
    with pytest.raises(ReadError, match="in one next to it"):
        read_volume(path)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_a_field_given_twice_is_refused(tmp_path, name):
    path = save(tmp_path / name, ct_zyx())
    line = b"type: short\n" if name == "ct.nrrd" else b"DimSize = 12 11 10\n"
    assert line in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(line, line + line))
    with pytest.raises(ReadError, match="each name once"):
        read_volume(path)


def test_other_fields_of_other_programs_are_read(tmp_path):
    path = save(tmp_path / "ct.mha", ct_zyx())
    path.write_bytes(path.read_bytes().replace(b"NDims = 3\n", b"NDims = 3\nName = a scan: of mine\nComment = x\n"))
    np.testing.assert_array_equal(read_volume(path).hu, ct_zyx())


@pytest.mark.parametrize("number", ["1e308", "-1e10", "inf", "nan", "x"])
@pytest.mark.parametrize(
    ("name", "pattern", "field"),
    [
        ("ct.mha", rb"TransformMatrix = [^ \n]+", "TransformMatrix"),
        ("ct.mha", rb"Offset = [^ \n]+", "Offset"),
        ("ct.nrrd", rb"space directions: \([^,]+", "space directions"),
        ("ct.nrrd", rb"space origin: \([^,]+", "space origin"),
    ],
)
def test_numbers_that_overflow_are_refused(tmp_path, name, pattern, field, number):
    """ITK looks for the inverse of a matrix that has overflowed for ever."""
    path = save(tmp_path / name, ct_zyx())
    raw = path.read_bytes()
    head = re.search(pattern, raw)[0]
    start = max(head.rfind(b" "), head.rfind(b"(")) + 1
    path.write_bytes(raw.replace(head, head[:start] + number.encode()))
    with pytest.raises(ReadError, match=rf"numbers up to 1e\+09 as {field}"):
        read_volume(path)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.mhd"])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.9, 1.0])
def test_one_flipped_bit_in_compressed_voxels_is_refused(tmp_path, name, place):
    """ITK says on stderr that it could not unpack them, and gives an image all the same."""
    path = save(tmp_path / name, ct_zyx())
    data = path.with_suffix(".zraw") if name == "ct.mhd" else path
    raw = bytearray(data.read_bytes())
    start = 0 if name == "ct.mhd" else raw.index(b"\x1f\x8b" if name == "ct.nrrd" else b"LOCAL\n") + 10
    at = min(start + int(place * (len(raw) - start)), len(raw) - 1 - 4 * (name == "ct.nrrd"))
    raw[at] ^= 1
    data.write_bytes(raw)
    with pytest.raises(ReadError, match="whole"):
        read_volume(path)


def test_a_compressed_nrrd_of_several_members_is_read(tmp_path):
    path = save(tmp_path / "ct.nrrd", ct_zyx())
    head, _, _ = path.read_bytes().partition(b"\n\n")
    voxels = ct_zyx().astype("<i2").tobytes()
    path.write_bytes(head + b"\n\n" + gzip.compress(voxels[:700]) + gzip.compress(voxels[700:]))
    np.testing.assert_array_equal(read_volume(path).hu, ct_zyx())


@pytest.mark.parametrize("line", ["HeaderSize = 10", "HeaderSize = -1"])
def test_compressed_voxels_that_do_not_begin_at_once_are_refused(tmp_path, line):
    path = save(tmp_path / "ct.mhd", ct_zyx())
    path.write_text(path.read_text().replace("ElementDataFile", f"{line}\nElementDataFile"))
    with pytest.raises(ReadError, match="begin at once"):
        read_volume(path)


# What each program adds to the fields that all write, as found in files that it made from one NIfTI file.
NIFTI_FIELDS = "\n".join(
    [
        "ITK_original_direction = 1 -0 -0 -0 1 -0 0 0 1",
        "ITK_sform_corrected = NO",
        "bitpix = 16",
        *(f"dim[{number}] = {number}" for number in range(8)),
        "dim_info = 0",
        *(f"pixdim[{number}] = 1" for number in range(8)),
        "qform_code_name = NIFTI_XFORM_SCANNER_ANAT",
        "srow_x = -1 0 0 -10",
        "xyzt_units = 10",
    ]
)
CENTRE = "CenterOfRotation = 0 0 0\nAnatomicalOrientation"
WRITERS = {
    "SimpleITK 2.5, ITK 5.4, elastix, plastimatch 1.9": f"{CENTRE} = RAI\n{NIFTI_FIELDS}",
    "VTK 9, 3D Slicer": f"{CENTRE} = ???",
    "ITK from DICOM": "0008|0008 = ORIGINAL\\PRIMARY\\AXIAL\n0018|0050 = 5\nITK_InputFilterName = GDCMImageIO",
    "3D Slicer from NRRD": "Name = \nNRRD_kinds[0] = domain\nNRRD_space = left-posterior-superior",
}


@pytest.mark.parametrize("fields", WRITERS.values(), ids=WRITERS)
def test_files_of_the_commonest_writers_are_read(tmp_path, fields):
    path = save(tmp_path / "ct.mha", ct_zyx())
    raw = re.sub(rb"(CenterOfRotation|AnatomicalOrientation) = .*\n", b"", path.read_bytes())
    path.write_bytes(raw.replace(b"DimSize", fields.encode() + b"\nDimSize"))
    assert fields.encode() in path.read_bytes()
    np.testing.assert_array_equal(read_volume(path).hu, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("name", ["ct.mha", "ct.mhd", "ct.nrrd"])
def test_what_simpleitk_makes_of_a_nifti_file_is_read(tmp_path, name):
    save(tmp_path / "ct.nii.gz", ct_zyx())
    image = sitk.ReadImage(str(tmp_path / "ct.nii.gz"))
    assert "dim[0]" in image.GetMetaDataKeys()
    sitk.WriteImage(image, str(tmp_path / name), useCompression=True)
    one, other = read_volume(tmp_path / name), read_volume(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(one.hu, ct_zyx())
    assert one.grid.matches(other.grid, 1e-4)


def test_what_plastimatch_makes_of_a_nifti_file_is_read(tmp_path, program):
    import subprocess

    save(tmp_path / "ct.nii.gz", ct_zyx())
    convert = [
        program("plastimatch"),
        "convert",
        "--input",
        tmp_path / "ct.nii.gz",
        "--output-img",
        tmp_path / "ct.mha",
    ]
    subprocess.run(convert, check=True, capture_output=True)
    np.testing.assert_array_equal(
        read_volume(tmp_path / "ct.mha").hu, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ct.mha")))
    )
