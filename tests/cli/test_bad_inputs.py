"""Every verb given what it cannot use: one line that says what was expected and what came, a code, and no output."""

import gzip
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

from viscera.cli.main import main
from viscera.core.volume import LabelMap
from viscera.formats.dicom.ct_write import write_ct_series
from viscera.formats.nifti_write import write_label_map
from viscera.read import read_volume


@dataclass(frozen=True)
class Bad:
    """Arguments of a verb, the exit code, and what the one line must say, as a regular expression."""

    words: str
    code: int
    says: str


def truncated(path: Path, keep: float) -> bytes:
    raw = path.read_bytes()
    return raw[: int(keep * len(raw))]


@pytest.fixture(scope="module")
def workshop(tiny_scan: Path, other_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid CT in several formats, its labels, and one file of each kind of fault."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copy(tiny_scan, folder / "ct.nii.gz")
    shutil.copy(other_scan, folder / "other.nii.gz")
    volume = read_volume(tiny_scan)
    labels = np.zeros(volume.grid.shape_zyx, dtype=np.uint8)
    labels[5:9, 5:9, 5:9] = 1
    write_label_map(LabelMap(labels=labels, grid=volume.grid), folder / "labels.nii.gz")
    labels[0, 0, 0] = 9
    write_label_map(LabelMap(labels=labels, grid=volume.grid), folder / "nine.nii.gz")
    write_ct_series(volume, folder / "series", name="A")
    for name in ("gap", "mr", "short"):
        shutil.copytree(folder / "series", folder / name)
    (folder / "gap" / "0008.dcm").unlink()
    for path in (folder / "mr").iterdir():
        image = pydicom.dcmread(path)
        image.Modality = "MR"
        image.save_as(path)
    (folder / "short" / "0008.dcm").write_bytes(truncated(folder / "series" / "0008.dcm", 0.6))
    (folder / "cut.nii.gz").write_bytes(truncated(folder / "ct.nii.gz", 0.5))
    (folder / "huge.nii").write_bytes(_claiming(gzip.decompress((folder / "ct.nii.gz").read_bytes())))
    (folder / "empty").mkdir()
    texts = {
        "text.txt": "hello", "junk.nii.gz": "junk", "junk.nrrd": "junk", "junk.mha": "junk", "junk.zip": "PK junk",
        "junk.dcm": "junk", "no_path.csv": "a,b\n1,2\n", "twice.csv": "path,name\nct.nii.gz,a\nother.nii.gz,A\n",
        "again.csv": "path,name\nct.nii.gz,a\n./ct.nii.gz,b\n",
        "unsafe.csv": "path,name\nct.nii.gz,../a\n", "rows.csv": "path\n", "junk.toml": "x = [", "junk.json": "{",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary.csv").write_bytes(bytes(range(128, 256)))
    return folder


def _claiming(raw: bytes) -> bytes:
    """The NIfTI with 30000 voxels along each axis in its header."""
    return raw[:42] + np.array([30000] * 3, dtype="<i2").tobytes() + raw[48:]


SCANS = [
    ("none.nii.gz", "a file or folder, got nothing there"),
    ("empty", "got none of these"),
    ("text.txt", r"expected \.nii, .* got something else"),
    ("junk.nii.gz", "a NIfTI header, got a file of 4 bytes"),
    ("cut.nii.gz", "compressed data that are cut off"),
    ("huge.nii", "the 54000000000352 bytes that its header claims, got a file of"),
    ("labels.nii.gz", "at least 1% of them air or fat, got values from 0 to 1"),
    ("junk.nrrd", "an NRRD file, got a file that does not begin with NRRD"),
    ("junk.mha", "a MetaImage header"),
    ("junk.zip", "a CT series in DICOM .* got something else"),
    ("gap", r"a slice every 12\.00 mm, got 1 missing"),
    ("mr", "a CT series, got only MR"),
    ("short", "of 1344 bytes of pixels, as the file is cut off"),
    ("series --series 7", "one series that matches '7', got 0 among: series 1"),
    ("ct.nii.gz --series 7", "expected DICOM, as a series was asked for"),
    ("ct.nii.gz --hu-offset 99999", "an offset between -65536 and 65536 HU, got 99999"),
]
OTHERS = [
    Bad("view none.nii.gz", 1, "got nothing there"),
    Bad("view ct.nii.gz none.nii.gz", 1, "got nothing there"),
    Bad("view ct.nii.gz other.nii.gz", 1, "expected labels, whole numbers from 0 to 255"),
    Bad("report ct.nii.gz labels.nii.gz -o OUT/page.pdf", 2, r"a file ending in \.html"),
    Bad("report ct.nii.gz ct.nii.gz -o OUT/page.html", 1, "expected labels, whole numbers"),
    Bad("report other.nii.gz labels.nii.gz -o OUT/page.html", 1, "labels of the CT's own voxels"),
    Bad("report ct.nii.gz labels.nii.gz -o text.txt/page.html", 1, "a folder .* got a file in its place"),
    Bad("labels -o text.txt", 1, "expected a folder .* got a file in its place"),
    Bad("labels -o OUT/l --bundle nope", 1, "one of the bundles that come with viscera"),
    Bad("evaluate ct.nii.gz labels.nii.gz", 1, "expected labels, whole numbers"),
    Bad("evaluate labels.nii.gz none.nii.gz", 1, "got nothing there"),
    Bad("evaluate labels.nii.gz nine.nii.gz", 1, "expected labels 0 to 4, got 9"),
    Bad("evaluate empty empty", 1, "expected files ending in"),
    Bad("batch none -o OUT/b", 1, "expected a file or folder, got nothing there"),
    Bad("batch no_path.csv -o OUT/b", 1, "a column `path`"),
    Bad("batch binary.csv -o OUT/b", 1, "a list in UTF-8, or in UTF-16 with its mark"),
    Bad("batch rows.csv -o OUT/b", 1, "at least one row"),
    Bad("batch twice.csv -o OUT/b", 2, "names that differ"),
    Bad("batch again.csv -o OUT/b", 2, "each scan once, got './ct.nii.gz' again in line 3"),
    Bad("batch unsafe.csv -o OUT/b", 2, r"names that files can have, .* got '\.\./a'"),
    Bad("batch ct.nii.gz -o text.txt", 2, "a folder after -o"),
    Bad("batch ct.nii.gz -o OUT/b --case other", 2, "names of cases of these inputs"),
    Bad("segment ct.nii.gz -o ct.nii.gz", 2, "outputs apart from the inputs"),
    Bad("segment ct.nii.gz -o text.txt", 2, "a file ending in .nii or .nii.gz, or a folder"),
    Bad("segment ct.nii.gz -o text.txt/o.nii.gz", 1, "a place that can be written"),
    Bad("segment ct.nii.gz -o OUT/o.nii.gz --bundle ./empty", 1, r"card\.json"),
    Bad("segment ct.nii.gz -o OUT/ -f dicom-seg", 1, "a CT series in DICOM"),
    Bad("segment ct.nii.gz -o OUT/o.nii.gz --memory-limit 1MB", 1, "a memory limit of at least"),
    Bad("pacs segment --dicomweb http://127.0.0.1:1 --study 1.2.3", 1, "expected a response, got no connection"),
    Bad("pacs segment --dicomweb ftp://x --study 1.2.3", 2, "a URL such as"),
    Bad("pacs segment --dicomweb http://127.0.0.1:1 --study ../../etc", 2, "expected digits and dots"),
    Bad("pacs listen --aet V --port 0 --forward x", 2, "expected AET@HOST:PORT"),
    Bad("prepare empty -o OUT/cache", 1, "looking for a data set"),
    Bad("prepare none -o OUT/cache", 1, "got nothing there"),
    Bad("train localise empty -o OUT/run", 1, r"manifest\.json.*got No such file or directory"),
    Bad("train localise empty -o OUT/run --config junk.toml", 2, "expected TOML"),
    Bad("export --localiser junk.dcm --segmenter junk.dcm --card junk.json -o OUT/b", 1, "a JSON file"),
    Bad("bundle empty empty -o OUT/b", 1, r"empty/card\.json.*got No such file or directory"),
    Bad("synthesise empty -o OUT/s", 1, r"anatomies\.json.*got No such file or directory"),
    Bad("phantom -o OUT/text.txt", 1, r"a name that ends in \.nii"),
    Bad("phantom -o OUT/p.nii.gz --shape 0 1 1", 1, "three positive voxel counts"),
]
CASES = [Bad(f"segment {words} -o OUT/o.nii.gz", 1, says) for words, says in SCANS] + OTHERS


@pytest.fixture
def run(
    workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Runs a command there; OUT is a new folder, which must be empty at the end."""
    monkeypatch.chdir(workshop)
    output = tmp_path / "out"
    output.mkdir()
    before = sorted(workshop.rglob("*"))

    def command(words: str) -> tuple[int, str]:
        code = main([word.replace("OUT", str(output), 1) if word.startswith("OUT") else word for word in words.split()])
        return code, capfd.readouterr().err

    yield command
    assert sorted(workshop.rglob("*")) == before
    assert [path for path in output.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.words)
def test_it_ends_in_one_line(run: Callable[[str], tuple[int, str]], bad: Bad) -> None:
    if bad.words.startswith(("train", "bundle", "prepare", "synthesise", "export")):
        pytest.importorskip("torch")
        pytest.importorskip("safetensors")
    if ".nrrd" in bad.words or ".mha" in bad.words:
        pytest.importorskip("SimpleITK")
    if bad.words.startswith("pacs"):
        pytest.importorskip("pynetdicom")
    code, said = run(bad.words)
    assert code == bad.code, said
    (line,) = said.splitlines()
    assert line.startswith("viscera: error: ")
    assert line.endswith(".")
    assert re.search(bad.says, line), line


@pytest.mark.parametrize(
    "words",
    ["batch ct.nii.gz -o OUT/b --scheduler here", "batch ct.nii.gz -o OUT/b --only 3/2",
     "segment ct.nii.gz -o OUT/o.nii.gz --threads 0", "segment ct.nii.gz -o OUT/o.nii.gz --device tpu",
     "pacs listen --aet V --port 99999 --forward A@b:1", "segment", "nonsense"],
)  # fmt: skip
def test_a_wrong_option_ends_in_usage(
    run: Callable[[str], tuple[int, str]], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words)
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert said.startswith("usage: ")
    assert "error: " in said.splitlines()[-1]
