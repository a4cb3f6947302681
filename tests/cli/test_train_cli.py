"""`viscera train` as a process: signals, exit codes, going on, folds, and what it does without."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import viscera
from viscera.cli.main import main
from viscera.training.checkpoint import checkpoint_folder, checkpoint_iterations
from viscera.training.config import TrainConfig

SOURCE = Path(viscera.__file__).parents[1]

SETTINGS = """
iterations = 6
learning_rate = 1e-3
precision = "f32"
save_every = 100
validation_every = 3
log_every = 1
workers = 1

[model]
margin_mm = 20.0
localise = {spacing_mm = 20.0, sigma_mm = 6.0, sizes_x_vox = [16, 24], sizes_y_vox = [16, 24], sizes_z_vox = [8, 16]}
segment = {spacing_mm = 20.0, sigma_mm = 4.0, sizes_x_vox = [16, 24], sizes_y_vox = [16], sizes_z_vox = [8, 16]}
localiser = {inputs = 1, outputs = 2, filters = 4, levels = 3}
scn = {local_filters = 4, local_levels = 2, spatial_filters = 2, spatial_levels = 2, spatial_factor = 2}
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture
def arguments(small_cache, settings: Path, tmp_path: Path) -> list[str]:
    return ["train", "localise", str(small_cache.folder), "-o", str(tmp_path / "run"), "--config", str(settings)]


def on_cpu(arguments: list[str], *others: str) -> list[str]:
    return [*arguments, "--device", "cpu", "--threads", "1", *others]


def test_a_training_writes_weights_log_card_and_curves(arguments, tmp_path, capsys):
    assert main(on_cpu(arguments, "--names", "p31", "p32", "--validation", "p33", "--set", "iterations=3")) == 0
    run = tmp_path / "run"
    assert capsys.readouterr().out == f"wrote {run / 'weights.safetensors'}\n"
    names = {path.name for path in run.iterdir()}
    assert names == {"weights.safetensors", "log.jsonl", "card.json", "config.json", "checkpoints", "curves.png"}
    card = json.loads((run / "card.json").read_text())
    assert (card["iterations"], card["cases"], card["validation_cases"]) == (3, 2, 1)


def test_a_fold_of_a_file_chooses_the_cases(arguments, tmp_path):
    folds = [{"train": ["p31", "p32", "p33"], "val": ["p34"]}, {"train": ["p34"], "val": ["p31", "p32"]}]
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    chosen = ["--fold-file", str(tmp_path / "folds.json"), "--fold", "2", "--set", "iterations=1"]
    assert main(on_cpu(arguments, *chosen)) == 0
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["cases"], card["validation_cases"]) == (1, 2)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["--fold", "1"], "--fold-file"),
        (["--set", "iteratons=3"], "iteratons"),
        (["--names", "p99"], "p99"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--initial", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(others, words, arguments, tmp_path, capsys):
    assert main(on_cpu(arguments, *others)) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("viscera: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "run").exists()


def test_other_settings_need_a_new_beginning(arguments, tmp_path, capsys):
    short = ["--set", "iterations=1"]
    assert main(on_cpu(arguments, *short)) == 0
    assert main(on_cpu(arguments, *short, "--set", "seed=1")) == 2
    assert "another seed" in capsys.readouterr().err
    assert main(on_cpu(arguments, *short, "--set", "seed=1", "--restart")) == 0


# A parent that ignores SIGINT (a shell's background job) hands that down; a terminal does not, so it is undone here.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from viscera.cli.main import main; sys.exit(main())"
)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_saves_and_the_same_command_goes_on(number, code, word, arguments, tmp_path):
    run = tmp_path / "run"
    command = on_cpu(arguments, "--set", "iterations=100000")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command], stderr=subprocess.PIPE, text=True, env=environment()
    )
    wait_for_lines(run / "log.jsonl", 3, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=150)
    assert process.returncode == code, err
    (saved,) = checkpoint_iterations(run)
    note = f"viscera: note: saved at iteration {saved}; run the same command to resume"
    assert err.splitlines() == [note, f"viscera: {word}"]
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["iteration"] == saved
    assert not list((run / "checkpoints").glob(".part-*"))

    assert main(on_cpu(arguments, "--set", f"iterations={saved + 2}")) == 0
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == list(range(1, saved + 3))
    assert checkpoint_folder(run, saved + 2).is_dir()


def environment(**others: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **others}


def wait_for_lines(log: Path, count: int, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 150
    while not log.exists() or log.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


# Without what the trainer can do without, and without the record that the package is installed.
BARE = """
import importlib.metadata, sys

WITHOUT = {"nibabel", "openvino", "scipy", "SimpleITK", "PIL", "matplotlib", "pydicom", "gdcm", "onnx", "rich"}
WITHOUT |= {"tensorboard"}

version = importlib.metadata.version

def hidden(name):
    if name == "viscera":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

sys.modules.update(dict.fromkeys(WITHOUT))  # None: importing it fails as if it were not there
importlib.metadata.version = hidden
from viscera.cli.main import main

sys.exit(main())
"""


def test_training_needs_torch_numpy_and_safetensors_only(arguments, tmp_path):
    command = on_cpu(arguments, "--validation", "p34", "--set", "iterations=2")
    done = subprocess.run(
        [sys.executable, "-c", BARE, *command], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert "matplotlib" in done.stderr  # the curves are not drawn, and that is said
    assert (tmp_path / "run" / "card.json").exists()


def test_the_version_is_known_in_a_source_tree():
    program = BARE.replace("sys.exit(main())", "import viscera; print(viscera.__version__)")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.stdout.strip() == viscera.__version__, done.stderr


def test_torchrun_starts_the_command(arguments, tmp_path):
    command = on_cpu(arguments, "--validation", "p34", "--set", "iterations=2")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "viscera"]
    done = subprocess.run(
        [*launcher, *command], capture_output=True, text=True, env=environment(), check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"wrote {tmp_path / 'run' / 'weights.safetensors'}\n"
    assert json.loads((tmp_path / "run" / "card.json").read_text())["processes"] == 2


def test_the_settings_file_of_these_tests_is_the_small_training(settings, small_training):
    from viscera.training.config import read_train_config

    assert read_train_config(settings).model == small_training.model
    assert read_train_config(None) == TrainConfig()
