"""Multipart HTTP messages: responses go part by part to files, never whole in memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from viscera.core.errors import TransferError

# Part headers are a few lines.
_LONGEST_HEADER_BYTES = 16_384


class MultipartFaultError(Exception):
    """A response that is not multipart, or ends in the middle."""


def multipart_message(parts: Sequence[bytes], media_type: str) -> tuple[str, bytes]:
    """Return the Content-Type and the body of a multipart/related message of `parts` (RFC 2387)."""
    boundary = secrets.token_hex(24)  # 192 random bits stand in no part
    head = f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()
    body = b"".join(piece for part in parts for piece in (head, part)) + f"\r\n--{boundary}--\r\n".encode()
    return f'multipart/related; type="{media_type}"; boundary={boundary}', body


def boundary_of(content_type: str) -> bytes | None:
    """What separates the parts of a response with this Content-Type; None if it is not multipart.

    Raises:
        MultipartFaultError: If it is, and names no boundary.
    """
    from email.message import Message

    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_maintype() != "multipart":
        return None
    boundary = message.get_boundary()
    if not boundary:
        raise MultipartFaultError("a multipart response without a boundary")
    return boundary.encode("latin-1")


def save_parts(chunks: Iterable[bytes], boundary: bytes, paths: Iterator[Path]) -> int:
    """How many parts came; each is written to the next of `paths` (RFC 2046, section 5.1).

    Raises:
        MultipartFaultError: If the response is not multipart or ends before its last boundary.
        OSError: If a file cannot be written.
    """
    stream, count = _Window(chunks), 0
    delimiter = b"\r\n--" + boundary
    stream.put_back(b"\r\n")  # the first boundary may stand at the very beginning
    for _ in stream.until(delimiter):
        pass  # a preamble, of no meaning
    while stream.take(2) != b"--":
        stream.back(2)
        head = b""
        for piece in stream.until(b"\r\n\r\n"):
            head += piece
            if len(head) > _LONGEST_HEADER_BYTES:
                raise MultipartFaultError("a part with an endless header")
        with next(paths).open("xb") as file:
            for piece in stream.until(delimiter):
                file.write(piece)
        count += 1
    return count


class _Window:
    """A stream of which a little is kept, to find what straddles two chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._kept = bytearray()
        self._last = b""

    def put_back(self, data: bytes) -> None:
        self._kept[:0] = data

    def take(self, count: int) -> bytes:
        while len(self._kept) < count:
            self._more()
        self._last = bytes(self._kept[:count])
        del self._kept[:count]
        return self._last

    def back(self, count: int) -> None:
        self.put_back(self._last[-count:])

    def until(self, mark: bytes) -> Iterator[bytes]:
        """What comes before the next `mark`, piece by piece; the mark is taken too."""
        while (place := self._kept.find(mark)) < 0:
            ready = len(self._kept) - len(mark) + 1
            if ready > 0:
                yield bytes(self._kept[:ready])
                del self._kept[:ready]
            self._more()
        yield bytes(self._kept[:place])
        del self._kept[: place + len(mark)]

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise MultipartFaultError("a response that ends in the middle")
        self._kept += chunk


def limited(chunks: Iterable[bytes], most_bytes: int, *, remedy: str) -> Iterator[bytes]:
    """The chunks; raises TransferError, which says `remedy`, when they are more than `most_bytes` together."""
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > most_bytes:
            raise TransferError(expected=f"at most {most_bytes} bytes", got="more", remedy=remedy)
        yield chunk
