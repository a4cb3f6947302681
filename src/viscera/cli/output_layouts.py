"""How outputs are named in a folder: one Layout for each way, chosen with `--layout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from viscera.core.version import version
from viscera.formats.bids import bids_names, dataset_files, side_files
from viscera.formats.inputs import CaseInput
from viscera.model.bundle import ModelCard
from viscera.segmenter import nothing_beside


class Layout(Protocol):
    """Where label files go, and what else the layout asks for.

    What is written for single cases (previews, other formats) lies beside the label file and begins with its name.

    Attributes:
        single_file: Whether a single label file may be asked for instead of a folder.
    """

    single_file: bool

    def place(self, scans: Sequence[CaseInput]) -> list[tuple[str, Path]]:
        """For each scan the name of its case and its label file, below the folder of the outputs; all different."""
        ...

    def common_files(self, folder: Path, report: Path | None) -> Mapping[Path, str]:
        """The text of each file that the layout wants once in `folder`; raises ConfigError if it does not fit there."""
        ...

    def side_files(self, labels: Path, card: ModelCard) -> Mapping[Path, str]:
        """The text of each file that the layout wants beside a label file."""
        ...


class FlatLayout:
    """All label files in the folder itself, NAME.nii.gz."""

    single_file = True

    def place(self, scans: Sequence[CaseInput]) -> list[tuple[str, Path]]:
        """The scan's own name, and NAME.nii.gz."""
        return [(scan.name, Path(f"{scan.name}.nii.gz")) for scan in scans]

    def common_files(self, folder: Path, report: Path | None) -> Mapping[Path, str]:
        """Return no files."""
        return {}

    def side_files(self, labels: Path, card: ModelCard) -> Mapping[Path, str]:
        """Return no files."""
        return nothing_beside(labels, card)


class BidsLayout:
    """BIDS derivatives: sub-LABEL/[ses-LABEL/]anat/..._dseg.nii.gz with .json and .tsv, in a described data set."""

    single_file = False

    def place(self, scans: Sequence[CaseInput]) -> list[tuple[str, Path]]:
        """The entities as the name, so that no table in the data set has another, and the path BIDS gives."""
        names = bids_names([(scan.name, scan.path) for scan in scans])
        return [(name.stem, name.labels) for name in names]

    def common_files(self, folder: Path, report: Path | None) -> Mapping[Path, str]:
        """The data set's description, README and .bidsignore, as far as they are not there yet."""
        root = folder.absolute()
        inside = report is not None and report.absolute().is_relative_to(root)
        ignored = [f"/{report.absolute().relative_to(root).as_posix()}"] if report is not None and inside else []
        return dataset_files(folder, version(), ignored)

    def side_files(self, labels: Path, card: ModelCard) -> Mapping[Path, str]:
        """The sidecar and the table of labels."""
        return side_files(labels, card.organs, {"Name": card.name, "Version": card.version})


LAYOUTS: Mapping[str, Layout] = {"flat": FlatLayout(), "bids": BidsLayout()}
