"""BIDS derivatives: names and files worked out by hand from the standard's pages."""

import json
from pathlib import Path
from typing import Any

import pytest

from viscera.cli.main import main
from viscera.cli.output_layouts import LAYOUTS
from viscera.cli.segment_plan import Plan, plan_cases
from viscera.core.errors import ConfigError
from viscera.core.organs import ORGANS, Code, Organ
from viscera.formats.bids import bids_names, dataset_files, label_table, side_files


def stems(*paths: str) -> list[str]:
    scans = [(Path(path).name.split(".")[0], Path("/data") / path) for path in paths]
    return [name.stem for name in bids_names(scans)]


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("sub-01_ct.nii.gz", "sub-01"),
        ("sub-01_ses-pre_acq-venous_run-02_CT.nii", "sub-01_ses-pre_acq-venous_run-02"),
        ("sub-01_run-1_ce-iodine_ct.nii.gz", "sub-01_ce-iodine_run-1"),  # in the standard's order
        ("sub-01_echo-1_foo-bar_ct.nii.gz", "sub-01"),  # no entities of a CT's segmentation
        ("sub-01_run-one_ct.nii.gz", "sub-01"),  # a run is a number
        ("sub-01", "sub-01"),  # a DICOM folder
        ("sub-01/ses-2", "sub-01_ses-2"),
        ("sub-01/ses-2.zip", "sub-01_ses-2"),
        ("sub-01/scan.nrrd", "sub-01"),
        ("sub-01/two words.nrrd", "sub-twowords"),
        ("sub-.nii.gz", "sub-sub"),
        ("sub-01_ct_final.nii.gz", "sub-sub01ctfinal"),
        ("sub-01.5mm.nii.gz", "sub-sub01"),  # the name of the case here ends at the first dot
        ("scan_01-b.nii.gz", "sub-scan01b"),
        ("Müller, Zoë.nii.gz", "sub-MullerZoe"),
        ("患者.nii.gz", "sub-case"),
        ("--__.nii.gz", "sub-case"),
        ("a+b.nii.gz", "sub-ab"),
        (f"{'x' * 100}.nii", f"sub-{'x' * 64}"),
        ("caf\udce9.nii.gz", "sub-caf"),  # a name that is no text
    ],
)
def test_a_scan_has_the_entities_of_its_name(path: str, stem: str) -> None:
    assert stems(path) == [stem]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("a b.nii", "a-b.nii", "AB.nii"), ["sub-ab", "sub-ab2", "sub-AB3"]),
        (("患.nii", "者.nii"), ["sub-case", "sub-case2"]),
        (("ab.nii", "ab2.nii", "a b.nii"), ["sub-ab", "sub-ab2", "sub-ab3"]),
        # another person than the one BIDS names so, though only the other has a session
        (("01.nii", "sub-01_ses-1_ct.nii"), ["sub-012", "sub-01_ses-1"]),
        (("sub-01_ct.nii", "sub-01_T1w.nii"), ["sub-01", "sub-01_run-2"]),
        (("sub-01_run-2_ct.nii", "x/sub-01_run-2_ct.nii", "sub-01_run-3_ct.nii"), ["sub-01_run-2", "sub-01_run-3", ""]),
    ],
    ids=str,
)
def test_names_that_agree_are_numbered(paths: tuple[str, ...], expected: list[str]) -> None:
    found = stems(*paths)
    assert len({stem.casefold() for stem in found}) == len(paths)
    assert [stem for stem, hand in zip(found, expected, strict=True) if hand] == [hand for hand in expected if hand]


def test_labels_lie_in_the_folders_of_subject_and_session() -> None:
    (with_session, without) = bids_names([("a", Path("sub-1_ses-2_ct.nii")), ("b", Path("b.nii"))])
    assert with_session.labels == Path("sub-1/ses-2/anat/sub-1_ses-2_dseg.nii.gz")
    assert without.labels == Path("sub-b/anat/sub-b_dseg.nii.gz")


def test_the_table_of_labels() -> None:
    assert label_table(ORGANS[:2]) == (
        "index\tname\tabbreviation\tcolor\tcode_scheme\tcode_value\n"
        "1\tliver\tliver\t#d55e00\tSCT\t10200004\n"
        "2\tkidney\tkidney\t#56b4e9\tSCT\t64033007\n"
    )


def test_abbreviations_are_labels_and_differ() -> None:
    code = Code(value="1", meaning="x")
    names = ["kidney left", "kidney (left)", "Niere", "脾"]
    organs = [Organ(index=i, name=name, colour=(0, 0, 10), code=code) for i, name in enumerate(names, 1)]
    rows = [line.split("\t") for line in label_table(organs).splitlines()[1:]]
    assert [row[1] for row in rows] == names
    assert [row[2] for row in rows] == ["kidneyleft", "kidneyleft2", "Niere", "organ"]


