"""DSC of the averaged weights on the network's own grid: a quick look during training, not the score of a scan."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from viscera.training.sampler import Sample
from viscera.training.step import Trainer


@torch.no_grad()
def validate(
    trainer: Trainer,
    names: Sequence[str],
    sample: Callable[[str], Sample],
    unannotated: Callable[[str], Collection[int]] = lambda name: (),
) -> list[float]:
    """Return the DSC in [0, 1] of every label but the background, the mean over the cases `names`.

    A label that neither reference nor prediction shows counts 1, one that only the prediction shows 0 (FLARE). The
    processes of a training share the cases, and all get the same result.

    Args:
        trainer: Whose averaged weights predict.
        names: The cases.
        sample: Returns a case without augmentation.
        unannotated: Returns the labels a case does not annotate; it does not count for these. The DSC of a label that
            no case annotates is NaN.
    """
    world = trainer.world
    labels = range(1, 2 if trainer.stage == "localise" else trainer.config.model.scn.labels)
    sums, counts = dict.fromkeys(labels, 0.0), dict.fromkeys(labels, 0)
    for name in names[world.rank :: world.size]:
        one = sample(name)
        for label, score in zip(labels, label_dice(_predicted(trainer, one.image), one.labels), strict=True):
            if label not in unannotated(name):
                sums[label] += score
                counts[label] += 1
    shares = world.gather([*sums.values(), *counts.values()])
    totals = [sum(of_rank) for of_rank in zip(*shares, strict=True)]
    pairs = zip(totals[: len(labels)], totals[len(labels) :], strict=True)
    return [score / count if count else math.nan for score, count in pairs]


def label_dice(logits: Tensor, labels: Tensor) -> list[float]:
    """Return the DSC of every label but background, of logits (1, labels, z, y, x) and integer labels (1, z, y, x)."""
    count = logits.shape[1]
    predicted, true = logits.argmax(1).flatten(), labels.long().flatten()
    both = torch.bincount(true[predicted == true], minlength=count)
    total = torch.bincount(predicted, minlength=count) + torch.bincount(true, minlength=count)
    pairs = zip(both.tolist()[1:], total.tolist()[1:], strict=True)
    return [2 * overlap / voxels if voxels else 1.0 for overlap, voxels in pairs]


def _predicted(trainer: Trainer, image: Tensor) -> Tensor:
    with trainer.autocast():
        output = trainer.average(image.to(memory_format=torch.channels_last_3d))
    scores: Tensor = output if trainer.stage == "localise" else output.probabilities
    return scores.float()
