"""The command line's frame: usage, exit codes, error lines, what importing costs."""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import viscera
from viscera.cli.console import Console, error_line
from viscera.cli.main import SUBCOMMANDS, build_parser, main
from viscera.core.errors import (
    BundleError,
    ClusterError,
    ConfigError,
    GeometryError,
    MemoryBudgetError,
    MissingExtraError,
    NothingFoundError,
    ReadError,
    TransferError,
    VisceraError,
    WriteError,
)
from viscera.core.interrupts import Terminated

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md"
ERRORS = (
    VisceraError,
    ReadError,
    WriteError,
    TransferError,
    GeometryError,
    ConfigError,
    BundleError,
    ClusterError,
    NothingFoundError,
    MemoryBudgetError,
    MissingExtraError,
)


@pytest.fixture
def subcommand_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `viscera info` raise."""

    def install(error: BaseException) -> None:
        def run(args: argparse.Namespace, console: Console) -> int:
            raise error

        monkeypatch.setattr(SUBCOMMANDS["info"], "run", run)

    return install


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize("code", ["import viscera", "import viscera.cli.main", "import viscera; viscera.ReadError"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    heavy = {"torch", "openvino", "numpy", "nibabel", "pydicom", "scipy", "PIL", "SimpleITK", "rich"}
    loaded = set(python(f"{code}; import sys; print(*sys.modules)").split())
    assert not heavy & loaded


def test_loading_the_api_loads_no_engine() -> None:
    loaded = set(python("import viscera; viscera.Segmenter; import sys; print(*sys.modules)").split())
    assert not {"torch", "openvino"} & loaded


@pytest.mark.parametrize("name", viscera.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(viscera, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = viscera.segmnt


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"viscera {viscera.__version__}\n"


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "viscera", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"viscera {viscera.__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["segmnt"],
        ["segment"],
        ["segment", "a.nii"],
        ["segment", "a.nii", "-o", "b.nii", "--devce", "cpu"],
        ["segment", "a.nii", "-o", "b.nii", "--stat"],
        ["segment", "a.nii", "-o", "b.nii", "--device", "tpu"],
        ["segment", "-i", "-o", "b.nii"],
        ["completion"],
        ["completion", "tcsh"],
        ["segment", "a.nii", "-o", "b.nii", "--precision", "int8"],
        ["segment", "a.nii", "-o", "b.nii", "--threads", "0"],
        ["segment", "a.nii", "-o", "b.nii", "--threads", "two"],
        ["segment", "a.nii", "-o", "b.nii", "--hu-offset", "1.5"],
        ["evaluate"],
        ["phantom"],
        ["phantom", "-o", "a.nii", "--phase", "venous"],
        ["phantom", "-o", "a.nii", "--shape", "3", "4"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: viscera" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "usage", "said"),
    [
        (["segmnt", "a.nii"], "viscera [-h]", "unknown subcommand 'segmnt': did you mean segment?"),
        (["quux"], "viscera [-h]", "unknown subcommand 'quux': `viscera --help` lists them"),
        (
            ["segment", "a", "-o", "b", "--devce", "cpu"],
            "viscera segment",
            "--devce cpu; --devce: did you mean --device?",
        ),
        (["batch", "a", "--ouput=b"], "viscera batch", "required: -o/--output; --ouput: did you mean --output?"),
        (["segment", "a", "-o", "b", "c"], "viscera segment", "unrecognised arguments: c"),
        (["pacs", "listen", "--aet", "A", "--prt", "1"], "viscera pacs listen", "--prt: did you mean --port?"),
    ],
)
def test_wrong_usage_shows_the_subcommands_usage_and_what_is_near(
    argv: list[str], usage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: {usage}")
    assert said in err.splitlines()[-1]


def test_viscera_alone_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    places = [err.index(line) for line in ("use:\n  segment ", "look and evaluate:\n  view ", "train:\n  phantom ")]
    assert places == sorted(places)
    assert all(f"\n  {name} " in err for name in SUBCOMMANDS)


@pytest.mark.parametrize(
    ("words", "inputs"),
    [
        (["-i", "a", "b", "-o", "out"], ["a", "b"]),
        (["-o", "out", "--input", "a", "-i", "b"], ["a", "b"]),
        (["a", "-i", "b", "-o", "out"], ["a", "b"]),
        (["--input=a", "-o", "out"], ["a"]),
        (["-o", "out", "a", "b"], ["a", "b"]),
    ],
)
@pytest.mark.parametrize("subcommand", ["segment", "batch"])
def test_inputs_may_stand_after_an_option(subcommand: str, words: list[str], inputs: list[str]) -> None:
    args = build_parser().parse_args([subcommand, *words])
    assert args.inputs == [Path(one) for one in inputs]
    assert "inputs_after_option" not in vars(args)


@pytest.mark.parametrize("subcommand", ["segment", "batch"])
def test_a_gpu_is_cuda(subcommand: str) -> None:
    assert build_parser().parse_args([subcommand, "a", "-o", "b", "--device", "gpu"]).device == "cuda"


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_raised_on_purpose_is_one_line_and_its_exit_code(
    kind: type[VisceraError],
    subcommand_that: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    subcommand_that(kind("reading a.nii", expected="a CT", got="two\nlines", remedy="Give a CT"))
    code = main(["info", "-v"])
    out, err = capsys.readouterr()
    assert code == kind.exit_code
    assert err == "viscera: error: reading a.nii: expected a CT, got two lines. Give a CT.\n"
    assert out == ""


def test_every_error_is_in_the_list_above() -> None:
    def family(kind: type[VisceraError]) -> set[type[VisceraError]]:
        return {kind}.union(*(family(child) for child in kind.__subclasses__()))

    assert {kind for kind in family(VisceraError) if kind.__module__ == "viscera.core.errors"} == set(ERRORS)


@pytest.mark.parametrize(
    ("error", "code", "word"), [(KeyboardInterrupt(), 130, "interrupted"), (Terminated(), 143, "terminated")]
)
def test_an_interrupt_is_reported_without_a_traceback(
    error: BaseException,
    code: int,
    word: str,
    subcommand_that: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    subcommand_that(error)
    assert main(["info"]) == code
    assert capsys.readouterr().err == f"viscera: {word}\n"


def test_a_run_that_is_ended_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace, console: Console) -> int:
        console.if_stopped = "2 of 3 cases done; run it again"
        raise KeyboardInterrupt

    monkeypatch.setattr(SUBCOMMANDS["info"], "run", run)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "viscera: interrupted: 2 of 3 cases done; run it again\n"


def test_an_unexpected_error_is_one_line_with_a_hint() -> None:
    line = error_line(ZeroDivisionError("by\nzero"))
    assert line == "ZeroDivisionError: by zero (unexpected; -v shows the traceback)"
    assert error_line(MemoryError()) == "MemoryError (unexpected; -v shows the traceback)"


def test_verbose_shows_the_traceback_of_an_unexpected_error(capsys: pytest.CaptureFixture[str]) -> None:
    Console(verbose=True).fail(ZeroDivisionError("by zero"), about="case7")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "viscera: error: case7: ZeroDivisionError: by zero"
    assert lines[-1] == "ZeroDivisionError: by zero"


def test_no_bar_is_drawn_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress() as progress:
        progress.begin("case7: crop")
        progress.reach(3, of=8)
    assert capsys.readouterr().err == ""


def test_quiet_says_only_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("result")
    console.note("remark")
    console.fail(ZeroDivisionError())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("viscera: error: ZeroDivisionError")


def subcommand_parsers() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._actions
    return next(dict(action.choices) for action in actions if isinstance(action, argparse._SubParsersAction))


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a subcommand and of the subcommands below it, but for hidden ones, which are earlier names."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    own = {option for action in shown for option in action.option_strings}
    return own.union(*(options_of(child) for action in below for child in action.choices.values()))


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_the_reference_names_every_option(subcommand: str) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    general, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    section = next(part for part in parts if part.startswith(f"{subcommand}\n"))
    known = {"-h", "--help"} | set(re.findall(r"`(-[-\w]+)`", general + section))
    for option in options_of(subcommand_parsers()[subcommand]):
        assert option in known, f"{option} is not in docs/reference/cli.md"


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_the_reference_names_no_option_that_is_gone(subcommand: str) -> None:
    parts = re.split(r"^## ", REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = next(part for part in parts if part.startswith(f"{subcommand}\n"))
    table = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(-[-\w]+)`", table)) <= options_of(subcommand_parsers()[subcommand])


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_every_subcommand_shows_an_example_that_parses(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = SUBCOMMANDS[subcommand].EXAMPLE
    assert example.startswith(f"viscera {subcommand}")
    assert build_parser().parse_args(example.split()[1:]).subcommand == subcommand
    with pytest.raises(SystemExit):
        main([subcommand, "--help"])
    assert example in capsys.readouterr().out
