"""The page of `viscera view`: everything the server hands out, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from viscera.core.version import version
from viscera.viewer.display_images import DisplayImages
from viscera.viewer.nifti_image import NiftiImage
from viscera.viewer.organs import OrganRow
from viscera.viewer.page import (
    ASSETS,
    NIIVUE,
    NOTICES,
    SCRIPT,
    STYLE,
    PageParts,
    notes_section,
    organs_section,
    page_html,
    script_data,
)
from viscera.viewer.server import Item

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
_IMAGE_TYPE = "application/octet-stream"
_CT, _LABELS = "ct.nii", "labels.nii"


def served_items(shown: DisplayImages, rows: Sequence[OrganRow], notes: Sequence[str]) -> dict[str, Item]:
    """What `viscera view` serves: the page as "", its script and style, NiiVue, and the images."""
    items = {
        name: Item(media_type=_TYPES[(ASSETS / name).suffix], body=(ASSETS / name).read_bytes())
        for name in (STYLE, SCRIPT, NIIVUE, NOTICES)
    }
    items[_CT] = _image(shown.volume.hu, shown)
    if shown.label_map is not None:
        items[_LABELS] = _image(shown.label_map.labels, shown)
    labels = None if shown.label_map is None else {"url": _LABELS}
    page = page_html(
        PageParts(
            title="viscera",
            style=f'<link rel="stylesheet" href="{STYLE}">',
            data=script_data(rows, ct={"url": _CT}, labels=labels, zoom=shown.zoom()),
            scripts=f'<script src="{NIIVUE}"></script>\n<script src="{SCRIPT}"></script>',
            sections=[organs_section(rows), notes_section(notes)],
            without="The table needs nothing.",
            footer=f"viscera {version()}. This page comes from your own machine; nothing is sent anywhere.",
        )
    )
    items[""] = Item(media_type="text/html; charset=utf-8", body=page.encode())
    return items


def _image(array: NDArray[Any], shown: DisplayImages) -> Item:
    return Item(media_type=_IMAGE_TYPE, body=NiftiImage(array=array, grid=shown.volume.grid))
