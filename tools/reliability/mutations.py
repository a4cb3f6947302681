"""Damage to valid inputs: bytes anywhere, and what each format keeps at known places.

A mutation is drawn from a `random.Random`, so that a number names an input for ever.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace

from seeds import Seed

WIDTHS = (1, 2, 4, 8)
# Signs, limits and sizes at which sums and products overflow.
WHOLE = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
         2**40, 2**62, 2**63 - 1, 2**64 - 1)  # fmt: skip
REAL = (0.0, -0.0, 1.0, -1.0, 1e-38, 1e-12, 0.5, 2.0, 1e6, 1e20, 3e38, float("inf"), float("-inf"), float("nan"))
TEXT = (b"0", b"-1", b"1", b"2", b"999999999", b"4294967296", b"99999999999999999999", b"1e308", b"-1e-308", b"nan",
        b"inf", b"", b" ", b"\\", b"\x00", b"\xff\xfe", b"/etc/passwd", b"../outside.raw", b"..\\outside.raw", b"LIST",
        b"LOCAL", b"%s%n%d", b"A" * 300)  # fmt: skip
# NIfTI-1: byte, struct code. Sizes, type, spacings, offsets, scaling, units, codes, quaternion, rows, mark.
NIFTI_FIELDS = (
    (0, "i"), *((40 + 2 * n, "h") for n in range(8)), (68, "h"), (70, "h"), (72, "h"), (74, "h"),
    *((76 + 4 * n, "f") for n in range(8)), (108, "f"), (112, "f"), (116, "f"), (123, "b"), (252, "h"), (254, "h"),
    *((256 + 4 * n, "f") for n in range(6)), *((280 + 4 * n, "f") for n in range(12)), (344, "i"), (348, "i"),
    (352, "i"), (356, "i"),
)  # fmt: skip
NIFTI_2_FIELDS = (
    (0, "i"), (4, "i"), (12, "h"), (14, "h"), *((16 + 8 * n, "q") for n in range(8)),
    *((104 + 8 * n, "d") for n in range(8)), (168, "q"), (176, "d"), (184, "d"), (344, "i"), (348, "i"),
    *((352 + 8 * n, "d") for n in range(18)), (500, "i"),
)  # fmt: skip
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")
# Value representations whose length field has four bytes.
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UC", b"UR", b"UT")
_VRS = (*_LONG_VRS, b"CS", b"DS", b"IS", b"LO", b"SH", b"UI", b"UL", b"US", b"SS", b"FD", b"AT", b"DA", b"PN")


def mutated(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Seed:
    """`seed` with one file changed, taken away or added; the first file is the likeliest.

    Args:
        seed: A valid input.
        others: Where foreign bytes are taken from.
        rng: Draws everything.
    """
    files = dict(seed.files)
    names = list(files)
    name = names[0] if rng.random() < 0.5 else rng.choice(names)
    if len(names) > 1 and rng.random() < 0.03:
        del files[name]
    elif rng.random() < 0.02:
        files[name] = next(iter(rng.choice(others).files.values()))
    else:
        files[name] = changed(files[name], rng, rng.choice(list(rng.choice(others).files.values())))
    return replace(seed, files=files)


def changed(raw: bytes, rng: random.Random, foreign: bytes) -> bytes:
    """`raw` after one to four changes that suit its format; what is compressed is mostly changed inside."""
    if raw[:2] == b"\x1f\x8b" and rng.random() < 0.75:
        inner = changed(gzip.decompress(raw), rng, foreign)
        return gzip.compress(inner, compresslevel=1, mtime=0)
    if raw[:4] == b"PK\x03\x04" and rng.random() < 0.6:
        return _changed_archive(raw, rng, foreign)
    change = _suited(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        raw = change(raw, rng) if rng.random() < 0.7 else _anywhere(raw, rng, foreign)
    return raw


def _suited(raw: bytes) -> Callable[[bytes, random.Random], bytes]:
    if raw[128:132] == b"DICM" or raw[:2] == b"\x08\x00":
        return _changed_dicom
    if raw[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return _changed_nifti
    if raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"):
        return _changed_nifti
    if raw[:4] == b"NRRD" or raw[:10] == b"ObjectType":
        return _changed_text
    return lambda one, rng: _anywhere(one, rng, one)


def _anywhere(raw: bytes, rng: random.Random, foreign: bytes) -> bytes:
    """One change that needs no knowledge of the format."""
    place = rng.randrange(len(raw) + 1) if rng.random() < 0.5 else rng.randrange(min(len(raw), 400) + 1)
    length = rng.choice((1, 1, 2, 4, 8, 16, 64, 512))
    rest = raw[place + length :]
    match rng.randrange(7):
        case 0:
            return (
                raw[:place]
                + bytes(byte ^ (1 << rng.randrange(8)) for byte in raw[place : place + 1])
                + raw[place + 1 :]
            )
        case 1:
            return raw[:place] + rng.randbytes(length) + rest
        case 2:
            return raw[:place]
        case 3:
            return raw[:place] + rest
        case 4:
            return raw[:place] + raw[place : place + length] * rng.choice((2, 3, 50)) + rest
        case 5:
            start = rng.randrange(len(foreign) + 1)
            return raw[:place] + foreign[start : start + length] + raw[place:]
        case _:
            width = rng.choice(WIDTHS)
            value = rng.choice(WHOLE) % (1 << (8 * width))
            return raw[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + raw[place + width :]


def _changed_nifti(raw: bytes, rng: random.Random) -> bytes:
    order = "<" if raw[1:2] != b"\x00" else ">"
    place, code = rng.choice(
        NIFTI_2_FIELDS if raw[:2] in (b"\x1c\x02", b"\x00\x00") and b"n+2" in raw[:16] else NIFTI_FIELDS
    )
    size = struct.calcsize(code)
    value: float | int
    if code in "fd":
        value = rng.choice(REAL)
        packed = struct.pack(
            order + code, value if code == "d" or abs(value) < 3.4e38 else rng.choice((float("inf"), float("nan")))
        )
    else:
        value = (rng.choice(WHOLE) * rng.choice((1, 1, 1, -1))) % (1 << (8 * size))
        packed = value.to_bytes(size, "little" if order == "<" else "big")
    return raw[:place] + packed + raw[place + size :]


def _changed_text(raw: bytes, rng: random.Random) -> bytes:
    """A change to the lines before the voxels."""
    end = raw.find(b"\n\n") if raw[:4] == b"NRRD" else raw.find(b"\n", raw.find(b"ElementDataFile"))
    header, rest = (raw[:end], raw[end:]) if end > 0 else (raw, b"")
    lines = header.split(b"\n")
    line = rng.randrange(len(lines))
    separator = b": " if raw[:4] == b"NRRD" else b" = "
    match rng.randrange(7):
        case 0:
            del lines[line]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[line])
        case 2:
            name = lines[line].partition(separator.strip())[0].strip()
            lines[line] = name + separator + rng.choice(TEXT)
        case 3:
            other = rng.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
        case 4:
            names = (b"data file", b"datafile", b"encoding", b"sizes", b"dimension", b"byte skip", b"line skip",
                     b"type", b"endian", b"ElementDataFile", b"HeaderSize", b"DimSize", b"NDims", b"CompressedData",
                     b"CompressedDataSize", b"ElementType", b"ElementNumberOfChannels", b"BinaryData")  # fmt: skip
            joined = rng.choice((separator, b":", b"=", b" : "))
            lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(names) + joined + rng.choice(TEXT))
        case _:
            numbers = list(_NUMBER.finditer(lines[line]))
            if numbers:
                found = rng.choice(numbers)
                lines[line] = lines[line][: found.start()] + rng.choice(TEXT) + lines[line][found.end() :]
    return b"\n".join(lines) + rest


def _changed_dicom(raw: bytes, rng: random.Random) -> bytes:
    """A change to one element's tag, value representation, length or value; elements are found by their looks."""
    places = [found.start() for found in re.finditer(rb"[\x00-\x28\xe0-\xff].[\x00-\xff].[A-Z]{2}", raw, re.DOTALL)]
    if not places:  # implicit value representations: even places will do
        places = list(range(0, len(raw) - 8, 2)) or [0]
    place = rng.choice(places)
    vr = raw[place + 4 : place + 6]
    at, width = (place + 8, 4) if vr in _LONG_VRS else (place + 6, 2)
    length = int.from_bytes(raw[at : at + width], "little")
    value = at + width
    match rng.randrange(6):
        case 0:
            return raw[:place] + rng.randbytes(4) + raw[place + 4 :]
        case 1:
            return raw[:place] + raw[place : place + 4] + rng.choice(_VRS) + raw[place + 6 :]
        case 2:
            lie = rng.choice((*WHOLE, length + 1, length - 1, length + 2, length * 2)) % (1 << (8 * width))
            return raw[:at] + lie.to_bytes(width, "little") + raw[at + width :]
        case 3 if length < 4096:
            text = rng.choice(TEXT)
            text += b" " * (len(text) % 2)
            return raw[:at] + len(text).to_bytes(width, "little") + text + raw[value + length :]
        case 4 if length < 4096:
            return raw[:place] + raw[value + length :]
        case _:
            size = rng.choice((1, 2, 4))
            number = (rng.choice(WHOLE) % (1 << (8 * size))).to_bytes(size, "little")
            return raw[:value] + number + raw[value + size :]


def _changed_archive(raw: bytes, rng: random.Random, foreign: bytes) -> bytes:
    """The zip with a member changed inside, or with one that means harm."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(list(members))
    method = rng.choice(
        (zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    extra: list[tuple[zipfile.ZipInfo, bytes]] = []
    kind = rng.randrange(6)
    if kind < 3:
        members[name] = changed(members[name], rng, foreign)
        method = zipfile.ZIP_DEFLATED
    elif kind == 3:
        bad = rng.choice(("../../outside.dcm", "/tmp/outside.dcm", "a/../../b", "C:\\x.dcm", "\x00", "dir/", ""))
        extra.append((zipfile.ZipInfo(bad or "x"), members[name]))
    elif kind == 4:
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        link.create_system = 3
        extra.append((link, rng.choice((b"/etc/passwd", b"../../..", name.encode()))))
    else:
        extra.append((zipfile.ZipInfo("inner.zip"), raw))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), content, method)
        for info, content in extra:
            archive.writestr(info, content, method)
    return buffer.getvalue()
