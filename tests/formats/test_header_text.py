"""Headers of NRRD and MetaImage put together by hand: what is let through, and every reason to refuse.

Whatever Python and ITK, which other programs read these files with, may read in two ways is refused.
"""

import re

import numpy as np
import pytest

from viscera.core.errors import GeometryError, ReadError
from viscera.formats.header_text import HEADER_BYTES
from viscera.formats.metaimage import metaimage_header
from viscera.formats.nrrd import nrrd_header
from viscera.read import read_volume

META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-7 5 9",
    "ElementSpacing": "1 2 3",
    "DimSize": "10 9 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "10 9 4",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "space origin": "(-7,5,9)",
    "endian": "little",
    "encoding": "raw",
}
MARK = 0x155  # the voxels of a file outside


def meta(line: str | bytes = b"", **changes: str | None) -> bytes:
    """A MetaImage header with changed fields, None leaves one out, and a line before the last."""
    *fields, last = [f"{name} = {value}" for name, value in {**META, **changes}.items() if value is not None]
    more = [line if isinstance(line, bytes) else line.encode("latin-1")] if line else []
    return b"\n".join([*(field.encode("latin-1") for field in fields), *more, last.encode("latin-1"), b""])


def nrrd(line: str | bytes = b"", changes: dict[str, str | None] | None = None, end: bytes = b"\n\n") -> bytes:
    """The same of an NRRD header, with the line behind the others."""
    fields = {**NRRD, **(changes or {})}
    lines = ["NRRD0004", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    more = [line if isinstance(line, bytes) else line.encode("latin-1")] if line else []
    return b"\n".join([*(one.encode("latin-1") for one in lines), *more]) + end


def check(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    return (nrrd_header if name.endswith(".nrrd") else metaimage_header)(tmp_path / name)


@pytest.mark.parametrize(
    "raw",
    [
        meta(),
        meta().replace(b"\n", b"\r\n"),
        meta("Comment = of mine: 5 = 3\tx"),
        meta("Comment = Müller \x85 \xa0"),
        meta("AcquisitionDate = 2021.09.27"),
        meta(Offset="-7.5e-1 +5. .9"),
        meta("0008|103e = Abdomen"),
        meta("dim[0] = 3"),
        meta("pixdim[7] = 0\nITK_FileNotes = \nslice thickness (mm) = 3"),
        meta("_own = 1"),
        meta("\n".join(f"field{number} = {'x' * 900}" for number in range(100))),
        meta("Comment = " + "x" * 243),
        meta("mine = " + "x" * 3000),
        meta(DimSize="10\t9  4"),
        meta(ElementDataFile="local"),
    ],
)
def test_a_meta_image_with_its_voxels(tmp_path, raw):
    layout = check(tmp_path, "ct.mha", raw + bytes(720)).layout
    assert (layout.data_file, layout.compression) == (tmp_path / "ct.mha", None)


@pytest.mark.parametrize(
    "raw",
    [
        nrrd(),
        nrrd().replace(b"\n", b"\r\n"),
        nrrd("# a comment: of mine"),
        nrrd("key:=value: with a colon"),
        nrrd("content: a := b"),
        nrrd("content: " + "x" * 390),
        nrrd("Content: "),
        nrrd("# " + "x" * 5000),
        nrrd("key:=" + "x" * 5000),
        nrrd(changes={"space directions": " ".join(["(" + ",".join(["-0.12345678901234567e-10"] * 3) + ")"] * 3)}),
        nrrd("kinds: domain domain domain"),
        nrrd('space units: "mm" "mm" "mm"'),
        nrrd(changes={"space": "LPS"}),
        nrrd(changes={"space directions": "none (1,0,0) (0,2,0) (0,0,3)", "dimension": "4", "sizes": "1 10 9 4"}),
    ],
)
def test_an_nrrd_with_its_voxels(tmp_path, raw):
    layout = check(tmp_path, "ct.nrrd", raw + bytes(720)).layout
    assert (layout.data_file, layout.compression) == (tmp_path / "ct.nrrd", None)


@pytest.mark.parametrize(
    ("name", "raw", "compression"),
    [
        ("ct.mhd", meta("CompressedData = True", ElementDataFile="ct.zraw"), "zlib"),
        ("ct.nrrd", nrrd("data file: ct.zraw", {"encoding": "gzip"}), "gzip"),
        ("ct.nrrd", nrrd("datafile: ct.zraw", {"encoding": "GZ"}), "gzip"),
        ("ct.nrrd", nrrd("data file: ct.zraw", {"encoding": "bzip2"}, end=b"\n"), "bzip2"),
    ],
)
def test_compressed_voxels_beside_the_header(tmp_path, name, raw, compression):
    (tmp_path / "ct.zraw").touch()
    layout = check(tmp_path, name, raw).layout
    assert (layout.data_file, layout.compression) == (tmp_path / "ct.zraw", compression)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "a MetaImage header of lines"),
        (meta(ElementDataFile=None), "each name once"),
        (meta("no sign"), "each name once"),
        (meta("*9 = a sign first"), "each name once"),
        (meta("Name = " + "x" * 247), "at most 250 characters as Name, got 251"),
        (meta("mine = " + "x" * 4000), "at most 4000 characters as mine"),
        (meta("NDims = 3"), "each name once"),
        (meta("Comment: x"), "each name once"),
        (meta("ElementDataFile[0] : ../ct.raw = x"), "each name once"),
        (meta("ElementDataFile\xa0= LOCAL"), "each name once"),
        (meta("x" * HEADER_BYTES), "each name once"),
        (meta(NDims=None), "1 to 4 axes"),
        (meta(NDims="0"), "1 to 4 axes"),
        (meta(NDims="5"), "1 to 4 axes"),
        (meta(NDims="3.0"), "1 to 4 axes"),
        (meta(NDims="9" * 30), "1 to 4 axes"),
        (meta(DimSize=None), "3 sizes in the header"),
        (meta(DimSize="10 9"), "3 sizes in the header"),
        (meta(DimSize="10 9 0"), "3 sizes in the header"),
        (meta(DimSize="10 9 -4"), "3 sizes in the header"),
        (meta(DimSize="10 9 2147483648"), "3 sizes in the header"),
        (meta(DimSize="10\xa09 4 4"), "3 sizes in the header"),
        (meta(Offset="1 2"), r"3 numbers up to 1e\+09 as Offset"),
        (meta(Offset="1 2 1_0"), r"3 numbers up to 1e\+09 as Offset"),
        (meta(Offset="1 2 3\x85"), r"3 numbers up to 1e\+09 as Offset"),
        (meta(Offset="1 2 inf"), r"3 numbers up to 1e\+09 as Offset"),
        (meta(TransformMatrix="1 0 0 1"), r"9 numbers up to 1e\+09 as TransformMatrix"),
        (meta("HeaderSize = 1e3"), "1 whole number as HeaderSize"),
        (meta("CompressedDataSize = 1 2"), "1 whole number as CompressedDataSize"),
        (meta("ElementNumberOfChannels = x"), "1 whole number as ElementNumberOfChannels"),
        (meta(ElementDataFile="ct.raw"), "in one next to it"),
        (meta(ElementDataFile="../ct.raw"), "in one next to it"),
        (meta(ElementDataFile="/etc/passwd"), "in one next to it"),
        (meta(ElementDataFile="..\\ct.raw"), "in one next to it"),
        (meta(ElementDataFile="LIST"), "in one next to it"),
        (meta(ElementDataFile="ct%03d.raw 1 10 1"), "in one next to it"),
        (meta(ElementDataFile="A" * 230), "in one next to it"),
        (meta(ElementDataFile="A" * 300), "at most 250 characters as ElementDataFile"),
        (meta(ElementDataFile=""), "in one next to it"),
        (meta(ElementType="MET_FLOAT_MATRIX"), "a real number as ElementType, got 'MET_FLOAT_MATRIX'"),
        (meta(ElementType=None), "a real number as ElementType"),
        (meta("ElementByteOrderMSB = True"), "one byte order, got two"),
        (meta("Position = 1 2 3"), "one of Offset, Position, Origin, got Offset and Position that differ"),
    ],
)
def test_a_meta_image_is_refused(tmp_path, raw, reason):
    with pytest.raises(ReadError, match=reason):
        check(tmp_path, "ct.mha", raw + bytes(720))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "begin with NRRD"),
        (b"DICM", "begin with NRRD"),
        (nrrd("no sign"), "each name once"),
        (nrrd("content:x"), "each name once"),
        (nrrd(" content: x"), "each name once"),
        (nrrd("HeaderSize: 3"), "each name once"),
        (nrrd("HeaderSize:" + "A" * 1200), "each name once"),
        (nrrd(changes={"type": "A" * 1200}), "at most 100 characters as type"),
        (nrrd("kinds: " + "A" * 1200), "at most 100 characters as kinds"),
        (nrrd("content: " + "A" * 1200), "at most 400 characters as content"),
        (nrrd(changes={"space origin": "1" * 1200}), "at most 400 characters as space origin"),
        (nrrd("measurement frame: (x,0,0) (0,1,0) (0,0,1)"), "as measurement frame"),
        (nrrd().replace(b"NRRD0004", b"NRRD" + b"4" * 1200), "known version"),
        (nrrd(" \t"), "each name once"),
        (nrrd("type: short"), "each name once"),
        (nrrd("TYPE: short"), "each name once"),
        (nrrd("data\xa0file: ../ct.raw"), "each name once"),
        (nrrd("data file: a\ndatafile: b"), "names one data file, got two"),
        (nrrd("data file: ../ct.raw:="), "in one next to it"),
        (nrrd("data file: LIST"), "in one next to it"),
        (nrrd("data file: ct%03d.raw 1 10 1"), "in one next to it"),
        (nrrd("\n".join(["# " + "x" * 97] * 660) + "\ndata file: ../ct.raw"), "in one next to it"),
        (nrrd("# " + "x" * HEADER_BYTES + "\ndata file: ../ct.raw"), f"less than {HEADER_BYTES} bytes"),
        (nrrd(changes={"dimension": "x"}), "1 to 4 axes"),
        (nrrd(changes={"dimension": None}), "1 to 4 axes"),
        (nrrd(changes={"sizes": "10 9"}), "3 sizes in the header"),
        (nrrd("byte skip: -1.5"), "1 whole number as byte skip"),
        (nrrd("line skip: 1 1"), "1 whole number as line skip"),
        (nrrd(changes={"space origin": "(0,0,1e10)"}), r"3 numbers up to 1e\+09 as space origin"),
        (nrrd(changes={"space directions": "(1,0,0) (0,2,0) (0,0,nan)"}), r"9 numbers up to 1e\+09 as space dir"),
        (nrrd("thicknesses: 1 2 x"), r"3 numbers up to 1e\+09 as thicknesses"),
        (nrrd(changes={"type": "block"}), "a real number as type, got 'block'"),
        (nrrd(changes={"type": None}), "a real number as type"),
        (nrrd(changes={"endian": None}), "little or big as endian"),
        (nrrd(changes={"encoding": "hex"}), "voxels encoded as raw, gzip, .* got 'hex'"),
        (nrrd(changes={"encoding": None}), "voxels encoded as"),
        (nrrd("byte skip: -2"), "lines or bytes to skip"),
        (nrrd(changes={"space directions": "(1,0) (0,2) (0,0)"}), "a direction of 3 numbers"),
        (nrrd(changes={"space directions": "(1,0,0) (0,2,0) none"}), "three axes in space"),
        (nrrd(changes={"space origin": "(1,2)"}), "three axes in space"),
    ],
)
def test_an_nrrd_is_refused(tmp_path, raw, reason):
    with pytest.raises(ReadError, match=reason):
        check(tmp_path, "ct.nrrd", raw + bytes(720))


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("ct.mha", meta(TransformMatrix=None)),
        ("ct.mha", meta(ElementSpacing=None)),
        ("ct.nrrd", nrrd(changes={"space": None})),
        ("ct.nrrd", nrrd(changes={"space": "scanner-xyz"})),
        ("ct.nrrd", nrrd(changes={"space directions": None})),
    ],
)
def test_a_header_without_the_patients_axes_is_refused(tmp_path, name, raw):
    with pytest.raises(GeometryError, match="patient's axes"):
        check(tmp_path, name, raw)


