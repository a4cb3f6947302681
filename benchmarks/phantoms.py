"""DSC and NSD of a bundle on phantoms it never saw: what the card and the README quote.

Run `python benchmarks/phantoms.py [--bundle DIR_OR_NAME] [--count N] [--first-seed N]`. The phantoms show the whole
abdomen at 2 x 2 x 3 mm; training phantoms have seeds from 1000.
"""

from __future__ import annotations

import argparse

from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.evaluation.scores import CaseScore, Evaluation
from viscera.evaluation.tables import cases_text, summary_text
from viscera.segmenter import Segmenter
from viscera.synthesis.phantom import make_phantom


def main() -> None:
    """Prints the scores of every phantom and their summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", help="default: the one that ships")
    parser.add_argument("--count", type=int, default=20, help="phantoms (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=500_000, help="of the phantoms (default: %(default)s)")
    args = parser.parse_args()
    segmenter = Segmenter.load(args.bundle)
    scores: list[CaseScore] = []
    for seed in range(args.first_seed, args.first_seed + args.count):
        phantom = make_phantom(seed)
        result = segmenter.segment_volume(phantom.volume, allow_empty=True)
        scores += evaluate_label_maps(phantom.label_map, result.label_map, case=f"phantom {seed}")
    evaluation = Evaluation(scores=tuple(scores))
    print(cases_text(evaluation))
    print()
    print(summary_text(evaluation))


if __name__ == "__main__":
    main()
