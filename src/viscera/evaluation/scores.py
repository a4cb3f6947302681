"""The records of an evaluation: how label maps are scored, and what every organ of every case has scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from viscera.core.config import from_dict
from viscera.core.errors import ConfigError
from viscera.core.organs import ORGANS, Organ
from viscera.evaluation.metrics import EMPTY_SCORES, FLARE_TOLERANCE_MM, EmptyRule


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The tolerance of a surface Dice.

    Attributes:
        mm: For every organ that is not in `organs_mm`; None if only those are known.
        organs_mm: (organ, mm) for organs with a tolerance of their own.
        name: What it is called in tables; the millimetres if it has no name.
    """

    mm: float | None = FLARE_TOLERANCE_MM
    organs_mm: tuple[tuple[str, float], ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        given = [*(mm for _, mm in self.organs_mm), *(() if self.mm is None else (self.mm,))]
        if not given or not all(math.isfinite(mm) and mm >= 0 for mm in given):
            raise ConfigError(
                "setting the tolerance of the surface Dice",
                expected="0 mm or more",
                got=str(given),
                remedy="Correct the value",
            )

    @property
    def label(self) -> str:
        """Its name, or its millimetres."""
        return self.name or f"{self.mm:g} mm"

    def of(self, organ: str) -> float:
        """The millimetres for an organ.

        Raises:
            ConfigError: If it has none for this organ.
        """
        mm = dict(self.organs_mm).get(organ, self.mm)
        if mm is None:
            raise ConfigError(
                f"scoring {organ} with the tolerances {self.label}",
                expected=f"one of {', '.join(name for name, _ in self.organs_mm)}",
                got=organ,
                remedy="Give a tolerance in mm",
            )
        return mm


FLARE21 = Tolerance()
# As in FLARE 2022's published scoring program, by the names of its organs; kidneys are scored together here.
FLARE22 = Tolerance(
    mm=None,
    organs_mm=(
        ("liver", 5.0),
        ("kidney", 3.0),
        ("right kidney", 3.0),
        ("left kidney", 3.0),
        ("spleen", 3.0),
        ("pancreas", 5.0),
        ("aorta", 2.0),
        ("inferior vena cava", 2.0),
        ("right adrenal gland", 2.0),
        ("left adrenal gland", 2.0),
        ("gallbladder", 2.0),
        ("esophagus", 3.0),
        ("oesophagus", 3.0),
        ("stomach", 5.0),
        ("duodenum", 7.0),
    ),
    name="FLARE22",
)


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How label maps are scored; the defaults are FLARE 2021's.

    Attributes:
        tolerances: Of the surface Dice; the first is that of `CaseScore.nsd`.
        empty: Rule for empty masks, a row of `metrics.EMPTY_SCORES`.
        reference_labels: Where references use other labels: their label to index in the organ table; labels not listed
            become background. None: labels must be those of the organ table.
        prediction_labels: The same for predictions.
        organs: The organ table.
    """

    tolerances: tuple[Tolerance, ...] = (FLARE21,)
    empty: EmptyRule = "flare"
    reference_labels: Mapping[int, int] | None = None
    prediction_labels: Mapping[int, int] | None = None
    organs: tuple[Organ, ...] = ORGANS

    @property
    def largest_label(self) -> int:
        """The largest index in the organ table."""
        return max(organ.index for organ in self.organs)

    def __post_init__(self) -> None:
        largest = self.largest_label
        targets = {*(self.reference_labels or {}).values(), *(self.prediction_labels or {}).values()}
        sources = {*(self.reference_labels or {}), *(self.prediction_labels or {})}
        labels = [tolerance.label for tolerance in self.tolerances]
        for holds, name, expected, got in (
            (bool(labels), "tolerances", "at least one tolerance", labels),
            (len(set(labels)) == len(labels), "tolerances", "tolerances of different names", labels),
            (self.empty in EMPTY_SCORES, "empty", f"one of {', '.join(EMPTY_SCORES)}", self.empty),
            (targets <= set(range(largest + 1)), "labels", f"labels mapped to 0..{largest}", sorted(targets)),
            (sources <= set(range(256)), "labels", "labels of 0..255 to map from", sorted(sources)),
        ):
            if not holds:
                raise ConfigError(
                    f"setting ScoringConfig.{name}", expected=expected, got=repr(got), remedy="Correct the value"
                )
        for tolerance in self.tolerances:
            for organ in self.organs:
                tolerance.of(organ.name)


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One organ of one case. What the rule for empty masks leaves undefined is NaN; see `metrics.EMPTY_SCORES`.

    Attributes:
        case: Name of the case.
        organ: Name in the organ table.
        dsc: Dice in [0, 1].
        nsd: Surface Dice in [0, 1] at the first tolerance.
        reference_ml, prediction_ml: Volumes of the organ in both label maps.
        further_nsd: Surface Dice at the other tolerances.
        hd95_mm: 95th percentile of the distance between the surfaces; infinite if one of them is missing.
        assd_mm: Mean distance of the surfaces; likewise.
        difference_percent: Predicted minus reference volume in percent of the latter; infinite if that is 0.
        false_parts, false_ml: How many connected components of the prediction share no voxel with the reference, and
            their volume.
        missed_parts, missed_ml: The same of components of the reference that the prediction nowhere meets.
    """

    case: str
    organ: str
    dsc: float
    nsd: float
    reference_ml: float
    prediction_ml: float
    further_nsd: tuple[float, ...] = ()
    hd95_mm: float = math.nan
    assd_mm: float = math.nan
    difference_percent: float = math.nan
    false_parts: int = 0
    false_ml: float = 0.0
    missed_parts: int = 0
    missed_ml: float = 0.0

    @property
    def difference_ml(self) -> float:
        """Predicted minus reference volume."""
        return self.prediction_ml - self.reference_ml

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them: null for what is undefined, "inf" for what is infinite."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaseScore:
        """The record `as_json` was made from.

        Raises:
            ConfigError: If fields are unknown, missing or of another type.
        """
        return from_dict(cls, {key: _number(value) for key, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_number(one) for one in value)
    return math.nan if value is None else math.inf if value == "inf" else value


@dataclass(frozen=True, kw_only=True)
class UnscoredCase:
    """A case that could not be scored, and the line that says why."""

    case: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All scores of an evaluation, with what they mean.

    Attributes:
        scores: One record per case and organ, cases in order.
        tolerances: Of the surface Dice.
        empty: Rule for empty masks.
        without_reference: Names of predictions that had no reference and were not scored.
        organs: The organ table the label maps were scored by.
        failures: Cases that could not be scored.
    """

    scores: tuple[CaseScore, ...]
    tolerances: tuple[Tolerance, ...] = (FLARE21,)
    empty: EmptyRule = "flare"
    without_reference: tuple[str, ...] = ()
    organs: tuple[Organ, ...] = ORGANS
    failures: tuple[UnscoredCase, ...] = ()

    @property
    def cases(self) -> tuple[str, ...]:
        """The names of the cases, in order."""
        return tuple(dict.fromkeys(score.case for score in self.scores))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What was measured of every organ of a case, in the order of the tables."""
        return measures_of(self.tolerances)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a `CaseScore`, and how it is shown.

    Attributes:
        key: Its column in files.
        title: Its column in tables, without unit.
        unit: Of the shown value.
        value: Reads it from a score.
        factor: From the record's value to the shown one.
        digits: Shown behind the point.
        best: Which values are best.
    """

    key: str
    title: str
    unit: str
    value: Callable[[CaseScore], float]
    factor: float = 1.0
    digits: int = 2
    best: Literal["high", "low", "zero"] = "low"

    @property
    def heading(self) -> str:
        """Title and unit, as a table's column or a plot's axis says it."""
        return f"{self.title} {self.unit}".rstrip()

    def shown(self, value: float, *, sign: bool = False) -> str:
        """The value in its unit, "-" if undefined, with a plus sign where errors have a direction."""
        if math.isnan(value):
            return "-"
        return format(value * self.factor, f"{'+' if sign and self.best == 'zero' else ''}.{self.digits}f")

    def badness(self, value: float) -> float:
        """A number that is the larger the worse the value is."""
        return -value if self.best == "high" else abs(value) if self.best == "zero" else value


def _further_nsd(place: int) -> Callable[[CaseScore], float]:
    return lambda score: score.further_nsd[place]


def measures_of(tolerances: Sequence[Tolerance]) -> tuple[Measure, ...]:
    """The measures of an evaluation with these tolerances."""
    first, *others = tolerances
    further = [
        Measure(
            key=f"nsd_{tolerance.label.lower().replace(' ', '')}",
            title=f"NSD {tolerance.label}",
            unit="%",
            value=_further_nsd(place),
            factor=100.0,
            best="high",
        )
        for place, tolerance in enumerate(others)
    ]
    return (
        Measure(key="dsc", title="DSC", unit="%", value=lambda score: score.dsc, factor=100.0, best="high"),
        Measure(
            key="nsd", title=f"NSD {first.label}", unit="%", value=lambda score: score.nsd, factor=100.0, best="high"
        ),
        *further,
        Measure(key="hd95_mm", title="HD95", unit="mm", value=lambda score: score.hd95_mm),
        Measure(key="assd_mm", title="ASSD", unit="mm", value=lambda score: score.assd_mm),
        Measure(
            key="difference_ml",
            title="volume error",
            unit="ml",
            value=lambda score: score.difference_ml,
            digits=1,
            best="zero",
        ),
        Measure(
            key="difference_percent",
            title="volume error",
            unit="%",
            value=lambda score: score.difference_percent,
            digits=1,
            best="zero",
        ),
        Measure(
            key="false_parts", title="false-positive components", unit="", value=lambda score: float(score.false_parts)
        ),
        Measure(key="false_ml", title="false-positive components", unit="ml", value=lambda score: score.false_ml),
        Measure(
            key="missed_parts",
            title="false-negative components",
            unit="",
            value=lambda score: float(score.missed_parts),
        ),
        Measure(key="missed_ml", title="false-negative components", unit="ml", value=lambda score: score.missed_ml),
    )
