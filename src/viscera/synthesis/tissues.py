"""What an anatomy is made of: one index per tissue, and which structure of which label map is which tissue."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Tissue(IntEnum):
    """Tissues told apart by CT number or by what may happen to them; the order is that of the arrays.

    `OUTSIDE` is all beyond the convex core of bones, muscles and viscera: wall, fat, skin and air, which are drawn by
    their distance from the core. `INTERIOR` is what no map names within it: fat, mesentery and small vessels. `FAT` is
    the part of that next to the kidneys, which always lie in fat.
    """

    OUTSIDE = 0
    LIVER = 1
    KIDNEY_RIGHT = 2
    SPLEEN = 3
    PANCREAS = 4
    KIDNEY_LEFT = 5
    INTERIOR = 6
    GALLBLADDER = 7
    STOMACH = 8
    OESOPHAGUS = 9
    DUODENUM = 10
    SMALL_BOWEL = 11
    COLON = 12
    ADRENAL = 13
    LUNG = 14
    AIRWAY = 15
    HEART = 16
    ARTERY = 17
    VEIN = 18
    PORTAL_VEIN = 19
    BLADDER = 20
    PROSTATE = 21
    BONE = 22
    CARTILAGE = 23
    SPINAL_CORD = 24
    MUSCLE = 25
    SOFT = 26
    BRAIN = 27
    CYST = 28
    FAT = 29


# The labels the networks learn, by tissue.
ORGAN_LABELS: NDArray[np.uint8] = np.zeros(len(Tissue), dtype=np.uint8)
for _tissue, _label in (
    (Tissue.LIVER, 1),
    (Tissue.KIDNEY_RIGHT, 2),
    (Tissue.KIDNEY_LEFT, 2),
    (Tissue.CYST, 2),  # of the kidney, which experts count in
    (Tissue.SPLEEN, 3),
    (Tissue.PANCREAS, 4),
):
    ORGAN_LABELS[_tissue] = _label
ORGAN_LABELS.flags.writeable = False

ORGANS = (Tissue.LIVER, Tissue.KIDNEY_RIGHT, Tissue.SPLEEN, Tissue.PANCREAS, Tissue.KIDNEY_LEFT)
HOLLOW = (Tissue.STOMACH, Tissue.OESOPHAGUS, Tissue.DUODENUM, Tissue.SMALL_BOWEL, Tissue.COLON)

# Names of the structures of TotalSegmentator's CT task, or how they begin.
_TRUNK_STRUCTURES: Mapping[str, Tissue] = {
    "spleen": Tissue.SPLEEN,
    "kidney_right": Tissue.KIDNEY_RIGHT,
    "kidney_left": Tissue.KIDNEY_LEFT,
    "kidney_cyst": Tissue.CYST,
    "gallbladder": Tissue.GALLBLADDER,
    "liver": Tissue.LIVER,
    "stomach": Tissue.STOMACH,
    "pancreas": Tissue.PANCREAS,
    "adrenal_gland": Tissue.ADRENAL,
    "lung_": Tissue.LUNG,
    "esophagus": Tissue.OESOPHAGUS,
    "trachea": Tissue.AIRWAY,
    "thyroid_gland": Tissue.SOFT,
    "small_bowel": Tissue.SMALL_BOWEL,
    "duodenum": Tissue.DUODENUM,
    "colon": Tissue.COLON,
    "urinary_bladder": Tissue.BLADDER,
    "prostate": Tissue.PROSTATE,
    "sacrum": Tissue.BONE,
    "vertebrae": Tissue.BONE,
    "heart": Tissue.HEART,
    "atrial_appendage": Tissue.HEART,
    "aorta": Tissue.ARTERY,
    "pulmonary_vein": Tissue.VEIN,
    "brachiocephalic_trunk": Tissue.ARTERY,
    "subclavian_artery": Tissue.ARTERY,
    "common_carotid_artery": Tissue.ARTERY,
    "brachiocephalic_vein": Tissue.VEIN,
    "superior_vena_cava": Tissue.VEIN,
    "inferior_vena_cava": Tissue.VEIN,
    "portal_vein": Tissue.PORTAL_VEIN,
    "iliac_artery": Tissue.ARTERY,
    "iliac_vena": Tissue.VEIN,
    "humerus": Tissue.BONE,
    "scapula": Tissue.BONE,
    "clavicula": Tissue.BONE,
    "femur": Tissue.BONE,
    "hip": Tissue.BONE,
    "spinal_cord": Tissue.SPINAL_CORD,
    "gluteus": Tissue.MUSCLE,
    "autochthon": Tissue.MUSCLE,
    "iliopsoas": Tissue.MUSCLE,
    "brain": Tissue.BRAIN,
    "skull": Tissue.BONE,
    "rib_": Tissue.BONE,
    "sternum": Tissue.BONE,
    "costal_cartilages": Tissue.CARTILAGE,
}
# Bones of arms and shoulders, which lie outside the core.
LIMB_STRUCTURES = ("humerus", "scapula", "clavicula")

# The ids of the multi-organ maps (Gibson et al., "Automatic multi-organ segmentation on abdominal CT with dense
# V-networks", IEEE Transactions on Medical Imaging 37, 2018).
DONOR_TISSUES: Mapping[int, Tissue] = {
    1: Tissue.SPLEEN,
    2: Tissue.PANCREAS,
    3: Tissue.KIDNEY_LEFT,
    4: Tissue.GALLBLADDER,
    5: Tissue.OESOPHAGUS,
    6: Tissue.LIVER,
    7: Tissue.STOMACH,
    8: Tissue.DUODENUM,
}


def trunk_tissues(names: Mapping[int, str]) -> dict[int, Tissue]:
    """The tissue of each id of a whole-trunk map whose structures are called `names`; KeyError for an unknown one."""
    tissues = {}
    for number, name in names.items():
        begins = [start for start in _TRUNK_STRUCTURES if name.startswith(start)]
        if not begins:
            raise KeyError(name)
        tissues[number] = _TRUNK_STRUCTURES[max(begins, key=len)]
    return tissues
