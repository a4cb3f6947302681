"""Every setting of the method as frozen records; the defaults are the published method.

`dataclasses.asdict` turns a record into plain values for a file, `from_dict` reads them back.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from viscera.core.errors import ConfigError
from viscera.core.organs import LABEL_COUNT, Organ, named_organ, organ_table_fault

_Record = TypeVar("_Record")


def _require(config: Any, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(
            f"setting {type(config).__name__}.{name}",
            expected=expected,
            got=repr(getattr(config, name)),
            remedy="Correct the value",
        )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How one stage samples the CT (defaults of neither stage; see `ModelConfig`).

    Attributes:
        spacing_mm: Isotropic spacing; grows when the extent does not fit the largest size (paper, section 2.1).
        sigma_mm: Standard deviation of the Gaussian smoothing before sampling.
        sizes_x_vox, sizes_y_vox, sizes_z_vox: Allowed sizes along each axis, ascending.
        hu_scale: HU are divided by this, then clipped to [-1, 1].
    """

    spacing_mm: float
    sigma_mm: float
    sizes_x_vox: tuple[int, ...]
    sizes_y_vox: tuple[int, ...]
    sizes_z_vox: tuple[int, ...]
    hu_scale: float = 2048.0

    def __post_init__(self) -> None:
        _require(self, "spacing_mm", self.spacing_mm > 0, "a spacing above 0 mm")
        _require(self, "sigma_mm", self.sigma_mm >= 0, "a sigma of 0 mm or more")
        _require(self, "hu_scale", self.hu_scale > 0, "a scale above 0 HU")
        for name in ("sizes_x_vox", "sizes_y_vox", "sizes_z_vox"):
            sizes = getattr(self, name)
            ascending = bool(sizes) and sizes[0] > 0 and list(sizes) == sorted(set(sizes))
            _require(self, name, ascending, "ascending positive sizes")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """A U-Net with one number of filters at every level (paper, section 2.2).

    Attributes:
        inputs, outputs: Channels in and out.
        filters: Filters of every convolution but the last.
        levels: Resolutions, the input's included; sizes must be divisible by 2 ** (levels - 1).
        dropout: Element dropout after every activation, in training.
        slope: Negative slope of the leaky ReLU.
    """

    inputs: int
    outputs: int
    filters: int
    levels: int
    dropout: float = 0.1
    slope: float = 0.1

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "filters", "levels"):
            _require(self, name, getattr(self, name) >= 1, "a count of at least 1")
        _require(self, "dropout", 0 <= self.dropout < 1, "a probability in [0, 1)")

    @property
    def size_multiple_vox(self) -> int:
        """What every side of the input must be divisible by, as each level but the first halves it."""
        return 1 << (self.levels - 1)


@dataclass(frozen=True, kw_only=True)
class ScnConfig:
    """The SpatialConfiguration-Net (paper, section 2.2); the input noise applies in training only (authors' release).

    Attributes:
        labels: Labels, background included.
        local_filters, local_levels: The local U-Net.
        spatial_filters, spatial_levels: Each of the spatial U-Nets, one per label.
        spatial_factor: How much coarser than the image the spatial U-Nets work.
        dropout: Element dropout in all U-Nets.
        map_dropout: Channel dropout on the local maps the spatial nets read, applied twice.
        image_dropout: Dropout of the whole image channel the spatial nets read.
        noise_ratio, noise_scales: Salt-and-pepper noise on those maps: share of voxels, and cell sizes in voxels.
    """

    labels: int = LABEL_COUNT
    local_filters: int = 32
    local_levels: int = 5
    spatial_filters: int = 16
    spatial_levels: int = 4
    spatial_factor: int = 4
    dropout: float = 0.1
    map_dropout: float = 0.25
    image_dropout: float = 0.5
    noise_ratio: float = 0.01
    noise_scales: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        _require(self, "labels", self.labels >= 2, "background and at least one organ")
        counts = ("local_filters", "local_levels", "spatial_filters", "spatial_levels", "spatial_factor")
        for name in counts:
            _require(self, name, getattr(self, name) >= 1, "a count of at least 1")
        for name in ("dropout", "map_dropout", "image_dropout", "noise_ratio"):
            _require(self, name, 0 <= getattr(self, name) < 1, "a probability in [0, 1)")

    @property
    def local(self) -> UNetConfig:
        """The local U-Net: the image in, one logit per label out."""
        return UNetConfig(
            inputs=1,
            outputs=self.labels,
            filters=self.local_filters,
            levels=self.local_levels,
            dropout=self.dropout,
        )

    @property
    def spatial(self) -> tuple[UNetConfig, ...]:
        """The spatial U-Nets by label: the image and the local maps of the other organs in, one logit out."""
        organs = self.labels - 1
        return tuple(
            UNetConfig(
                inputs=1 + (organs if label == 0 else organs - 1),
                outputs=1,
                filters=self.spatial_filters,
                levels=self.spatial_levels,
                dropout=self.dropout,
            )
            for label in range(self.labels)
        )

    @property
    def size_multiple_vox(self) -> int:
        """What every side of the input must be divisible by, for the local and the spatial U-Nets."""
        coarse = self.spatial_factor * 2 ** (self.spatial_levels - 1)
        return math.lcm(2 ** (self.local_levels - 1), coarse)


