"""How outputs are named in a folder: one Layout for each way, chosen with `--layout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from viscera.core.version import version
from viscera.formats.bids import bids_names, dataset_files
from viscera.formats.inputs import CaseInput


class Layout(Protocol):
    """Where label files go, and what is written once for all of them.

    What is written for single cases (previews, other formats, a sidecar) lies next to the label file and begins with
    its name.

    Attributes:
        single_file: Whether a single label file may be asked for instead of a folder.
    """

    single_file: bool

    def place(self, scans: Sequence[CaseInput]) -> list[tuple[str, Path]]:
        """Return for each scan the name of its case and its label file below the output folder; all different."""
        ...

    def common_files(self, folder: Path, report: Path | None) -> Mapping[Path, str]:
        """Return the text of each file that the layout wants once in `folder`.

        Raises:
            ConfigError: If the layout does not fit there.
        """
        ...


class FlatLayout:
    """All label files in the folder itself, NAME.nii.gz."""

    single_file = True

    def place(self, scans: Sequence[CaseInput]) -> list[tuple[str, Path]]:
        """Return the scan's own name, and NAME.nii.gz."""
        return [(scan.name, Path(f"{scan.name}.nii.gz")) for scan in scans]

    def common_files(self, folder: Path, report: Path | None) -> Mapping[Path, str]:
        """Return no files."""
        return {}


class BidsLayout:
    """BIDS derivatives: sub-LABEL/[ses-LABEL/]anat/..._dseg.nii.gz with .json and .tsv, in a described data set."""

    single_file = False

    def place(self, scans: Sequence[CaseInput]) -> list[tuple[str, Path]]:
        """Return the entities as the name, so that no table in the data set has another, and the path BIDS gives."""
        names = bids_names([(scan.name, scan.path) for scan in scans])
        return [(name.stem, name.labels) for name in names]

    def common_files(self, folder: Path, report: Path | None) -> Mapping[Path, str]:
        """Return the data set's description, README and .bidsignore, as far as they are not there yet."""
        root = folder.absolute()
        inside = report is not None and report.absolute().is_relative_to(root)
        ignored = [f"/{report.absolute().relative_to(root).as_posix()}"] if report is not None and inside else []
        return dataset_files(folder, version(), ignored)


LAYOUTS: Mapping[str, Layout] = {"flat": FlatLayout(), "bids": BidsLayout()}
