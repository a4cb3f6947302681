"""Inputs made to do harm, one by one: sizes that lie, bombs, paths that lead elsewhere, pipes, endless nesting.

Run `python tools/reliability/hostile.py`; it needs Linux, and `viscera[all]` for all formats. Each input is read
in a process of its own, under watch as in fuzz.py: it must be refused in one clear line, or read where that does no
harm, within 10 s and 1 GiB. The exit code is 1 if one was not.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from seeds import Reader, Seed, make_seeds, zipped
from tables import print_table
from watching import CANARY, LONGEST_SECONDS, Watcher, limit_address_space, scratch_folder

# A GiB as int16: voxels of a CT far larger than any.
BOMB_SHAPE_XYZ = (1024, 1024, 1024)
CHUNK_BYTES = 2**20
Maker = Callable[[Path, dict[str, Seed]], str]


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One input.

    Attributes:
        name: What it is.
        expected: What must come of it.
        reader: What it is given to.
        make: Writes it into a folder and returns the name of the file there, "" for the folder.
    """

    name: str
    expected: Literal["refused", "read"]
    make: Maker
    reader: Reader = "volume"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="inputs with it in their name")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(read_one(HOSTILE[options.child])))
        return 0
    rows, failed = [], False
    for number, one in enumerate(HOSTILE):
        if options.only not in one.name:
            continue
        reading = reading_of_child(number)
        refused = not reading["outcome"].startswith("!") and reading["outcome"] != "read"
        good = (refused if one.expected == "refused" else reading["outcome"] == "read") and (
            reading["seconds"] < LONGEST_SECONDS
        )
        failed |= not good
        rows.append([one.name, reading["outcome"], f"{reading['seconds']:.2f} s",
                     f"{reading['peak_bytes'] / 2**20:.0f} MiB", "as it should" if good else "WRONG"])  # fmt: skip
    print_table(["input", "outcome", "time", "memory", ""], rows)
    return int(failed)


def reading_of_child(number: int) -> dict[str, Any]:
    """What a process of its own said of the input."""
    command = [sys.executable, __file__, "--child", str(number)]
    # Making the input takes longer than reading it.
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "!no answer", "seconds": 120.0, "peak_bytes": 0}
    if done.returncode:
        return {"outcome": f"!died with {done.returncode}: {done.stderr[-300:]}", "seconds": 0.0, "peak_bytes": 0}
    reading: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return reading


def read_one(one: Hostile) -> dict[str, Any]:
    """What comes of the input, made in a new folder."""
    with tempfile.TemporaryDirectory() as made, scratch_folder() as work:
        seeds = {f"{seed.kind}, {seed.name}": seed for seed in make_seeds(Path(made))}
        watcher = Watcher(work)
        watcher.read(seeds["NRRD, ct.nrrd, raw"] if "NRRD, ct.nrrd, raw" in seeds else seeds["NIfTI, int16"])
        watcher.read(seeds["DICOM folder, explicit"])
        for path in watcher.inputs.iterdir():
            path.unlink()
        entry = one.make(watcher.inputs, seeds)
        limit_address_space()
        return asdict(watcher.read_path(watcher.inputs / entry, one.reader))


def nifti_header(shape_xyz: tuple[int, int, int], first_byte: float = 352) -> bytes:
    """The header of an int16 image of that shape at 1 mm."""
    import nibabel

    header: Any = nibabel.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]
    header.set_data_shape(shape_xyz)
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm")
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"] = first_byte
    header["magic"] = b"n+1"
    packed: bytes = header.binaryblock
    return packed + b"\0\0\0\0"


