"""Every command and every piece of Python in the documentation is run as it stands, or is listed here with a reason.

Each page has a folder of its own with the inputs its text speaks of; its fenced blocks are run there, top to bottom.
What is listed as not run must still be understood by the parser, if it is a viscera command.
"""

import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.main import build_parser, main
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.synthesis.phantom import PhantomConfig, make_phantom

ROOT = Path(__file__).resolve().parents[2]
ORTHANC = "docs/how-to/orthanc.md"  # runs as a whole against an Orthanc, in tests/pacs/test_orthanc.py
PAGES = [
    path
    for path in ("README.md", *sorted(str(one.relative_to(ROOT).as_posix()) for one in ROOT.glob("docs/**/*.md")))
    if path != ORTHANC
]
LANGUAGES = {"bash", "python", "toml", "json", "ini", "text"}

INSTALLS = "installs packages from the network"
HOURS = "takes hours with the published settings; the second tutorial runs the same subcommands on small networks"
SERVES = "serves pages until it is stopped; tests/cli/test_view_cli.py does so"
TRUNKS = "needs TotalSegmentator's label maps; tests/cli/test_synthesis_cli.py makes small ones"
TEACHER = "needs a trained bundle and real CTs; tests/cli/test_pseudolabel_cli.py does so on a phantom"
RECIPE = "needs anatomies and prepared CTs; tests/recipes/test_gpu_recipe.py runs it on small ones"
MEASURES = "measures for minutes"
CONTAINERS = "needs a container engine"
TESTS = "runs the tests themselves"
GPU = "needs a GPU"
COMPLETION = "changes the user's shell; tests/cli/test_completion.py does so"
CHECKS = "fails where memory is short; tests/cli/test_info_cli.py does so"
MONAI = "tests/model/test_monai_bundle.py runs the workflow"
CLUSTER = "needs a cluster; tests/batch/test_batch_faults.py starts a small one"

# By page: the beginning of each command that is not run, and why.
NOT_RUN: dict[str, dict[str, str]] = {
    "README.md": {
        "python3 -m venv .venv && .venv/bin/pip install . ": INSTALLS,
        "python3 -m venv .venv && .venv/bin/pip install -e ": INSTALLS,
        "viscera crossval": HOURS,
        "viscera anatomies": TRUNKS,
        "viscera train segment anatomies/": TRUNKS,
    },
    "docs/explanation/efficiency.md": {"python benchmarks/efficiency.py": MEASURES},
    "docs/explanation/reliability.md": {"python tools/reliability/": MEASURES},
    "docs/explanation/scale.md": {"python benchmarks/batch.py": MEASURES},
    "docs/how-to/batch.md": {
        "dask": CLUSTER,
        "viscera batch cases.csv -o labels/ --scheduler": CLUSTER,
        "sbatch": "needs Slurm; the page runs two of its tasks by hand",
        "snakemake": "tests/docs/test_batch_guide.py runs it where it is installed",
    },
    "docs/how-to/containers.md": {"podman": CONTAINERS},
    "docs/how-to/contribute.md": {
        "python3 -m venv": INSTALLS,
        ". .venv/bin/activate": INSTALLS,
        "pip install": INSTALLS,
        "pytest": TESTS,
        "ruff": TESTS,
        "mypy": TESTS,
    },
    "docs/how-to/dicom.md": {"pip install": INSTALLS},
    "docs/how-to/gpu.md": {"pip install": INSTALLS, "viscera info --check": CHECKS, "viscera segment": GPU},
    "docs/how-to/gpu-training.md": {"recipes/gpu.sh": RECIPE},
    "docs/how-to/monai.md": {"cd fast-monai": MONAI, "python -m monai.bundle run": MONAI},
    "docs/reference/cli.md": {"eval": COMPLETION, "viscera completion": COMPLETION},
    "docs/how-to/slicer-and-itksnap.md": {"itksnap": "a program with windows"},
    "docs/how-to/train-on-synthetic.md": {
        "viscera anatomies": TRUNKS,
        "viscera synthesise": TRUNKS,
        "viscera train": TRUNKS,
        "recipes/fast/retrain.sh": TRUNKS,
        "viscera pseudolabel": TEACHER,
        "viscera prepare pseudo/cases.csv": TEACHER,
    },
    "docs/how-to/train.md": {
        "viscera crossval": HOURS,
        "CUDA_VISIBLE_DEVICES=0 viscera crossval": HOURS,
        "CUDA_VISIBLE_DEVICES=1 viscera crossval": HOURS,
        "viscera train": HOURS,
        "torchrun": "needs several GPUs; tests/training/test_ddp.py runs two processes",
        "viscera bundle": HOURS,
        "viscera segment": "needs the bundle of the line before",
        "viscera finetune": HOURS,
    },
    "docs/how-to/view.md": {"viscera view": SERVES, "ssh": "needs another machine"},
    "docs/tutorial/first-segmentation.md": {
        "python3 -m venv": INSTALLS,
        ". .venv/bin/activate": INSTALLS,
        "pip install": INSTALLS,
        "viscera view": SERVES,
    },
    "docs/tutorial/train-a-tiny-model.md": {
        "pip install": INSTALLS,
        "viscera view": SERVES,
    },
}
# Text that is replaced in a page before it is run, so that it takes seconds; the rest stays as it is.
SHORTENED: dict[str, dict[str, str]] = {
    "docs/tutorial/train-a-tiny-model.md": {"iterations = 1500": "iterations = 4", "--count 24": "--count 3"},
}
# Commands that end with another exit code than 0, as the page says.
EXIT_CODES: dict[str, dict[str, int]] = {
    "docs/tutorial/first-segmentation.md": {"viscera segment viscera-demo/labels.nii.gz": 1},
    "docs/how-to/train.md": {"viscera prepare data/": 1},
}


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for old, new in SHORTENED.get(page, {}).items():
        assert old in text, f"{page} has no {old!r} to be shortened"
        text = text.replace(old, new)
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)]


