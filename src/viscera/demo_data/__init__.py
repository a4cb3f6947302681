"""The real CT that ships with the package, with labels of its organs: for the demo, the notebook and first steps.

ATTRIBUTION.txt next to the files names their source and licence.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from viscera.core.errors import ReadError, reason

_FOLDER = Path(__file__).parent
_SHA256 = {
    "ts_example_ct.nii.gz": "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
    "ts_example_labels.nii.gz": "1a343d7ee824a1fc5799424e5934f7471d5da50e759762f18ce982e563c26f49",
}


class ExampleFiles(NamedTuple):
    """A CT and the reference labels of its organs, as NIfTI files."""

    ct: Path
    labels: Path


def example_ct() -> ExampleFiles:
    """Return the paths of the shipped CT and of its labels, after checking both files.

    The CT comes from the tests of TotalSegmentator (Apache-2.0): abdomen and pelvis without contrast medium, 3 mm. The
    labels are that program's own and not an expert's.

    Raises:
        ReadError: If a file is missing from the installation or altered.

    Example:
        >>> from viscera.demo_data import example_ct
        >>> example_ct().ct.name
        'ts_example_ct.nii.gz'
    """
    return ExampleFiles(*(_checked(_FOLDER / name, sha256) for name, sha256 in _SHA256.items()))


def _checked(path: Path, sha256: str) -> Path:
    """Return `path` if the file has this sha256."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        found = reason(error)
    if found != sha256:
        raise ReadError(
            f"reading {path}, which comes with viscera",
            expected=f"a file with sha256 {sha256}",
            got=found,
            remedy="Install viscera again",
        )
    return path
