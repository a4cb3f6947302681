"""Which case goes where: every input listed, every output named and checked before work begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscera.case import preview_path
from viscera.errors import ConfigError, VisceraError
from viscera.read import find_inputs

_NIFTI = (".nii", ".nii.gz")
# Image formats that are read but not written: as the end of OUT they are a mistake, not a folder's name.
_OTHER_IMAGES = (".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".gz", ".zip")


@dataclass(frozen=True, kw_only=True)
class PlannedCase:
    """One case: its name, the path read, and the label file, or why it cannot be worked on."""

    name: str
    source: Path
    output: Path
    error: VisceraError | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cases of a run and where their common files go.

    Attributes:
        cases: In the order of the inputs.
        folder: Where the outputs go.
        statistics: The file name of the statistics without its ending.
    """

    cases: tuple[PlannedCase, ...]
    folder: Path
    statistics: Path


def plan_cases(inputs: Sequence[Path], output: Path, report: Path | None = None) -> Plan:
    """The plan for writing the labels of `inputs` to `output`: a file for one case, a folder for any number.

    An input that cannot be listed becomes a case with its error.

    Raises:
        ConfigError: If `output` has the wrong form, or a label file, picture, table or `report` would overwrite an
            input or each other.
    """
    found = _found_cases(inputs)
    single = output.name.lower().endswith(_NIFTI) and not output.is_dir()
    if single and len(found) != 1:
        raise ConfigError(
            "planning the outputs",
            expected=f"one input for the single file {output}",
            got=f"{len(found)} cases",
            remedy="Give a folder with -o",
        )
    if not single and (output.is_file() or output.name.lower().endswith(_OTHER_IMAGES)):
        raise ConfigError(
            "planning the outputs",
            expected="a file ending in .nii or .nii.gz, or a folder, after -o",
            got=str(output),
            remedy="Change the ending or give a folder",
        )
    cases = tuple(
        PlannedCase(name=name, source=source, output=output if single else output / f"{name}.nii.gz", error=error)
        for name, source, error in found
    )
    folder = output.parent if single else output
    stem = output.name.removesuffix(".gz").removesuffix(".nii")
    plan = Plan(cases=cases, folder=folder, statistics=folder / (f"{stem}_statistics" if single else "statistics"))
    _check_outputs(plan, inputs, report, within=[] if single else [folder])
    return plan


def _check_outputs(plan: Plan, inputs: Sequence[Path], report: Path | None, *, within: list[Path]) -> None:
    sources = [*inputs, *(case.source for case in plan.cases)]
    outputs = outputs_of(plan)
    reports = [] if report is None else [report]
    # Labels among the scans of an input folder would be taken for scans the next time.
    refuse_overwriting([*outputs, *reports, *within], sources)
    if any(path.absolute() == written.absolute() for path in reports for written in outputs):
        raise ConfigError(
            "planning the outputs",
            expected="a report apart from the other outputs",
            got=str(report),
            remedy="Give another file with --report",
        )


def outputs_of(plan: Plan) -> list[Path]:
    """Every file the plan may write, the report apart."""
    labels = [case.output for case in plan.cases]
    statistics = [plan.statistics.with_name(plan.statistics.name + ending) for ending in (".csv", ".json")]
    return labels + [preview_path(path) for path in labels] + statistics


def refuse_overwriting(outputs: Iterable[Path], sources: Iterable[Path]) -> None:
    """Raises ConfigError if one of `outputs` is one of `sources`, by whatever name; returns nothing."""
    taken = {_identity(source) for source in sources if source.exists()}
    for output in outputs:
        if output.exists() and _identity(output) in taken:
            raise ConfigError(
                "planning the outputs",
                expected="outputs apart from the inputs",
                got=f"{output}, which is an input",
                remedy="Give another place with -o",
            )


def _identity(path: Path) -> tuple[int, int]:
    # Device and inode see through links and through names that differ in case only.
    status = path.stat()
    return status.st_dev, status.st_ino


def _found_cases(inputs: Sequence[Path]) -> list[tuple[str, Path, VisceraError | None]]:
    """(name, path, None) of every case, after (name, path, error) of every input that cannot be listed."""
    failed: list[tuple[str, Path, VisceraError | None]] = []
    try:
        found = find_inputs(inputs)
    except VisceraError:
        usable, failed = _listed_apart(inputs)
        found = find_inputs(usable)
    return [*failed, *((case.name, case.path, None) for case in found)]


def _listed_apart(inputs: Sequence[Path]) -> tuple[list[Path], list[tuple[str, Path, VisceraError | None]]]:
    usable: list[Path] = []
    failed: list[tuple[str, Path, VisceraError | None]] = []
    for path in dict.fromkeys(inputs):
        try:
            find_inputs([path])
        except VisceraError as error:
            failed.append((path.name or str(path), path, error))
        else:
            usable.append(path)
    return usable, failed
