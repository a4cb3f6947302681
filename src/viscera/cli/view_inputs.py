"""What `viscera view` and `viscera report` share: their inputs read, checked and measured."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viscera.core.organs import Organ
    from viscera.core.volume import LabelMap, Volume
    from viscera.viewer.organs import OrganRow
    from viscera.viewer.run_facts import RunFacts


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add what says how the inputs are read."""
    parser.add_argument("--run", metavar="FILE.json", type=Path, help="report of the run that made the labels")
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", help="the bundle whose organs the labels are")
    parser.add_argument(
        "--series", metavar="N_OR_UID", help="which of several DICOM series: its number or the beginning of its UID"
    )
    parser.add_argument("--hu-offset", metavar="HU", type=int, default=0, help="add this to every voxel")


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewInputs:
    """The inputs of a page.

    Attributes:
        volume: The CT.
        label_map: Its labels, None if not given.
        organs: What they mean.
        rows: The organs as measured, with their QC status; none without labels.
        notes: What a reader should know, one sentence each.
        run: What the run report says, None if not given.
    """

    volume: Volume
    label_map: LabelMap | None
    organs: tuple[Organ, ...]
    rows: tuple[OrganRow, ...]
    notes: tuple[str, ...]
    run: RunFacts | None

    def given_labels(self) -> LabelMap:
        """Return the label map.

        Raises:
            ConfigError: If there is none.
        """
        from viscera.core.errors import ConfigError

        if self.label_map is None:
            raise ConfigError("reading the inputs", expected="a label map", got="none", remedy="Give the labels, too")
        return self.label_map


def read_inputs(args: argparse.Namespace) -> ViewInputs:
    """Return the inputs of `args`: the CT, its labels if there are any, and the run report if there is one.

    Raises:
        ReadError: If one of them cannot be read, or the run report is not of these labels.
        GeometryError: If the labels lie on another grid than the CT.
    """
    from viscera.core.errors import ConfigError
    from viscera.core.organs import ORGANS
    from viscera.model.bundle import load_bundle
    from viscera.read import read_label_map, read_volume
    from viscera.segmenter import bundle_source
    from viscera.viewer.display_images import on_grid
    from viscera.viewer.organs import known_labels, organ_rows
    from viscera.viewer.provenance import shape_notes
    from viscera.viewer.run_facts import read_run_facts

    if args.labels is None and args.run is not None:
        raise ConfigError("reading the inputs", expected="labels with --run", got="none", remedy="Give the labels too")
    organs = ORGANS if args.bundle is None else load_bundle(bundle_source(args.bundle)).card.organs
    volume = read_volume(args.ct, series=args.series, hu_offset=args.hu_offset)
    notes = (*volume.notes, *shape_notes(volume.grid))
    if args.labels is None:
        return ViewInputs(volume=volume, label_map=None, organs=organs, rows=(), notes=notes, run=None)
    labels = read_label_map(args.labels, organs, within=volume.grid)
    label_map, unknown = known_labels(on_grid(labels, volume.grid), organs)
    rows = organ_rows(volume, label_map, organs)
    run = None if args.run is None else read_run_facts(args.run, [row.statistics for row in rows])
    if run is not None:
        rows = tuple(replace(row, qc=run.qc.get(row.organ.name)) for row in rows)
        notes = (*notes, *run.notes)
    if unknown is not None:
        notes = (*notes, unknown)
    notes = (*notes, *labels.notes)
    return ViewInputs(volume=volume, label_map=label_map, organs=organs, rows=rows, notes=notes, run=run)
