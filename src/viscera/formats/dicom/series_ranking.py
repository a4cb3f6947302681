"""Which of several CT series is the one to segment: one ranking for folders, zips, batches and a PACS.

It takes what a radiologist would take: Hounsfield units, no projection, whole axial stacks, originals before what was
derived from them, slices at even and usual distances, the abdomen covered, and of those the one with most slices.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Shorter series are a look at one place, for timing contrast agent or guiding a needle; they come last.
FEWEST_PLACES = 10
# Rescale types that are Hounsfield units or do not say (DICOM PS3.3, C.11.1.1.2).
HU_TYPES = ("", "HU", "HU_MOD", "US", "NONE")
# From the finest of photon-counting scanners to the thickest slices that still show a pancreas.
USUAL_GAP_MM = (0.2, 7.5)
# Gaps within this part of the usual one of their series are even; see `viscera.formats.dicom.read.SLICE_TOLERANCE`.
_GAP_TOLERANCE = 0.2
# Liver, kidneys, spleen and pancreas lie within so much of the body's length; beyond, more of it is no gain.
_ABDOMEN_MM, _STEP_MM = 300.0, 100.0

# Images of no slices (PS3.3, C.8.2.1.1.1, and what scanners write besides): localisers, dose sheets and screens.
_NO_SLICES = re.compile(
    r"LOCALI[SZ]ER|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM|SCREEN[ _]?(SAVE|SHOT)|DOSE[ _](INFO|REPORT)|CT_SOM\S* (TOP|PROT)"
)
# Enhanced CT and multi-energy CT have defined terms (PS3.3, C.8.15.2 and C.8.16.2); of classic images Siemens says
# CT_SOM5 MIP, GE REFORMATTED and MIP, and others only in the description.
_PROJECTION = re.compile(
    r"(?<![A-Z])(T?MIPS?|M(AX|IN)[ _-]?IPS?|VRT|VOLUME_RENDER|SURFACE_RENDER|CURVED_MPR)(?![A-Z])"
    r"|(MAXIMUM|MINIMUM)[ _-]INTENSITY|VOLUME RENDER"
)
_REFORMATTED = re.compile(r"(?<![A-Z])(MPR|REFORMATTED)(?![A-Z])")
_NO_HU = re.compile(r"EFF_ATOMIC_NUM|ELECTRON_DENSITY|MAT_FRACTIONAL|MAT_VALUE_BASED")
# Codes for how images were derived (PS3.16, CID 7203): curved reformation, renderings, segmentation, projections.
_PROJECTION_CODES = frozenset({"113073", "113074", "113075", "113076", "113078", "113079", "113048", "113051"})
# What spectral scanners call their images where the header does not say: maps of a material, and virtual images in HU.
_MAP = re.compile(r"IODINE|(?<![A-Z])(JOD|Z[ _-]?EFF)|EFFECTIVE[ _-](Z|ATOMIC)|ELECTRON[ _-]DENS|URIC|OVERLAY")
_VIRTUAL = re.compile(r"(?<![A-Z])(VMI|VNC|VNCA|MONO[ _-]?E)(?![A-Z])|KEV(?![A-Z])|VIRTUAL|MAT_MODIFIED|MAT_REMOVED")

_ABDOMEN = re.compile(
    r"ABD|LIVER|PANCREA|KIDNEY|SPLEEN|BODY|TRUNK|TORSO|HEPAT|RENAL|BAUCH|LEBER|FOIE|"
    r"(?<![A-Z])[CT][ /_-]?A[ /_-]?P(?![A-Z])"
)
_ELSEWHERE = re.compile(
    r"(?<![A-Z])(HEAD|BRAIN|SKULL|NECK|SINUS|CHEST|THORAX|LUNG|PULM|HEART|CARDIAC|CORONARY|BREAST|SPINE|LUMBAR|PELVIS|"
    r"HIP|LEG|KNEE|FOOT|ANKLE|FEMUR|SHOULDER|ELBOW|WRIST|EXTREMIT)"
)


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """What sort of image a CT image is.

    Attributes:
        slices: Whether it is a slice of the body at all, not a localiser, dose sheet or screen.
        in_hu: Whether its values are, or may be, Hounsfield units.
        projection: Whether it is a projection (MIP, MinIP), a rendering or a curved reformation, so that it shows
            organs larger or elsewhere than they are.
        derived: Whether it was made of other images.
        spectral: 0 for a plain image, 1 for a virtual one in HU, 2 for one that is named like a map of a material.
    """

    slices: bool
    in_hu: bool
    projection: bool
    derived: bool
    spectral: int


@lru_cache(maxsize=64)  # the images of a series are alike
def image_kind(
    terms: tuple[str, ...], *, rescale_type: str = "", description: str = "", codes: tuple[str, ...] = ()
) -> ImageKind:
    """The kind of an image.

    Args:
        terms: Image Type, and Frame Type and Volume Based Calculation Technique if there are any, in capitals.
        rescale_type: In capitals.
        description: Of the series.
        codes: Of the derivation.
    """
    said, named = "\\".join(terms), description.upper()
    # An original "for MIP" is thin slices that somebody was to make one of.
    named_projection = "ORIGINAL" not in terms and _PROJECTION.search(named) is not None
    return ImageKind(
        slices=_NO_SLICES.search(said) is None,
        in_hu=rescale_type in HU_TYPES and _NO_HU.search(said) is None,
        projection=named_projection or bool(_PROJECTION.search(said) or _PROJECTION_CODES.intersection(codes)),
        derived="DERIVED" in terms or _REFORMATTED.search(said) is not None,
        spectral=2 if _MAP.search(named) else 1 if _VIRTUAL.search(f"{said} {named}") else 0,
    )


@dataclass(frozen=True, kw_only=True)
class SeriesTraits:
    """What is known of a series for the ranking.

    Attributes:
        kind: Of its images.
        axial: Whether its slices lie across the body; None if not known.
        places: How many different positions across the slices there are; None if not known.
        gap_mm: Usual distance of neighbouring slices, None if not known.
        even: Whether all gaps are like the usual one, with one image at each place; None if not known.
        description, body_part, number, uid: As stored, empty where absent.
    """

    kind: ImageKind
    axial: bool | None
    places: int | None
    gap_mm: float | None
    even: bool | None
    description: str
    body_part: str
    number: str
    uid: str

    @property
    def worth(self) -> bool:
        """Whether it shows organs as they are, in HU."""
        return self.kind.in_hu and not self.kind.projection

    def rank(self) -> tuple[Any, ...]:
        """Sorts the best first."""
        return (*(criterion(self) for criterion, _ in _CRITERIA), len(self.number), self.number, self.uid)

    def drawback(self, best: SeriesTraits) -> str:
        """In words, as a verb, why it comes behind `best`."""
        for criterion, words in _CRITERIA:
            if criterion(self) != criterion(best):
                return words
        return "is like it but for its number"


def spread(along_mm: NDArray[np.float64], images: int) -> tuple[int, float | None, bool | None]:
    """Different places, usual gap and evenness of slices.

    Args:
        along_mm: Positions along the slices' normal, in any order.
        images: How many different images there are.
    """
    places = np.unique(along_mm.round(2))
    if len(places) < 2:
        return len(places), None, None
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    even = len(places) == images and bool(np.abs(gaps - usual).max() <= _GAP_TOLERANCE * usual)
    return len(places), usual, even


def _unusual_gap(one: SeriesTraits) -> bool:
    low, high = USUAL_GAP_MM
    return one.even is False or not (one.gap_mm is None or low <= one.gap_mm <= high)


def _place_named(one: SeriesTraits) -> int:
    """0 if it is named after the abdomen, 2 if only after another part of the body, 1 if after none.

    What was planned for the whole study often stands in the body part; the description is the series' own.
    """
    for words in (one.description.upper(), one.body_part.upper()):
        if _ABDOMEN.search(words):
            return 0
        if _ELSEWHERE.search(words):
            return 2
    return 1


def _uncovered(one: SeriesTraits) -> float:
    """How much of the abdomen's length it cannot show, in steps; 0 if that is not known."""
    extent_mm = _ABDOMEN_MM if one.gap_mm is None or one.places is None else one.gap_mm * (one.places - 1)
    return -round(min(extent_mm, _ABDOMEN_MM) / _STEP_MM)


_CRITERIA: tuple[tuple[Callable[[SeriesTraits], Any], str], ...] = (
    (lambda one: not one.kind.in_hu, "is not in Hounsfield units"),
    (lambda one: one.kind.projection, "is a projection or rendering (MIP, MinIP)"),
    (lambda one: one.places is not None and one.places < FEWEST_PLACES, f"has fewer than {FEWEST_PLACES} places"),
    (lambda one: one.axial is False, "is not axial"),
    (lambda one: one.kind.spectral, "is a spectral map or virtual image"),
    (lambda one: one.kind.derived, "was derived from other images"),
    (_unusual_gap, "has no even and usual slice distance"),
    (lambda one: _place_named(one) == 2, "is named after another part of the body"),
    (_uncovered, "covers less of the body"),
    (lambda one: -(one.places or 0), "has fewer slices"),
    (_place_named, "is not named after the abdomen"),
)
