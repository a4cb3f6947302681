"""The HTML of the page: organs, notes and pictures around the viewer, readable without any script.

All text is escaped here, wherever it comes from: names of organs, notes and run reports are not trusted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from viscera.quality.rules import QcStatus
from viscera.viewer.organs import OrganRow, viewer_entry

ASSETS = Path(__file__).parent / "assets"
STYLE, SCRIPT, NIIVUE, NOTICES = "viewer.css", "viewer.js", "niivue.umd.js", "THIRD_PARTY.txt"

# Shapes say the same as the words, as in the preview.
_STATUS_SIGNS = {QcStatus.OK: "\u25cf", QcStatus.CHECK: "\u25b2", QcStatus.ABSENT: "\u25cb"}


@dataclass(frozen=True, kw_only=True)
class PageParts:
    """What makes the page one that is served or one that stands alone; all but the texts is HTML.

    Attributes:
        title: Text.
        policy: The content security policy as a `meta` element, or nothing.
        style, data, scripts: The elements that hold or name them.
        sections: The sections next to the viewer.
        without: Text: what there is where the viewer cannot run.
        footer: Text.
    """

    title: str
    policy: str = ""
    style: str
    data: str
    scripts: str
    sections: Sequence[str]
    without: str
    footer: str


def page_html(parts: PageParts) -> str:
    """The whole page."""
    return Template(asset_text("page.html")).substitute(
        title=escape(parts.title),
        policy=parts.policy,
        style=parts.style,
        data=parts.data,
        scripts=parts.scripts,
        sections="\n".join(section for section in parts.sections if section),
        without=escape(parts.without),
        footer=escape(parts.footer),
    )


@functools.cache
def asset_text(name: str) -> str:
    """The text of one of the files in `ASSETS`."""
    return (ASSETS / name).read_text(encoding="utf-8")


def script_data(
    rows: Iterable[OrganRow], *, ct: Mapping[str, str], labels: Mapping[str, str] | None, zoom: float = 1.0
) -> str:
    """The element with what the page's script shows.

    Args:
        rows: The organs.
        ct: The CT, by `url` or `embedded`.
        labels: Its labels likewise, None if there are none.
        zoom: How much larger than the images' extent asks for the organs in space are shown at first.
    """
    values = {"ct": ct, "labels": labels, "zoom": zoom, "organs": [viewer_entry(row) for row in rows]}
    return f'<script type="application/json" id="case">{_json(values)}</script>'


def _json(values: Any) -> str:
    # No name can end the element or begin a comment in it.
    return json.dumps(values).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def organs_section(rows: Sequence[OrganRow]) -> str:
    """Return the table of the organs, each with its QC status; nothing if there are no rows."""
    if not rows:
        return ""
    assessed = any(row.qc for row in rows)
    status_head = '<th scope="col" class="status">QC status</th>' if assessed else ""
    body = "\n".join(_organ_row(row, assessed=assessed) for row in rows)
    return f"""<section id="organs" aria-labelledby="organs-title">
<h2 id="organs-title">Organs</h2>
<table>
<caption>Volume and mean HU of the labels.{_STATUS_WORDS if assessed else ""}</caption>
<thead><tr><th scope="col" class="show" hidden>show</th><th scope="col">organ</th><th scope="col" class="number">ml</th>
<th scope="col" class="number">HU</th>{status_head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</section>"""


_STATUS_WORDS = """
<em>check</em>: review this organ; <em>ok</em>: no problem detected (no guarantee)."""


def _organ_row(row: OrganRow, *, assessed: bool) -> str:
    statistics, colour = row.statistics, "#{:02x}{:02x}{:02x}".format(*row.organ.colour)
    square = f'<rect width="10" height="10" fill="{colour}"/>'  # no style: the page's policy would not obey it
    swatch = f'<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">{square}</svg>'
    volume = f"{statistics.volume_ml:.1f}" if statistics.voxels else "not found"
    hu = "" if statistics.mean_hu is None else f"{statistics.mean_hu:.0f}"
    reasons = list(row.qc.sentences) if row.qc else []
    if statistics.border_faces and not reasons:
        reasons.append(f"It reaches the scan's edge ({', '.join(statistics.border_faces)}).")
    status = ""
    if assessed:
        word = f"{_STATUS_SIGNS[row.qc.status]} {row.qc.status}" if row.qc else ""
        status = f'<td class="status status-{row.qc.status if row.qc else "none"}">{word}</td>'
    listed = ' class="listed"' if reasons else ""
    cells = (
        f'<tr data-organ="{row.organ.index}"{listed}><td class="show" hidden></td>'
        f'<th scope="row"><span class="name">{swatch}{escape(row.organ.name)}</span></th>'
        f'<td class="number">{volume}</td><td class="number">{hu}</td>{status}</tr>'
    )
    if not reasons:
        return cells
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    columns = 4 if assessed else 3
    return (
        f'{cells}\n<tr class="why"><td class="show" hidden></td>'
        f'<td colspan="{columns}"><ul class="reasons">{items}</ul></td></tr>'
    )


def notes_section(notes: Iterable[str]) -> str:
    """The notes as a list; nothing if there are none."""
    items = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    if not items:
        return ""
    return f"""<section id="notes" aria-labelledby="notes-title">
<h2 id="notes-title">Notes</h2>
<ul>{items}</ul>
</section>"""


def facts_section(facts: Iterable[tuple[str, str]]) -> str:
    """Where everything comes from, as a list of names and values."""
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"""<section id="provenance" aria-labelledby="provenance-title">
<h2 id="provenance-title">Provenance</h2>
<dl class="facts">
{items}
</dl>
</section>"""
