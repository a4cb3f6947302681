"""What reports and ledgers record of a segmented case."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from viscera.model.bundle import CARD
from viscera.quality.rules import OrganQuality
from viscera.quality.statistics import OrganStatistics
from viscera.result import Segmentation
from viscera.segmenter import Segmenter
from viscera.viewer.run_report import Runtime


def organ_entry(organ: OrganStatistics) -> dict[str, Any]:
    """One organ's statistics as the report shows them."""
    return {**asdict(organ), "touches_border": organ.touches_border}


def organ_entries(done: Segmentation) -> tuple[dict[str, Any], ...]:
    """All of a case's organs as the report shows them: statistics, what was removed, what the QC status rests on."""
    removed = {one.organ: one for one in done.removed or ()}
    return tuple(
        {
            **organ_entry(organ),
            "removed_ml": removed[organ.organ].volume_ml if organ.organ in removed else None,
            "quality_sentences": quality.sentences,
            "signals": asdict(quality.signals),
        }
        for organ, quality in zip(done.statistics, done.quality, strict=True)
    )


def quality_sentences(quality: Sequence[OrganQuality]) -> tuple[str, ...]:
    """Why organs are to be checked or absent, one sentence for each reason, after the organ's name."""
    return tuple(f"{organ.organ}: {sentence}" for organ in quality for sentence in organ.sentences)


def runtime(segmenter: Segmenter) -> Runtime:
    """What the report says of a segmenter."""
    card = segmenter.bundle.card
    return Runtime(
        bundle=card.name,
        bundle_version=card.version,
        card_sha256=hashlib.sha256((segmenter.bundle.folder / CARD).read_bytes()).hexdigest(),
        engine=segmenter.engine.name,
        device=segmenter.device,
        precision=segmenter.engine.precision,
    )
