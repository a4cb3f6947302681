"""The page as HTML: what stands on it, that nothing on it can break out, and what a run report adds."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viscera.core.errors import ReadError, WriteError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap, Volume
from viscera.quality.rules import QcStatus
from viscera.viewer.html_report import LIMIT_BYTES, ReportContent, report_html
from viscera.viewer.organs import OrganRow, organ_rows
from viscera.viewer.page import ASSETS, NIIVUE, NOTICES, notes_section, organs_section, script_data
from viscera.viewer.pictures import Picture
from viscera.viewer.provenance import digest_words
from viscera.viewer.run_facts import OrganQC, read_run_facts

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<!--"


class Elements(HTMLParser):
    """The elements of a page, and the text within them by their id."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.bodies: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag in self.bodies and self.cdata_elem and not attributes:
            self.bodies[tag].append(data)


def content(size: int = 12, **changes: Any) -> ReportContent:
    grid = Grid(shape_zyx=(size, size + 1, size + 2), affine=np.diag([3.0, 2.0, 1.0, 1.0])[:, [2, 1, 0, 3]])
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    labels[2:6, 2:6, 2:6], labels[-6:-3, -6:-3, -9:-3] = 1, 3
    hu = np.random.default_rng(1).integers(-1024, 3000, grid.shape_zyx, dtype=np.int16)
    volume, label_map = Volume(hu=hu, grid=grid), LabelMap(labels=labels, grid=grid)
    made = ReportContent(
        title="A report",
        volume=volume,
        label_map=label_map,
        rows=organ_rows(volume, label_map, ORGANS),
        pictures=[Picture(png=b"\x89PNG", width_px=100, words="a slice")],
        notes=["A note."],
        provenance=[("CT", "sha256 00")],
    )
    return replace(made, **changes)


def judged(rows: tuple[OrganRow, ...], sentence: str) -> tuple[OrganRow, ...]:
    qc = OrganQC(status=QcStatus.CHECK, sentences=(sentence,))
    return tuple(replace(row, qc=qc) for row in rows)


def test_niivue_is_the_file_its_notice_describes() -> None:
    notice = (ASSETS / NOTICES).read_text(encoding="utf-8")
    said = re.search(r"sha256 +([0-9a-f]{64})", notice)
    assert said is not None
    assert hashlib.sha256((ASSETS / NIIVUE).read_bytes()).hexdigest() == said[1]
    assert "@niivue/niivue 0.69.0" in notice
    assert "BSD 2-Clause License" in notice


def test_scripts_can_stand_within_a_page() -> None:
    # An HTML parser ends a script at the first, and passes over its end after the second.
    for script in ASSETS.glob("*.js"):
        text = script.read_text(encoding="utf-8").lower()
        assert "</script" not in text
        assert "<!--" not in text
        assert "\r" not in text