def test_beside_the_labels_stand_a_sidecar_and_a_table() -> None:
    bundle = {"Name": "fast", "Version": "1.2"}
    files = side_files(Path("d/sub-1_dseg.nii.gz"), ORGANS, bundle)
    assert set(files) == {Path("d/sub-1_dseg.json"), Path("d/sub-1_dseg.tsv")}
    sidecar = json.loads(files[Path("d/sub-1_dseg.json")])
    assert (sidecar["Manual"], sidecar["SpatialReference"], sidecar["Bundle"]) == (False, "orig", bundle)
    assert files[Path("d/sub-1_dseg.tsv")] == label_table(ORGANS)


def written(folder: Path, version: str = "1.0", ignored: tuple[str, ...] = ()) -> list[str]:
    """The names of the files that `dataset_files` asked for, after writing them."""
    files = dataset_files(folder, version, ignored)
    folder.mkdir(exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return sorted(path.name for path in files)


def description(folder: Path) -> Any:
    return json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))


def test_a_new_data_set_is_described_once(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert written(folder) == [".bidsignore", "README.md", "dataset_description.json"]
    said = description(folder)
    assert said["DatasetType"] == "derivative"
    assert said["GeneratedBy"] == [{"Name": "viscera", "Version": "1.0"}]
    assert written(folder) == []


def test_another_version_adds_itself_and_keeps_what_others_wrote(tmp_path: Path) -> None:
    written(tmp_path)
    edited = description(tmp_path) | {"Name": "Études", "Authors": ["A. Author"]}
    (tmp_path / "dataset_description.json").write_text(json.dumps(edited, ensure_ascii=False), encoding="utf-8")
    assert written(tmp_path, version="1.1") == ["dataset_description.json"]
    said = description(tmp_path)
    assert [maker["Version"] for maker in said.pop("GeneratedBy")] == ["1.0", "1.1"]
    assert said == {key: value for key, value in edited.items() if key != "GeneratedBy"}


def test_lines_and_readme_of_others_are_kept(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine", encoding="utf-8")
    (tmp_path / ".bidsignore").write_text("mine/", encoding="utf-8")
    assert written(tmp_path, ignored=("/run.json",)) == [".bidsignore", "dataset_description.json"]
    lines = (tmp_path / ".bidsignore").read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("mine/", "/run.json")
    assert written(tmp_path, ignored=("/run.json",)) == []


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"Name": "raw", "BIDSVersion": "1.8.0"}),
        json.dumps({"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}),
        json.dumps({"DatasetType": "derivative", "GeneratedBy": "viscera"}),
        json.dumps({"DatasetType": "raw", "GeneratedBy": [{"Name": "viscera"}]}),
        "[]",
        "{",
        "",
    ],
)
def test_a_data_set_of_others_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "dataset_description.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="another data set"):
        dataset_files(tmp_path, "1.0")


@pytest.mark.parametrize("name", ["dataset_description.json", ".bidsignore"])
def test_a_file_that_is_no_text_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="bytes that are none"):
        dataset_files(tmp_path, "1.0")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A file that is found as a scan; plans read none."""
    path = tmp_path / "scan one.nii.gz"
    path.write_bytes(b"x")
    return path


def bids_plan(inputs: list[Path], output: Path, report: Path | None = None) -> Plan:
    return plan_cases(inputs, output, report, LAYOUTS["bids"])


def test_a_plan_names_cases_by_their_entities(scan: Path, tmp_path: Path) -> None:
    plan = bids_plan([tmp_path / "missing", scan], tmp_path / "out")
    assert [(case.name, case.error is None) for case in plan.cases] == [("missing", False), ("sub-scanone", True)]
    assert plan.cases[1].output == tmp_path / "out/sub-scanone/anat/sub-scanone_dseg.nii.gz"
    assert plan.statistics == tmp_path / "out" / "statistics"


def test_a_report_within_the_data_set_is_passed_over_by_validators(scan: Path, tmp_path: Path) -> None:
    plan = bids_plan([scan], tmp_path / "out", tmp_path / "out" / "code" / "run.json")
    assert "/code/run.json" in plan.common[tmp_path / "out" / ".bidsignore"].splitlines()


def test_a_single_file_has_no_bids_layout(scan: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder after -o"):
        bids_plan([scan], tmp_path / "labels.nii.gz")


def test_a_report_does_not_replace_the_description(scan: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="report apart"):
        bids_plan([scan], tmp_path / "out", tmp_path / "out" / "dataset_description.json")


def test_labels_do_not_replace_the_scan_they_are_of(tmp_path: Path) -> None:
    scan = tmp_path / "sub-1" / "anat" / "sub-1_dseg.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.write_bytes(b"x")
    with pytest.raises(ConfigError, match="which is an input"):
        bids_plan([scan], tmp_path)


def test_a_raw_data_set_as_output_is_one_line_and_untouched(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "raw"}', encoding="utf-8")
    assert main(["segment", str(scan), "-o", str(raw), "--layout", "bids"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in raw.iterdir()] == ["dataset_description.json"]
