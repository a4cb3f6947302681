"""The segmenter: one CT in memory or from file to file, the one path of the command line and the Python interface."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from viscera.case import CaseOptions, preview_path, probabilities_path, uncertainty_path
from viscera.convert import Converted, converted
from viscera.core.errors import VisceraError
from viscera.core.files import write_bytes, write_text
from viscera.core.geometry import Grid
from viscera.core.organs import sided_table
from viscera.core.provenance import Origin
from viscera.core.roi_subset import chosen_organs
from viscera.core.volume import Volume
from viscera.engines.choice import make_engine
from viscera.engines.engine import Engine
from viscera.model.bundle import CARD, Bundle, load_bundle
from viscera.pipeline import Allowed, low_resolution_grid
from viscera.pipeline import segment_volume as run_stages
from viscera.result import Segmentation, with_organs, with_sides
from viscera.write import DICOM_FORMATS, LabelOutputs, require_formats

if TYPE_CHECKING:
    from viscera.convert import CtInput
    from viscera.formats.dicom.references import SourceImages

OnStage = Callable[[str], None]
OnError = Callable[[Path, VisceraError], None]

# What became of one scan had a type of its own in version 0.2; to be removed after 0.3.
SegmentedCase = Segmentation


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmenter:
    """A loaded bundle and its engine; make it once with `Segmenter.load` and use it for any number of scans.

    Attributes:
        bundle: The model: configuration, graphs, card.
        engine: What runs the networks.

    Example:
        >>> import viscera
        >>> segmenter = viscera.Segmenter.load("fast")
        >>> result = segmenter("ct.nii.gz")  # doctest: +SKIP
        >>> result.organs["liver"].volume_ml  # doctest: +SKIP
        1432.7
    """

    bundle: Bundle
    engine: Engine

    def __repr__(self) -> str:
        card = self.bundle.card
        return f"Segmenter({card.name} {card.version}, {self.engine.name})"

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        memory_limit: int | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Load a bundle that ships with the package, by its name, or the one in a folder.

        Args:
            bundle: None for the default bundle, else a folder, or the name of a bundle that ships with the package
                (`viscera.list_bundles()`).
            device: "auto", "cpu" or "cuda".
            precision: "auto", "f32" or "bf16".
            threads: CPU threads, None for as many as there are cores.
            memory_limit: Bytes, None for no limit: on the CPU of the whole process, on a GPU of the networks' tensors
                there. A network that needs more is computed in tiles, with the same output.
            cache: Folder where compiled networks are kept for the next process, which saves it 0.1 s for each; None
                keeps none. It may be deleted at any time.

        Raises:
            BundleError: If the bundle is missing, incomplete or altered.
            ConfigError: For an unknown device or precision, or one this machine has not.
            MissingExtraError: If the device needs a package that is not installed.
        """
        loaded = load_bundle(None if bundle is None else bundle_source(bundle))
        engine = make_engine(
            loaded,
            device=device,
            precision=precision,
            threads=threads,
            memory_limit=memory_limit,
            cache=None if cache is None else Path(cache),
        )
        engine.prepare()  # while the first scan is read
        return cls(bundle=loaded, engine=engine)

    @property
    def device(self) -> str:
        """Where the networks run, "cpu" or "cuda"."""
        return "cuda" if self.engine.name.endswith("cuda") else "cpu"

    def __call__(
        self,
        ct: CtInput,
        *,
        affine: ArrayLike | None = None,
        series: str | None = None,
        clean: bool | None = None,
        split_kidneys: bool = False,
        probabilities: bool = False,
        allow_empty: bool = False,
        allow_mirrored: bool = False,
    ) -> Segmentation:
        """Segment one CT.

        The labels are on exactly the CT's grid, and `result.labels` is indexed as what was given: an array or tensor in
        its own order, a nibabel image (i, j, k) as its `get_fdata()`, a SimpleITK image (z, y, x) as
        `GetArrayFromImage`, a path or `Volume` (z, y, x). `result.affine_ras` always belongs to `result.labels`.

        Args:
            ct: A path of anything `read_volume` reads, a nibabel or SimpleITK image, a numpy array or a torch tensor
                (integers or floats, in HU), or a `Volume`. A tensor may have a leading channel axis of one.
            affine: For an array or tensor, and needed there: 4x4, maps its own indices, in their order, to mm in RAS+
                (as in nibabel, MONAI and TorchIO). With nibabel: `segmenter(image.get_fdata(), affine=image.affine)`.
                If you transpose the array, permute the columns of the affine, too. A mismatch gives a warning where
                it shows; with equal spacings on all axes it cannot show.
            series: For a path: which of several DICOM series, its number or the beginning of its UID.
            clean: Whether small components are removed from the labels, None for what the bundle's card says.
            split_kidneys: Whether the left kidney gets a label of its own, the first free one.
            probabilities: Whether to keep the network's output as `result.probabilities`.
            allow_empty: Return an all-background label map where no organ is found, instead of raising.
            allow_mirrored: Segment a scan that is certainly a mirror image, with a warning, instead of raising.

        Raises:
            ConfigError: If `ct` is something else, or an array without an affine.
            ReadError, GeometryError: If the CT cannot be read, its geometry is unsound, or it is certainly mirrored.
            NothingFoundError: If no organ is found.

        Example:
            >>> image = nibabel.load("ct.nii.gz")  # doctest: +SKIP
            >>> result = segmenter(image.get_fdata(), affine=image.affine)  # doctest: +SKIP
            >>> result.labels.shape == image.shape  # doctest: +SKIP
            True
        """
        given = converted(ct, affine=affine, series=series, on_grid=self._compile_ahead)
        options = CaseOptions(
            clean=clean,
            split_kidneys=split_kidneys,
            probabilities=probabilities,
            allow_empty=allow_empty,
            allow_mirrored=allow_mirrored,
        )
        result = self._segmented(given, options)
        if given.source is None:
            return result
        return replace(result, given_statistics=result.statistics, volume=None)  # so that results need no CTs

    def map(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        clean: bool | None = None,
        split_kidneys: bool = False,
        probabilities: bool = False,
        allow_empty: bool = False,
        allow_mirrored: bool = False,
        on_error: OnError | None = None,
    ) -> Iterator[Segmentation]:
        """Segment many scans, one after the other; results come as they are ready, with their path as `source`.

        Args:
            paths: Of anything `read_volume` reads.
            clean: As for a single CT, like the others here.
            split_kidneys: Whether the left kidney gets a label of its own.
            probabilities: Whether to keep the network's output.
            allow_empty: Return an all-background label map where no organ is found.
            allow_mirrored: Segment a scan that is certainly a mirror image.
            on_error: Called with the path and the error of a scan that cannot be segmented, and the rest go on; None
                raises the error, which ends the iteration.

        Example:
            >>> for result in segmenter.map(sorted(Path("scans").glob("*.nii.gz"))):  # doctest: +SKIP
            ...     print(result.source, result.organs["spleen"].volume_ml)
        """
        for path in paths:
            try:
                result = self(
                    path,
                    clean=clean,
                    split_kidneys=split_kidneys,
                    probabilities=probabilities,
                    allow_empty=allow_empty,
                    allow_mirrored=allow_mirrored,
                )
            except VisceraError as error:
                if on_error is None:
                    raise
                on_error(Path(path), error)
            else:
                yield result

    def segment_volume(
        self,
        volume: Volume,
        *,
        allowed: Allowed | None = None,
        clean: bool | None = None,
        on_stage: OnStage | None = None,
        allow_empty: bool = False,
        allow_mirrored: bool = False,
    ) -> Segmentation:
        """Segment a `Volume`; calling the segmenter does the same for any kind of CT.

        Args:
            volume: The CT.
            allowed: What version 0.2 took instead of `allow_empty` and `allow_mirrored`; to be removed after 0.3.
            clean: Whether small components are removed from the labels, None for what the bundle's card says.
            on_stage: Called with each stage's name as it begins.
            allow_empty: Return an all-background label map where no organ is found, instead of raising.
            allow_mirrored: Segment a scan that is certainly a mirror image, with a warning, instead of raising.

        Raises:
            NothingFoundError: If no organ is found, unless allowed.
            GeometryError: If the scan is certainly mirrored, unless allowed; never for a DICOM scan.
        """
        old = allowed or Allowed()
        options = CaseOptions(
            clean=clean,
            allow_empty=allow_empty or old.empty,
            allow_mirrored=allow_mirrored or old.mirrored,
        )
        return self._segmented(Converted(volume=volume), options, on_stage)

    def segment_file(
        self,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        options: CaseOptions | None = None,
        on_stage: OnStage | None = None,
    ) -> Segmentation:
        """Segment the scan at `source` and write the labels to `output` (.nii or .nii.gz).

        Files of other formats than NIfTI are next to it: NAME_seg.dcm, NAME_rtstruct.dcm for NAME.nii.gz. Files
        appear whole or not at all. `on_stage` is called with each of `STAGES` as it begins.

        Raises:
            ReadError, GeometryError: If the scan cannot be read, its geometry is unsound, it is certainly mirrored,
                unless `options.allow_mirrored`, or it is not DICOM though DICOM output is asked for.
            ConfigError: If a format or an organ is unknown.
            MissingExtraError: If a format needs a package that is not installed.
            NothingFoundError: If no organ is found, unless `options.allow_empty`.
            WriteError: If a file cannot be written.
        """
        source, output, chosen = Path(source), Path(output), options or CaseOptions()
        outputs = LabelOutputs(labels=output, formats=chosen.formats, seg_type=chosen.seg_type)
        require_formats(chosen.formats)
        organs = self.bundle.card.organs
        # An unknown name is refused before anything is read.
        chosen_organs(sided_table(organs) if chosen.split_kidneys else organs, chosen.roi_subset)
        seconds: dict[str, float] = {}
        with _timed("read", seconds, on_stage):
            images = self._source_images(source, chosen)  # first, as this is quick to refuse a scan
            given = converted(source, series=chosen.series, hu_offset=chosen.hu_offset, on_grid=self._compile_ahead)
            if images is not None:
                given = replace(given, volume=replace(given.volume, notes=given.volume.notes + images.notes))
        result = self._segmented(given, chosen, on_stage)
        seconds.update(result.seconds)
        preview = None
        if chosen.preview:
            with _timed("preview", seconds, on_stage):
                preview = _write_preview(given.volume, result, output)
        with _timed("write", seconds, on_stage):
            result = replace(result, given_statistics=result.statistics, outputs=outputs.paths, preview=preview)
            self._write_side_files(result, output, chosen)
            # Last of all: where the label files are, the case is finished.
            outputs.write(result.label_map, images, self._origin(result, chosen))
        return replace(result, volume=None, seconds=seconds)

    def _segmented(self, given: Converted, options: CaseOptions, on_stage: OnStage | None = None) -> Segmentation:
        card, model = self.bundle.card, self.bundle.card.model
        if options.clean is not None:
            model = replace(model, postprocessing=replace(model.postprocessing, enabled=options.clean))
        result = run_stages(
            given.volume,
            self.engine,
            model,
            organs=card.organs,
            allow_empty=options.allow_empty,
            allow_mirrored=options.allow_mirrored,
            keep_probabilities=options.probabilities or options.uncertainty,
            on_stage=on_stage,
        )
        if options.split_kidneys:
            result = with_sides(result, given.volume)
        if options.roi_subset:
            result = with_organs(result, options.roi_subset)
        return replace(result, source=given.source, index_order=given.index_order)

    def _source_images(self, source: Path, options: CaseOptions) -> SourceImages | None:
        """What DICOM outputs refer to, None if there are none to be written."""
        if not set(DICOM_FORMATS) & set(options.formats):
            return None
        from viscera.formats.dicom.references import source_images

        return source_images(source, series=options.series)

    def _origin(self, result: Segmentation, options: CaseOptions) -> Origin:
        card = self.bundle.card
        return Origin(
            bundle=card.name, bundle_version=card.version, organs=result.organ_table, identity=options.identity
        )

    def _compile_ahead(self, grid: Grid) -> None:
        """Have the localisation compiled while the scan on `grid` is read; refuses what exceeds the memory limit."""
        low_grid = low_resolution_grid(grid.to_canonical().apply_to_grid(grid), self.bundle.card.model)
        scan_bytes = np.dtype(np.int16).itemsize * math.prod(grid.shape_zyx)
        self.engine.compile_ahead("localise", (1, 1, *low_grid.shape_zyx), extra_bytes=scan_bytes)

    def _write_side_files(self, result: Segmentation, output: Path, options: CaseOptions) -> None:
        """Write what is asked for next to the labels."""
        card = self.bundle.card
        if options.layout == "bids":
            from viscera.formats.bids import side_files

            named = {"Name": card.name, "Version": card.version}
            for path, text in side_files(output, result.organ_table, named).items():
                write_text(text, path)
        if result.probabilities is not None and options.probabilities:
            result.probabilities.save(probabilities_path(output))
        if result.probabilities is not None and options.uncertainty:
            result.probabilities.save_uncertainty(uncertainty_path(output))