def repeated(head: bytes, chunk: bytes, times: int, window: int) -> Iterator[bytes]:
    """A deflate stream of `head` and many times `chunk`, made without deflating it as often; its checksum is wrong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    yield packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so the same bytes may stand again.
    again = packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)
    yield packed
    for _ in range(times - 1):
        yield again
    yield packer.flush()


def air(count: int = CHUNK_BYTES) -> bytes:
    """Bytes that are voxels of -1000 HU."""
    return np.full(count // 2, -1000, dtype="<i2").tobytes()


def written(path: Path, parts: Iterator[bytes]) -> str:
    with path.open("wb") as file:
        file.writelines(parts)
    return path.name


def claims_in_nifti(folder: Path, seeds: dict[str, Seed]) -> str:
    (folder / "ct.nii").write_bytes(nifti_header((32767, 32767, 2)) + bytes(1000))
    return "ct.nii"


def bomb_in_nifti(folder: Path, seeds: dict[str, Seed]) -> str:
    return written(folder / "ct.nii.gz", repeated(nifti_header(BOMB_SHAPE_XYZ), air(), 2048, 31))


def late_voxels(folder: Path, seeds: dict[str, Seed]) -> str:
    head = nifti_header((64, 64, 64), first_byte=2.0**34)
    return written(folder / "ct.nii.gz", repeated(head, bytes(CHUNK_BYTES), 2**14 + 1, 31))


def bomb_in_nrrd(folder: Path, seeds: dict[str, Seed]) -> str:
    sizes = " ".join(map(str, BOMB_SHAPE_XYZ))
    text = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\nspace directions: "
        "(1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\nencoding: gzip\n\n"
    ).encode()
    return written(folder / "ct.nrrd", iter((text, *repeated(b"", air(), 2048, 31))))


def bomb_in_meta_image(folder: Path, seeds: dict[str, Seed]) -> str:
    sizes = " ".join(map(str, BOMB_SHAPE_XYZ))
    data = b"".join(repeated(b"", air(), 2048, 15))
    text = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
        f"CompressedDataSize = {len(data)}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = 1 1 1\nDimSize = {sizes}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    ).encode()
    (folder / "ct.mha").write_bytes(text + data)
    return "ct.mha"


def elsewhere(line: str, *, first: str = "") -> Maker:
    """A MetaImage header that names a file beside its folder as its voxels."""

    def make(folder: Path, seeds: dict[str, Seed]) -> str:
        head = seeds["MetaImage, ct.mhd, raw"].files["ct.mhd"].decode()
        kept = [one for one in head.splitlines() if not one.startswith("ElementDataFile")]
        (folder / "ct.mhd").write_text("\n".join([*([first] if first else []), *kept, line, ""]))
        return "ct.mhd"

    return make


def nrrd_elsewhere(lines: bytes) -> Maker:
    """An NRRD header with more lines before one that names a file beside its folder as its voxels."""

    def make(folder: Path, seeds: dict[str, Seed]) -> str:
        head, _, voxels = seeds["NRRD, ct.nrrd, raw"].files["ct.nrrd"].partition(b"\n\n")
        (folder / "ct.nrrd").write_bytes(head + b"\n" + lines + f"data file: {OUTSIDE}\n\n".encode() + voxels)
        return "ct.nrrd"

    return make


def zip_of(members: dict[str, bytes], *, links: dict[str, str] | None = None) -> Maker:
    """A valid series in a zip, with more members and symbolic links."""

    def make(folder: Path, seeds: dict[str, Seed]) -> str:
        (folder / "ct.zip").write_bytes(zipped({**seeds["DICOM folder, explicit"].files, **members}))
        with zipfile.ZipFile(folder / "ct.zip", "a") as archive:
            for name, target in (links or {}).items():
                link = zipfile.ZipInfo(name)
                link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                archive.writestr(link, target)
        return "ct.zip"

    return make


def bomb_in_zip(folder: Path, seeds: dict[str, Seed]) -> str:
    head = seeds["DICOM folder, explicit"].files["0001.dcm"]
    with (
        zipfile.ZipFile(folder / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("1", "w", force_zip64=True) as file,
    ):
        file.write(head)
        for _ in range(4096):
            file.write(bytes(CHUNK_BYTES))
    return "ct.zip"


def one_member_many_times(folder: Path, seeds: dict[str, Seed]) -> str:
    """50,000 entries that all are the same 1 MiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1", seeds["DICOM folder, explicit"].files["0001.dcm"] + bytes(CHUNK_BYTES))
        info = archive.infolist()[0]
        for number in range(50_000):
            copied = zipfile.ZipInfo(f"{number}")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(copied, name, getattr(info, name))
            archive.filelist.append(copied)
    (folder / "ct.zip").write_bytes(buffer.getvalue())
    return "ct.zip"


