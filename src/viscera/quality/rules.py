"""Whether an organ's labels can be trusted: ok, to be checked by eye, or absent, with reasons and what was measured.

`assess` judges measured signals by a bundle's `QualityConfig` and nothing else, so that other limits can be tried on
stored signals without running a network. It flags what is implausible, which need not be wrong: a spleen of a litre may
be one. What it does not flag can be wrong all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from viscera.core.config import OrganLimits, QualityConfig
from viscera.core.geometry import Vector


class QcStatus(StrEnum):
    """The quality control of an organ's label: nothing found, to be reviewed, or no label at all."""

    OK = "ok"
    CHECK = "check"
    ABSENT = "absent"


class Reason(StrEnum):
    """Why an organ is to be checked (up to `FRAGMENTED`), or why one may be absent; stable names."""

    DISAGREEMENT = "disagreement"
    UNCERTAIN = "uncertain"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    MISPLACED = "misplaced"
    AT_BORDER = "at_border"
    INCOMPLETE = "incomplete"
    FRAGMENTED = "fragmented"
    OUT_OF_SCAN = "out_of_scan"
    MISSING = "missing"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, kw_only=True)
class OrganSignals:
    """What is measured of one organ; None where there is nothing to measure.

    Attributes:
        organ: Its name.
        volume_ml: Of its labels.
        border_faces: Faces of the scan it touches (`components.CANONICAL_FACES`).
        centre_xyz_mm: Mean place of its voxels in the world (to the left, the back, the head).
        parts_ml: Volumes of its largest connected components, descending, at most `measurements.COMPONENTS_KEPT`.
        expected_dsc: Expected Dice coefficient, given its probabilities, if these are calibrated.
        entropy_bits: Mean binary entropy of its probability, over its voxels and those around them.
        disagreement: Mean distance of the local from the spatial net's map, over its voxels.
    """

    organ: str
    volume_ml: float
    border_faces: tuple[str, ...] = ()
    centre_xyz_mm: Vector | None = None
    parts_ml: tuple[float, ...] = ()
    expected_dsc: float | None = None
    entropy_bits: float | None = None
    disagreement: float | None = None

    def fragments(self, parts: int) -> float:
        """The share of it outside its `parts` largest components; 0 for an absent organ."""
        return max(0.0, 1.0 - sum(self.parts_ml[:parts]) / self.volume_ml) if self.volume_ml else 0.0

    def large_parts(self, share: float) -> int:
        """How many of its components have at least that share of the largest one."""
        return sum(part >= share * self.parts_ml[0] for part in self.parts_ml)


@dataclass(frozen=True, kw_only=True)
class OrganQuality:
    """The quality control of one organ's label.

    Attributes:
        organ: Its name.
        status: Its QC status.
        reasons: Why, in the order of `Reason`, each once.
        sentences: The same in words, one or more for each reason.
        signals: What was measured.
    """

    organ: str
    status: QcStatus
    reasons: tuple[Reason, ...]
    sentences: tuple[str, ...]
    signals: OrganSignals

    @property
    def verdict(self) -> QcStatus:
        """The status, by its name in version 0.2; to be removed after 0.3."""
        return self.status


Finding = tuple[Reason, str]


@dataclass(frozen=True)
class _Order:
    """That the centre of `low` comes before that of `high` along a world axis, else each is `wrong` of the other."""

    low: str
    high: str
    axis: int
    wrong: tuple[str, str]


# World axes run to the left, to the back and to the head. The liver is on the right, the spleen on the left; the
# kidneys lie lower than both and, behind the peritoneum, further back than the pancreas.
_ORDERS = (
    _Order("liver", "spleen", 0, ("left of", "right of")),
    _Order("kidney", "spleen", 2, ("above", "below")),
    _Order("kidney", "liver", 2, ("above", "below")),
    _Order("pancreas", "kidney", 1, ("behind", "in front of")),
)
# The faces of a scan that shift an organ's centre along a world axis when they cut it.
_FACES = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
# Where organs lie, from the foot to the head and from the right to the left; those of equal rank lie abreast.
_RANKS: Mapping[tuple[str, str], Mapping[str, int]] = {
    ("inferior", "superior"): {"kidney": 0, "pancreas": 1, "liver": 2, "spleen": 2},
    ("right", "left"): {"liver": 0, "pancreas": 1, "spleen": 2},
}

