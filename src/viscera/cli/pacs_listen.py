"""`viscera pacs listen`: the parts of the listener put together, and their end."""

from __future__ import annotations

import argparse
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import loaded_segmenter
from viscera.core.interrupts import Terminated, clean_end
from viscera.pacs.jobs import Job, QueueLimits
from viscera.pacs.queue import SeriesQueue
from viscera.pacs.results import require_worth, write_results
from viscera.pacs.scp import Listener, ListenerConfig, import_pynetdicom, is_loopback
from viscera.pacs.scu import Destination, application_title, send_objects
from viscera.pacs.tls import TlsFiles
from viscera.pacs.worker import QueueMonitor, Worker
from viscera.write import require_formats

_GIB, _MIB, _DAY_SECONDS = 2**30, 2**20, 86_400.0


def listen(args: argparse.Namespace, console: Console) -> int:
    """Serve until Ctrl-C or SIGTERM and return the exit code.

    Raises:
        ConfigError: If an option cannot be used.
        MissingExtraError: If a package is not installed.
        KeyboardInterrupt: On Ctrl-C.
    """
    import_pynetdicom()
    formats = tuple(dict.fromkeys(args.format or ["dicom-seg"]))
    require_formats(formats)
    _set_up_logging(console)
    config = _listener_config(args)
    destinations = {str(one): one for one in map(Destination.parse, args.forward)}
    sending_tls = _tls(args) or TlsFiles() if args.forward_tls else None
    with clean_end(), contextlib.closing(SeriesQueue(args.spool, _limits(args))) as queue:
        segmenter = loaded_segmenter(args)

        def segment(job: Job) -> list[Path]:
            require_worth(job.images)
            case = write_results(segmenter, job.images, job.results, formats, identity=job.identity)
            return list(case.outputs.values())

        def send(paths: Sequence[Path], name: str) -> Iterator[Path]:
            return send_objects(paths, destinations[name], calling_aet=config.aet, tls=sending_tls)

        listener = Listener(queue, config)
        worker = Worker(queue, segment, send, tuple(destinations))
        port = listener.start()
        monitor = QueueMonitor(listener, worker, port=port, health=args.health or args.spool / "health.json")
        monitor.start()
        try:
            console.say(f"listening as {config.aet} at {config.bind} port {port}")
            if config.tls is None and not is_loopback(config.bind):
                console.note("without TLS, images travel unencrypted; see --tls-cert")
            worker.run(threading.Event())
        except Terminated:
            console.say("stopped")
        finally:
            listener.stop()
            monitor.stop()
    return 0


def _listener_config(args: argparse.Namespace) -> ListenerConfig:
    return ListenerConfig(
        aet=application_title(args.aet),
        port=args.port,
        bind=args.bind,
        allowed_aets=tuple(application_title(one) for one in args.allow_aet),
        # An authority alone is for sending only if that is asked for.
        tls=_tls(args) if args.tls_cert or args.tls_key or not args.forward_tls else None,
        instance_bytes=int(args.max_image_mib * _MIB),
    )


def _limits(args: argparse.Namespace) -> QueueLimits:
    return QueueLimits(
        series=args.max_series,
        disk_bytes=int(args.max_disk_gib * _GIB),
        quiet_seconds=args.quiet_seconds,
        keep_seconds=args.keep_days * _DAY_SECONDS,
    )


def _tls(args: argparse.Namespace) -> TlsFiles | None:
    if not (args.tls_cert or args.tls_key or args.tls_ca):
        return None
    return TlsFiles(certificate=args.tls_cert, key=args.tls_key, authorities=args.tls_ca)


def _set_up_logging(console: Console) -> None:
    level = logging.ERROR if console.quiet else logging.DEBUG if console.verbose else logging.INFO
    logging.getLogger("viscera.pacs").setLevel(level)
    # Their messages may quote what a peer sends, and so a patient's name.
    for name in ("pynetdicom", "pydicom", "py.warnings"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
