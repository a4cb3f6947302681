"""A PACS over DICOMweb: finds the CT series of a study (QIDO), fetches one (WADO), stores results (STOW).

Requests go to the given address and nowhere else: no redirect is followed, and proxies and credentials that lie in the
environment are not used. Images go to files as they come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from viscera.core.errors import TransferError, WriteError, during, reason
from viscera.formats.dicom.series_ranking import SeriesTraits, image_kind, spread
from viscera.pacs.access import Access, open_session
from viscera.pacs.multipart import MultipartFaultError, boundary_of, limited, multipart_message, save_parts
from viscera.pacs.validation import is_uid

_CHUNK_BYTES = 2**20
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_JSON = "application/dicom+json"
_FIELDS = ("Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "NumberOfSeriesRelatedInstances")
_POSITION = "00200032"  # Image Position (Patient)
_TIMEOUT_SECONDS = (15.0, 120.0)
# Of a listing in JSON; a series takes about a kilobyte.
_LONGEST_LISTING_BYTES = 32 * 2**20


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

    def examined(self, seen: SeriesTraits, normal: Any, images: Sequence[RemoteImage]) -> RemoteSeries:
        """Return this series with the traits of one of its objects, and those that the listing of its images adds.

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
        MissingExtraError: If requests is not installed.
        ConfigError: If a file of secrets or certificates cannot be used.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._url = access.url.rstrip("/")
        self._session = open_session(access)

    def ct_series(self, study: str) -> list[RemoteSeries]:
        """Return the CT series of a study, in no order.

        Raises:
            TransferError: If there is no such study, it has no CT, or the PACS does not respond as it should.
        """
        with _explained(f"looking for the study at {self._url}"):
            found = self._search(f"studies/{study}/series", includefield=_FIELDS)
            listed = [(_value(one, "00080060"), _remote_series(one)) for one in found]
            series = [one for modality, one in listed if modality == "CT" and is_uid(one.uid)]
            if not series:
                others = ", ".join(sorted({modality or "no modality" for modality, _ in listed}))
                raise TransferError(
                    expected="a study with a CT series",
                    got=f"only {others}" if others else "no such study",
                    remedy="Check --study, and that this PACS has the study",
                )
        return series

    def images(self, study: str, series: str) -> list[RemoteImage]:
        """Return the objects of a series, in no order.

        Raises:
            TransferError: If it has none, or the PACS does not respond as it should.
        """
        with _explained(f"examining a series at {self._url}"):
            found = self._search(f"studies/{study}/series/{series}/instances", includefield=(_POSITION,))
            images = [
                RemoteImage(uid=_value(one, "00080018"), position_xyz_mm=_position(one.get(_POSITION, {})))
                for one in found
            ]
            if not images or not all(is_uid(one.uid) for one in images):
                raise TransferError(expected="objects", got="none", remedy="Check the series in the PACS")
        return images

    def fetch(self, study: str, series: str, folder: Path, *, instance: str | None = None) -> int:
        """Write the objects of a series, or the one asked for, to files in `folder` and return how many there are.

        Raises:
            TransferError: If there are more bytes than allowed, the response is cut short, or it is no DICOM.
            WriteError: If a file cannot be written.
        """
        path = f"studies/{study}/series/{series}" + (f"/instances/{instance}" if instance else "")
        names = (folder / f"{number:06d}.dcm" for number in count(1))
        with (
            _explained(f"fetching a series from {self._url}"),
            self._response("GET", path, headers={"Accept": _ACCEPT}) as response,
        ):
            chunks = limited(
                response.iter_content(_CHUNK_BYTES), self.access.most_bytes, remedy="Raise the limit with --max-gib"
            )
            kind = response.headers.get("Content-Type", "")
            boundary = boundary_of(kind)
            if boundary is not None:
                return save_parts(chunks, boundary, names)
            if not kind.startswith("application/dicom"):
                raise MultipartFaultError("a response that is no DICOM")
            with next(names).open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
            return 1

    def store(self, paths: Sequence[Path], study: str) -> None:
        """Store DICOM files in a study, as they are (PS3.18, 10.5).

        Raises:
            TransferError: If the PACS does not take one of them.
        """
        with _explained(f"storing {len(paths)} results at {self._url}"):
            kind, body = multipart_message([path.read_bytes() for path in paths], "application/dicom")
            headers = {"Accept": _JSON, "Content-Type": kind}
            with self._response("POST", f"studies/{study}", headers=headers, data=body) as response:
                result = _listing(response, remedy="See the log of the PACS") or {}
            failed = {int(_value(one, "00081197") or 0) for one in _items(result, "00081198")}
            missing = len(paths) - len(_items(result, "00081199"))
            if failed or missing > 0:
                reasons = ", ".join(f"0x{one:04X}" for one in sorted(failed)) or "no reason given"
                raise TransferError(
                    expected="all to be stored",
                    got=f"{max(len(_items(result, '00081198')), missing)} not stored ({reasons})",
                    remedy="See the log of the PACS",
                )

    def _search(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """What a search below the root finds: objects in DICOM JSON (PS3.18, 8.3.4 and annex F)."""
        with self._response("GET", path, headers={"Accept": _JSON}, params=query) as response:
            found: list[dict[str, Any]] = _listing(response, remedy="Check --dicomweb and --study") or []
        return found

    @contextmanager
    def _response(self, method: str, path: str, **options: Any) -> Iterator[Any]:
        """The service's response, of which nothing is read yet, once it reports success."""
        url = f"{self._url}/{path}"
        with self._session.request(method, url, stream=True, timeout=_TIMEOUT_SECONDS, **options) as response:
            response.raise_for_status()
            yield response


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """What goes wrong within, as a TransferError that says what to do."""
    from requests import exceptions

    remedies = {
        401: "Give a token or password with --token-file or --netrc",
        403: "Ask for the right to do this",
        404: "Check --dicomweb, --study and --series",
    }
    expected, remedy = "a response", "Check --dicomweb, and that the PACS runs"
    try:
        with during(doing):
            yield
    except exceptions.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        remedy = remedies.get(status, "See the log of the PACS")
        raise TransferError(doing, expected="success", got=f"HTTP status {status}", remedy=remedy) from error
    except exceptions.TooManyRedirects as error:
        got, remedy = "a redirect, which is not followed", "Give the address it leads to, if you trust it"
        raise TransferError(doing, expected=expected, got=got, remedy=remedy) from error
    except exceptions.SSLError as error:
        got, remedy = "a certificate or a TLS version that is not accepted", "Give the authority with --tls-ca"
        raise TransferError(doing, expected=expected, got=got, remedy=remedy) from error
    except exceptions.Timeout as error:
        raise TransferError(doing, expected=expected, got="none in time", remedy=remedy) from error
    except (exceptions.ChunkedEncodingError, MultipartFaultError) as error:
        got = str(error) if isinstance(error, MultipartFaultError) else "one that breaks off"
        raise TransferError(doing, expected="a whole response in DICOM", got=got, remedy="Try again") from error
    except exceptions.ConnectionError as error:
        raise TransferError(doing, expected=expected, got="no connection", remedy=remedy) from error
    except (exceptions.RequestException, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        got = f"something else ({type(error).__name__})"
        raise TransferError(doing, expected="DICOMweb", got=got, remedy="Check --dicomweb") from error
    except OSError as error:
        raise WriteError(
            doing,
            expected="a temporary folder that can be written to",
            got=reason(error),
            remedy="Free some space, or give another place with TMPDIR",
        ) from error


def _listing(response: Any, *, remedy: str) -> Any:
    """The JSON of a response, of which no more than a listing's bytes are read; None if there is none."""
    body = b"".join(limited(response.iter_content(_CHUNK_BYTES), _LONGEST_LISTING_BYTES, remedy=remedy))
    return None if response.status_code == HTTPStatus.NO_CONTENT else json.loads(body)


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


def _items(found: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    """The items of a sequence in DICOM JSON."""
    items: list[dict[str, Any]] = found.get(tag, {}).get("Value") or []
    return items


def _value(found: dict[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM JSON (PS3.18, annex F), printable and not long."""
    values = found.get(tag, {}).get("Value") or [""]
    return "".join(c if c.isprintable() else " " for c in str(values[0])).strip()[:64]
