"""The body the phantom draws: a list of tissues, back to front, each with its shape, CT number and label.

The body frame is LPS in mm with its origin before the spine at the height of the kidneys: x to the left, y to the
back, z to the head. Sizes are those of an adult, drawn from ranges around textbook anatomy; the extents of the paper's
361 training boxes (206-376 mm in x, 129-282 mm in y, 125-280 mm in z) bound the organs' joint extent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from viscera.synthesis.phantom_shapes import Array, Blob, Mask, PhantomTissue, Point, rotation, tube

_GUT_CONTENTS = ("fluid", "gut wall", "gas", "oral contrast")


@dataclass(frozen=True, kw_only=True)
class Physique:
    """The measures of one person, from which everything else is placed."""

    half_width: float
    half_depth: float
    fat: float
    muscle: float
    dome: float

    def torso(self, x: Array, y: Array, depth_mm: float) -> Array:
        """Below 1 within the outline drawn in by `depth_mm`: a superellipse, flat at the back."""
        across = x / np.float32(self.half_width - depth_mm)
        along = y / np.float32(self.half_depth - depth_mm)
        along = np.where(along > 0, along * np.float32(1.06), along)
        return np.asarray(np.abs(across) ** 3 + np.abs(along) ** 2.5, dtype=np.float32)

    @property
    def spine(self) -> float:
        """Depth (y) of the vertebral bodies' back edge."""
        return 0.92 * self.half_depth - self.fat - 46

    def wall(self) -> float:
        """Depth of the abdominal cavity below the skin."""
        return self.fat + self.muscle

    def diaphragm(self, x: Array, y: Array) -> Array:
        """Height of the diaphragm: a dome over each side, the right one higher."""
        side = np.where(x < 0, np.float32(12.0), np.float32(0.0))
        spread = (np.abs(x) - 0.45 * self.half_width) ** 2 / (0.5 * self.half_width) ** 2
        return np.asarray(self.dome + side + 45.0 - 55.0 * (spread + (y / self.half_depth) ** 2), dtype=np.float32)


def draw_physique(rng: np.random.Generator) -> Physique:
    """The measures of a random adult, from lean to obese."""
    half_width = rng.uniform(140, 195)
    fat = rng.uniform(0.02, 0.17) * half_width
    return Physique(
        half_width=half_width + fat * 0.5,
        half_depth=half_width * rng.uniform(0.6, 0.75) + fat * 0.5,
        fat=fat,
        muscle=rng.uniform(8, 18),
        dome=rng.uniform(70, 100),
    )


