"""A PACS over DICOMweb: finds the CT series of a study (QIDO), fetches one (WADO), stores results (STOW).

Requests go to the given address and nowhere else: no redirect is followed, and proxies and credentials that lie in the
environment are not used. Images go to files as they come.
"""

from __future__ import annotations

import json
import netrc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from viscera.core.errors import ConfigError, MissingExtraError, TransferError, WriteError, reason
from viscera.formats.dicom.series_ranking import SeriesTraits, image_kind, spread
from viscera.pacs.multipart import MultipartFaultError, boundary_of, limited, save_parts
from viscera.pacs.tls import TlsFiles
from viscera.pacs.validation import is_uid

_CHUNK_BYTES = 2**20
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_FIELDS = ("Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "NumberOfSeriesRelatedInstances")
_POSITION = "00200032"  # Image Position (Patient)
# Longer uploads would go in chunks, which some servers do not take.
_ONE_PIECE_BYTES = 2**40
_TIMEOUT_SECONDS = (15.0, 120.0)
_LONGEST_SECRET_BYTES = 65_536
# Of an answer to a search; a series takes about a kilobyte.
_LONGEST_LISTING_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a DICOMweb service is reached.

    Attributes:
        url: Its root, below which /studies lies.
        token_file: Holds a bearer token.
        netrc_file: Holds user and password of the host, as curl and ftp read it.
        tls: Certificates.
        most_bytes: Of one series.
    """

    url: str
    token_file: Path | None = None
    netrc_file: Path | None = None
    tls: TlsFiles | None = None
    most_bytes: int = 8 * 2**30

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(
                "reading the address of the PACS",
                expected="a URL such as http://127.0.0.1:8042/dicom-web",
                got=repr(self.url),
                remedy="Correct --dicomweb",
            )
        if parts.username or parts.password:
            raise ConfigError(
                "reading the address of the PACS",
                expected="a URL without user and password, which others on this machine could see",
                got="one with them",
                remedy="Put them into a file and give it with --netrc",
            )

    @property
    def in_clear(self) -> bool:
        """Whether a secret would travel unencrypted to another machine."""
        parts = urlsplit(self.url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        return parts.scheme == "http" and not local and (self.token_file or self.netrc_file) is not None


@dataclass(frozen=True, kw_only=True)
class RemoteSeries:
    """A CT series of a study in the PACS.

    Attributes:
        uid: Series Instance UID.
        number, description, body_part: As stored, empty where absent.
        images: How many objects it has, 0 if the PACS does not say.
        traits: What the ranking looks at, as far as it is known.
    """

    uid: str
    number: str
    description: str
    body_part: str
    images: int
    traits: SeriesTraits

    def text(self) -> str:
        """A line for notes and messages."""
        name = f"series {self.number}" if self.number else "a series without number"
        described = f" ({self.description})" if self.description else ""
        return f"{name}{described}, {self.images} images"

    def looked_into(self, seen: SeriesTraits, normal: Any, images: Sequence[RemoteImage]) -> RemoteSeries:
        """This series with the traits of one of its objects, and with those that its other images add.

        Args:
            seen: The traits of the object.
            normal: Direction across its slices.
            images: All images that the PACS lists.
        """
        traits = replace(seen, number=self.number, description=self.description, body_part=self.body_part, uid=self.uid)
        if self.images == 1:  # one object with all slices
            return replace(self, traits=traits)
        traits = replace(traits, places=self.images or None, gap_mm=None, even=None)
        positions = [one.position_xyz_mm for one in images if one.position_xyz_mm is not None]
        if positions and len(positions) == len(images) >= self.images:
            places, gap_mm, even = spread(np.array(positions) @ np.asarray(normal), len(positions))
            traits = replace(traits, places=places, gap_mm=gap_mm, even=even)
        return replace(self, traits=traits)


@dataclass(frozen=True, kw_only=True)
class RemoteImage:
    """An object of a series in the PACS: its identifier, and the centre of its first pixel if the PACS says so."""

    uid: str
    position_xyz_mm: tuple[float, float, float] | None


class DicomWeb:
    """A client of one service.

    Raises:
        MissingExtraError: If dicomweb-client is not installed.
        ConfigError: If a file of secrets or certificates cannot be used.
    """

    def __init__(self, access: Access) -> None:
        try:
            import requests
            from dicomweb_client.web import DICOMwebClient
        except ImportError as error:
            raise MissingExtraError(
                "talking to a PACS",
                expected="dicomweb-client",
                got="no such package",
                remedy="Run: pip install 'viscera[pacs]'",
            ) from error
        self.access = access
        self._url = access.url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.max_redirects = 0
        _authenticate(self._session, access)
        if access.tls is not None:
            _set_certificates(self._session, access.tls)
        self._client = DICOMwebClient(
            self._url, session=self._session, chunk_size=_ONE_PIECE_BYTES, timeout=_TIMEOUT_SECONDS
        )
        self._client.set_http_retry_params(retry=False)

    def ct_series(self, study: str) -> list[RemoteSeries]:
        """The CT series of a study, in no order.

        Raises:
            TransferError: If there is no such study, it has no CT, or the PACS does not answer as it should.
        """
        doing = f"looking for the study at {self._url}"
        with _explained(doing):
            found = self._search(doing, f"studies/{study}/series", includefield=_FIELDS)
            listed = [(_value(one, "00080060"), _remote_series(one)) for one in found]
        series = [one for modality, one in listed if modality == "CT" and is_uid(one.uid)]
        if not series:
            others = ", ".join(sorted({modality or "no modality" for modality, _ in listed}))
            raise TransferError(
                doing,
                expected="a study with a CT series",
                got=f"only {others}" if others else "no such study",
                remedy="Check --study, and that this PACS has the study",
            )
        return series

    def images(self, study: str, series: str) -> list[RemoteImage]:
        """The objects of a series, in no order.

        Raises:
            TransferError: If it has none, or the PACS does not answer as it should.
        """
        doing = f"looking into a series at {self._url}"
        with _explained(doing):
            found = self._search(doing, f"studies/{study}/series/{series}/instances", includefield=(_POSITION,))
            images = [
                RemoteImage(uid=_value(one, "00080018"), position_xyz_mm=_position(one.get(_POSITION, {})))
                for one in found
            ]
        if not images or not all(is_uid(one.uid) for one in images):
            raise TransferError(doing, expected="objects", got="none", remedy="Check the series in the PACS")
        return images

    def _search(self, doing: str, path: str, **query: Any) -> list[dict[str, Any]]:
        """What a search below the root finds: objects in DICOM JSON (PS3.18, 8.3.4 and annex F).

        Not dicomweb-client's search, which reads an answer of any size into memory.
        """
        url, headers = f"{self._url}/{path}", {"Accept": "application/dicom+json"}
        with self._session.get(url, params=query, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as answer:
            answer.raise_for_status()
            chunks = answer.iter_content(_CHUNK_BYTES)
            body = b"".join(limited(chunks, _LONGEST_LISTING_BYTES, doing, remedy="Check --dicomweb and --study"))
            found: list[dict[str, Any]] = [] if answer.status_code == HTTPStatus.NO_CONTENT else json.loads(body)
        return found

    def fetch(self, study: str, series: str, folder: Path, *, instance: str | None = None) -> int:
        """How many objects of a series, or the one asked for, are now files in `folder`, which is there.

        Raises:
            TransferError: If there are more bytes than allowed, the answer is cut short, or it is no DICOM.
            WriteError: If a file cannot be written.
        """
        doing = f"fetching a series from {self._url}"
        url = f"{self._url}/studies/{study}/series/{series}"
        url += f"/instances/{instance}" if instance else ""
        names = (folder / f"{number:06d}.dcm" for number in count(1))
        with (
            _explained(doing),
            self._session.get(url, headers={"Accept": _ACCEPT}, stream=True, timeout=_TIMEOUT_SECONDS) as answer,
        ):
            answer.raise_for_status()
            body = answer.iter_content(_CHUNK_BYTES)
            chunks = limited(body, self.access.most_bytes, doing, remedy="Raise the limit with --max-gib")
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            if boundary is not None:
                return save_parts(chunks, boundary, names)
            if not answer.headers.get("Content-Type", "").startswith("application/dicom"):
                raise MultipartFaultError("an answer that is no DICOM")
            with next(names).open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
            return 1

    def store(self, paths: Sequence[Path], study: str) -> None:
        """Store DICOM files in a study.

        Raises:
            TransferError: If the PACS does not take one of them.
        """
        import pydicom

        doing = f"storing {len(paths)} results at {self._url}"
        with _explained(doing):
            answer = self._client.store_instances([pydicom.dcmread(path) for path in paths], study)
            failed = [int(one.get("FailureReason", 0)) for one in answer.get("FailedSOPSequence") or ()]
            stored = len(answer.get("ReferencedSOPSequence") or ())
        if failed or stored < len(paths):
            reasons = ", ".join(f"0x{reason:04X}" for reason in sorted(set(failed))) or "no reason given"
            raise TransferError(
                doing,
                expected="all to be stored",
                got=f"{max(len(failed), len(paths) - stored)} not stored ({reasons})",
                remedy="See the log of the PACS",
            )


def read_secret(path: Path) -> str:
    """The text of a file of secrets without outer white space.

    Raises:
        ConfigError: If it cannot be read, is empty or long, or others than its owner can read it.
    """
    doing = f"reading {path}"
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            text = file.read(_LONGEST_SECRET_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "something that is no text"
        raise ConfigError(doing, expected="a readable file", got=got, remedy="Check the path") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            doing,
            expected="a file of secrets that only its owner can read",
            got=f"mode {mode & 0o777:o}",
            remedy=f"Run: chmod 600 {path}",
        )
    if not text.strip():
        raise ConfigError(doing, expected="a token or password", got="an empty file", remedy="Write it into the file")
    return text.strip()


def _authenticate(session: Any, access: Access) -> None:
    if access.token_file is not None:
        token = read_secret(access.token_file)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"reading {access.token_file}",
                expected="one token",
                got="something with spaces or lines",
                remedy="Leave nothing but the token in the file",
            )
        session.headers["Authorization"] = f"Bearer {token}"
    if access.netrc_file is not None:
        read_secret(access.netrc_file)
        host = urlsplit(access.url).hostname or ""
        try:
            entry = netrc.netrc(access.netrc_file).authenticators(host)
        except (OSError, netrc.NetrcParseError) as error:
            raise ConfigError(
                f"reading {access.netrc_file}",
                expected="lines such as: machine HOST login USER password PASSWORD",
                got="something else",
                remedy="Correct the file",
            ) from error
        if entry is None:
            raise ConfigError(
                f"reading {access.netrc_file}", expected=f"an entry for {host}", got="none", remedy="Add one"
            )
        session.auth = (entry[0], entry[2] or "")


def _set_certificates(session: Any, tls: TlsFiles) -> None:
    for path in (tls.authorities, tls.certificate, tls.key):
        if path is not None and not path.is_file():
            raise ConfigError("setting up TLS", expected="a PEM file", got=str(path), remedy="Check the path")
    if tls.authorities is not None:
        session.verify = str(tls.authorities)
    if tls.certificate is not None:
        session.cert = str(tls.certificate) if tls.key is None else (str(tls.certificate), str(tls.key))


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """What goes wrong within, as a TransferError that says what to do."""
    import requests

    remedies = {
        401: "Give a token or password with --token-file or --netrc",
        403: "Ask for the right to do this",
        404: "Check --dicomweb, --study and --series",
    }
    expected, remedy = "an answer", "Check --dicomweb, and that the PACS runs"
    try:
        yield
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        remedy = remedies.get(status, "See the log of the PACS")
        raise TransferError(doing, expected="success", got=f"HTTP status {status}", remedy=remedy) from error
    except requests.TooManyRedirects as error:
        got, remedy = "a redirect, which is not followed", "Give the address it leads to, if you trust it"
        raise TransferError(doing, expected=expected, got=got, remedy=remedy) from error
    except requests.exceptions.SSLError as error:
        got, remedy = "a certificate or a TLS version that is not accepted", "Give the authority with --tls-ca"
        raise TransferError(doing, expected=expected, got=got, remedy=remedy) from error
    except requests.Timeout as error:
        raise TransferError(doing, expected=expected, got="none in time", remedy=remedy) from error
    except (requests.exceptions.ChunkedEncodingError, MultipartFaultError) as error:
        got = str(error) if isinstance(error, MultipartFaultError) else "one that breaks off"
        raise TransferError(doing, expected="a whole answer in DICOM", got=got, remedy="Try again") from error
    except requests.ConnectionError as error:
        raise TransferError(doing, expected=expected, got="no connection", remedy=remedy) from error
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        got = f"something else ({type(error).__name__})"
        raise TransferError(doing, expected="DICOMweb", got=got, remedy="Check --dicomweb") from error
    except OSError as error:
        raise WriteError(
            doing,
            expected="a temporary folder that can be written to",
            got=reason(error),
            remedy="Free some space, or give another place with TMPDIR",
        ) from error


def _remote_series(found: dict[str, Any]) -> RemoteSeries:
    listed = _value(found, "00201209")
    images = int(listed) if listed.isdecimal() else 0
    names = {
        "uid": _value(found, "0020000E"),
        "number": _value(found, "00200011"),
        "description": _value(found, "0008103E"),
        "body_part": _value(found, "00180015"),
    }
    kind = image_kind((), description=names["description"])
    places = images if images > 1 else None  # a single object may hold all slices
    traits = SeriesTraits(kind=kind, axial=None, places=places, gap_mm=None, even=None, **names)
    return RemoteSeries(**names, images=images, traits=traits)


def _position(element: dict[str, Any]) -> tuple[float, float, float] | None:
    values = element.get("Value") or []
    return (float(values[0]), float(values[1]), float(values[2])) if len(values) == 3 else None


def _value(found: dict[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM JSON (PS3.18, annex F), printable and not long."""
    values = found.get(tag, {}).get("Value") or [""]
    return "".join(c if c.isprintable() else " " for c in str(values[0])).strip()[:64]
