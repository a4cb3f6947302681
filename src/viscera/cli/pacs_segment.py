"""`viscera pacs segment`: fetches a study's CT, segments it and stores the results in the study."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import loaded_segmenter
from viscera.core.errors import ConfigError, ReadError, TransferError, VisceraError
from viscera.core.interrupts import clean_end
from viscera.formats.dicom.files import dicom_sources
from viscera.formats.dicom.series import ct_series
from viscera.pacs.access import Access
from viscera.pacs.dicomweb import DicomWeb, RemoteSeries
from viscera.pacs.results import series_identity, write_results
from viscera.pacs.tls import TlsFiles
from viscera.pacs.validation import is_uid
from viscera.segmenter import Segmenter
from viscera.write import require_formats

_GIB = 2**30


def segment_study(args: argparse.Namespace, console: Console) -> int:
    """Segment the series asked for, one after the other, and return the exit code.

    Raises:
        ConfigError: If an option cannot be used.
        TransferError: If the PACS cannot be reached or has no such CT.
        MissingExtraError: If a package is not installed.
    """
    for uid in (args.study, *(args.series or ())):
        if not is_uid(uid):
            raise ConfigError("reading a UID", expected="digits and dots", got=repr(uid[:80]), remedy="Correct it")
    formats = tuple(dict.fromkeys(args.format or ["dicom-seg"]))
    require_formats(formats)
    access = _access(args)
    if access.in_clear:
        console.note("the token or password travels unencrypted; give an https:// address if there is one")
    web = DicomWeb(access)
    with clean_end():
        chosen = _chosen(web, args, console)
        segmenter = loaded_segmenter(args)
        failed = 0
        for series in chosen:
            try:
                _segment_series(web, args.study, series, segmenter=segmenter, formats=formats, console=console)
            except VisceraError as error:
                if len(chosen) == 1:
                    raise
                failed += 1
                console.fail(error, about=series.text())
    return 1 if failed else 0


def _segment_series(
    web: DicomWeb,
    study: str,
    series: RemoteSeries,
    *,
    segmenter: Segmenter,
    formats: Sequence[str],
    console: Console,
) -> None:
    # Made for its owner alone, and removed in any case.
    with tempfile.TemporaryDirectory(prefix="viscera-pacs-") as name, console.progress() as progress:
        images, results = Path(name) / "images", Path(name) / "results"
        for folder in (images, results):
            folder.mkdir()
        progress.begin(f"{series.text()}: fetch")
        count = web.fetch(study, series.uid, images)
        if count < series.images:
            raise TransferError(
                "fetching a series",
                expected=f"{series.images} images, as the PACS lists",
                got=f"{count}",
                remedy="Try again, and see the log of the PACS",
            )
        progress.begin(f"{series.text()}: segment")
        identity = series_identity(images)
        case = write_results(segmenter, images, results, formats, identity=identity)
        progress.begin(f"{series.text()}: store")
        web.store(list(case.outputs.values()), study)
        progress.pause()
    for note in case.notes if console.verbose else case.urgent_notes:
        console.note(f"{series.text()}: {note}")
    console.say(f"{series.text()}: stored {', '.join(formats)}")


def _chosen(web: DicomWeb, args: argparse.Namespace, console: Console) -> list[RemoteSeries]:
    candidates = web.ct_series(args.study)
    if args.series:
        by_uid = {one.uid: one for one in candidates}
        for uid in args.series:
            if uid not in by_uid:
                raise TransferError(
                    "looking for the series",
                    expected="a CT series of the study",
                    got="another UID",
                    remedy=f"Give one of: {', '.join(sorted(by_uid))}",
                )
        return [by_uid[uid] for uid in dict.fromkeys(args.series)]
    if len(candidates) == 1:
        return candidates
    ranked = sorted(_examined(web, args.study, candidates), key=lambda one: one.traits.rank())
    best, *others = ranked
    if args.all_series:
        worth = [one for one in ranked if one.traits.worth] or [best]
        for one in ranked[len(worth) :]:  # they come last
            console.note(f"{one.text()}, is passed over, as it {one.traits.drawback(best.traits)}.")
        return worth
    behind = f"the next best, {others[0].text()}, {others[0].traits.drawback(best.traits)}; " if others else ""
    taken = f"Of {len(candidates)} CT series, {best.text()}, is segmented"
    console.note(f"{taken}; {behind}see --series and --all-series.")
    return [best]


def _examined(web: DicomWeb, study: str, candidates: Sequence[RemoteSeries]) -> list[RemoteSeries]:
    """The series that hold images of slices, not localisers, with their traits, for which one image of each is read.

    Raises:
        TransferError: If there is none.
    """
    found = []
    for series in candidates:
        images = web.images(study, series.uid)
        with tempfile.TemporaryDirectory(prefix="viscera-pacs-") as name:
            # From the middle: a localiser or a dose sheet in the same series is its first or last image.
            web.fetch(study, series.uid, Path(name), instance=images[len(images) // 2].uid)
            try:
                with dicom_sources(Path(name)) as sources:
                    best = ct_series(sources)[0]
            except ReadError:
                continue  # a localiser, or a picture of a report
            found.append(series.examined(best.traits, best.slices[0].normal, images))
    if not found:
        raise TransferError(
            "examining the series of the study",
            expected="a CT series of slices",
            got="only localisers or pictures",
            remedy="Give one with --series if you know better",
        )
    return found


def _access(args: argparse.Namespace) -> Access:
    tls = TlsFiles(certificate=args.tls_cert, key=args.tls_key, authorities=args.tls_ca)
    return Access(
        url=args.dicomweb,
        token_file=args.token_file,
        netrc_file=args.netrc,
        tls=tls,
        most_bytes=int(args.max_gib * _GIB),
    )
