"""Where DICOM objects come from: folders, zips and single files, told apart by what is in them, not by names."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from viscera.core.errors import ReadError, reading
from viscera.core.folders import LARGEST_FILE_COUNT, files_below

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
# A study of several whole-body series stays below all of these; CT shrinks two- or threefold in a zip.
LARGEST_ZIP_BYTES = 8 * 2**30
LARGEST_ZIP_RATIO = 100
# A member is held in memory while it is read; a multi-frame CT of 2000 slices fits.
LARGEST_MEMBER_BYTES = 2**30
# Of the list at a zip's end, 46 bytes and a name for each member; in memory an entry takes ten times as much.
LARGEST_DIRECTORY_BYTES = 300 * LARGEST_FILE_COUNT

_SNIFFED_BYTES = 136
# What pydicom begins with when the 128-byte preamble is missing: group 0002 or 0008, a small element number, and a
# value representation or a length that fits.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
# What stands in a file whose content git-annex or Git LFS has not fetched: the place of the content, also where a link
# was made on a system without links.
_POINTERS = (b"/annex/objects/", b"version https://git-lfs.github.com/")
_LONGEST_POINTER = 1024
# What lies next to images, and is none of them.
_TEXT_SUFFIXES = (".txt", ".md", ".json", ".csv", ".tsv", ".xml", ".html", ".pdf", ".yml", ".yaml", ".toml")


@dataclass(frozen=True, kw_only=True, eq=False)
class DicomSource:
    """One DICOM object not yet read.

    Attributes:
        label: How errors name it.
        size_bytes: Its length.
        opened: Opens it, seekable, at its beginning.
    """

    label: str
    size_bytes: int
    opened: Callable[[], BinaryIO]


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (`_SNIFFED_BYTES`) is DICOM, with or without the usual preamble."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8 or head[:2] not in _FIRST_GROUPS or head[3] != 0:
        return False
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"SH", b"LO", b"OB")
    return explicit or int.from_bytes(head[4:8], "little") <= 64


def is_dicom_file(path: Path) -> bool:
    """Whether `path` is a file that can be opened, and is DICOM."""
    try:
        if not path.is_file():  # opening a pipe waits for somebody who writes into it
            return False
        with path.open("rb") as file:
            return looks_like_dicom(file.read(_SNIFFED_BYTES))
    except OSError:
        return False


def unfetched(path: Path) -> str | None:
    """In words, why what `path` is called is not there though its name is; None if that is not so.

    Links to nothing, and files that stand for content which git-annex, DataLad or Git LFS has not fetched.
    """
    try:
        if path.is_symlink() and not path.exists():
            return "a link to a file that is not there"
        if path.is_file() and path.stat().st_size <= _LONGEST_POINTER:
            with path.open("rb") as file:
                head = file.read(_LONGEST_POINTER)
            if any(pointer in head for pointer in _POINTERS):
                return "a pointer to content that was not fetched"
    except OSError:  # reading it says why
        return None
    return None


def is_beside_images(name: str) -> bool:
    """Whether a file of this name is no image: hidden, as those of macOS that begin with ._, or a text."""
    return name.startswith(".") or name.lower().endswith(_TEXT_SUFFIXES)


@contextmanager
def dicom_sources(path: Path) -> Iterator[list[DicomSource]]:
    """The DICOM objects of a folder with all below it, of a zip, or the one in a file; in order of their names.

    Zips are read in memory and nothing is ever unpacked to disk, so names inside them cannot lead anywhere.

    Raises:
        ReadError: If a zip is damaged, locked or larger than any study, or nothing can be opened.
    """
    if path.is_dir():
        yield [
            _file_source(file, file.relative_to(path).as_posix())
            for file in files_below(path)
            if readable_dicom(file, path)
        ]
    elif is_zip_file(path):
        with reading(path), _opened_zip(path) as archive:
            yield [
                _zip_source(archive, member, number)
                for number, member in enumerate(_checked_members(archive, path), 1)
                if looks_like_dicom(_member_bytes(archive, member, _SNIFFED_BYTES))
            ]
    else:
        yield [_file_source(path, path.name)]


def readable_dicom(file: Path, folder: Path) -> bool:
    """Whether a file of a folder is DICOM; raises ReadError if that cannot be told of what may be an image."""
    if is_dicom_file(file):
        return True
    if is_beside_images(file.name):
        return False
    got = unfetched(file) or _unopened(file)
    if got is not None:
        raise ReadError(
            f"reading {folder}",
            expected="files that can be opened",
            got=f"{file.name}, {got}",
            remedy="Fetch it (datalad get, git annex get), ask for the right to read it, or take it away",
        )
    return False


def _unopened(file: Path) -> str | None:
    """In words, why a file cannot be opened; None if it can, or is no file."""
    try:
        if file.is_file():
            file.open("rb").close()
    except OSError as error:
        return error.strerror or "an error"
    return None


class _ZipFile(io.FileIO):
    """A zip file whose directory is read only if it is not too large; zipfile itself holds all of it in memory."""

    largest_read = LARGEST_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes as `io.FileIO.read` gives them; raises BadZipFile if more than `largest_read` are asked for."""
        if size is not None and size > self.largest_read:
            raise zipfile.BadZipFile("too large a directory")
        return super().read(size) or b""


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        file = _ZipFile(path)
    except OSError as error:
        raise _bad_zip("one that cannot be opened") from error
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error) as error:
            raise _bad_zip("a damaged one") from error
        file.largest_read = sys.maxsize  # members are checked one by one
        with archive:
            yield archive