def commands(block: str) -> Iterator[str]:
    """The commands of a block one by one, those over several lines (here documents included) as one."""
    lines = iter(block.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command = command[:-1] + next(lines).lstrip()
        if marker := re.search(r"<<'?(\w+)'?", command):
            for inner in lines:
                command += f"\n{inner}"
                if inner == marker[1]:
                    break
        if command.strip() and not command.lstrip().startswith("#"):
            yield command


def reason_not_to_run(page: str, command: str) -> str | None:
    return next((why for start, why in NOT_RUN.get(page, {}).items() if command.startswith(start)), None)


def viscera_arguments(command: str) -> list[str] | None:
    """What follows `viscera` in a command of viscera alone, None for anything else."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        del words[0]
    return words[1:] if words and words[0] == "viscera" else None


def run_command(command: str, code: int) -> None:
    arguments = viscera_arguments(command)
    if arguments is None:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True, timeout=120)
        return
    expanded = [name for word in arguments for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    assert main(expanded) == code, command


def save_phantom(ct: Path, labels: Path | None = None, *, seed: int) -> None:
    phantom = make_phantom(seed, config=PhantomConfig(shape_zyx=(36, 52, 64), spacing_zyx_mm=(8.0, 7.0, 7.0)))
    write_volume(phantom.volume, ct)
    if labels is not None:
        write_label_map(phantom.label_map, labels)


def scans(folder: Path) -> None:
    for seed in (1, 2):
        save_phantom(folder / "scans" / f"case{seed}.nii.gz", seed=seed)


def single(name: str) -> Callable[[Path], None]:
    return lambda folder: save_phantom(folder / name, seed=3)


def series(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        size = ["--shape", "36", "52", "64", "--spacing", "8", "7", "7"]
        assert main(["phantom", "-q", "-o", str(folder / name), "--dicom", "--seed", "4", *size]) == 0

    return make


def zipped(folder: Path) -> None:
    series("zipped")(folder)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for path in sorted((folder / "zipped").iterdir()):
            archive.write(path, path.name)


def data_set(image_folder: str, label_folder: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for seed in (5, 6):
            save_phantom(
                folder / image_folder / f"p{seed}.nii.gz", folder / label_folder / f"p{seed}.nii.gz", seed=seed
            )

    return make


def predictions(folder: Path) -> None:
    """Labels of three people, and copies shifted by some voxels, each folder by another distance."""
    for seed in (7, 8, 9):
        save_phantom(folder / "unused.nii", folder / "truth" / f"case{seed}.nii.gz", seed=seed)
        truth = make_phantom(
            seed, config=PhantomConfig(shape_zyx=(36, 52, 64), spacing_zyx_mm=(8.0, 7.0, 7.0))
        ).label_map
        for shift, name in enumerate(("labels", "new", "old", "other"), start=1):
            moved = LabelMap(labels=np.roll(truth.labels, shift * (seed % 2 + 1), axis=2), grid=truth.grid)
            write_label_map(moved, folder / name / f"case{seed}.nii.gz")


def bids(folder: Path) -> None:
    for subject in ("01", "02"):
        name = f"raw/sub-{subject}/ses-a/ct/sub-{subject}_ses-a_acq-venous_ct.nii.gz"
        save_phantom(folder / name, seed=int(subject))


def segmented(folder: Path) -> None:
    save_phantom(folder / "ct.nii.gz", seed=3)
    files = {name: str(folder / name) for name in ("ct.nii.gz", "organs.nii.gz", "run.json")}
    assert main(["segment", "-q", files["ct.nii.gz"], "-o", files["organs.nii.gz"], "--report", files["run.json"]]) == 0


def label_ids(folder: Path) -> None:
    """The file of label ids the page on training shows."""
    shown = next(block.text for block in blocks("docs/how-to/train.md") if "[labels]" in block.text)
    (folder / "labels.toml").write_text(shown, encoding="utf-8")


INPUTS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "README.md": (
        single("ct.nii.gz"),
        scans,
        series("dicom_series"),
        zipped,
        data_set("FLARE2021/TrainingImg", "FLARE2021/TrainingMask"),
    ),
    "docs/how-to/batch.md": (series("archive/p1/study1"), series("archive/p2/study1")),
    "docs/how-to/bids.md": (bids,),
    "docs/how-to/contribute.md": (single("ct.nii.gz"),),
    "docs/how-to/dicom.md": (series("series"),),
    "docs/how-to/evaluate.md": (predictions,),
    "docs/how-to/radiotherapy.md": (series("series"),),
    "docs/how-to/segment.md": (single("ct.nii.gz"), single("another.nii.gz"), scans),
    "docs/how-to/slicer-and-itksnap.md": (single("ct.nii.gz"),),
    "docs/how-to/train.md": (data_set("FLARE2021/TrainingImg", "FLARE2021/TrainingMask"), label_ids),
    "docs/how-to/view.md": (segmented,),
    "docs/reference/api.md": (single("ct.nii.gz"), predictions),
}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language in {"bash", "python"} for b in blocks(page))]
)
def test_a_page_does_what_it_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    for make in INPUTS.get(page, ()):
        make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, page, "exec"), names)
        elif block.language == "bash":
            for command in commands(block.text):
                if reason_not_to_run(page, command) is None:
                    code = next((c for start, c in EXIT_CODES.get(page, {}).items() if command.startswith(start)), 0)
                    run_command(command, code)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_is_understood(page: str) -> None:
    for block in blocks(page):
        for command in commands(block.text) if block.language == "bash" else ():
            arguments = viscera_arguments(command)
            if arguments is not None and (why := reason_not_to_run(page, command)) and why != COMPLETION:
                build_parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page: str) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", NOT_RUN)
def test_no_exception_is_left_over(page: str) -> None:
    there = [command for block in blocks(page) if block.language == "bash" for command in commands(block.text)]
    for start in [*NOT_RUN[page], *EXIT_CODES.get(page, {})]:
        assert any(command.startswith(start) for command in there), f"{page} has no command {start!r} any more"


def test_inputs_are_made_for_pages_that_exist() -> None:
    assert {*INPUTS, *SHORTENED, *EXIT_CODES, *NOT_RUN} <= set(PAGES)


def test_commands_over_several_lines_are_one() -> None:
    block = "# remark\nviscera a \\\n   b  # why\ncat > x <<'END'\nviscera no\nEND\nlast\n"
    assert list(commands(block)) == ["viscera a b  # why", "cat > x <<'END'\nviscera no\nEND", "last"]