def test_a_report_holds_table_notes_pictures_and_provenance() -> None:
    page = Elements(report_html(content()))
    for words in (
        "not a medical device",
        "A report",
        "A note.",
        "sha256 00",
        "liver",
        "BSD 2-Clause",
    ):
        assert words in page.text
    images = [attributes["src"] for tag, attributes in page.found if tag == "img"]
    assert images == ["data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()]


def test_volumes_and_mean_hu_are_in_the_table() -> None:
    made = content()
    numbers = re.findall(r'<td class="number">([^<]*)</td>', organs_section(made.rows))
    liver, spleen = (f"{made.volume.hu[made.label_map.labels == index].mean():.0f}" for index in (1, 3))
    # 64 and 54 voxels of 6 microlitres.
    assert numbers == ["0.4", liver, "not found", "", "0.3", spleen, "not found", ""]


def test_a_report_names_nothing_outside_itself() -> None:
    page = Elements(report_html(content()))
    named = [
        value
        for tag, attributes in page.found
        for name, value in attributes.items()
        if name in {"src", "href", "action", "data", "srcset", "style"} or name.startswith("on")
    ]
    assert named
    assert all(value is not None and value.startswith("data:") for value in named)


def test_the_policy_obeys_the_reports_own_scripts_and_styles_alone() -> None:
    page = Elements(report_html(content()))
    policy = next(a["content"] for _, a in page.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    for tag in ("script", "style"):
        hashes = {base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in page.bodies[tag]}
        assert len(hashes) == {"script": 2, "style": 1}[tag]
        assert hashes == set(re.findall(r"'sha256-([^']+)'", policy.partition(f"{tag}-src")[2].partition(";")[0]))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_hostile_text_stays_text() -> None:
    made = content()
    rows = tuple(replace(row, organ=replace(row.organ, name=HOSTILE)) for row in judged(tuple(made.rows), HOSTILE))
    plain = Elements(report_html(content(rows=judged(tuple(made.rows), "x"))))
    text = report_html(
        replace(
            made,
            title=HOSTILE,
            rows=rows,
            notes=[HOSTILE],
            provenance=[(HOSTILE, HOSTILE)],
            pictures=[Picture(png=b"", width_px=1, words=HOSTILE)],
        )
    )
    page = Elements(text)
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]
    assert page.text.count(HOSTILE) >= 4 + len(rows) * 2
    assert any(attributes.get("alt") == HOSTILE for _, attributes in page.found)


def test_names_in_the_pages_data_survive_it() -> None:
    row = organ_rows(content().volume, content().label_map, ORGANS)[0]
    text = script_data([replace(row, organ=replace(row.organ, name=HOSTILE))], ct={"url": "ct.nii"}, labels=None)
    assert text.lower().count("</script") == 1
    values = json.loads(text.partition(">")[2].rpartition("<")[0])
    assert values["organs"][0]["name"] == HOSTILE
    assert values["labels"] is None


def test_qc_status_and_reasons_stand_beside_the_organs() -> None:
    table = organs_section(judged(tuple(content().rows), "Only one kidney was found."))
    assert table.count('class="status status-check">\u25b2 check<') == len(ORGANS)
    assert "Only one kidney was found." in table


def test_an_organ_at_the_edge_of_the_scan_is_said_to_be_there() -> None:
    labels = np.zeros((12, 13, 14), dtype=np.uint8)
    labels[:4, 5:8, 5:8] = 1
    made = content()
    rows = organ_rows(made.volume, LabelMap(labels=labels, grid=made.volume.grid), ORGANS)
    assert "reaches the scan&#x27;s edge (inferior)" in organs_section(rows)


def test_nothing_to_say_makes_no_section() -> None:
    assert organs_section([]) == notes_section([]) == ""


def test_a_large_report_is_made_to_fit() -> None:
    text = report_html(content(size=190, pictures=[Picture(png=bytes(900_000), width_px=1, words="large")]))
    assert 0.8 * LIMIT_BYTES < len(text.encode()) <= LIMIT_BYTES
    assert "coarser than the scan's" in Elements(text).text


def test_a_report_that_cannot_fit_is_refused() -> None:
    with pytest.raises(WriteError, match="leave room for the images"):
        report_html(content(pictures=[Picture(png=bytes(5_000_000), width_px=1, words="huge")]))


def test_the_digest_of_a_folder_is_the_one_of_the_shell_line_in_its_docstring(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b").write_bytes(b"one")
    (tmp_path / "deep" / "a").write_bytes(b"two")
    digests = sorted(hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    whole = hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
    assert digest_words(tmp_path) == f"2 files, sha256 of their sorted sha256 {whole}"
    assert digest_words(tmp_path / "b") == f"sha256 {hashlib.sha256(b'one').hexdigest()}"


def run_report(**changes: Any) -> dict[str, Any]:
    organs = [
        {"organ": "liver", "voxels": 64, "quality": "check", "quality_sentences": ["In pieces."]},
        {"organ": "kidney", "voxels": 0, "quality": "absent", "quality_sentences": []},
        {"organ": "spleen", "voxels": 54, "quality": "ok", "quality_sentences": []},
        {"organ": "pancreas", "voxels": 0, "quality": None},
    ]
    case = {"name": "Jane Roe", "input": "/data/Jane Roe.nii", "organs": organs, "notes": ["Series 2 of 3."]}
    other = {"name": "other", "input": "b", "organs": [{**organs[0], "voxels": 1}, *organs[1:]], "notes": []}
    machinery = {"bundle": "fast", "bundle_version": "3", "card_sha256": "ab", "engine": "openvino-cpu"}
    machinery |= {"device": "cpu", "precision": "f32"}
    report = {"schema": "viscera.report/1", "viscera": "1.2", "started": "2026-01-02", "machinery": machinery}
    return report | {"cases": [other, case]} | changes


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    def write(value: Any) -> Path:
        path = tmp_path / "run.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return write


def test_a_run_report_gives_qc_status_notes_and_machinery(written: Callable[[Any], Path]) -> None:
    facts = read_run_facts(written(run_report()), [row.statistics for row in content().rows])
    assert facts.qc["liver"] == OrganQC(status=QcStatus.CHECK, sentences=("In pieces.",))
    assert set(facts.qc) == {"liver", "kidney", "spleen"}
    assert facts.notes == ("Series 2 of 3.",)
    assert ("bundle", "fast") in facts.provenance
    assert ("labels made by", "viscera 1.2") in facts.provenance
    assert "Roe" not in repr(facts)


def test_a_run_that_told_kidneys_apart_fits_labels_of_both(written: Callable[[Any], Path]) -> None:
    report = run_report()
    organs = report["cases"][1]["organs"]
    sides = [{"organ": "right kidney", "voxels": 0, "quality": "absent"}, {**organs[0], "organ": "left kidney"}]
    report["cases"][1]["organs"] = [organs[0], sides[0], *organs[2:], sides[1]]
    rows = [row.statistics for row in content().rows]
    both = [replace(row, voxels=64) if row.organ == "kidney" else row for row in rows]
    facts = read_run_facts(written(report), both)
    assert facts.qc["kidney"].status == QcStatus.CHECK
    assert "left kidney" not in facts.qc


@pytest.mark.parametrize(
    "value",
    [
        "",
        "[]",
        "{" * 100_000,
        json.dumps({"schema": "other/1"}),
        json.dumps(run_report(cases=7)),
        json.dumps(run_report(cases=[{"organs": {"a": 1}}])),
        json.dumps({name: value for name, value in run_report().items() if name != "machinery"}),
        json.dumps(run_report()).replace('"check"', '"splendid"'),
    ],
    ids=["empty", "list", "deep", "schema", "number", "organs", "machinery", "verdict"],
)
def test_a_broken_run_report_is_one_clear_error(value: str, written: Callable[[Any], Path]) -> None:
    with pytest.raises(ReadError, match=r"expected JSON of the schema viscera.report/1"):
        read_run_facts(written(value), [row.statistics for row in content().rows])


def test_a_run_report_of_other_labels_is_refused(written: Callable[[Any], Path]) -> None:
    cases = run_report()["cases"]
    with pytest.raises(ReadError, match="got 0 of 1"):
        read_run_facts(written(run_report(cases=cases[:1])), [row.statistics for row in content().rows])


def test_a_run_report_with_two_such_cases_of_another_qc_status_is_refused(written: Callable[[Any], Path]) -> None:
    case = run_report()["cases"][1]
    report = run_report(cases=[case, {**case, "notes": ["Other."]}])
    with pytest.raises(ReadError, match="got 2 of 2"):
        read_run_facts(written(report), [row.statistics for row in content().rows])
