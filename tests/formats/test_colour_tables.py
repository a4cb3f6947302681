"""Names and colours of labels for other programs; the expected files are written by hand from the formats' pages."""

import csv
import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from viscera.cli.main import main
from viscera.core.organs import ORGANS, Code, named_organ
from viscera.formats.colour_tables import all_label_files, itksnap_labels, slicer_csv, slicer_ctbl

# A name with a space, a comma and letters beyond ASCII, numbered 2.
ODD = named_organ(2, "Niere, größere (li.)")


def test_the_colour_table_of_slicer() -> None:
    assert slicer_ctbl(ORGANS) == (
        "# Color table file organs.ctbl\n"
        "# 5 values\n"
        "0 Background 0 0 0 0\n"
        "1 liver 213 94 0 255\n"
        "2 kidney 86 180 233 255\n"
        "3 spleen 204 121 167 255\n"
        "4 pancreas 240 228 66 255\n"
    )


def test_the_coded_colour_table_of_slicer() -> None:
    assert slicer_csv(ORGANS[:2]) == (
        "LabelValue,Name,Color_R,Color_G,Color_B,Color_A,"
        "Category_CodingScheme,Category_CodeValue,Category_CodeMeaning,Type_CodingScheme,Type_CodeValue,Type_CodeMeaning\n"
        "1,liver,213,94,0,255,SCT,123037004,Anatomical Structure,SCT,10200004,Liver\n"
        "2,kidney,86,180,233,255,SCT,123037004,Anatomical Structure,SCT,64033007,Kidney\n"
    )


def test_the_label_descriptions_of_itksnap() -> None:
    assert itksnap_labels(ORGANS[:2]) == (
        "# ITK-SnAP Label Description File\n"
        "# IDX R G B A VIS MSH LABEL\n"
        '0 0 0 0 0 0 0 "Clear Label"\n'
        '1 213 94 0 1 1 1 "liver"\n'
        '2 86 180 233 1 1 1 "kidney"\n'
    )


def test_a_name_with_spaces_is_one_word_in_the_colour_table() -> None:
    # Slicer splits lines at spaces: index, name, four components.
    assert slicer_ctbl([ODD]).splitlines()[-1] == "2 Niere,_größere_(li.) 0 114 178 255"


def test_a_name_with_a_comma_is_quoted_in_csv() -> None:
    header, row = csv.reader(io.StringIO(slicer_csv([ODD])))
    assert dict(zip(header, row, strict=True))["Name"] == ODD.name
    assert row[-3:] == ["99VISCERA", ODD.code.value, ODD.name]


def test_no_value_has_a_quotation_mark_in_csv() -> None:
    organ = replace(ORGANS[0], code=Code(value="1", meaning='the "big" one, red'))
    _, row = csv.reader(io.StringIO(slicer_csv([organ])))
    assert row[-1] == "the 'big' one, red"


def test_a_name_is_one_quoted_field_for_itksnap() -> None:
    assert shlex.split(itksnap_labels([ODD]).splitlines()[-1])[-1] == ODD.name


def test_the_verb_writes_all_files_twice_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "labels"
    for _ in range(2):
        assert main(["labels", "-o", str(folder)]) == 0
        written = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
        assert written == all_label_files(ORGANS)
    assert capsys.readouterr().out.splitlines()[:3] == [str(folder / name) for name in all_label_files(ORGANS)]


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["labels", "-o", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "organs.ctbl" in error[0]


def test_an_unknown_bundle_is_refused(tmp_path: Path) -> None:
    assert main(["labels", "-o", str(tmp_path), "--bundle", "no-such-bundle"]) == 1
    assert not list(tmp_path.iterdir())
