"""One case from file to file, and the segmenter kept over many: the one path of the command line and the API."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from viscera.core.files import write_bytes, write_text
from viscera.core.geometry import Grid
from viscera.core.organs import Organ
from viscera.core.provenance import Origin
from viscera.core.roi_subset import chosen_organs, keep_organs
from viscera.core.volume import Volume
from viscera.engines.choice import make_engine
from viscera.engines.engine import Engine
from viscera.model.bundle import CARD, Bundle, ModelCard, load_bundle
from viscera.pipeline import NOTHING_ALLOWED, Allowed, Segmentation, fitted_scout
from viscera.pipeline import segment_volume as run_stages
from viscera.quality.rules import quality_note
from viscera.read import read_volume
from viscera.write import DICOM_FORMATS, LabelOutputs, output_stem, require_formats

if TYPE_CHECKING:
    from viscera.formats.dicom.references import SourceImages
    from viscera.quality.statistics import OrganStatistics

# The stages of a file in order: those of the pipeline between reading and writing. Cleaning and preview are on request.
STAGES = ("read", "preprocess", "localise", "crop", "segment", "restore", "clean", "assess", "preview", "write")

OnStage = Callable[[str], None]
# From a label file and the bundle's card the text of each file to write beside it, by its path.
SideFiles = Callable[[Path, ModelCard], Mapping[Path, str]]


def nothing_beside(labels: Path, card: ModelCard) -> Mapping[Path, str]:
    """No file: what stands beside a label file unless something is asked for."""
    return {}


@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """How one scan is read and what is written beside its labels.

    Attributes:
        series: The series to take from a DICOM folder with several, None for the reader's choice.
        hu_offset: Added to every voxel, for scans stored with a shifted HU scale.
        allow_empty: Write an empty label map when no organ is found instead of raising.
        allow_mirrored: Label a scan that is beyond doubt a patient's mirror image, with a note, instead of raising.
        preview: Write a picture beside the label file, NAME_preview.png.
        clean: Whether small parts of organs are removed from the labels, None for what the bundle's card says.
        side_files: Texts to write beside the label file.
        formats: In what the labels are written: "nifti", "dicom-seg", "rtstruct"; the last two for DICOM scans only.
        seg_type: Of a DICOM SEG: "binary" or "labelmap".
        identity: What the identifiers in DICOM outputs follow from, None for new ones.
        roi_subset: Names of the organs to write, everything else being background; empty for all.
    """

    series: str | None = None
    hu_offset: int = 0
    allow_empty: bool = False
    allow_mirrored: bool = False
    preview: bool = False
    clean: bool | None = None
    side_files: SideFiles = nothing_beside
    formats: tuple[str, ...] = ("nifti",)
    seg_type: str = "binary"
    identity: str | None = None
    roi_subset: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentedCase:
    """What became of one scan.

    Attributes:
        segmentation: Labels on the scan's own grid, how they came about, and whether to trust them.
        statistics: Volume and mean HU of every organ, with its verdict.
        output: The label file: NIfTI if asked for, else the SEG, else the RTSTRUCT.
        outputs: All label files by format.
        preview: The picture, None if not asked for.
        notes: Remarks of the reading and of the stages.
        urgent_notes: What to tell at once: how it was read (a series chosen, an offset applied), what puts the
            result in doubt, and one line on the organs to check.
        seconds: Wall-clock seconds by stage, those of `STAGES`.
    """

    segmentation: Segmentation
    statistics: tuple[OrganStatistics, ...]
    output: Path
    outputs: Mapping[str, Path]
    preview: Path | None
    notes: tuple[str, ...]
    urgent_notes: tuple[str, ...]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmenter:
    """A loaded bundle and its engine; make it once with `Segmenter.load` and use it for any number of scans.

    Attributes:
        bundle: The model: configuration, graphs, card.
        engine: What runs the networks.
    """

    bundle: Bundle
    engine: Engine

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        memory_limit: int | None = None,
        cache: Path | None = None,
    ) -> Self:
        """A segmenter with the shipped bundle, or with the one of a folder or a shipped name.

        Args:
            bundle: None for the default bundle, else a folder, or the name of a bundle that ships with the package.
            device: "auto", "cpu" or "cuda".
            precision: "auto", "f32" or "bf16".
            threads: CPU threads, None for as many as there are cores.
            memory_limit: Bytes, None for no limit: on the CPU of the whole process, on a GPU of the networks' tensors
                there. A network that needs more is computed in windows, with the same answer.
            cache: Folder where compiled networks are kept for the next process, which saves it 0.1 s for each; None
                keeps none. It may be deleted at any time.

        Raises:
            BundleError: If the bundle is missing, incomplete or altered.
            ConfigError: For an unknown device or precision, or one this machine has not.
            MissingExtraError: If the device needs a package that is not installed.
        """
        loaded = load_bundle(None if bundle is None else bundle_source(bundle))
        engine = make_engine(
            loaded, device=device, precision=precision, threads=threads, memory_limit=memory_limit, cache=cache
        )
        engine.prepare()  # while the first scan is read
        return cls(bundle=loaded, engine=engine)

    @property
    def device(self) -> str:
        """Where the networks run, "cpu" or "cuda"."""
        return "cuda" if self.engine.name.endswith("cuda") else "cpu"

    def segment_volume(
        self,
        volume: Volume,
        *,
        allowed: Allowed = NOTHING_ALLOWED,
        clean: bool | None = None,
        on_stage: OnStage | None = None,
    ) -> Segmentation:
        """The organs of a CT on its own grid; see `viscera.pipeline.segment_volume`.

        Args:
            volume: The CT.
            allowed: What is noted instead of being refused.
            clean: Whether small parts of organs are removed from the labels, None for what the bundle's card says.
            on_stage: Called with each stage's name as it begins.

        Raises:
            NothingFoundError: If no organ is found, unless allowed.
            GeometryError: If the scan is beyond doubt mirrored, unless allowed; never for a DICOM scan.
        """
        card = self.bundle.card
        return run_stages(
            volume,
            self.engine,
            card.model if clean is None else replace(card.model, clean=clean),
            organs=card.organs,
            allowed=allowed,
            on_stage=on_stage,
        )

    def segment_file(
        self,
        source: str | Path,
        output: str | Path,
        *,
        options: CaseOptions | None = None,
        on_stage: OnStage | None = None,
    ) -> SegmentedCase:
        """The organs of the scan at `source`, written to `output` (.nii or .nii.gz).

        Of other formats than NIfTI the files are beside it: NAME_seg.dcm, NAME_rtstruct.dcm for NAME.nii.gz. Files
        appear whole or not at all. `on_stage` is called with each of `STAGES` as it begins.

        Raises:
            ReadError, GeometryError: If the scan cannot be read, its geometry is unsound, it is beyond doubt mirrored,
                unless `options.allow_mirrored`, or it is no DICOM though DICOM is asked for.
            ConfigError: If a format or an organ is unknown.
            MissingExtraError: If a format needs a package that is not installed.
            NothingFoundError: If no organ is found, unless `options.allow_empty`.
            WriteError: If a file cannot be written.
        """
        from viscera.quality.statistics import organ_statistics, with_quality

        source, output, chosen = Path(source), Path(output), options or CaseOptions()
        outputs = LabelOutputs(labels=output, formats=chosen.formats, seg_type=chosen.seg_type)
        require_formats(chosen.formats)
        organs = chosen_organs(self.bundle.card.organs, chosen.roi_subset)
        seconds: dict[str, float] = {}
        with _timed("read", seconds, on_stage):
            images = self._source_images(source, chosen)  # first, as this is quick to refuse a scan
            volume = read_volume(source, series=chosen.series, hu_offset=chosen.hu_offset, on_grid=self._announce)
        allowed = Allowed(empty=chosen.allow_empty, mirrored=chosen.allow_mirrored)
        segmentation = self.segment_volume(volume, allowed=allowed, clean=chosen.clean, on_stage=on_stage)
        if chosen.roi_subset:
            segmentation = _of_organs(segmentation, organs)
        seconds.update(segmentation.seconds)
        preview = None
        if chosen.preview:
            with _timed("preview", seconds, on_stage):
                preview = self._write_preview(volume, segmentation, output, organs)
        with _timed("write", seconds, on_stage):
            measured = organ_statistics(volume, segmentation.label_map, organs)
            statistics = with_quality(measured, segmentation.quality)
            for path, text in chosen.side_files(output, self.bundle.card).items():
                write_text(text, path)
            # Last of all: where the label files are, the case is finished.
            outputs.write(segmentation.label_map, images, self._origin(chosen, organs))
        check = quality_note(segmentation.quality)
        return SegmentedCase(
            segmentation=segmentation,
            statistics=statistics,
            output=outputs.main,
            outputs=outputs.paths,
            preview=preview,
            notes=segmentation.notes,
            urgent_notes=(*volume.notes, *segmentation.warnings, *([check] if check else [])),
            seconds=seconds,
        )

    def _source_images(self, source: Path, options: CaseOptions) -> SourceImages | None:
        """What DICOM outputs refer to, None if there are none to be written."""
        if not set(DICOM_FORMATS) & set(options.formats):
            return None
        from viscera.formats.dicom.references import source_images

        return source_images(source, series=options.series)

    def _origin(self, options: CaseOptions, organs: tuple[Organ, ...]) -> Origin:
        card = self.bundle.card
        return Origin(bundle=card.name, bundle_version=card.version, organs=organs, identity=options.identity)

    def _announce(self, grid: Grid) -> None:
        """Have the localisation compiled while the scan on `grid` is read; refuses what exceeds the memory limit."""
        scout = fitted_scout(grid.to_canonical().apply_to_grid(grid), self.bundle.card.model)
        scan_bytes = np.dtype(np.int16).itemsize * math.prod(grid.shape_zyx)
        self.engine.announce("localise", (1, 1, *scout.shape_zyx), beside=scan_bytes)

    def _write_preview(
        self, volume: Volume, segmentation: Segmentation, output: Path, organs: tuple[Organ, ...]
    ) -> Path:
        from viscera.drawing.overlay import preview_png

        path = preview_path(output)
        write_bytes(preview_png(volume, segmentation.label_map, organs), path)
        return path


def segment_volume(
    volume: Volume,
    *,
    bundle: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    allowed: Allowed = NOTHING_ALLOWED,
    clean: bool | None = None,
) -> Segmentation:
    """The organs of one CT on its own grid, with a segmenter made for this call; for many, keep a `Segmenter`."""
    segmenter = Segmenter.load(bundle, device=device, precision=precision)
    return segmenter.segment_volume(volume, allowed=allowed, clean=clean)


def segment_file(
    source: str | Path,
    output: str | Path,
    *,
    bundle: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    options: CaseOptions | None = None,
) -> SegmentedCase:
    """The organs of one scan, file to file, with a segmenter made for this call; for many, keep a `Segmenter`."""
    segmenter = Segmenter.load(bundle, device=device, precision=precision)
    return segmenter.segment_file(source, output, options=options)


def bundle_source(bundle: str | Path) -> str | Path:
    """The folder, or the shipped name, that `bundle` means, as `load_bundle` takes it.

    Text is a name if it has no separator and no folder of that name holds a card.
    """
    folder = Path(bundle)
    named = isinstance(bundle, str) and folder.name == bundle and not (folder / CARD).is_file()
    return bundle if named else folder


def preview_path(output: Path) -> Path:
    """Where the picture of a label file goes: NAME_preview.png beside it."""
    return output.with_name(f"{output_stem(output)}_preview.png")


@contextmanager
def _timed(stage: str, seconds: dict[str, float], on_stage: OnStage | None) -> Iterator[None]:
    if on_stage is not None:
        on_stage(stage)
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _of_organs(segmentation: Segmentation, organs: tuple[Organ, ...]) -> Segmentation:
    """What a segmentation says of some organs."""
    names = {organ.name for organ in organs}
    removed = segmentation.removed
    return replace(
        segmentation,
        label_map=keep_organs(segmentation.label_map, organs),
        quality=tuple(one for one in segmentation.quality if one.organ in names),
        removed=None if removed is None else tuple(one for one in removed if one.organ in names),
    )