def million_members(folder: Path, seeds: dict[str, Seed]) -> str:
    """A directory of 2 million empty members: 100 MB that take more in memory."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 2_000_000
    local = zipped(seeds["DICOM folder, explicit"].files)
    start, size = len(local), len(entry) * count
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (folder / "ct.zip").write_bytes(local + entry * count + end64 + locator + end)
    return "ct.zip"


def changed_dicom(kind: str, change: Callable[[bytes], bytes]) -> Maker:
    """A series whose first file is changed."""

    def make(folder: Path, seeds: dict[str, Seed]) -> str:
        for place, (name, raw) in enumerate(seeds[kind].files.items()):
            (folder / name).write_bytes(raw if place else change(raw))
        return ""

    return make


def dicom_of_size(rows: int, columns: int) -> Callable[[bytes], bytes]:
    """The object with another number of rows and columns."""

    def change(raw: bytes) -> bytes:
        for element, value in ((0x10, rows), (0x11, columns)):
            tag = struct.pack("<2H2sH", 0x28, element, b"US", 2)
            place = raw.index(tag) + len(tag)
            raw = raw[:place] + struct.pack("<H", value) + raw[place + 2 :]
        return raw

    return change


def codestream_of_size(kind: str, mark: bytes, offset: int, size: bytes) -> Maker:
    """A series whose first compressed image says of itself that it is `size`."""
    return changed_dicom(kind, lambda raw: _overwritten(raw, raw.index(mark) + offset, size))


def _overwritten(raw: bytes, place: int, put: bytes) -> bytes:
    return raw[:place] + put + raw[place + len(put) :]


def deflated_dicom(kind: str, name: str) -> Maker:
    """An object in the deflated transfer syntax that unfolds to 4 GiB."""

    def make(folder: Path, seeds: dict[str, Seed]) -> str:
        import pydicom

        dataset = pydicom.dcmread(io.BytesIO(seeds[kind].files[name]))
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        raw = buffer.getvalue()
        start = 144 + int.from_bytes(raw[140:144], "little")
        inner = zlib.decompress(raw[start:], -15)
        tail = inner + struct.pack("<2H2sHL", 0x7FE1, 0x10, b"OB", 0, 2**32 - 2)
        written(folder / name, iter((raw[:start], *repeated(tail, bytes(CHUNK_BYTES), 4096, -15))))
        return name

    return make


def nested(raw: bytes) -> bytes:
    """The object with a sequence in a sequence in a sequence, 50,000 deep, before its pixels."""
    place = raw.index(struct.pack("<2H", 0x7FE0, 0x10))
    sequence = struct.pack("<2H2sHL", 0x28, 0x9999, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<2HL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return raw[:place] + (sequence + item) * 50_000 + raw[place:]


def endless_element(raw: bytes) -> bytes:
    """The object with an element before its pixels that claims 4 GiB."""
    place = raw.index(struct.pack("<2H", 0x7FE0, 0x10))
    return raw[:place] + struct.pack("<2H2sHL", 0x29, 0x10, b"OB", 0, 2**32 - 2) + raw[place:]


def beside_series(put: Callable[[Path], object]) -> Maker:
    """A valid series in a folder with something else."""

    def make(folder: Path, seeds: dict[str, Seed]) -> str:
        for name, raw in seeds["DICOM folder, explicit"].files.items():
            (folder / name).write_bytes(raw)
        put(folder)
        return ""

    return make


def pipe_for_file(folder: Path, seeds: dict[str, Seed]) -> str:
    os.mkfifo(folder / "ct.nii.gz")
    return "ct.nii.gz"


def many_frames(folder: Path, seeds: dict[str, Seed]) -> str:
    raw = seeds["DICOM multi-frame, plain"].files["ct.dcm"]
    tag = struct.pack("<2H2s", 0x28, 0x08, b"IS")
    place = raw.index(tag)
    length = int.from_bytes(raw[place + 6 : place + 8], "little")
    value = b"2147483646"
    raw = raw[: place + 6] + struct.pack("<H", len(value)) + value + raw[place + 8 + length :]
    (folder / "ct.dcm").write_bytes(raw)
    return "ct.dcm"


def gzip_of_gzip(folder: Path, seeds: dict[str, Seed]) -> str:
    raw = seeds["NIfTI, int16"].files["ct.nii"]
    (folder / "ct.nii.gz").write_bytes(gzip.compress(gzip.compress(raw)))
    return "ct.nii.gz"


JPEG, JPEG_LS, JPEG_2000 = "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"
OUTSIDE = f"../{CANARY}"
HOSTILE = (
    Hostile(name="NIfTI of 1 kB that claims 4 GiB", expected="refused", make=claims_in_nifti),
    Hostile(name="NIfTI gz of 2 MB that unfolds to 2 GiB of air", expected="refused", make=bomb_in_nifti),
    Hostile(name="NIfTI gz whose voxels begin after 16 GiB", expected="refused", make=late_voxels),
    Hostile(name="NIfTI gz packed twice", expected="refused", make=gzip_of_gzip),
    Hostile(name="NRRD of 2 MB that unfolds to 2 GiB of air", expected="refused", make=bomb_in_nrrd),
    Hostile(name="MetaImage of 2 MB that unfolds to 2 GiB of air", expected="refused", make=bomb_in_meta_image),
    Hostile(name="MetaImage with voxels in ../", expected="refused", make=elsewhere(f"ElementDataFile = {OUTSIDE}")),
    Hostile(name="the same after a first line of LOCAL", expected="refused",
            make=elsewhere(f"ElementDataFile = {OUTSIDE}\nElementDataFile = LOCAL")),
    Hostile(name="the same with a colon", expected="refused", make=elsewhere(f"ElementDataFile : {OUTSIDE}")),
    Hostile(name="the same as a list of files", expected="refused",
            make=elsewhere(f"ElementDataFile = LIST\n{OUTSIDE}")),
    Hostile(name="the same after a sign at which some readers end lines", expected="refused",
            make=elsewhere(f"Comment = x\vElementDataFile = LOCAL\nElementDataFile = {OUTSIDE}")),
    Hostile(name="NRRD with voxels in ../", expected="refused", make=nrrd_elsewhere(b"")),
    Hostile(name="the same behind a comment and a carriage return", expected="refused", make=nrrd_elsewhere(b"# x\r")),
    Hostile(name="the same behind 70 kB of comments", expected="refused",
            make=nrrd_elsewhere((b"# " + b"x" * 97 + b"\n") * 700)),
    Hostile(name="NRRD with a field longer than ITK has room for", expected="refused",
            make=nrrd_elsewhere(b"kinds: " + b"A" * 2000 + b"\n")),
    Hostile(name="MetaImage with a name longer than ITK has room for", expected="refused",
            make=elsewhere("ElementDataFile = LOCAL", first="Name = " + "A" * 300)),
    Hostile(name="MetaImage of 4 thousand million axes", expected="refused",
            make=elsewhere("ElementDataFile = LOCAL", first="NDims = 4294967296")),
    Hostile(name="zip of 4 MB that unfolds to 4 GiB", expected="refused", make=bomb_in_zip),
    Hostile(name="zip of 50,000 members that overlap", expected="refused", make=one_member_many_times),
    Hostile(name="zip of 2 million empty members", expected="refused", make=million_members),
    Hostile(name="zip in a zip in a series", expected="read", make=zip_of({"inner.zip": zipped({"a": bytes(10**6)})})),
    Hostile(name="zip with names that lead outside", expected="read",
            make=zip_of({"../../outside.txt": b"x", "/tmp/outside.txt": b"x", "C:\\outside.txt": b"x"})),
    Hostile(name="zip with symbolic links outside", expected="read",
            make=zip_of({}, links={"a.dcm": "/etc/passwd", "b": "../../.."})),
    Hostile(name="DICOM CT deflated from 4 GiB", expected="refused",
            make=deflated_dicom("DICOM folder, explicit", "0001.dcm")),
    Hostile(name="DICOM SEG deflated from 4 GiB", expected="refused", reader="labels",
            make=deflated_dicom("DICOM SEG, binary", "seg.dcm")),
    Hostile(name="DICOM of 65535 x 65535 pixels", expected="refused",
            make=changed_dicom("DICOM folder, explicit", dicom_of_size(65535, 65535))),
    Hostile(name="DICOM of 4 frames that claims 2147483646", expected="refused", make=many_frames),
    Hostile(name="DICOM element that claims 4 GiB", expected="refused",
            make=changed_dicom("DICOM folder, explicit", endless_element)),
    Hostile(name="DICOM sequences 50,000 deep", expected="refused",
            make=changed_dicom("DICOM folder, explicit", nested)),
    Hostile(name="JPEG 2000 image of 60000 x 60000 in a small header", expected="refused",
            make=codestream_of_size(f"DICOM folder, {JPEG_2000}", b"\xff\x4f\xff\x51", 8,
                                    struct.pack(">2L", 60000, 60000))),
    Hostile(name="JPEG image of 65535 x 65535 in a small header", expected="refused",
            make=codestream_of_size(f"DICOM folder, {JPEG}", b"\xff\xc3", 5, b"\xff\xff\xff\xff")),
    Hostile(name="JPEG-LS image of 65535 x 65535 in a small header", expected="refused",
            make=codestream_of_size(f"DICOM folder, {JPEG_LS}", b"\xff\xf7", 5, b"\xff\xff\xff\xff")),
    Hostile(name="pipe in the place of a file", expected="refused", make=pipe_for_file),
    Hostile(name="pipe in a DICOM folder", expected="read",
            make=beside_series(lambda folder: os.mkfifo(folder / "pipe"))),
    Hostile(name="link to an endless device in a DICOM folder", expected="read",
            make=beside_series(lambda folder: (folder / "zeros").symlink_to("/dev/zero"))),
    Hostile(name="link to the folder itself in a DICOM folder", expected="read",
            make=beside_series(lambda folder: (folder / "again").symlink_to(folder))),
)  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
