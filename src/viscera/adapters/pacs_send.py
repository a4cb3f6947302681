"""The C-STORE SCU of the listener: sends result objects to another application entity."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from viscera.adapters.dicom_series import DICOM_FAULTS
from viscera.adapters.pacs_listen import import_pynetdicom
from viscera.adapters.pacs_tls import SOCKET_SECONDS, TlsFiles, sending_context
from viscera.errors import ConfigError, TransferError

_DESTINATION = re.compile(r"(?P<aet>[^@]+)@(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^:\[\]/@\s]+)):(?P<port>[0-9]+)")
# Printable ASCII without the backslash, which separates values (DICOM PS3.5, section 6.2).
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")


@dataclass(frozen=True, kw_only=True)
class Destination:
    """An application entity: its title and where it listens."""

    aet: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The destination that AET@HOST:PORT means; an IPv6 address stands in brackets.

        Raises:
            ConfigError: If the text has another form.
        """
        match = _DESTINATION.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65_536:
            raise ConfigError(
                "reading a destination",
                expected="AET@HOST:PORT, such as ORTHANC@127.0.0.1:4242",
                got=repr(text),
                remedy="Correct it",
            )
        host = match["ipv6"] or match["host"]
        return cls(aet=application_title(match["aet"]), host=host, port=int(match["port"]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.aet}@{host}:{self.port}"


def application_title(text: str) -> str:
    """`text` without outer spaces; raises ConfigError if it cannot be an application entity title."""
    title = text.strip()
    if _TITLE.fullmatch(title) is None:
        raise ConfigError(
            "reading an application entity title",
            expected="1 to 16 plain characters",
            got=repr(text),
            remedy="Give another title",
        )
    return title


def send_objects(
    paths: Sequence[Path], destination: Destination, *, calling_aet: str, tls: TlsFiles | None = None
) -> Iterator[Path]:
    """Each of `paths`, DICOM files, as soon as the destination has acknowledged it; one association for all.

    Raises:
        TransferError: At the end, if any was not acknowledged; at once, if there is no association.
        ConfigError: If the TLS files cannot be used.
        MissingExtraError: If pynetdicom is not installed.
    """
    association = _associated(paths, destination, calling_aet, tls)
    faults = []
    try:
        for path in paths:
            fault = _sent(association, path)
            if fault is None:
                yield path
            else:
                faults.append(fault)
    finally:
        if association.is_established:
            association.release()
    if faults:
        raise TransferError(
            f"sending {len(paths)} objects to {destination}",
            expected="each to be acknowledged",
            got=", ".join(sorted(set(faults))),
            remedy="See the log of the destination",
        )


def _associated(paths: Sequence[Path], destination: Destination, calling_aet: str, tls: TlsFiles | None) -> Any:
    from pydicom.filereader import read_file_meta_info

    entity = import_pynetdicom().AE(ae_title=calling_aet)
    entity.acse_timeout = entity.connection_timeout = SOCKET_SECONDS
    # A full archive may take its time to write an object.
    entity.dimse_timeout = entity.network_timeout = 4 * SOCKET_SECONDS
    for path in paths:
        meta = read_file_meta_info(path)
        entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    secure = None if tls is None else (sending_context(tls), destination.host)
    association = entity.associate(destination.host, destination.port, ae_title=destination.aet, tls_args=secure)
    if association.is_established:
        return association
    got = "a refusal" if association.is_rejected else "no answer, or one that is not DICOM"
    raise TransferError(
        f"calling {destination}",
        expected=f"an association for {calling_aet}",
        got=got,
        remedy="Check that it runs there, and that it knows this title, address and use of TLS",
    )


def _sent(association: Any, path: Path) -> str | None:
    """Why an object was not acknowledged; None if it was."""
    try:
        answer = association.send_c_store(path)
    except (*DICOM_FAULTS,) as error:  # no context accepted for its class, association gone
        return "no context for its SOP class" if isinstance(error, ValueError) else "a broken association"
    if "Status" not in answer:
        return "no answer"
    # Warnings say that the object was stored with changes (DICOM PS3.4, annex B.2.3).
    if answer.Status == 0x0000 or 0xB000 <= answer.Status <= 0xBFFF:
        return None
    return f"status 0x{answer.Status:04X}"
