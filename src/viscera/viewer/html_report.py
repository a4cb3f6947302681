"""The page of `viscera report`: one file with pictures, table, provenance, images and the viewer, for any browser."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from viscera.core.errors import WriteError
from viscera.core.version import version
from viscera.core.volume import LabelMap, Volume
from viscera.viewer.display_images import MARGIN_MM, DisplayImages, around_organs, fitted
from viscera.viewer.nifti_image import NiftiImage
from viscera.viewer.organs import OrganRow
from viscera.viewer.page import (
    NIIVUE,
    NOTICES,
    SCRIPT,
    STYLE,
    PageParts,
    asset_text,
    facts_section,
    notes_section,
    organs_section,
    page_html,
    script_data,
)
from viscera.viewer.pictures import PICTURE_WINDOW, Picture

LIMIT_BYTES = 8_000_000
# Where the fitting begins: about 1.3 mm for the organs of an adult.
_MOST_VOXELS = 6_000_000
# HU are kept in steps of this: less than noise, and half the bytes.
_STEP_HU = 4
_CT, _LABELS = "ct-image", "labels-image"
# What the images cannot be made to fit into; NiiVue alone takes a third of the limit.
_LEAST_IMAGES_BYTES = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportContent:
    """What a report tells.

    Attributes:
        title: Its heading.
        volume, label_map: The whole scan, on one grid.
        rows: The organs.
        pictures: Slices of the CT with them.
        notes: One sentence each.
        provenance: (what, value).
    """

    title: str
    volume: Volume
    label_map: LabelMap
    rows: Sequence[OrganRow]
    pictures: Sequence[Picture]
    notes: Sequence[str]
    provenance: Sequence[tuple[str, str]]


def report_html(content: ReportContent) -> str:
    """The report as HTML of at most `LIMIT_BYTES` bytes in UTF-8, which asks nothing of any network.

    The images for the viewer are the organs and `MARGIN_MM` around, on voxels as large as the limit demands and with HU
    in steps of 4.

    Raises:
        WriteError: If the other parts leave no room for the images.
    """
    room = LIMIT_BYTES - len(_page(content, None, b"", b"").encode())
    # base64 makes four bytes of three.
    shown, ct, labels = _fitted_images(content, room * 3 // 4 - 1000)
    return _page(content, shown, ct, labels)


def _fitted_images(content: ReportContent, room_bytes: int) -> tuple[DisplayImages, bytes, bytes]:
    if room_bytes < _LEAST_IMAGES_BYTES:
        raise WriteError(
            "making the report",
            expected=f"pictures, notes and tables that leave room for the images in {LIMIT_BYTES} bytes",
            got=f"{room_bytes} bytes left",
            remedy="Leave out the run report, or use labels with fewer organs",
        )
    volume, label_map = around_organs(content.volume, content.label_map)
    most = _MOST_VOXELS
    while True:
        shown = fitted(volume, label_map, most)
        assert shown.label_map is not None  # as it was given
        hu = (np.rint(shown.volume.hu / np.float32(_STEP_HU)) * _STEP_HU).astype(np.int16)
        ct = NiftiImage(array=hu, grid=shown.volume.grid).packed()
        labels = NiftiImage(array=shown.label_map.labels, grid=shown.volume.grid).packed()
        size = len(ct) + len(labels)
        if size <= room_bytes:
            return shown, ct, labels
        # Bytes grow with the voxels, but not quite as fast.
        most = int(hu.size * 0.95 * room_bytes / size)


def _page(content: ReportContent, shown: DisplayImages | None, ct: bytes, labels: bytes) -> str:
    scripts = [asset_text(NIIVUE), asset_text(SCRIPT)]
    style = asset_text(STYLE)
    provenance = [*content.provenance, *([] if shown is None else [("interactive pictures", _extent_words(shown))])]
    data = [
        f'<script type="text/plain" id="{name}">{base64.b64encode(image).decode()}</script>'
        for name, image in ((_CT, ct), (_LABELS, labels))
    ]
    zoom = 1.0 if shown is None else shown.zoom()
    data.append(script_data(content.rows, ct={"embedded": _CT}, labels={"embedded": _LABELS}, zoom=zoom))
    return page_html(
        PageParts(
            title=content.title,
            policy=_policy([style], scripts),
            style=f"<style>{style}</style>",
            data="\n".join(data),
            scripts="\n".join(f"<script>{script}</script>" for script in scripts),
            sections=[
                organs_section(content.rows),
                notes_section(content.notes),
                _pictures_section(content.pictures),
                facts_section(provenance),
                _notices_section(),
            ],
            without="The pictures below need nothing.",
            footer=f"Made by viscera {version()}. This file asks nothing of any network.",
        )
    )


def _policy(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """A policy by which nothing is loaded from anywhere, and only these very styles and scripts are obeyed."""
    style = " ".join(_source(text) for text in styles)
    script = " ".join(_source(text) for text in scripts)
    rules = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _extent_words(shown: DisplayImages) -> str:
    spacing = " x ".join(f"{step:.2f}" for step in shown.volume.grid.spacing_zyx_mm)
    size = " x ".join(map(str, shown.volume.grid.shape_zyx))
    made = "coarser than the scan's" if shown.coarsened else "the scan's own"
    return (
        f"the organs and {MARGIN_MM:g} mm around, {size} voxels of {spacing} mm (z, y, x), {made}; "
        f"HU in steps of {_STEP_HU}. Volumes and HU in the table are those of the whole scan at full resolution."
    )


def _pictures_section(pictures: Iterable[Picture]) -> str:
    figures = "\n".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(picture.png).decode()}"\n'
        f' width="{picture.width_px}" alt="{escape(picture.words)}"></figure>'
        for picture in pictures
    )
    return f"""<section id="pictures" aria-labelledby="pictures-title">
<h2 id="pictures-title">Pictures</h2>
<div class="figures">
{figures}
</div>
<p class="convention">Radiological convention: the patient&rsquo;s right (R) is on the left of axial and coronal
pictures; {PICTURE_WINDOW}.</p>
</section>"""


def _notices_section() -> str:
    return f"""<section id="licences" class="screen">
<details><summary>Third-party software in this file</summary>
<pre>{escape(asset_text(NOTICES))}</pre></details>
</section>"""
