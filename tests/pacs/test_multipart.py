"""Multipart responses in pieces of every size, whole and cut short."""

from itertools import count
from pathlib import Path

import pytest

from viscera.core.errors import TransferError
from viscera.pacs.multipart import MultipartFaultError, boundary_of, limited, multipart_message, save_parts

PARTS = (b"first", b"", b"a\r\n--b is not yet the mark\r\n\r\n", bytes(range(256)))
BODY = b"preamble" + b"".join(b"\r\n--bound\r\nContent-Type: application/dicom\r\n\r\n" + part for part in PARTS)
BODY += b"\r\n--bound--\r\nepilogue"


def saved(folder: Path, body: bytes, size: int) -> list[bytes]:
    chunks = [body[place : place + size] for place in range(0, len(body), size)]
    number = save_parts(chunks, b"bound", (folder / str(one) for one in count()))
    return [(folder / str(one)).read_bytes() for one in range(number)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 64, 10_000])
def test_parts_are_found_wherever_the_pieces_are_cut(tmp_path: Path, size: int) -> None:
    assert saved(tmp_path, BODY, size) == list(PARTS)


def test_a_message_is_what_is_read_back(tmp_path: Path) -> None:
    kind, body = multipart_message(PARTS, "application/dicom")
    boundary = boundary_of(kind)
    assert boundary is not None
    number = save_parts([body], boundary, (tmp_path / str(one) for one in count()))
    assert [(tmp_path / str(one)).read_bytes() for one in range(number)] == list(PARTS)


def test_a_boundary_may_stand_at_the_very_beginning(tmp_path: Path) -> None:
    assert saved(tmp_path, b"--bound\r\n\r\none\r\n--bound--", 4) == [b"one"]


def test_no_parts(tmp_path: Path) -> None:
    assert saved(tmp_path, b"--bound--", 4) == []


@pytest.mark.parametrize("end", range(0, len(BODY) - 10, 9))
def test_an_answer_that_ends_in_the_middle(tmp_path: Path, end: int) -> None:
    with pytest.raises(MultipartFaultError, match="in the middle"):
        saved(tmp_path, BODY[: min(end, len(BODY) - 14)], 16)


def test_an_endless_header(tmp_path: Path) -> None:
    with pytest.raises(MultipartFaultError, match="endless header"):
        saved(tmp_path, b"--bound\r\n" + b"x" * 100_000, 1000)


@pytest.mark.parametrize(
    ("text", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', b"abc"),
        ('Multipart/Related; boundary="a b"; type=x', b"a b"),
        ("application/dicom", None),
        ("", None),
    ],
)
def test_the_boundary_of_a_content_type(text: str, boundary: bytes | None) -> None:
    assert boundary_of(text) == boundary


def test_a_multipart_answer_without_a_boundary() -> None:
    with pytest.raises(MultipartFaultError, match="boundary"):
        boundary_of("multipart/related")


def test_no_more_bytes_than_allowed() -> None:
    assert list(limited([b"12", b"34"], 4, remedy="Ask for less")) == [b"12", b"34"]
    with pytest.raises(TransferError, match="at most 3 bytes"):
        list(limited([b"12", b"34"], 3, remedy="Ask for less"))
