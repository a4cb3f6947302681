"""Which case goes where: every input listed, every output named and checked before the work begins."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viscera.case import preview_path, probabilities_path, uncertainty_path
from viscera.cli.output_layouts import FlatLayout, Layout
from viscera.core.errors import ConfigError, VisceraError
from viscera.formats.inputs import Inputs, find_inputs, list_inputs
from viscera.write import FORMATS, LabelOutputs

_NIFTI = (".nii", ".nii.gz")
# Image formats that are read but not written: as the end of OUT they are a mistake, not a folder's name.
_OTHER_IMAGES = (".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".gz", ".zip")


@dataclass(frozen=True, kw_only=True)
class PlannedCase:
    """One case: its name, the path read, and the label file, or why it cannot be segmented."""

    name: str
    source: Path
    output: Path = Path()
    error: VisceraError | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cases of a run and where their common files go.

    Attributes:
        cases: In the order of the inputs.
        folder: Where the outputs go.
        statistics: The file name of the statistics without its ending.
        common: The texts of the files that the layout wants once, by their paths.
        notes: Which inputs were left out, one sentence each.
    """

    cases: tuple[PlannedCase, ...]
    folder: Path
    statistics: Path
    common: Mapping[Path, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plan_cases(
    inputs: Sequence[Path],
    output: Path,
    report: Path | None = None,
    layout: Layout | None = None,
    *,
    formats: Collection[str] = ("nifti",),
) -> Plan:
    """Plan where the labels of `inputs` go: `output` is a file for one case, a folder for any number.

    `layout` says where in a folder; a single file has the place it was given, and no other layout than the flat one.
    Both of these are for NIfTI, regardless of the other formats. An input that cannot be listed becomes a case with its
    error.

    Raises:
        ConfigError: If `output` has the wrong form or does not fit the layout, or a label file, picture, table or
            `report` would overwrite an input or each other.
    """
    listed, failed = _found(inputs)
    scans = listed.cases
    layout = layout or FlatLayout()
    single = output.name.lower().endswith(_NIFTI) and not output.is_dir()
    _require_form(output, single=single, cases=len(scans) + len(failed), layout=layout)
    if "nifti" not in formats and (single or not layout.single_file):
        raise ConfigError(
            "planning the outputs",
            expected="NIfTI among the formats, as this place or layout is for it",
            got=", ".join(formats),
            remedy="Add -f nifti, or give a folder with -o",
        )
    folder = output.parent if single else output
    places = [(scan.name, Path(output.name)) for scan in scans] if single else layout.place(scans)
    cases = tuple(
        PlannedCase(name=name, source=scan.path, output=folder / path)
        for scan, (name, path) in zip(scans, places, strict=True)
    )
    stem = output.name.removesuffix(".gz").removesuffix(".nii")
    plan = Plan(
        cases=(*failed, *cases),
        folder=folder,
        statistics=folder / (f"{stem}_statistics" if single else "statistics"),
        common={} if single else layout.common_files(folder, report),
        notes=listed.notes,
    )
    _check_outputs(plan, inputs, report, within=[] if single else [folder])
    return plan


def _require_form(output: Path, *, single: bool, cases: int, layout: Layout) -> None:
    doing = "planning the outputs"
    if single and cases != 1:
        raise ConfigError(
            doing,
            expected=f"one input for the single file {output}",
            got=f"{cases} cases",
            remedy="Give a folder with -o",
        )
    if single and not layout.single_file:
        raise ConfigError(
            doing,
            expected="a folder after -o, as this layout has several files for each case",
            got=f"the single file {output}",
            remedy="Give a folder, or leave out --layout",
        )
    if not single and (output.is_file() or output.name.lower().endswith(_OTHER_IMAGES)):
        raise ConfigError(
            doing,
            expected="a file ending in .nii or .nii.gz, or a folder, after -o",
            got=str(output),
            remedy="Change the ending or give a folder",
        )


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
    """Return every file the plan may write, the report apart."""
    labels = [case.output for case in plan.cases if case.error is None]
    statistics = [plan.statistics.with_name(plan.statistics.name + ending) for ending in (".csv", ".json")]
    written = [path for one in labels for path in LabelOutputs(labels=one, formats=FORMATS).paths.values()]
    maps = [path(one) for one in labels for path in (preview_path, probabilities_path, uncertainty_path)]
    return [*written, *maps, *statistics, *plan.common]


def refuse_overwriting(outputs: Iterable[Path], sources: Iterable[Path]) -> None:
    """Raise ConfigError if one of `outputs` is one of `sources`, also by another name."""
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


def _found(inputs: Sequence[Path]) -> tuple[Inputs, list[PlannedCase]]:
    """The scans of `inputs`, and a case with its error for every input that cannot be listed."""
    try:
        return list_inputs(inputs), []
    except VisceraError:
        usable, failed = _listed_apart(inputs)
        return list_inputs(usable), failed


def _listed_apart(inputs: Sequence[Path]) -> tuple[list[Path], list[PlannedCase]]:
    usable: list[Path] = []
    failed: list[PlannedCase] = []
    for path in dict.fromkeys(inputs):
        try:
            find_inputs([path])
        except VisceraError as error:
            failed.append(PlannedCase(name=path.name or str(path), source=path, error=error))
        else:
            usable.append(path)
    return usable, failed
