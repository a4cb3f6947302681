"""CT numbers of tissues by phase of the contrast agent, as ranges; see `config` for the sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from viscera.synthesis.config import Range
from viscera.synthesis.tissues import Tissue

Phase = Literal["native", "arterial", "portal", "nephrographic", "excretory"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Ranges = tuple[Range, Range, Range, Range, Range]

# HU by tissue in the order of PHASES. Of the kidneys the cortex; of hollow organs, the heart and the gallbladder the
# wall.
HU: Mapping[Tissue, Ranges] = {
    Tissue.LIVER: ((42, 68), (46, 88), (78, 135), (70, 118), (60, 105)),
    Tissue.KIDNEY_RIGHT: ((15, 42), (105, 260), (130, 240), (120, 215), (85, 170)),
    Tissue.SPLEEN: ((30, 58), (75, 165), (78, 150), (70, 130), (58, 112)),
    Tissue.PANCREAS: ((22, 50), (55, 150), (60, 125), (52, 105), (45, 88)),
    Tissue.GALLBLADDER: ((15, 45), (25, 75), (35, 100), (35, 90), (30, 80)),
    Tissue.STOMACH: ((25, 50), (45, 115), (55, 115), (45, 100), (45, 85)),
    Tissue.OESOPHAGUS: ((25, 50), (40, 75), (45, 85), (45, 80), (45, 75)),
    Tissue.DUODENUM: ((25, 50), (45, 125), (55, 115), (45, 100), (45, 85)),
    Tissue.SMALL_BOWEL: ((20, 48), (40, 125), (45, 115), (40, 95), (40, 80)),
    Tissue.COLON: ((20, 48), (35, 90), (45, 100), (40, 85), (40, 75)),
    Tissue.ADRENAL: ((5, 40), (50, 100), (50, 100), (45, 90), (35, 75)),
    Tissue.LUNG: ((-900, -720), (-900, -720), (-900, -720), (-900, -720), (-900, -720)),
    Tissue.AIRWAY: ((-1010, -960), (-1010, -960), (-1010, -960), (-1010, -960), (-1010, -960)),
    Tissue.HEART: ((30, 52), (60, 150), (75, 140), (70, 120), (60, 110)),
    Tissue.ARTERY: ((32, 52), (210, 430), (115, 195), (100, 155), (82, 132)),
    Tissue.VEIN: ((32, 52), (35, 170), (78, 190), (95, 155), (82, 132)),
    Tissue.PORTAL_VEIN: ((32, 52), (45, 160), (105, 210), (100, 160), (82, 135)),
    Tissue.BLADDER: ((-6, 16), (-6, 16), (-6, 20), (-6, 60), (0, 350)),
    Tissue.PROSTATE: ((28, 48), (45, 90), (55, 100), (52, 95), (50, 90)),
    Tissue.BONE: ((30, 190), (30, 190), (40, 200), (40, 200), (40, 200)),
    Tissue.CARTILAGE: ((60, 140), (60, 140), (60, 140), (60, 140), (60, 140)),
    Tissue.SPINAL_CORD: ((10, 45), (10, 50), (15, 55), (15, 55), (15, 55)),
    Tissue.MUSCLE: ((22, 64), (30, 72), (32, 78), (32, 76), (30, 75)),
    Tissue.SOFT: ((50, 120), (100, 200), (90, 170), (80, 150), (70, 140)),
    Tissue.BRAIN: ((22, 42), (25, 50), (28, 50), (25, 50), (25, 50)),
    Tissue.CYST: ((-5, 20), (-5, 20), (-5, 20), (-5, 20), (-5, 20)),
    Tissue.INTERIOR: ((-118, -85), (-118, -85), (-118, -85), (-118, -85), (-118, -85)),
    Tissue.FAT: ((-118, -85), (-118, -85), (-118, -85), (-118, -85), (-118, -85)),
    Tissue.OUTSIDE: ((-118, -88), (-118, -88), (-118, -88), (-118, -88), (-118, -88)),
}
ALIKE = {Tissue.KIDNEY_LEFT: Tissue.KIDNEY_RIGHT}
# What does not take part in the common rise and fall of enhancement.
APART = (
    Tissue.LUNG,
    Tissue.AIRWAY,
    Tissue.INTERIOR,
    Tissue.FAT,
    Tissue.OUTSIDE,
    Tissue.BONE,
    Tissue.CYST,
)
# The renal medulla by phase, as a share of the cortex; before the nephrographic phase it lags behind.
MEDULLA_SHARE: Ranges = ((0.9, 1.1), (0.25, 0.7), (0.5, 1.0), (0.9, 1.12), (0.9, 1.15))
# What the renal pelvis holds: urine, and in the end the contrast agent.
PELVIS_HU: Ranges = ((-5, 20), (-5, 40), (0, 45), (5, 120), (100, 900))
BILE_HU = (-2.0, 24.0)
DENSE_BILE_HU = (25.0, 80.0)
