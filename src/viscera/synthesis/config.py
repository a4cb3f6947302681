"""Every range synthetic CTs are drawn from, as frozen records.

Ranges of CT numbers are typical values of the literature, widened: unenhanced organs after Lamba et al., "CT Hounsfield
numbers of soft tissues on unenhanced abdominal CT scans", AJR 203, 2014; enhancement by phase after Bae, "Intravenous
contrast medium administration and scan timing at CT", Radiology 256, 2010. Where no source is named a range was chosen
wider than what the seven real CTs at hand show; variety is what makes a network transfer (Billot et al., "SynthSeg",
Medical Image Analysis 86, 2023), so every range errs on the wide side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from viscera.core.errors import ConfigError

Range = tuple[float, float]


# Two values that are no range, and ranges of what is divided by or drawn on a logarithmic scale.
_PAIRS = ("elastic_mm", "elastic_spacing_mm")
_POSITIVE = (
    "scale",
    "axis_scale",
    "organ_scale",
    "elastic_spacing_mm",
    "inflation_mm",
    "lesion_radius_mm",
    "bowel_radius_mm",
    "lobe_radius_mm",
    "long_spleen_radius_mm",
    "accessory_radius_mm",
    "kidney_growth_radius_mm",
    "growth_radius_mm",
    "slice_mm",
    "thick_slice_mm",
    "depth_scale",
    "kidney_scale",
    "enlargement_liver",
    "enlargement_spleen",
    "noise_hu",
    "crop_share",
    "paint_share",
)


def _checked(config: Any) -> None:
    for name, value in vars(config).items():
        if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1] and name not in _PAIRS:
            expected, got = "a range whose first value is not above the second", str(value)
        elif name in _POSITIVE and min(np.ravel(value)) <= 0:
            expected, got = "more than 0", str(value)
        elif name.endswith("_probability") and not 0 <= value <= 1:
            expected, got = "a probability from 0 to 1", str(value)
        else:
            continue
        raise ConfigError(f"setting {type(config).__name__}.{name}", expected=expected, got=got, remedy="Correct it")


@dataclass(frozen=True, kw_only=True)
class BodyConfig:
    """How an anatomy is deformed into a virtual patient.

    Attributes:
        turn_rad: Rotation about the axis along the body, to both sides; patients lie askew and on their side.
        tilt_rad: Rotation about each of the other axes, to both sides.
        scale: Isotropic factor.
        axis_scale: Further factor per axis.
        depth_scale: Further factor from front to back: as the core is convex, bodies were too deep without.
        elastic_mm: Standard deviations of the displacements of cubic B-spline nodes, fine and coarse.
        elastic_spacing_mm: Spacings of these nodes.
        organ_scale: Factor of each organ by itself, per axis the square root of it more.
        organ_shift_mm: Standard deviation of each organ's own shift per axis (breathing, posture).
        kidney_scale: Factor of each kidney instead of `organ_scale`; shrinking, it leaves fat around.
        kidney_shift_mm: Standard deviation of each kidney's own shift along z, y and x instead.
        organ_turn_rad: Rotation of each organ about its middle about each axis, to both sides.
        organ_probability: How often organs are deformed by themselves at all.
        enlarged_probability: How often liver and spleen, each for itself, grow and push their neighbours away.
        enlargement_liver: Factor at their middle then, logarithmic; at the surface about its root is left.
        enlargement_spleen: Likewise.
        resection_probability: How often a part of the liver has been removed.
        muscle_mm: Thickness of the wall's muscles beyond the core.
        fat_mm: Thickness of the subcutaneous fat, drawn with a cube so that thin is common.
        fat_unevenness: Largest share by which the fat's thickness changes around the body.
        skin_mm: Thickness of the skin.
        missing_kidney_probability, missing_spleen_probability, missing_gallbladder_probability: How often each is gone.
        arms_probability: How often arms lie next to the body.
        inflation_probability: How often a lesion bulges each organ, by local inflation (paper, section 5).
        inflation: Largest share by which the tissue at its middle is stretched.
        inflation_mm: Radius of the lesion.
    """

    turn_rad: float = 0.25
    tilt_rad: float = 0.10
    scale: Range = (0.8, 1.2)
    axis_scale: Range = (0.88, 1.12)
    depth_scale: Range = (0.84, 1.04)
    elastic_mm: Range = (3.0, 7.0)
    elastic_spacing_mm: Range = (36.0, 90.0)
    organ_scale: Range = (0.72, 1.4)
    organ_shift_mm: float = 5.0
    kidney_scale: Range = (0.65, 1.3)
    kidney_shift_mm: tuple[float, float, float] = (11.0, 5.0, 6.0)
    organ_turn_rad: float = 0.25
    organ_probability: float = 0.85
    enlarged_probability: float = 0.1
    enlargement_liver: Range = (1.15, 1.6)
    enlargement_spleen: Range = (1.3, 2.6)
    resection_probability: float = 0.04
    muscle_mm: Range = (3.0, 15.0)
    fat_mm: Range = (2.0, 75.0)
    fat_unevenness: float = 0.5
    skin_mm: Range = (1.5, 3.0)
    missing_kidney_probability: float = 0.03
    missing_spleen_probability: float = 0.03
    missing_gallbladder_probability: float = 0.2
    arms_probability: float = 0.15
    inflation_probability: float = 0.06
    inflation: Range = (0.2, 0.6)
    inflation_mm: Range = (10.0, 35.0)

    def __post_init__(self) -> None:
        _checked(self)
        if len(self.kidney_shift_mm) != 3 or min(self.kidney_shift_mm) < 0:
            raise ConfigError(
                "setting BodyConfig.kidney_shift_mm",
                expected="three deviations, none negative",
                got=str(self.kidney_shift_mm),
                remedy="Correct it",
            )


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """CT numbers and what fills them with life; the ranges by phase and tissue are in `appearance`.

    Attributes:
        phase_weights: How often native, arterial, portal venous, nephrographic and excretory scans are drawn.
        common_share: Share of a tissue's range that all tissues go up and down in together: dose, weight and timing.
        spread_hu: Standard deviation added to every tissue's mean.
        fatty_liver_probability: How often the liver holds fat.
        fatty_liver_hu: What fat takes from the liver.
        fatty_pancreas_probability: How often lobules of fat lie in the pancreas, as in the old and the obese.
        fatty_pancreas_hu: What they take from it.
        fatty_pancreas_texture_hu: What they add to its unevenness.
        compact_bone_hu: By how much compact bone, as sampled, is denser than the rest.
        texture_hu: Standard deviation of smooth unevenness within organs.
        oral_contrast_probability: How often stomach and bowel hold positive contrast.
        oral_contrast_hu: Its CT number.
        contents_texture_hu: Standard deviation of the unevenness of what stomach and bowel hold.
        gas_share: Largest share of gas in the bowel, drawn uniformly from 0.
        interior_soft_share: Share of mesentery, vessels and collapsed bowel in what no map names.
        strands_hu: By how much sheets and strands in the fat, also around the kidneys, are denser than it.
        cortex_mm: Thickness of the kidney's cortex.
        sinus: Size of the part of the kidney's sinus within what maps call kidney, with its fat and pelvis, per axis by
            the largest there is; maps leave most of the fat out.
        hydronephrosis_probability: How often urine widens the whole sinus.
        spleen_bands_hu: Amplitude of the spleen's stripes in the arterial phase.
        mixing_hu: Standard deviation of the unevenness of the large veins before the nephrographic phase.
        dense_bile_probability: How often the gallbladder holds dense bile.
        ascites_probability: How often fluid fills part of the interior.
        ascites: How much, from 0 to nearly all at 2.
        effusion_probability: How often fluid lies behind the lungs.
        effusion_mm: How deep it is from front to back.
        dilated_bowel_probability: How often wide loops filled with fluid and gas take part of the interior.
        stone_probability: How often each kidney, and the gallbladder, holds a stone.
        stone_hu: Its CT number, as sampled.
        lipiodol_probability: How often oil or other dense deposits lie in the liver.
        lipiodol_hu: By how much they are denser, as sampled.
        stent_probability: How often a stent, clips, coils or a drain lie in or next to pancreas or liver.
        stent_hu: Their CT number, as sampled.
        lesion_probability: How often each organ has lesions.
        lesion_count: How many.
        lesion_radius_mm: How large.
        lesion_hu: Their difference to the organ; one in three is a cyst instead.
    """

    phase_weights: tuple[float, float, float, float, float] = (0.28, 0.25, 0.32, 0.08, 0.07)
    common_share: float = 0.5
    spread_hu: float = 4.0
    fatty_liver_probability: float = 0.25
    fatty_liver_hu: Range = (5.0, 50.0)
    fatty_pancreas_probability: float = 0.5
    fatty_pancreas_hu: Range = (5.0, 55.0)
    fatty_pancreas_texture_hu: Range = (3.0, 25.0)
    compact_bone_hu: Range = (100.0, 500.0)
    texture_hu: Range = (0.5, 4.0)
    oral_contrast_probability: float = 0.3
    oral_contrast_hu: Range = (100.0, 450.0)
    contents_texture_hu: Range = (2.0, 30.0)
    gas_share: float = 0.7
    interior_soft_share: Range = (0.02, 0.35)
    strands_hu: Range = (5.0, 60.0)
    cortex_mm: Range = (5.0, 9.0)
    sinus: Range = (0.0, 0.65)
    hydronephrosis_probability: float = 0.04
    spleen_bands_hu: Range = (0.0, 50.0)
    mixing_hu: Range = (0.0, 25.0)
    dense_bile_probability: float = 0.2
    ascites_probability: float = 0.1
    ascites: Range = (0.5, 1.8)
    effusion_probability: float = 0.12
    effusion_mm: Range = (8.0, 70.0)
    dilated_bowel_probability: float = 0.08
    stone_probability: float = 0.08
    stone_hu: Range = (100.0, 1100.0)
    lipiodol_probability: float = 0.03
    lipiodol_hu: Range = (100.0, 1200.0)
    stent_probability: float = 0.05
    stent_hu: Range = (300.0, 2500.0)
    lesion_probability: float = 0.2
    lesion_count: tuple[int, int] = (1, 5)
    lesion_radius_mm: Range = (4.0, 28.0)
    lesion_hu: Range = (-70.0, 40.0)

    def __post_init__(self) -> None:
        _checked(self)
        if len(self.phase_weights) != 5 or min(self.phase_weights) < 0 or sum(self.phase_weights) <= 0:
            raise ConfigError(
                "setting AppearanceConfig.phase_weights",
                expected="five weights, none negative, not all 0",
                got=str(self.phase_weights),
                remedy="Correct it",
            )


@dataclass(frozen=True, kw_only=True)
class AdditionConfig:
    """What is laid over a deformed anatomy, and counts as the organ where it is a part of one.

    Attributes:
        perirenal_fat_probability: How often fat lies around each kidney instead of bowel and mesentery.
        perirenal_fat_mm: How far beyond the kidney's own width.
        bowel_probability: How often loops of bowel lie against each kidney, the spleen and the liver.
        bowel_count: How many.
        bowel_radius_mm: Their radius.
        bowel_length_mm: Their length.
        lobe_probability: How often a lobe of the liver reaches over the stomach or far down.
        lobe_mm: How far.
        lobe_radius_mm: Half of its thickness.
        long_spleen_probability: How often the spleen reaches far down and forwards.
        long_spleen_mm: How far; at most, three litres.
        long_spleen_radius_mm: Half of its thickness there.
        accessory_probability: How often an accessory spleen lies next to the spleen.
        accessory_radius_mm: Its radius.
        kidney_growth_probability: How often each kidney has cysts or tumours at its surface, which count as kidney.
        kidney_growth_radius_mm: Their radius, drawn on a logarithmic scale.
        growth_probability: How often each of the other organs has them.
        growth_radius_mm: Their radius in the liver, drawn on a logarithmic scale; in spleen and pancreas half of it.
        growth_count: How many.
        growth_hu: Difference of those that are no cysts to their organ.
    """

    perirenal_fat_probability: float = 0.7
    perirenal_fat_mm: Range = (2.0, 30.0)
    bowel_probability: float = 0.25
    bowel_count: tuple[int, int] = (1, 3)
    bowel_radius_mm: Range = (8.0, 26.0)
    bowel_length_mm: Range = (0.0, 80.0)
    lobe_probability: float = 0.12
    lobe_mm: Range = (20.0, 90.0)
    lobe_radius_mm: Range = (8.0, 22.0)
    long_spleen_probability: float = 0.06
    long_spleen_mm: Range = (40.0, 190.0)
    long_spleen_radius_mm: Range = (25.0, 60.0)
    accessory_probability: float = 0.12
    accessory_radius_mm: Range = (3.5, 11.0)
    kidney_growth_probability: float = 0.14
    kidney_growth_radius_mm: Range = (5.0, 45.0)
    growth_probability: float = 0.04
    growth_radius_mm: Range = (8.0, 70.0)
    growth_count: tuple[int, int] = (1, 3)
    growth_hu: Range = (-80.0, 40.0)

    def __post_init__(self) -> None:
        _checked(self)


@dataclass(frozen=True, kw_only=True)
class AcquisitionConfig:
    """How the scanner sees the body.

    Attributes:
        slice_mm: Distance of slices: one in three scans has thin ones, the rest is drawn from this range.
        thick_probability: How often slices are very thick instead.
        thick_slice_mm: Their distance.
        thickness_share: Slice thickness by slice distance; below 1 slices have gaps, above they overlap.
        kernel_mm: Standard deviation of the in-plane blur, smooth to sharp kernels.
        sharp_probability: How often edges are raised, as lung and bone kernels do, with finer noise.
        sharpening: By how much of what a blur takes away.
        noise_hu: Standard deviation of the noise at voxels of 0.8 mm in the plane, drawn on a logarithmic scale;
            larger voxels average it.
        noise_grain_mm: Standard deviation of the blur that gives noise its grain.
        streak_probability: How often streaks of metal or beam hardening cross the scan.
        streak_hu: Their amplitude.
        whole_probability: How often the scan shows the body from the anatomy's bottom to its top.
        slab_probability: How often it is a slab.
        slab_mm: Thickness of slabs.
        organs_margin_mm: Else it reaches from this far below the organs to this far above; negative cuts into them.
        off_probability: How often a scan for localisation shows a part of the body without organs.
        crop_probability: How often the field of view cuts the body at the sides.
        crop_share: The part of the body's width that is left then.
        circle_probability: How often voxels beyond the circle of reconstruction are padding.
        padding_hu: What padding may measure; vendors store air, or values no tissue has.
        table_probability: How often the patient's table is seen.
        window_probability: How often the scan was clipped to a soft-tissue window, as some public data are.
    """

    slice_mm: Range = (2.0, 7.0)
    thick_probability: float = 0.08
    thick_slice_mm: Range = (7.0, 10.0)
    thickness_share: Range = (0.6, 1.4)
    kernel_mm: Range = (0.0, 1.4)
    sharp_probability: float = 0.2
    sharpening: Range = (0.3, 1.5)
    noise_hu: Range = (2.0, 40.0)
    noise_grain_mm: Range = (0.0, 0.7)
    streak_probability: float = 0.15
    streak_hu: Range = (5.0, 60.0)
    whole_probability: float = 0.2
    slab_probability: float = 0.2
    slab_mm: Range = (30.0, 130.0)
    organs_margin_mm: Range = (-40.0, 120.0)
    off_probability: float = 0.1
    crop_probability: float = 0.2
    crop_share: Range = (0.35, 0.9)
    circle_probability: float = 0.4
    padding_hu: tuple[float, ...] = (-1024.0, -1024.0, -2000.0, -3024.0)
    table_probability: float = 0.6
    window_probability: float = 0.06

    def __post_init__(self) -> None:
        _checked(self)


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """All of it.

    Attributes:
        body: How virtual patients differ.
        additions: What lies against organs, and what grows out of them.
        appearance: What tissues look like.
        acquisition: How the scanner sees them.
        box_jitter_mm: Standard deviation by which each face of the region's box is moved in training, as a localiser
            is never exact.
        box_stretch_probability: How often one face is moved far outwards, as by a false voxel of the localiser.
        box_stretch_mm: How far.
        paint_share: In-plane voxels drawn, by the network's spacing.
    """

    body: BodyConfig = field(default_factory=BodyConfig)
    additions: AdditionConfig = field(default_factory=AdditionConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    box_jitter_mm: float = 8.0
    box_stretch_probability: float = 0.3
    box_stretch_mm: Range = (20.0, 200.0)
    paint_share: float = 0.6

    def __post_init__(self) -> None:
        _checked(self)