# What a note says of a reason, the most telling first. That an organ reaches the border is said with its volume.
_WORDS: Mapping[Reason, str] = {
    Reason.MISSING: "expected but not found",
    Reason.MISPLACED: "misplaced",
    Reason.INCOMPLETE: "a component missing",
    Reason.TOO_SMALL: "too small",
    Reason.TOO_LARGE: "too large",
    Reason.FRAGMENTED: "in pieces",
    Reason.UNCERTAIN: "uncertain",
    Reason.DISAGREEMENT: "networks disagree",
}


def assess(signals: Sequence[OrganSignals], config: QualityConfig) -> tuple[OrganQuality, ...]:
    """Return the quality control of each organ of one scan, in order.

    Args:
        signals: Of all organs of the scan, since each is judged by the place of the others, too.
        config: The limits.
    """
    return tuple(_assessed(organ, signals, config) for organ in signals)


def sided_quality(quality: Sequence[OrganQuality], signals: Sequence[OrganSignals]) -> tuple[OrganQuality, ...]:
    """Return the quality control of a table whose pairs are apart (`organs.sided_table`).

    The networks and the limits know pairs only: each side of a pair has the pair's status, but a missing one is absent.

    Args:
        quality: Of the organs with pairs in one label.
        signals: Of the labels with the sides apart, in the order of the result.
    """
    whole = {one.organ: one for one in quality}
    return tuple(whole.get(side.organ) or _side_quality(whole[side.organ.split(" ", 1)[1]], side) for side in signals)


def quality_note(quality: Sequence[OrganQuality]) -> str | None:
    """One short line on what to look at, with the most telling reason for each organ; None if there is nothing.

    An organ that does no more than touch the border is left out.
    """
    parts = []
    for organ in quality:
        words = [word for reason, word in _WORDS.items() if reason in organ.reasons]
        if words:
            parts.append(f"{organ.organ} ({words[0]})")
    return f"Check {', '.join(parts)}." if parts else None


def implausible_volume(volume_ml: float, limits: OrganLimits, *, cut: bool) -> Reason | None:
    """TOO_SMALL or TOO_LARGE for a volume that an adult's whole organ does not have, else None.

    Args:
        volume_ml: Of the organ in the scan.
        limits: What is plausible of it.
        cut: Whether the scan may cut it, so that any volume below is plausible.
    """
    if volume_ml > limits.volume_max_ml:
        return Reason.TOO_LARGE
    return Reason.TOO_SMALL if volume_ml < limits.volume_min_ml and not cut else None


def _side_quality(pair: OrganQuality, side: OrganSignals) -> OrganQuality:
    if pair.status is QcStatus.ABSENT:
        return replace(pair, organ=side.organ, signals=side)
    if not side.volume_ml > 0:
        words = f"It was not found, although a {pair.organ} was."
        return OrganQuality(
            organ=side.organ, status=QcStatus.ABSENT, reasons=(Reason.NOT_FOUND,), sentences=(words,), signals=side
        )
    measured = replace(
        side,
        expected_dsc=pair.signals.expected_dsc,
        entropy_bits=pair.signals.entropy_bits,
        disagreement=pair.signals.disagreement,
    )
    sentences = tuple(f"Of both {pair.organ}s: {sentence}" for sentence in pair.sentences)
    return replace(pair, organ=side.organ, sentences=sentences, signals=measured)


def _assessed(organ: OrganSignals, signals: Sequence[OrganSignals], config: QualityConfig) -> OrganQuality:
    others = [other for other in signals if other.organ != organ.organ and other.volume_ml > 0]
    if not organ.volume_ml > 0:
        status, found = QcStatus.ABSENT, [_absence(organ.organ, others)]
    else:
        limits = config.limits(organ.organ)
        found = [
            *_network_findings(organ, limits),
            *_size(organ, limits),
            *_place(organ, others, config),
            *_shape(organ, config),
        ]
        status = QcStatus.CHECK if found else QcStatus.OK
    return OrganQuality(
        organ=organ.organ,
        status=status,
        reasons=tuple(dict.fromkeys(reason for reason, _ in found)),
        sentences=tuple(sentence for _, sentence in found),
        signals=organ,
    )


