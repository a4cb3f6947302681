"""The C-STORE SCP of the listener: takes CT images into the queue, responds to C-ECHO, refuses the rest.

pynetdicom's threads run here, one pair per association; nothing is segmented in them. An image is acknowledged only
when the queue has it for good.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from viscera.core.errors import ConfigError, WriteError, reason
from viscera.core.extras import needs
from viscera.pacs.jobs import Admission, Arrival
from viscera.pacs.queue import SeriesQueue
from viscera.pacs.tls import SOCKET_SECONDS, TlsFiles, listening_context
from viscera.pacs.validation import CT_CLASSES, SYNTAXES, Identity, ObjectFaultError, checked_identity

_LOG = logging.getLogger("viscera.pacs")
# What we offer is 16 KiB; no peer has a reason to send far longer pieces, and memory is taken for what is announced.
_LARGEST_PDU_BYTES = 2**20
_OUT_OF_RESOURCES = 0xA700
_SERIES_CLOSED = 0xC100
_OTHER_IMAGE = 0xC101


@dataclass(frozen=True, kw_only=True)
class ListenerConfig:
    """How the listener can be reached, and by whom.

    Attributes:
        aet: Our application entity title, which callers must use.
        port: 0 for any free one.
        bind: Address to listen at.
        allowed_aets: Titles of callers; empty for any, which is possible on loopback only.
        tls: Files for TLS, None for none.
        instance_bytes: Longest image taken.
        associations: At one time.
    """

    aet: str
    port: int
    bind: str = "127.0.0.1"
    allowed_aets: tuple[str, ...] = ()
    tls: TlsFiles | None = None
    instance_bytes: int = 512 * 2**20
    associations: int = 10

    def __post_init__(self) -> None:
        if not self.allowed_aets and not is_loopback(self.bind):
            raise ConfigError(
                f"listening at {self.bind}",
                expected="a list of callers, as other machines can connect",
                got="none",
                remedy="Name them with --allow-aet, or listen at 127.0.0.1",
            )


def is_loopback(address: str) -> bool:
    """Return whether only this machine can connect to `address`."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


@dataclass(eq=False)
class _Peer:
    """What is known of a running association: the series it brought images of, and bytes not yet dealt with."""

    socket: Any = None
    series: set[int] = field(default_factory=set)
    pending_bytes: int = 0