def is_zip_file(path: Path) -> bool:
    """Whether `path` is a file that begins like a zip."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) in ZIP_MAGICS
    except OSError:
        return False


def _file_source(path: Path, label: str) -> DicomSource:
    return DicomSource(label=label, size_bytes=path.stat().st_size, opened=lambda: path.open("rb"))


def _bad_zip(got: str) -> ReadError:
    return ReadError(
        expected="a zip of DICOM files", got=got, remedy="Zip the series again without a password, or unpack it"
    )


def _checked_members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    # Not `is_dir`, which fails on an empty name.
    members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    total, packed = sum(member.file_size for member in members), path.stat().st_size
    if len(members) > LARGEST_FILE_COUNT or total > LARGEST_ZIP_BYTES or total > LARGEST_ZIP_RATIO * packed:
        raise ReadError(
            expected=f"at most {LARGEST_FILE_COUNT} files, {LARGEST_ZIP_BYTES} bytes and {LARGEST_ZIP_RATIO} times "
            "the zip's own size when unpacked",
            got=f"{len(members)} files and {total} bytes in {packed}",
            remedy="Unpack it yourself if you trust it, and give the folder",
        )
    if any(member.file_size > LARGEST_MEMBER_BYTES for member in members):
        raise ReadError(
            expected=f"files of at most {LARGEST_MEMBER_BYTES} bytes in the zip",
            got="a larger one",
            remedy="Unpack it yourself if you trust it, and give the folder",
        )
    if any(member.flag_bits & 1 for member in members):
        raise _bad_zip("one locked with a password")
    return members


def _zip_source(archive: zipfile.ZipFile, member: zipfile.ZipInfo, number: int) -> DicomSource:
    label = f"file {number} of the zip"  # names inside a zip may be people's names
    return DicomSource(
        label=label,
        size_bytes=member.file_size,
        opened=lambda: io.BytesIO(_member_bytes(archive, member, member.file_size)),
    )


def _member_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo, count: int) -> bytes:
    # With a count, zipfile unfolds no more than that even where the member's declared size is a lie, and it verifies
    # the checksum at the end. That holds for deflate only; other methods it unfolds without a limit.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad_zip("one compressed by another method than deflate")
    try:
        with archive.open(member) as file:
            return file.read(count)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise _bad_zip("a damaged one") from error
