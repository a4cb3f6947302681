"""How many bad organs the quality flag names: DSC below 0.7 against QC statuses, on synthetic and on real CTs.

Run `python benchmarks/flags.py ANATOMIES [--bundle DIR_OR_NAME] [--count N] [--data FOLDER] [--out FILE.json]`.
Synthetic scans are drawn again from anatomies (`viscera anatomies`) with all that training draws, so that many are bad
cases: slabs, narrow crops, noise. Of the real CTs only those with a reference count (`benchmarks/accuracy.py` names
them). The file holds every organ's signals, on which other limits can be tried with `viscera.quality.rules.assess`. An
organ of which neither the reference nor the labels show 1 ml is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from accuracy import CASES, DATA, reference_of

from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap, Volume
from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.quality.rules import OrganSignals, Reason
from viscera.read import read_volume
from viscera.result import Segmentation
from viscera.segmenter import Segmenter
from viscera.synthesis.anatomy import Anatomy
from viscera.synthesis.config import SynthesisConfig
from viscera.synthesis.examples import draw_example
from viscera.training.data_sources import SyntheticData

BAD_DSC = 0.7
LEAST_ML = 1.0
VOXEL_MM = 2.0
# That a scan cuts an organ is said as well, but tells nothing of what is left of it.
_CUT = {Reason.AT_BORDER, Reason.OUT_OF_SCAN}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One organ of one scan: its score and what the flag says."""

    kind: str
    case: str
    organ: str
    dsc: float
    verdict: str
    reasons: tuple[str, ...]
    signals: OrganSignals


def main() -> None:
    """Prints how many bad and good organs are flagged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anatomies", type=Path)
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", help="default: the one that ships")
    parser.add_argument("--count", type=int, default=60, help="synthetic scans (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real CTs")
    parser.add_argument("--out", type=Path, help="JSON with every organ")
    args = parser.parse_args()
    segmenter = Segmenter.load(args.bundle)
    judged: list[Judged] = []
    for kind, case, volume, reference in scans(args.anatomies, args.count, args.data):
        result = segmenter.segment_volume(volume, allow_empty=True, allow_mirrored=True)
        judged += judgements(kind, case, reference, result)
    print(table(judged))
    if args.out is not None:
        args.out.write_text(json.dumps([asdict(one) for one in judged], indent=1) + "\n", encoding="utf-8")


def scans(anatomies: Path, count: int, data: Path) -> Iterator[tuple[str, str, Volume, LabelMap]]:
    """Kind, name, CT and reference of every scan."""
    files = [file for name, file in SyntheticData.open(anatomies).files.items() if not name.startswith("head")]
    for number in range(count):
        rng = np.random.default_rng([number, 17])
        anatomy = Anatomy.load(files[int(rng.integers(len(files)))])
        example = draw_example(anatomy, SynthesisConfig(), VOXEL_MM, rng)
        yield "synthetic", f"synthetic {number}", example.volume, example.label_map
    for real in CASES if data.is_dir() else ():
        if real.case.group == "labelled":
            volume = read_volume(data / real.scan)
            reference = reference_of(real, volume, data, ORGANS)
            assert reference is not None
            yield "real", real.case.name, volume, reference


def judgements(kind: str, case: str, reference: LabelMap, result: Segmentation) -> Iterator[Judged]:
    """The organs of one scan of which there is enough to judge."""
    volumes = np.bincount(reference.labels.ravel(), minlength=256) * reference.grid.voxel_ml
    scores = {score.organ: score.dsc for score in evaluate_label_maps(reference, result.label_map)}
    for index, organ in enumerate(result.quality, start=1):
        if max(float(volumes[index]), organ.signals.volume_ml) >= LEAST_ML:
            yield Judged(
                kind=kind,
                case=case,
                organ=organ.organ,
                dsc=scores[organ.organ],
                verdict=organ.status,
                reasons=organ.reasons,
                signals=organ.signals,
            )


def table(judged: list[Judged]) -> str:
    """Markdown: for each kind and organ, how many of the bad and of the good are flagged, not only as cut."""
    lines = [
        f"| scans | organ | DSC below {BAD_DSC} | of these flagged | better | of these flagged |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for kind in dict.fromkeys(one.kind for one in judged):
        for organ in (*dict.fromkeys(one.organ for one in judged), "all"):
            some = [one for one in judged if one.kind == kind and organ in (one.organ, "all")]
            cells = []
            for bad in (True, False):
                group = [one for one in some if (one.dsc < BAD_DSC) == bad]
                cells += [str(len(group)), str(sum(bool(set(one.reasons) - _CUT) for one in group))]
            lines.append(f"| {kind} | {organ} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
