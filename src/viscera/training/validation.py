"""DSC of the averaged weights on the network's own grid: a quick look during training, not the score of a scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from viscera.training.sampler import Sample
from viscera.training.step import Trainer


@torch.no_grad()
def validate(trainer: Trainer, names: Sequence[str], sample: Callable[[str], Sample]) -> list[float]:
    """The DSC in [0, 1] of every label but the background, the mean over the cases `names`.

    A label that neither reference nor prediction shows counts 1, one that only the prediction shows 0 (FLARE). The
    processes of a training share the cases, and all get the same result.
    """
    world = trainer.world
    sums: list[float] = []
    for name in names[world.rank :: world.size]:
        one = sample(name)
        scores = label_dice(_predicted(trainer, one.image), one.labels)
        sums = scores if not sums else [total + score for total, score in zip(sums, scores, strict=True)]
    labels = 2 if trainer.stage == "localise" else trainer.config.model.scn.labels
    shares = world.gather(sums or [0.0] * (labels - 1))
    return [sum(of_rank) / len(names) for of_rank in zip(*shares, strict=True)]


def label_dice(logits: Tensor, labels: Tensor) -> list[float]:
    """The DSC of every label but the background, of (1, labels, z, y, x) logits and integer (1, z, y, x) labels."""
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
