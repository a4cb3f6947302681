"""What the labels mean, for other programs: colour tables of 3D Slicer and the label descriptions of ITK-SNAP.

They are of an organ table, not of a scan, so one set of files serves all label maps of a bundle.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from viscera.core.organs import Code, Organ

# The category under which 3D Slicer's own lists have the organs (SNOMED CT "Body structure"); with that of DICOM's
# current CID 7150, 91723000, Slicer does not find them there.
SLICER_CATEGORY = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")
_CSV_COLUMNS = (
    "LabelValue",
    "Name",
    *(f"Color_{component}" for component in "RGBA"),
    *(f"{what}_{part}" for what in ("Category", "Type") for part in ("CodingScheme", "CodeValue", "CodeMeaning")),
)
_OPAQUE = 255


def all_label_files(organs: Sequence[Organ]) -> Mapping[str, str]:
    """The text of every label file by its name: organs.ctbl, organs.labels.csv and organs_itksnap.txt."""
    return {
        "organs.ctbl": slicer_ctbl(organs),
        "organs.labels.csv": slicer_csv(organs),
        "organs_itksnap.txt": itksnap_labels(organs),
    }


def slicer_ctbl(organs: Sequence[Organ]) -> str:
    """A colour table that every version of 3D Slicer reads: label, name without spaces, RGBA of 0 to 255 in each line.

    Source: the Colors page of 3D Slicer's developer guide.
    """
    lines = ["# Color table file organs.ctbl", f"# {len(organs) + 1} values", "0 Background 0 0 0 0"]
    for organ in organs:
        name = "_".join(organ.name.split())
        lines.append(" ".join(map(str, (organ.index, name, *organ.colour, _OPAQUE))))
    return "\n".join(lines) + "\n"


def slicer_csv(organs: Sequence[Organ]) -> str:
    """A colour table with codes, which newer versions of 3D Slicer read: a row for each organ, none for the background.

    Slicer cannot read a quotation mark within a value, so one in a code's meaning becomes an apostrophe.

    Source: the Colors page of 3D Slicer's developer guide.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for organ in organs:
        codes = [part for code in (SLICER_CATEGORY, organ.code) for part in (code.scheme, code.value, code.meaning)]
        values = (organ.index, organ.name, *organ.colour, _OPAQUE, *codes)
        writer.writerow(str(value).replace('"', "'") for value in values)
    return text.getvalue()


def itksnap_labels(organs: Sequence[Organ]) -> str:
    """Label descriptions of ITK-SNAP: label, RGB of 0 to 255, opacity 1, shown in slices and in 3-D, name in quotes."""
    lines = ["# ITK-SnAP Label Description File", "# IDX R G B A VIS MSH LABEL", '0 0 0 0 0 0 0 "Clear Label"']
    for organ in organs:
        lines.append(" ".join(map(str, (organ.index, *organ.colour, 1, 1, 1, f'"{organ.name}"'))))
    return "\n".join(lines) + "\n"
