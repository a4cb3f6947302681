"""Links between the pages, and from them to files, lead somewhere; no page is left out of the map."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
    *sorted(str(path.relative_to(ROOT).as_posix()) for path in ROOT.glob("docs/**/*.md")),
]


def text_of(path: Path) -> str:
    """A page without its code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("[", "").replace("]", ""), text)


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text_of(ROOT / page))


def anchors(path: Path) -> set[str]:
    """What can follow # in a link to a page: its headings in small letters, blanks as hyphens, without other signs."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(path), f"{page}: {link}"


def test_the_map_names_every_page() -> None:
    named = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links("docs/README.md")}
    pages = {path for path in (ROOT / "docs").glob("*/*.md") if path.parent.name != "decisions"}
    assert not pages - named


def test_every_decision_is_in_their_list() -> None:
    folder = ROOT / "docs" / "decisions"
    named = {(folder / link).resolve() for link in links("docs/decisions/README.md")}
    assert not set(folder.glob("0*.md")) - named


def test_every_picture_is_shown_and_described() -> None:
    shown: set[Path] = set()
    for page in PAGES:
        for words, link in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text_of(ROOT / page)):
            assert words.strip(), f"{page}: {link} has no description"
            shown.add(((ROOT / page).parent / link).resolve())
    pictures = {path for path in (ROOT / "docs" / "images").iterdir() if path.suffix in {".png", ".svg"}}
    assert not pictures - shown