class Listener:
    """Serves associations from `start` to `stop`.

    Args:
        queue: Takes the images.
        config: How it can be reached.
    """

    def __init__(self, queue: SeriesQueue, config: ListenerConfig) -> None:
        self.queue = queue
        self.config = config
        self.refused = 0
        self._lock = threading.Lock()
        self._peers: dict[Any, _Peer] = {}
        self._server: Any = None

    def start(self) -> int:
        """The port that is now being listened at.

        Raises:
            ConfigError: If the address is taken or not ours, or the TLS files cannot be used.
            MissingExtraError: If pynetdicom is not installed.
        """
        pynetdicom = import_pynetdicom()
        entity = pynetdicom.AE(ae_title=self.config.aet)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.config.allowed_aets)
        entity.maximum_associations = self.config.associations
        entity.acse_timeout = entity.dimse_timeout = SOCKET_SECONDS
        entity.network_timeout = 2 * SOCKET_SECONDS
        for one in CT_CLASSES:
            entity.add_supported_context(one, list(SYNTAXES))
        entity.add_supported_context("1.2.840.10008.1.1")  # Verification
        events = pynetdicom.evt
        handlers = [
            (events.EVT_CONN_OPEN, self._opened),
            (events.EVT_C_STORE, self._store),
            (events.EVT_C_ECHO, self._echo),
        ]
        context = None if self.config.tls is None else listening_context(self.config.tls)
        try:
            self._server = entity.start_server(
                (self.config.bind, self.config.port), block=False, ssl_context=context, evt_handlers=handlers
            )
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"listening at {self.config.bind} port {self.config.port}",
                expected="an address of this machine and a free port",
                got=reason(error),
                remedy="Give others with --bind and --port, or end the program that uses them",
            ) from error
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """End all associations and stop listening; what was acknowledged is in the queue."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            for association in server.active_associations:
                # pynetdicom's own shutdown also aborts those not yet established, at which their threads break.
                if association.is_established:
                    association.abort()
        with self._lock:
            for peer in self._peers.values():
                peer.socket.close()

    def rounds(self) -> tuple[set[int], set[int]]:
        """The series that running associations brought images of, and those of associations that have just ended."""
        with self._lock:
            over = [one for one in self._peers if not one.is_alive() and one.ident is not None]
            gone = [self._peers.pop(one) for one in over]
            for peer in gone:
                peer.socket.close()  # pynetdicom does not on every way out
            ended: set[int] = set().union(*(peer.series for peer in gone))
            busy: set[int] = set().union(*(peer.series for peer in self._peers.values()))
        return busy, ended

    # Called by pynetdicom.

    def _opened(self, event: Any) -> None:
        """Limit what a connection can make us keep in memory, and how long it can keep us waiting."""
        connection = event.assoc.dul.socket
        connection.socket.settimeout(SOCKET_SECONDS)
        peer = _Peer(socket=connection.socket)
        with self._lock:
            self._peers[event.assoc] = peer
        receive: Callable[[int], Any] = connection.recv

        def limited(count: int) -> Any:
            with self._lock:
                peer.pending_bytes += count
                everyone = sum(one.pending_bytes for one in self._peers.values())
                least = self.config.instance_bytes + 2 * _LARGEST_PDU_BYTES
                if count > _LARGEST_PDU_BYTES or peer.pending_bytes > least or everyone > 2 * least:
                    self.refused += 1
                    # pynetdicom takes it for a broken connection, which it is from now on.
                    raise ConnectionAbortedError("more data than is taken")
            return receive(count)

        connection.recv = limited

    def _echo(self, event: Any) -> int:
        self._dealt_with(event, 0)
        return 0x0000

    def _store(self, event: Any) -> Any:
        data = event.request.DataSet.getvalue()
        try:
            return self._taken(event, data)
        except ObjectFaultError as fault:
            return self._refusal(fault.status, fault.comment)
        except WriteError as error:
            _LOG.warning("no room for an image: expected %s, got %s", error.expected, error.got)
            return self._refusal(_OUT_OF_RESOURCES, f"no room: {error.expected}")
        finally:
            self._dealt_with(event, len(data))

    def _taken(self, event: Any, data: bytes) -> Any:
        request, syntax = event.request, event.context.transfer_syntax
        if len(data) > self.config.instance_bytes:
            return self._refusal(_OUT_OF_RESOURCES, "the image is longer than is taken")
        identity: Identity = checked_identity(
            data, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), syntax
        )
        arrival = Arrival(
            study_uid=identity.study_uid,
            series_uid=identity.series_uid,
            instance_uid=identity.instance_uid,
            size_bytes=len(data),
            announced=identity.announced,
            content=identity.content,
            write=lambda path: _write_object(path, event.file_meta, data),
        )
        admission, number = self.queue.admit(arrival)
        if admission is Admission.CLOSED:
            _LOG.warning("series %d: an image came after the series was taken as complete; it is refused", number)
            return self._refusal(_SERIES_CLOSED, "its series was taken as complete before")
        if admission is Admission.DIFFERENT:
            _LOG.warning("series %d: another image came under an identifier that came before; it is refused", number)
            return self._refusal(_OTHER_IMAGE, "another image came under its UID before")
        if admission is Admission.RECODED:
            _LOG.warning("series %d: an image came again, encoded otherwise; the first is kept unseen", number)
        with self._lock:
            self._peers[event.assoc].series.add(number)
        return 0x0000

    def _refusal(self, status: int, comment: str) -> Any:
        from pydicom.dataset import Dataset

        with self._lock:
            self.refused += 1
        response = Dataset()
        response.Status, response.ErrorComment = status, comment[:64]
        return response

    def _dealt_with(self, event: Any, count: int) -> None:
        with self._lock:
            peer = self._peers[event.assoc]
            # A peer that does not wait for responses has more in the queue, which stays counted.
            idle = event.assoc.dimse.msg_queue.empty()
            peer.pending_bytes = 0 if idle else max(0, peer.pending_bytes - count)


def import_pynetdicom() -> Any:
    """The package pynetdicom.

    Raises:
        MissingExtraError: If it is not installed.
    """
    with needs("the package pynetdicom", "pacs", doing="talking to a PACS"):
        import pynetdicom
    return pynetdicom


def _write_object(path: Path, meta: Any, data: bytes) -> None:
    from pydicom.filewriter import write_file_meta_info

    with path.open("xb") as file:
        file.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(cast(Any, file), meta)
        file.write(data)
