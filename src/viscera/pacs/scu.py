"""The C-STORE SCU of the listener: sends result objects to another application entity."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from viscera.core.errors import ConfigError, TransferError
from viscera.formats.dicom.series import DICOM_FAULTS
from viscera.pacs.scp import import_pynetdicom
from viscera.pacs.tls import SOCKET_SECONDS, TlsFiles, sending_context

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
    """Send DICOM files in one association and yield each as soon as the destination has acknowledged it.

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
    entity = import_pynetdicom().AE(ae_title=calling_aet)
    entity.acse_timeout = entity.connection_timeout = SOCKET_SECONDS
    # A full archive may take its time to write an object.
    entity.dimse_timeout = entity.network_timeout = 4 * SOCKET_SECONDS
    metas = [read_file_meta_info(path) for path in paths]
    # Each in a context of its own, so that the destination says yes or no to each.
    for one in dict.fromkeys(
        (meta.MediaStorageSOPClassUID, syntax) for meta in metas for syntax in _offered(meta.TransferSyntaxUID)
    ):
        entity.add_requested_context(*one)
    secure = None if tls is None else (sending_context(tls), destination.host)
    association = entity.associate(destination.host, destination.port, ae_title=destination.aet, tls_args=secure)
    if association.is_established:
        return association
    if association.rejected_contexts:
        classes = {meta.MediaStorageSOPClassUID for meta in metas}
        raise TransferError(
            f"calling {destination}",
            expected="presentation contexts to be accepted",
            got="; ".join(sorted(_refused(association, one) for one in classes)),
            remedy="Have the destination accept these objects in Explicit or Implicit VR Little Endian",
        )
    raise TransferError(
        f"calling {destination}",
        expected=f"an association for {calling_aet}",
        got="a refusal" if association.is_rejected else "no response, or one that is not DICOM",
        remedy="Check that it runs there, and that it knows this title, address and use of TLS",
    )


def _offered(syntax: Any) -> tuple[Any, ...]:
    """The transfer syntaxes an object of one can travel in, its own first.

    What is not compressed can be given in the default one, which every destination must accept (DICOM PS3.5, section
    10.1), and some accept alone.
    """
    plain = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    return tuple(dict.fromkeys((syntax, *plain))) if syntax in plain else (syntax,)


def _refused(association: Any, sop_class: Any) -> str:
    """Which contexts of a class were refused, and why, in words."""
    contexts = [one for one in association.rejected_contexts if one.abstract_syntax == sop_class]
    syntaxes = " or ".join(one.transfer_syntax[0].name for one in contexts)
    reasons = ", ".join(sorted({one.status.lower() for one in contexts}))
    return f"no context for its SOP class {sop_class.name} in {syntaxes}" + (f" ({reasons})" if reasons else "")


def _sent(association: Any, path: Path) -> str | None:
    """Why an object was not acknowledged; None if it was."""
    meta = read_file_meta_info(path)
    accepted = {
        context.transfer_syntax[0]
        for context in association.accepted_contexts
        if context.abstract_syntax == meta.MediaStorageSOPClassUID
    }
    if not accepted:
        return _refused(association, meta.MediaStorageSOPClassUID)
    try:
        # A path is sent as it is; a data set is encoded as the destination wants it.
        response = association.send_c_store(path if meta.TransferSyntaxUID in accepted else dcmread(path))
    except DICOM_FAULTS:
        return "a broken association"
    if "Status" not in response:
        return "no response"
    # Warnings say that the object was stored with changes (DICOM PS3.4, annex B.2.3).
    if response.Status == 0x0000 or 0xB000 <= response.Status <= 0xBFFF:
        return None
    return f"status 0x{response.Status:04X}"