def _published_localise() -> StageConfig:
    return StageConfig(
        spacing_mm=6.0,
        sigma_mm=3.0,
        sizes_x_vox=(32, 48, 64, 80),
        sizes_y_vox=(32, 48, 64, 80),
        sizes_z_vox=tuple(range(32, 257, 16)),
    )


def _published_segment() -> StageConfig:
    return StageConfig(
        spacing_mm=2.0,
        sigma_mm=1.0,
        sizes_x_vox=(32, 64, 96, 128, 160),
        sizes_y_vox=(32, 64, 96, 128),
        sizes_z_vox=(32, 64, 96, 128, 160),
    )


@dataclass(frozen=True, kw_only=True)
class OrganLimits:
    """What is plausible of one organ.

    Attributes:
        volume_min_ml, volume_max_ml: Of an adult's whole organ.
        parts: Of how many components it consists, 2 for the kidneys.
        fragments_max: Share of it outside its largest `parts`.
        disagreement_max: Mean distance of the local from the spatial net's map within it, 0 to 1.
        entropy_max_bits: Mean entropy of its probability in it and on the voxels around it, 0 to 1.
        expected_dsc_min: Expected Dice coefficient, given its probabilities, 0 to 1.
    """

    # No defaults, so that a table with some of the fields cannot quietly mean those of no organ for the others.
    volume_min_ml: float
    volume_max_ml: float
    parts: int
    fragments_max: float
    disagreement_max: float
    entropy_max_bits: float
    expected_dsc_min: float

    def __post_init__(self) -> None:
        _require(self, "volume_min_ml", self.volume_min_ml >= 0, "a volume of 0 ml or more")
        _require(self, "volume_max_ml", self.volume_max_ml > self.volume_min_ml, "a volume above volume_min_ml")
        _require(self, "parts", self.parts >= 1, "a count of at least 1")
        for name in ("fragments_max", "disagreement_max", "entropy_max_bits", "expected_dsc_min"):
            _require(self, name, 0 <= getattr(self, name) <= 1, "a share in [0, 1]")


def _limits(volume_min_ml: float, volume_max_ml: float, *, parts: int = 1) -> OrganLimits:
    # What the networks say is judged by round numbers until it is measured for a bundle.
    return OrganLimits(
        volume_min_ml=volume_min_ml,
        volume_max_ml=volume_max_ml,
        parts=parts,
        fragments_max=0.05,
        disagreement_max=0.5,
        entropy_max_bits=0.6,
        expected_dsc_min=0.7,
    )


