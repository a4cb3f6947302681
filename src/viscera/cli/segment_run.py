"""The cases of `viscera segment`, one after the other: one that fails is reported, and the rest are processed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from viscera.case import STAGES, CaseOptions
from viscera.cli.console import Console
from viscera.cli.progress import Progress
from viscera.cli.segment_plan import Plan, PlannedCase
from viscera.cli.segment_tables import cases_csv, cases_json, summary
from viscera.core.errors import VisceraError, WriteError, reason
from viscera.core.files import remove_stale_temporaries, write_text
from viscera.core.interrupts import clean_end
from viscera.core.organs import sided_table
from viscera.core.roi_subset import chosen_organs
from viscera.core.version import version
from viscera.quality.statistics import OrganStatistics, organ_statistics
from viscera.read import read_label_map, read_volume
from viscera.result import Segmentation
from viscera.segmenter import Segmenter
from viscera.viewer.run_entries import organ_entries, organ_entry, quality_sentences, runtime
from viscera.viewer.run_report import CaseEntry, Failure, RunReport, Status, peak_memory_mib, utc_now
from viscera.write import LabelOutputs


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        options: For every case.
        skip_existing: Keep label files that are there.
        statistics: Write the tables of all cases.
        report: The report's file, or None.
        given: The options as the report shows them.
    """

    options: CaseOptions
    skip_existing: bool = False
    statistics: bool = False
    report: Path | None = None
    given: Mapping[str, Any]