def _network_findings(organ: OrganSignals, limits: OrganLimits) -> Iterator[Finding]:
    """What the networks themselves say; a signal that was not measured says nothing."""
    apart, dsc, entropy = organ.disagreement, organ.expected_dsc, organ.entropy_bits
    if apart is not None and apart > limits.disagreement_max:
        what = "The local and the spatial network differ in it by"
        yield Reason.DISAGREEMENT, f"{what} {apart:.2f} on average, above the limit of {limits.disagreement_max:.2f}."
    if dsc is not None and dsc < limits.expected_dsc_min:
        yield Reason.UNCERTAIN, f"Expected Dice is {dsc:.2f}, below the limit of {limits.expected_dsc_min:.2f}."
    if entropy is not None and entropy > limits.entropy_max_bits:
        what = "Mean entropy of its probabilities is"
        yield Reason.UNCERTAIN, f"{what} {entropy:.2f} bits, above the limit of {limits.entropy_max_bits:.2f}."


def _size(organ: OrganSignals, limits: OrganLimits) -> Iterator[Finding]:
    """Volumes no adult's organ has; an organ that the scan may cut may have any smaller one."""
    volume = f"Its volume of {organ.volume_ml:.0f} ml is"
    found = implausible_volume(organ.volume_ml, limits, cut=bool(organ.border_faces))
    if found is Reason.TOO_SMALL:
        yield found, f"{volume} less than an adult's, at least {limits.volume_min_ml:g} ml."
    elif found is Reason.TOO_LARGE:
        yield found, f"{volume} more than an adult's, at most {limits.volume_max_ml:g} ml."


def _place(organ: OrganSignals, others: Sequence[OrganSignals], config: QualityConfig) -> Iterator[Finding]:
    by_name = {one.organ: one for one in (organ, *others)}
    for order in _ORDERS:
        if organ.organ in (order.low, order.high) and order.low in by_name and order.high in by_name:
            low, high = by_name[order.low], by_name[order.high]
            if _out_of_order(low, high, order.axis, config.order_slack_mm):
                side = 0 if organ is low else 1
                other = high if organ is low else low
                yield Reason.MISPLACED, f"It lies {order.wrong[side]} the {other.organ}."
    distance = _distance_mm(organ, others)
    if distance is not None and distance > config.distance_max_mm:
        yield Reason.MISPLACED, f"It lies {distance:.0f} mm from the middle of the other organs."


def _out_of_order(low: OrganSignals, high: OrganSignals, axis: int, slack_mm: float) -> bool:
    cut = set(_FACES[axis]) & {*low.border_faces, *high.border_faces}
    if cut or low.centre_xyz_mm is None or high.centre_xyz_mm is None:
        return False  # the centre of what is left of a cut organ is not that of the organ
    return low.centre_xyz_mm[axis] > high.centre_xyz_mm[axis] + slack_mm


def _distance_mm(organ: OrganSignals, others: Sequence[OrganSignals]) -> float | None:
    centres = [other.centre_xyz_mm for other in others if other.centre_xyz_mm is not None]
    if organ.centre_xyz_mm is None or not centres:
        return None
    middle = [sum(axis) / len(centres) for axis in zip(*centres, strict=True)]
    return float(sum((one - other) ** 2 for one, other in zip(organ.centre_xyz_mm, middle, strict=True)) ** 0.5)


def _shape(organ: OrganSignals, config: QualityConfig) -> Iterator[Finding]:
    limits = config.limits(organ.organ)
    if organ.border_faces:
        *first, last = organ.border_faces
        faces = f"{', '.join(first)} and {last}" if first else last
        yield Reason.AT_BORDER, f"It touches the {faces} border of the scan, which may cut it."
    elif (found := organ.large_parts(config.part_share_min)) < limits.parts:
        yield Reason.INCOMPLETE, f"Only {found} of its {limits.parts} components could be found."
    fragments = organ.fragments(limits.parts)
    if fragments > limits.fragments_max:
        whole = "its largest component" if limits.parts == 1 else f"its {limits.parts} largest components"
        yield Reason.FRAGMENTED, f"{fragments:.0%} of it lies outside {whole}, more than {limits.fragments_max:.0%}."


def _absence(organ: str, others: Sequence[OrganSignals]) -> Finding:
    """What the organs that were found say about one that was not."""
    for faces, ranks in _RANKS.items():
        for other in others:
            if organ not in ranks or other.organ not in ranks:
                continue
            step = ranks[organ] - ranks[other.organ]
            ends = faces[1] if step > 0 else faces[0]
            if step and ends in other.border_faces:
                return Reason.OUT_OF_SCAN, f"The scan ends in the {other.organ} and seems not to reach it."
    if others and not any(other.border_faces for other in others):
        return Reason.MISSING, "It was not found, although the organs found lie wholly within the scan."
    return Reason.NOT_FOUND, "It was not found."