# What is found in adults, widened above for enlarged organs:
# liver 1205 +- 258 ml, 594 to 2250 ml, in 369 adults (Feng et al., World J Gastroenterol 2017;23:4968), 775 to 2395 g
# in 102 women (Molina and DiMaio, Am J Forensic Med Pathol 2015;36:182);
# each kidney 138 ml in 930 women and 174 ml in 885 men, the 5th percentile of women above 60 years 92 ml (SHIP-TREND,
# J Clin Med 2024;13:769);
# spleen 215 ml, 107 to 315 ml, in 140 adults (Prassopoulos et al., Eur Radiol 1997;7:246), 51 to 275 g in those women;
# pancreas 72 +- 26 ml in 1721 adults (Saisho et al., Clin Anat 2007;20:933).
_LIVER = _limits(600.0, 3000.0)
_KIDNEY = _limits(160.0, 700.0, parts=2)
_SPLEEN = _limits(50.0, 800.0)
_PANCREAS = _limits(20.0, 180.0)
_OTHER = _limits(0.0, 100_000.0)


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Beyond which measured values an organ is to be checked by eye.

    Attributes:
        liver, kidney, spleen, pancreas: What is plausible of each.
        other: The same of an organ of any other name; no limit to its volume.
        order_slack_mm: By how much organs may be out of order (liver right of the spleen, kidneys below both and
            behind the pancreas), centre to centre.
        distance_max_mm: How far an organ's centre may be from the mean of the others' centres.
        part_share_min: Share of an organ's largest component from which on another counts as one of its `parts`.
    """

    liver: OrganLimits = _LIVER
    kidney: OrganLimits = _KIDNEY
    spleen: OrganLimits = _SPLEEN
    pancreas: OrganLimits = _PANCREAS
    other: OrganLimits = _OTHER
    order_slack_mm: float = 30.0
    distance_max_mm: float = 250.0
    part_share_min: float = 0.1

    def __post_init__(self) -> None:
        for name in ("order_slack_mm", "distance_max_mm"):
            _require(self, name, getattr(self, name) >= 0, "a distance of 0 mm or more")
        _require(self, "part_share_min", 0 <= self.part_share_min <= 1, "a share in [0, 1]")

    def limits(self, organ: str) -> OrganLimits:
        """What is plausible of the organ of that name."""
        named = {"liver": self.liver, "kidney": self.kidney, "spleen": self.spleen, "pancreas": self.pancreas}
        return named.get(organ, self.other)


@dataclass(frozen=True, kw_only=True)
class PostprocessConfig:
    """Whether small components of organs are removed from the labels, and which stay.

    Attributes:
        enabled: Whether they are removed unless the user says otherwise (paper: no).
        keep_share: Components of at least this share of the organ's largest one stay.
        paired: Organs of which at most two components stay, one on each side of the body's middle.
    """

    enabled: bool = False
    keep_share: float = 0.1
    paired: tuple[str, ...] = ("kidney",)

    def __post_init__(self) -> None:
        _require(self, "keep_share", 0 <= self.keep_share <= 1, "a share in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a bundle fixes: both stages' sampling and networks, the margin between them, and what is done with labels.

    Attributes:
        localise, segment: Sampling of the low-resolution image (whole CT) and of the ROI around all organs.
        margin_mm: Added on each side of the localised box, up to the scan's border (paper: 16 voxels of 2 mm).
        least_organs_ml: Less foreground of the localiser than this counts as none (paper: 0).
        localiser: The localisation U-Net, 2 logits.
        scn: The segmentation network.
        postprocessing: Whether and which small components of organs are removed from the labels.
        quality: When an organ is to be checked by eye.
    """

    localise: StageConfig = field(default_factory=_published_localise)
    segment: StageConfig = field(default_factory=_published_segment)
    margin_mm: float = 32.0
    least_organs_ml: float = 0.0
    localiser: UNetConfig = UNetConfig(inputs=1, outputs=2, filters=32, levels=5)
    scn: ScnConfig = ScnConfig()
    postprocessing: PostprocessConfig = PostprocessConfig()
    quality: QualityConfig = QualityConfig()

    def __post_init__(self) -> None:
        _require(self, "margin_mm", self.margin_mm >= 0, "a margin of 0 mm or more")
        _require(self, "least_organs_ml", self.least_organs_ml >= 0, "a volume of 0 ml or more")
        for name, network in (("localise", self.localiser), ("segment", self.scn)):
            multiple = network.size_multiple_vox
            stage: StageConfig = getattr(self, name)
            sizes = stage.sizes_x_vox + stage.sizes_y_vox + stage.sizes_z_vox
            fits = all(size % multiple == 0 for size in sizes)
            _require(self, name, fits, f"sizes divisible by {multiple}, as the network halves them")


def from_dict(kind: type[_Record], values: Mapping[str, Any]) -> _Record:
    """A config record of `kind` from plain values; missing fields keep their defaults.

    Raises:
        ConfigError: For an unknown field, a missing one without default, a value of another type or out of range.
    """
    values = current_model_names(values) if kind is ModelConfig else values
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - names):
        raise ConfigError(
            f"reading {kind.__name__}",
            expected=f"fields among {', '.join(sorted(names))}",
            got=", ".join(unknown),
            remedy="Correct or remove the unknown field",
        )
    try:
        return kind(**{name: _converted(kind, name, hints[name], value) for name, value in values.items()})
    except TypeError as error:
        raise ConfigError(
            f"reading {kind.__name__}",
            expected="every field without a default",
            got=str(error),
            remedy="Add the missing field",
        ) from error


def current_model_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return model settings of before version 0.3 under the names of today: `clean` and more are `postprocessing`."""
    old = {name: values[name] for name in ("clean", "cleaning") if name in values}
    if not old or "postprocessing" in values or not isinstance(old.get("cleaning", {}), Mapping):
        return values
    merged = {**old.get("cleaning", {}), **({"enabled": old["clean"]} if "clean" in old else {})}
    return {**{name: value for name, value in values.items() if name not in old}, "postprocessing": merged}


def organ_table(values: Sequence[Any]) -> tuple[Organ, ...]:
    """The organ table of plain values: for each organ, in order from index 1, its name or the fields of an `Organ`.

    Raises:
        ConfigError: If an organ has unknown or missing fields, or the table's indices, names or colours are unsound.
    """
    organs = tuple(
        from_dict(Organ, value) if isinstance(value, Mapping) else named_organ(index, str(value))
        for index, value in enumerate(values, start=1)
    )
    if (fault := organ_table_fault(organs)) is not None:
        raise ConfigError(
            "reading the table of organs",
            expected="organs 1, 2, ... with a plain name and a colour each",
            got=fault,
            remedy="Correct the table",
        )
    return organs


def _converted(kind: type, name: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _converted(kind, name, options[0], value)
    if origin is tuple and isinstance(value, list | tuple):
        elements = typing.get_args(hint)
        if elements[-1] is Ellipsis:
            elements = (elements[0],) * len(value)
        if len(elements) == len(value):
            return tuple(_converted(kind, name, one, item) for one, item in zip(elements, value, strict=True))
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(
        f"reading {kind.__name__}.{name}",
        expected=str(getattr(hint, "__name__", hint)),
        got=repr(value),
        remedy="Correct the value",
    )
