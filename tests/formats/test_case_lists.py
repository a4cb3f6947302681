"""Lists as spreadsheet programs save them are read, or refused in one clear line."""

from pathlib import Path

import pytest

from viscera.batch.discover import list_scans
from viscera.core.errors import ReadError
from viscera.formats.case_lists import read_list
from viscera.training.datasets import find_dataset

ROWS = [["Köln/a.nii", "first, left"], ["b.nii", ""]]


def text(separator, *, head="path{}name", end="\r\n"):
    lines = [head.format(separator)] + [separator.join(f'"{cell}"' for cell in row) for row in ROWS]
    return end.join(lines) + end


@pytest.mark.parametrize(
    "data",
    [
        text(",").encode(),
        text(",", end="\n").encode(),
        text(";").encode("utf-8-sig"),
        text("\t").encode("utf-16"),  # Excel's "Unicode text"
        b"\xfe\xff" + text(";").encode("utf-16-be"),
        ("sep=;\r\n" + text(";")).encode(),
        ('"sep=|"\n' + text("|")).encode(),
        ("sep=;\r\n" + text(";")).encode("utf-16"),
        text(",", head=" Path {} NAME ").encode(),
        text(";", head='"path"{}"name"').encode(),
        (text(",") + ",,,\r\n,\r\n\r\n").encode(),
        text(",", head="path{}name,,,").encode(),
    ],
    ids=range(12),
)
def test_every_way_to_save_a_list_gives_the_same(tmp_path, data):
    (tmp_path / "list.csv").write_bytes(data)
    rows = read_list(tmp_path / "list.csv", ("path",), "reading it")
    assert [[row.cells["path"], row.cells["name"]] for row in rows] == ROWS
    first = 3 if b"sep" in data or b"s\0e\0p" in data else 2
    assert [row.line for row in rows] == [first, first + 1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            text(";").encode("cp1252"),
            "bytes of another encoding in line 2. Save it as UTF-8; Excel calls that CSV UTF-8",
        ),
        (b"path,name\na,b.nii,c\n", "at most 2 cells in a row, as in the first line, got more in line 2"),
        (b"path,path\na,b\n", "columns that differ, got 'path' twice"),
        (b"file,name\na,b\n", "a first line that names a column `path`, got 'file,name'"),
        (b"", "a first line that names a column `path`, got ''"),
        (b'path\n"a.nii\n', "a list with whole rows"),
    ],
)
def test_other_lists_are_refused(tmp_path, data, said):
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(ReadError) as refused:
        read_list(tmp_path / "list.csv", ("path",), "reading it")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_batches_and_data_sets_read_them(tmp_path):
    (tmp_path / "scans.csv").write_text("sep=;\nPath;Name\nc t.nii ; one\n;\n", encoding="utf-8-sig")
    assert [(scan.path, scan.name) for scan in list_scans([tmp_path / "scans.csv"]).scans] == [
        (tmp_path / "c t.nii", "one")
    ]
    (tmp_path / "data.csv").write_text("Image;Labels;;\na.nii; b.nii;;\n;;;\n", encoding="utf-16")
    (case,) = find_dataset(tmp_path / "data.csv").cases
    assert (case.name, case.image, case.labels) == ("a", tmp_path / "a.nii", tmp_path / "b.nii")
    assert isinstance(case.image, Path)