def segment_volume(
    volume: Volume,
    *,
    bundle: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    allowed: Allowed | None = None,
    clean: bool | None = None,
) -> Segmentation:
    """Segment one CT with a segmenter made for this call; for many, keep a `Segmenter`."""
    segmenter = Segmenter.load(bundle, device=device, precision=precision)
    return segmenter.segment_volume(volume, allowed=allowed, clean=clean)


def segment_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    options: CaseOptions | None = None,
) -> Segmentation:
    """Segment one scan, file to file, with a segmenter made for this call; for many, keep a `Segmenter`."""
    segmenter = Segmenter.load(bundle, device=device, precision=precision)
    return segmenter.segment_file(source, output, options=options)


def bundle_source(bundle: str | os.PathLike[str]) -> str | Path:
    """Return the folder, or the shipped name, that `bundle` means, as `load_bundle` takes it.

    Text is a name if it has no separator and no folder of that name holds a card.
    """
    folder = Path(bundle)
    if isinstance(bundle, str) and folder.name == bundle and not (folder / CARD).is_file():
        return bundle
    return folder


def _write_preview(volume: Volume, result: Segmentation, output: Path) -> Path:
    from viscera.drawing.overlay import preview_png

    path = preview_path(output)
    write_bytes(preview_png(volume, result.label_map, result.organ_table, result.quality), path)
    return path


@contextmanager
def _timed(stage: str, seconds: dict[str, float], on_stage: OnStage | None) -> Iterator[None]:
    if on_stage is not None:
        on_stage(stage)
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