class Anatomist:
    """Draws the tissues of one person; all chance comes from one generator, in a fixed order."""

    def __init__(self, rng: np.random.Generator, physique: Physique) -> None:
        self._rng = rng
        self._body = physique
        # Organs grow less than proportionally with the body.
        self._sx = (physique.half_width / 175) ** 0.6
        self._sy = (physique.half_depth / 118) ** 0.6

    def tissues(self) -> list[PhantomTissue]:
        """Everything, in drawing order."""
        parts = (self._trunk, self._chest, self._limbs_and_head, self._skeleton, self._gut, self._vessels, self._organs)
        return [tissue for part in parts for tissue in part()]

    def _blob(self, centre: Point, radii: Point, *, vary: float = 0.12, dent: float = 0.12, power: int = 2) -> Blob:
        """A blob near `centre` (for a body of middle size) with every number varied."""
        rng = self._rng
        scaled = (centre[0] * self._sx, centre[1] * self._sy, centre[2])
        place = tuple(value + rng.normal(0, 0.06 * max(radii)) for value in scaled)
        size = rng.uniform(1 - vary, 1 + vary)
        lengths = tuple(
            radius * size * rng.uniform(1 - vary, 1 + vary) * scale
            for radius, scale in zip(radii, (self._sx, self._sy, 1.0), strict=True)
        )
        waves = np.zeros((3, 5), dtype=np.float32)
        for wave in waves:
            direction = rng.normal(size=3)
            wavelength = rng.uniform(0.9, 2.2) * np.mean(lengths)
            wave[:3] = direction / np.linalg.norm(direction) * 2 * np.pi / wavelength
            wave[3:] = rng.uniform(0, 2 * np.pi), dent * rng.uniform(0.3, 1.0)
        return Blob(
            centre=(place[0], place[1], place[2]),
            radii=(lengths[0], lengths[1], lengths[2]),
            turn=rotation(rng.normal(0, 0.15, 3)),
            waves=waves,
            power=power,
        )

    def _tube(self, name: str, points: Sequence[Point], radius: float, label: int = 0) -> PhantomTissue:
        """A tube of varying width through `points` (in body-scaled coordinates)."""
        path = np.array(points) * (self._sx, self._sy, 1.0)
        path += self._rng.normal(0, 0.25 * radius, path.shape)
        widths = radius * self._rng.uniform(0.8, 1.2, len(path))
        return tube(name, path, widths, label)

    def _slice_shape(self, name: str, low_z: float, high_z: float, inside: Any) -> PhantomTissue:
        """A tissue over the whole cross-section between two heights."""
        width, depth = self._body.half_width + 120, self._body.half_depth + 120
        return PhantomTissue(
            name=name,
            lower_xyz_mm=(-width, -depth, low_z),
            upper_xyz_mm=(width, depth, high_z),
            inside=lambda x, y, z: inside(x, y, z) & (z > low_z) & (z < high_z),
        )

    def _trunk(self) -> list[PhantomTissue]:
        body, rng = self._body, self._rng
        table_y = body.half_depth + rng.uniform(2, 15)
        table = self._slice_shape(
            "table", -900, 700, lambda x, y, z: np.abs(y - table_y - 3 + x * x / np.float32(3000)) < np.float32(4)
        )
        layers = [
            self._slice_shape(name, -330, 300, lambda x, y, z, d=depth: body.torso(x, y, d) < 1)
            for name, depth in (("muscle", 0.0), ("fat", 1.8), ("muscle", body.fat), ("fat", body.wall()))
        ]
        return ([table] if rng.random() < 0.7 else []) + layers

    def _chest(self) -> list[PhantomTissue]:
        body = self._body
        depth = body.wall() * 0.9

        def lung(x: Array, y: Array, z: Array) -> Mask:
            aside = np.abs(x + 4) > np.float32(24) + np.maximum(0, 20 - np.abs(y)) * np.float32(0.3)
            narrowing = 1 - np.clip((z - 180) / 160, 0, 0.9)
            return np.asarray((body.torso(x, y, depth) < narrowing) & (z > body.diaphragm(x, y)) & aside)

        middle = self._slice_shape(
            "muscle", 60, 290, lambda x, y, z: (np.abs(x) < 30) & (np.abs(y) < 60) & (z > body.diaphragm(x, y))
        )
        lungs = self._slice_shape("lung", 20, 290, lung)
        heart = self._blob((25, -35, body.dome + 85), (52, 42, 45)).tissue("blood")
        return [middle, lungs, heart]

    def _limbs_and_head(self) -> list[PhantomTissue]:
        rng, body = self._rng, self._body
        neck = self._blob((0, 10, 330), (62, 62, 90), vary=0.05, dent=0.03).tissue("muscle")
        head = self._blob((0, 0, 470), (78, 98, 112), vary=0.05, dent=0.02)
        skull, brain = head.thinner(5), head.thinner(12)
        parts = [neck, head.tissue("muscle"), skull.tissue("cortical bone"), brain.tissue("brain")]
        for side in (-1, 1):
            hip = (side * 0.5 * body.half_width / self._sx, 0.0, -300.0)
            knee = (side * 0.4 * body.half_width / self._sx, 0.0, -760.0)
            for name, radius in (("fat", 88.0), ("muscle", 72.0), ("cortical bone", 14.0)):
                parts.append(self._tube(name, (hip, knee), radius))
        if rng.random() < 0.3:  # arms next to the body
            for side in (-1, 1):
                shoulder = (side * (body.half_width + 48) / self._sx, 5.0, 220.0)
                hand = (side * (body.half_width + 42) / self._sx, -15.0, -260.0)
                for name, radius in (("fat", 42.0), ("muscle", 34.0), ("cortical bone", 11.0)):
                    parts.append(self._tube(name, (shoulder, hand), radius))
        return parts

    def _skeleton(self) -> list[PhantomTissue]:
        rng, body = self._rng, self._body
        back = body.spine
        width, pitch = rng.uniform(17, 22), rng.uniform(30, 38)

        def vertebrae(x: Array, y: Array, z: Array) -> Mask:
            waist = np.float32(width) * (1 - 0.1 * np.cos(z * np.float32(4 * np.pi / pitch)))
            front = x * x + (y - back + 12) ** 2 < waist * waist
            arch = (np.abs(x) < 5) & (np.abs(y - back - 24) < 14) & (np.cos(z * np.float32(2 * np.pi / pitch)) > 0)
            return np.asarray(front | arch)

        def discs(x: Array, y: Array, z: Array) -> Mask:
            return np.asarray(vertebrae(x, y, z) & (np.cos(z * np.float32(2 * np.pi / pitch)) < -0.82) & (y < back + 8))

        def canal(x: Array, y: Array, z: Array) -> Mask:
            return x * x + (y - back - 14) ** 2 < 70

        def ribs(x: Array, y: Array, z: Array) -> Mask:
            shell = np.abs(body.torso(x, y, body.fat + 6.0) - 1) < np.float32(0.11)
            tilted = z + np.float32(0.45) * y
            spaced = np.cos(tilted * np.float32(2 * np.pi / 27)) > np.float32(0.55)
            return shell & spaced & (tilted > body.dome - 110) & (np.abs(x) > 18)

        def beside_spine(x: Array, y: Array, z: Array) -> Mask:
            aside = (np.abs(x) - 34) ** 2 / 900 + (y - back - 22) ** 2 / 500 < 1
            return aside & (body.torso(x, y, body.fat) < 1)

        muscles = [self._slice_shape("muscle", -330, 280, beside_spine)]
        psoas = [
            self._tube("muscle", ((s * 68, 30, -280), (s * 44, back - 8, -60), (s * 28, back, 40)), 19) for s in (-1, 1)
        ]
        wings = [self._blob((s * 95, 35, -215), (38, 62, 62), vary=0.08).tissue("bone") for s in (-1, 1)]
        pelvis = [self._blob((s * 88, 22, -205), (36, 58, 62), vary=0.05).tissue("muscle") for s in (-1, 1)]
        columns = [
            self._slice_shape("bone", -260, 420, vertebrae),
            self._slice_shape("muscle", -260, 420, discs),
            self._slice_shape("fluid", -260, 420, canal),
            self._slice_shape("bone", body.dome - 150, 285, ribs),
        ]
        return muscles + psoas + wings + pelvis + columns

    def _gut(self) -> list[PhantomTissue]:
        rng, body = self._rng, self._body
        edge = 0.72 * (body.half_width - body.wall()) / self._sx
        parts: list[PhantomTissue] = []

        def filled(blob: Blob, weights: Sequence[float]) -> None:
            content = str(rng.choice(_GUT_CONTENTS, p=weights))
            inner = blob.thinner(3.5)
            parts.extend((blob.tissue("gut wall"), inner.tissue(content)))
            if content != "gas" and rng.random() < 0.5:  # a gas bubble floats to the front of the lying patient
                front = (blob.centre[0], blob.centre[1] - 0.55 * blob.radii[1], blob.centre[2])
                parts.append(replace(blob.scaled(0.45), centre=front).tissue("gas"))

        for _ in range(int(rng.integers(25, 45))):  # small bowel
            place = (rng.uniform(-0.7, 0.7) * edge, rng.uniform(-75, 5), rng.uniform(-220, -15))
            filled(
                self._blob(place, (rng.uniform(12, 24), rng.uniform(10, 18), rng.uniform(10, 20))), (0.4, 0.4, 0.1, 0.1)
            )
        for side in (-1, 1):  # ascending and descending colon
            for height in range(-180, 10 if side < 0 else 70, 32):
                filled(self._blob((side * edge, 15, height), (19, 19, 20)), (0.2, 0.4, 0.3, 0.1))
        for across in np.linspace(-0.9, 0.9, 7):  # transverse colon
            filled(self._blob((across * edge, -68, 5 - 30 * (1 - across**2)), (19, 16, 17)), (0.2, 0.3, 0.4, 0.1))
        filled(self._blob((52, -38, 55), (44, 38, 48), dent=0.2), (0.45, 0.25, 0.05, 0.25))  # stomach
        filled(self._blob((-32, -18, -12), (15, 16, 34)), (0.5, 0.4, 0.05, 0.05))  # duodenum
        parts.append(self._blob((0, -25, -285), (38, 34, 32)).tissue("fluid"))  # bladder
        return parts

    def _vessels(self) -> list[PhantomTissue]:
        rng, front = self._rng, (self._body.spine - 42) / self._sy
        aorta = self._tube("artery", ((9, front, -90), (8, front, 60), (6, front + 6, 280)), rng.uniform(8, 12))
        cava = self._tube(
            "vein", ((-21, front, -170), (-20, front - 2, 40), (-22, front - 20, 120)), rng.uniform(9, 13)
        )
        portal = self._tube("vein", ((12, -16, -40), (-4, -18, 8), (-34, -15, 34)), 7)
        splenic = self._tube("vein", ((-4, -16, 8), (35, -10, 18), (80, 20, 42)), 4.5)
        mesenteric = self._tube("artery", ((8, front - 8, 5), (6, -22, -90)), 4.5)
        iliac = [self._tube("artery", ((8, front, -90), (s * 50, 5, -200)), 7) for s in (-1, 1)]
        return [aorta, cava, portal, splenic, mesenteric, *iliac]

    def _organs(self) -> list[PhantomTissue]:
        pancreas, kidneys, spleen, liver = self._pancreas(), self._kidneys(), self._spleen(), self._liver()
        return [*pancreas, *spleen, *liver, *kidneys]  # the kidneys in their fat dent liver and spleen

    def _pancreas(self) -> list[PhantomTissue]:
        path = ((-30, -14, -22), (-22, -22, 0), (2, -30, 8), (32, -20, 18), (62, 6, 30), (80, 24, 38))
        lift = float(self._rng.normal(0, 8))
        return [self._tube("pancreas", [(x, y, z + lift) for x, y, z in path], self._rng.uniform(11, 16), label=4)]

    def _kidneys(self) -> list[PhantomTissue]:
        parts = []
        for side, height in ((-1, -18.0), (1, -6.0)):
            outer = self._blob((side * 62, 48, height + self._rng.normal(0, 8)), (27, 27, 54), dent=0.06)
            medulla = outer.scaled(0.68)
            hilum = (outer.centre[0] - side * 0.72 * outer.radii[0], outer.centre[1] - 6, outer.centre[2])
            sinus = replace(outer.scaled(0.42), centre=hilum)
            parts += [
                outer.scaled(1.15).tissue("fat"),
                outer.tissue("renal cortex", 2),
                medulla.tissue("renal medulla", 2),
                sinus.tissue("fat"),
            ]
        return parts

    def _spleen(self) -> list[PhantomTissue]:
        body = self._body
        outer = self._blob((100, 44, 58), (36, 46, 52), vary=0.2, dent=0.08)
        bite = self._blob((58, 22, 56), (30, 36, 46), vary=0.05)
        crescent = replace(
            outer.tissue("spleen", 3),
            inside=lambda x, y, z: (
                (outer.level(x, y, z) < 1)
                & (bite.level(x, y, z) > 1)
                & (body.torso(x, y, body.wall()) < 1)
                & (z < body.diaphragm(x, y) - 3)
            ),
        )
        return [crescent]

    def _liver(self) -> list[PhantomTissue]:
        body = self._body
        right = self._blob((-80, -2, 44), (70, 72, 72), dent=0.07, power=2)
        left = self._blob((2, -46, 62), (74, 32, 30), vary=0.18)
        porta = self._blob((-18, 40, 0), (52, 46, 52), vary=0.1)

        def inside(x: Array, y: Array, z: Array) -> Mask:
            lobes = (right.level(x, y, z) < 1) | (left.level(x, y, z) < 1)
            kept = (porta.level(x, y, z) > 1) & (body.torso(x, y, body.wall()) < 1)
            return lobes & kept & (z < body.diaphragm(x, y) - 3)

        low, high = np.array(right.centre) - 118, np.maximum(np.array(right.centre) + 118, np.array(left.centre) + 108)
        liver = PhantomTissue(name="liver", label=1, lower_xyz_mm=tuple(low), upper_xyz_mm=tuple(high), inside=inside)
        bladder = self._blob((-48, -48, -2), (15, 20, 22)).tissue("fluid")
        branches = [
            self._tube("vein", ((-34, -15, 34), (-60, -10, 50), (-100, -5, 55)), 4.5, label=1),
            self._tube("vein", ((-24, 10, 95), (-60, 5, 80), (-95, 20, 60)), 4.5, label=1),
        ]
        inside_liver = [replace(branch, inside=partial(_both, branch.inside, inside)) for branch in branches]
        return [liver, *inside_liver, bladder]


def _both(first: Callable[..., Mask], second: Callable[..., Mask], x: Array, y: Array, z: Array) -> Mask:
    return first(x, y, z) & second(x, y, z)