def test_a_spacing_below_zero_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="spacings above zero"):
        check(tmp_path, "ct.mha", meta(ElementSpacing="1 -2 3"))


# What another reader takes for the end of a line, of a name or of a text. Each of these once led ITK elsewhere.
@pytest.mark.parametrize("sign", ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\x00", "\x7f", "\xa0"])
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("ct.mha", "Comment = x", "ElementDataFile = LOCAL\nElementDataFile = ../outside.raw"),
        ("ct.mha", "ElementDataFile", "= LOCAL\nElementDataFile = ../outside.raw"),
        ("ct.mha", "", "ElementDataFile = LOCAL\nElementDataFile = ../outside.raw"),
        ("ct.nrrd", "# x", "data file: ../outside.raw"),
        ("ct.nrrd", "key:=x", "data file: ../outside.raw"),
        ("ct.nrrd", "content: x", "data file: ../outside.raw"),
        ("ct.nrrd", "", "data file: ../outside.raw"),
    ],
)
def test_no_sign_leads_to_a_file_elsewhere(tmp_path, name, before, after, sign):
    (tmp_path / "outside.raw").write_bytes(np.full(1000, MARK, dtype="<i2").tobytes())
    (tmp_path / "in").mkdir()
    line = f"{before}{sign}{after}".encode("latin-1")
    raw = meta(ElementDataFile=None) + line + b"\n" if name == "ct.mha" else nrrd(line)
    (tmp_path / "in" / name).write_bytes(raw + np.full(360, -1000, dtype="<i2").tobytes())
    told, hu = outcome(tmp_path / "in" / name)
    if hu is None:  # values that are no HU would be told, so the file outside was not read
        assert re.search("plain lines|each name once|in one next to it", told), told
    else:
        assert (hu == -1000).all()


def outcome(path):
    try:
        return "", read_volume(path).hu
    except ReadError as error:
        return str(error), None