class SegmentRun:
    """One run over the cases of a plan; `run` may be called once."""

    def __init__(self, plan: Plan, request: Request, console: Console) -> None:
        self.plan = plan
        self.request = request
        self.console = console
        self.steps = len(STAGES) * len(plan.cases)
        self.statistics: dict[str, tuple[OrganStatistics, ...]] = {}
        cases = tuple(CaseEntry(name=case.name, input=str(case.source)) for case in plan.cases)
        self.report = RunReport(viscera=version(), options=request.given, started=utc_now(), cases=cases)

    def run(self, load: Callable[[], Segmenter]) -> int:
        """Segment every case and return the exit code; `load` is called if a case is left to segment or measure.

        Raises:
            VisceraError: If the bundle cannot be loaded or the report cannot be written; the report says so.
            KeyboardInterrupt: On Ctrl-C or SIGTERM, after the report is written.
        """
        with clean_end():
            try:
                self._save()
                make_folder(self.plan.folder)
                remove_stale_temporaries([self.plan.folder, *self._folders()])
                for path, text in self.plan.common.items():
                    write_text(text, path)
                self._work(load)
                self._write_statistics()
            except KeyboardInterrupt:
                self.console.if_stopped = self._how_to_continue()
                self._end(interrupted=True)
                self._write_statistics()
                raise
            except VisceraError as error:
                self._end(error=error)
                raise
            self._end()
        if len(self.plan.cases) > 1:
            self.console.say(self._tally())
        return 1 if self.report.count(Status.FAILED) else 0

    def _folders(self) -> Iterator[Path]:
        return (case.output.parent for case in self.plan.cases if case.error is None)

    def _work(self, load: Callable[[], Segmenter]) -> None:
        segmenter: Segmenter | None = None
        with self.console.progress() as progress:
            for index, case in enumerate(self.plan.cases):
                if case.error is not None:
                    self._failed(index, case.error, progress)
                elif self.request.skip_existing and self._finished(case):
                    if self.request.statistics:  # what the labels are called stands in the bundle
                        segmenter = segmenter or load()
                    self._skip(index, case, segmenter, progress)
                else:
                    progress.begin(f"{case.name}: read")
                    segmenter = segmenter or load()
                    self._segment(index, case, segmenter, progress)
                progress.reach(len(STAGES) * (index + 1), of=self.steps)

    def _segment(self, index: int, case: PlannedCase, segmenter: Segmenter, progress: Progress) -> None:
        self._set(index, status=Status.RUNNING)

        def on_stage(stage: str) -> None:
            progress.begin(f"{case.name}: {stage}")
            progress.reach(len(STAGES) * index + STAGES.index(stage), of=self.steps)

        try:
            done = segmenter.segment_file(case.source, case.output, options=self.request.options, on_stage=on_stage)
            self._record_runtime(segmenter)
        except Exception as error:  # the one place where a case's unforeseen error must not end the others
            self._failed(index, error, progress)
        else:
            self._done(index, case, done, progress)

    def _done(self, index: int, case: PlannedCase, done: Segmentation, progress: Progress) -> None:
        self.statistics[case.name] = done.statistics
        grid = done.label_map.grid
        self._set(
            index,
            status=Status.DONE,
            output=str(done.output),
            outputs={kind: str(path) for kind, path in done.outputs.items()},
            preview=None if done.preview is None else str(done.preview),
            notes=done.notes,
            shape_zyx_vox=grid.shape_zyx,
            spacing_zyx_mm=grid.spacing_zyx_mm,
            seconds=done.seconds,
            organs=organ_entries(done),
            peak_memory_mib=peak_memory_mib(),
        )
        progress.pause()
        # How finely a stage worked is of interest to few; how the scan was read may change what the labels mean.
        notes = (*done.notes, *quality_sentences(done.quality))
        for note in notes if self.console.verbose else done.urgent_notes:
            self.console.note(f"{case.name}: {note}")
        self.console.say(f"{case.name}: {summary(done.statistics)} ({sum(done.seconds.values()):.1f} s)")

    def _skip(self, index: int, case: PlannedCase, segmenter: Segmenter | None, progress: Progress) -> None:
        progress.begin(f"{case.name}: skip")
        outputs = self._outputs(case)
        organs: tuple[OrganStatistics, ...] = ()
        if segmenter is not None and self.request.statistics:
            # The tables are of all cases, so those done before are measured again.
            try:
                options = self.request.options
                volume = read_volume(case.source, series=options.series, hu_offset=options.hu_offset)
                table = segmenter.bundle.card.organs
                table = sided_table(table) if options.split_kidneys else table
                labels = read_label_map(outputs.main, table, within=volume.grid)
                organs = organ_statistics(volume, labels, chosen_organs(table, options.roi_subset))
            except VisceraError as error:
                self._failed(index, error, progress)
                return
            self.statistics[case.name] = organs
        self._set(
            index,
            status=Status.SKIPPED,
            output=str(outputs.main),
            outputs={kind: str(path) for kind, path in outputs.paths.items()},
            organs=tuple(organ_entry(organ) for organ in organs),
        )
        progress.pause()
        self.console.say(f"{case.name}: kept {outputs.main}")

    def _outputs(self, case: PlannedCase) -> LabelOutputs:
        options = self.request.options
        return LabelOutputs(labels=case.output, formats=options.formats, seg_type=options.seg_type)

    def _finished(self, case: PlannedCase) -> bool:
        """Whether every label file is there; an RTSTRUCT alone cannot be measured again."""
        paths = self._outputs(case).paths
        measurable = not self.request.statistics or set(paths) != {"rtstruct"}
        return measurable and all(path.is_file() for path in paths.values())

    def _failed(self, index: int, error: Exception, progress: Progress) -> None:
        self._set(index, status=Status.FAILED, error=Failure.of(error), peak_memory_mib=peak_memory_mib())
        progress.pause()
        self.console.fail(error, about=self.plan.cases[index].name)

    def _write_statistics(self) -> None:
        if self.request.statistics and self.statistics:
            write_text(cases_csv(self.statistics), self._table(".csv"))
            write_text(cases_json(self.statistics), self._table(".json"))

    def _table(self, ending: str) -> Path:
        return self.plan.statistics.with_name(self.plan.statistics.name + ending)

    def _tally(self) -> str:
        counts = [(self.report.count(status), status) for status in (Status.DONE, Status.SKIPPED, Status.FAILED)]
        return ", ".join(f"{count} {status}" for count, status in counts if count)

    def _how_to_continue(self) -> str:
        left = len(self.plan.cases) - sum(map(self.report.count, (Status.DONE, Status.SKIPPED, Status.FAILED)))
        done = self._tally() or "none done"
        return f"of {len(self.plan.cases)} cases {done}, {left} left; add --skip-existing to continue"

    def _set(self, index: int, **changes: Any) -> None:
        self.report = self.report.with_case(index, **changes)
        self._save()

    def _record_runtime(self, segmenter: Segmenter) -> None:
        # Not before the first case: asking an engine for its precision waits for its libraries, which load meanwhile.
        if self.report.machinery is None:
            self.report = replace(self.report, machinery=runtime(segmenter))

    def _end(self, *, interrupted: bool = False, error: VisceraError | None = None) -> None:
        self.report = self.report.ended(interrupted=interrupted, error=error)
        self._save()

    def _save(self) -> None:
        self.report.save(self.request.report)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, or raise WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"making the folder {folder}",
            expected="a place that can be written",
            got=reason(error),
            remedy="Give another place with -o",
        ) from error
