"""The page in a real browser: Chromium draws it, and what it drew is compared with the labels that went in."""

import base64
import io
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from viscera.cli.main import main
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.synthesis.phantom import PhantomConfig, make_phantom

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to draw the page with")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--hide-scrollbars",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--remote-debugging-pipe",
)
WIDE, MIDDLE, NARROW = (1600, 800), (1024, 800), (400, 800)
PATIENCE_SECONDS = 90
# A folder to put the screenshots into, to look at them.
SHOTS = Path(os.environ["VISCERA_SHOTS"]) if "VISCERA_SHOTS" in os.environ else None


class Browser:
    """Chromium with one tab, driven by the DevTools protocol over two pipes: messages end in a zero byte."""

    def __init__(self, profile: Path) -> None:
        reads, their_answers = os.pipe()
        their_orders, writes = os.pipe()
        # The protocol's file descriptors are 3 and 4.
        shell = f'exec "$0" "$@" 3<&{their_orders} 4>&{their_answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(their_orders, their_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_orders)
        os.close(their_answers)
        self.reads, self.writes = reads, writes
        self.pending, self.events, self.number = b"", list[dict[str, Any]](), 0
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        session = {} if self.session is None else {"sessionId": self.session}
        order = {"id": self.number, "method": method, "params": params, **session}
        os.write(self.writes, json.dumps(order).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.pending:
            assert select.select([self.reads], [], [], PATIENCE_SECONDS)[0], "Chromium does not answer"
            received = os.read(self.reads, 1 << 20)
            assert received, "Chromium has ended"
            self.pending += received
        message, self.pending = self.pending.split(b"\0", 1)
        return dict(json.loads(message))

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url: str, size: tuple[int, int]) -> str:
        """Opens the page and returns the state it came to."""
        self.events.clear()
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)
        end = time.monotonic() + PATIENCE_SECONDS
        while not (state := self.value("document.body && document.body.dataset.state")):
            assert time.monotonic() < end, "the page never came to an end"
            time.sleep(0.05)
        return str(state)

    def press(self, key: str, code: int, text: str = "") -> None:
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self) -> NDArray[np.int16]:
        """What the window shows with the planes at its top, (y, x, colour)."""
        self.value("planes.scrollIntoView()")
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = self.call("Page.captureScreenshot")["data"]
        if SHOTS is not None:
            (SHOTS / f"{self.number:04}.png").write_bytes(base64.b64decode(shot))
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"), dtype=np.int16)

    def complaints(self) -> list[str]:
        """What the console would show in red, and every request, but for data within the page, in one list."""
        errors = [str(event["params"]) for event in self.events if event["method"] == "Runtime.exceptionThrown"]
        entries = [event["params"]["entry"] for event in self.events if event["method"] == "Log.entryAdded"]
        return errors + [str(entry) for entry in entries if entry["level"] in {"error", "warning"}]

    def requests(self) -> list[str]:
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        urls = [str(event["params"]["request"]["url"]) for event in asked]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def close(self) -> None:
        os.write(self.writes, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        self.process.wait(timeout=30)
        os.close(self.reads)
        os.close(self.writes)


@dataclass(frozen=True, kw_only=True)
class Case:
    ct: Path
    labels: Path
    report: Path
    label_map: LabelMap


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A phantom stored against the viewer's order: its voxels run to the right and to the feet."""
    folder = tmp_path_factory.mktemp("case")
    upright = PhantomConfig(shape_zyx=(44, 50, 66), spacing_zyx_mm=(6.0, 5.5, 5.0)).grid()
    turned = upright.affine @ np.array([[-1, 0, 0, 43], [0, 1, 0, 0], [0, 0, -1, 65], [0, 0, 0, 1.0]])
    phantom = make_phantom(7, grid=Grid(shape_zyx=upright.shape_zyx, affine=turned))
    ct, labels, report = folder / "ct.nii.gz", folder / "labels.nii.gz", folder / "report <b>.html"
    write_volume(phantom.volume, ct)
    write_label_map(phantom.label_map, labels)
    assert main(["report", "-q", str(ct), str(labels), "-o", str(report)]) == 0
    return Case(ct=ct, labels=labels, report=report, label_map=phantom.label_map)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "viscera", "view", "--no-browser", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def opened(browser: Browser, case: Case, kind: str, size: tuple[int, int]) -> None:
    if kind == "report":
        assert browser.open(case.report.as_uri(), size) == "ready"
        assert browser.requests() == [case.report.as_uri()]
    else:
        with served(str(case.ct), str(case.labels)) as url:
            assert browser.open(url, size) == "ready"
            assert all(request.startswith(url) for request in browser.requests())
    assert browser.complaints() == []


def overlay_only(browser: Browser, organ: str) -> None:
    """Shows the axial plane through an organ with labels that hide the CT."""
    browser.value(
        f"""(() => {{
          const act = (id, value, event) => {{
            const field = document.getElementById(id);
            field.value = value;
            field.dispatchEvent(new Event(event));
          }};
          act("layout", "axial", "change");
          act("opacity", 100, "input");
          [...document.querySelectorAll("th button")].find((one) => one.textContent === "{organ}").click();
        }})()"""
    )


def coloured(picture: NDArray[np.int16], organ: str) -> NDArray[np.bool_]:
    colour = next(one.colour for one in ORGANS if one.name == organ)
    found: NDArray[np.bool_] = (np.abs(picture - np.array(colour)) < 30).all(axis=-1)
    return found


def canvas(browser: Browser) -> NDArray[np.int16]:
    """The picture of the planes alone."""
    picture = browser.picture()
    box = browser.value("planes.getBoundingClientRect().toJSON()")
    left, top, width, height = (round(box[name]) for name in ("left", "top", "width", "height"))
    return picture[top : top + height, left : left + width]


def laid_out(labels: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A slice as large as it fits into a picture of that shape, in its middle."""
    steps_mm = np.array([5.5, 5.0])
    height, width = (np.array(labels.shape) * steps_mm * (np.array(shape[:2]) / labels.shape / steps_mm).min()).round()
    enlarged = Image.fromarray(labels).resize((int(width), int(height)), Image.Resampling.NEAREST)
    whole = Image.new("L", (shape[1], shape[0]))
    whole.paste(enlarged, ((shape[1] - int(width)) // 2, (shape[0] - int(height)) // 2))
    return np.asarray(whole)


def expected_slice(browser: Browser, label_map: LabelMap) -> NDArray[np.uint8]:
    """The labels of the slice the page says it shows, for radiologists: rows to the back, columns to the left."""
    side, height = re.findall(r"([SI]) (\d+)", browser.value("place.textContent"))[0]
    turn = label_map.grid.to_canonical()
    grid = turn.apply_to_grid(label_map.grid)
    z_mm = int(height) if side == "S" else -int(height)
    heights = grid.origin_xyz_mm[2] + grid.spacing_zyx_mm[0] * np.arange(grid.shape_zyx[0])
    picture: NDArray[np.uint8] = turn.apply(label_map.labels)[np.abs(heights - z_mm).argmin()]
    return picture


@pytest.mark.parametrize(
    ("kind", "size"),
    [("report", WIDE), ("report", MIDDLE), ("report", NARROW), ("view", WIDE), ("view", NARROW)],
    ids=str,
)
def test_organs_are_coloured_where_they_are_and_nothing_overlaps(
    kind: str, size: tuple[int, int], browser: Browser, case: Case
) -> None:
    opened(browser, case, kind, size)
    assert browser.value("document.documentElement.scrollWidth") <= size[0]
    assert browser.value(OVERLAPS) == []
    assert browser.value(BROKEN_WORDS) == []
    if size != NARROW:
        assert_no_quarter_is_empty(browser)
    overlay_only(browser, "spleen")
    shown = canvas(browser)
    expected = expected_slice(browser, case.label_map)
    if kind == "report":  # it shows a part of the scan only
        expected = report_part(expected, case.label_map)
    expected = laid_out(expected, shown.shape)
    for organ in ORGANS:
        if (where := expected == organ.index).sum() > 0.002 * expected.size:
            both = (coloured(shown, organ.name) & where).sum()
            assert 2 * both / (coloured(shown, organ.name).sum() + where.sum()) > 0.85, organ.name
    # The liver is on the patient's right, the spleen on the left: radiological pictures have it the other way round.
    liver, spleen = (np.nonzero(coloured(shown, organ))[1].mean() for organ in ("liver", "spleen"))
    assert liver < shown.shape[1] / 2 < spleen


def report_part(picture: NDArray[np.uint8], label_map: LabelMap) -> NDArray[np.uint8]:
    """The rows and columns of all organs and 30 mm around, to whole voxels."""
    turned = label_map.grid.to_canonical().apply(label_map.labels) > 0
    parts = []
    for axis, step_mm in ((1, 5.5), (2, 5.0)):
        span = np.flatnonzero(turned.any(axis=tuple({0, 1, 2} - {axis})))
        margin = int(np.ceil(30 / step_mm))
        parts.append(slice(max(0, span[0] - margin), span[-1] + 1 + margin))
    return picture[parts[0], parts[1]]


# Pairs of visible parts, none within the other, whose boxes share more than a pixel.
OVERLAPS = """(() => {
  const parts = [...document.querySelectorAll(
    "h1, h2, p, fieldset, fieldset label, .controls > label, .frame, table, summary, figure, dl, button, th input"
  )].filter((one) => one.checkVisibility() && one.getClientRects().length);
  const boxes = parts.map((one) => one.getBoundingClientRect());
  const found = [];
  parts.forEach((one, i) => parts.slice(0, i).forEach((other, j) => {
    const [a, b] = [boxes[i], boxes[j]];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    const frames = one.matches(".grid .frame") && other.matches(".grid .frame");
    if (wide > 1 && high > 1 && !frames && !one.contains(other) && !other.contains(one)) {
      found.push(one.outerHTML.slice(0, 60) + " | " + other.outerHTML.slice(0, 60));
    }
  }));
  return found;
})()"""

# Words that are broken into several lines, but for the long sums of the provenance.
BROKEN_WORDS = """(() => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  const range = document.createRange();
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (!node.parentElement.checkVisibility() || node.parentElement.closest(".facts, pre, script")) continue;
    for (const word of node.textContent.matchAll(/[^\\s]+/g)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (lines.size > 1 && !word[0].includes("-")) found.push(word[0]);
    }
  }
  return found;
})()"""


def assert_no_quarter_is_empty(browser: Browser) -> None:
    """Three planes take three quarters of their frame, and the organs in space all of the fourth."""
    planes, solid = (
        browser.value(f"document.getElementById('{name}-frame').getBoundingClientRect().toJSON()")
        for name in ("planes", "solid")
    )
    tiles = browser.value("visceraViewer.planes.screenSlices.map((one) => [...one.leftTopWidthHeight])")
    assert len(tiles) == 3
    left, top = solid["left"] - planes["left"], solid["top"] - planes["top"]
    for x, y, width, height in tiles:
        assert x + width <= left + 2 or y + height <= top + 2, "the organs in space cover a plane"
    covered = sum(width * height for *_, width, height in tiles) + solid["width"] * solid["height"]
    assert covered > 0.9 * planes["width"] * planes["height"]


FOCUSED = """(() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  const name = one.id || one.name || one.getAttribute("aria-label") || one.textContent.trim();
  return [one.tagName + " " + name, parseFloat(style.outlineWidth), style.outlineStyle];
})()"""


def test_everything_is_reached_and_worked_with_the_keyboard(browser: Browser, case: Case) -> None:
    opened(browser, case, "report", NARROW)
    stops = []
    for _ in range(30):
        browser.press("Tab", 9)
        name, width, style = browser.value(FOCUSED)
        if name.startswith("BODY"):
            break
        assert (width, style) == (3, "solid"), f"{name} does not show that it has the focus"
        stops.append(name)
    organs = [organ.name for organ in ORGANS]
    assert stops == [
        "INPUT window",
        "SELECT layout",
        "INPUT opacity",
        "DIV planes-frame",
        "DIV solid-frame",
        "SUMMARY All keys, and the mouse",
        *itertools.chain.from_iterable((f"INPUT show {organ}", f"BUTTON {organ}") for organ in organs),
        "SUMMARY Third-party software in this file",
    ]

    browser.value("document.querySelector('th button').focus()")
    browser.press("Enter", 13, text="\r")
    assert browser.value("place.textContent").endswith("liver")
    x_side, x_mm, z_side, z_mm = re.findall(r"(\w) (\d+)  . \d+  (\w) (\d+) mm", browser.value("place.textContent"))[0]
    assert x_side == "R"
    browser.value("document.getElementById('planes-frame').focus()")
    browser.press("ArrowLeft", 37)  # further to the patient's right
    browser.press("PageUp", 33)
    moved = re.findall(r"(\w) (\d+)  . \d+  (\w) (\d+) mm", browser.value("place.textContent"))[0]
    assert moved == ("R", str(int(x_mm) + 5), z_side, str(int(z_mm) + 6 * (1 if z_side == "S" else -1)))

    browser.press("3", 51, text="3")
    assert browser.value("document.querySelector('[name=window]:checked').value") == "Lung"
    assert browser.value("[visceraViewer.planes.volumes[0].cal_min, visceraViewer.planes.volumes[0].cal_max]") == [
        -1350,
        150,
    ]
    overlay_only(browser, "liver")
    assert coloured(canvas(browser), "liver").sum() > 1000
    browser.value("document.getElementById('planes-frame').focus()")
    browser.press("o", 79, text="o")
    assert coloured(canvas(browser), "liver").sum() == 0
    browser.press("o", 79, text="o")
    browser.value("document.querySelector('[aria-label=\"show liver\"]').focus()")
    browser.press(" ", 32, text=" ")
    shown = canvas(browser)
    assert coloured(shown, "liver").sum() == 0
    assert coloured(shown, "spleen").sum() > 100


def test_without_webgl_and_on_paper_the_report_has_its_pictures(browser: Browser, case: Case) -> None:
    hidden = "HTMLCanvasElement.prototype.getContext = () => null;"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=hidden)["identifier"]
    try:
        assert browser.open(case.report.as_uri(), NARROW) == "static"
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    assert "does not offer WebGL 2" in browser.value("message.textContent")
    for medium in ("screen", "print"):
        browser.call("Emulation.setEmulatedMedia", media=medium)
        assert browser.value("document.getElementById('viewer').checkVisibility()") is False
        assert (
            browser.value("[...document.images].filter((one) => one.checkVisibility() && one.naturalWidth).length") == 5
        )
    assert browser.value("document.querySelector('table').checkVisibility()")
    assert "not a medical device" in browser.value("document.querySelector('.statement').innerText")
    browser.call("Emulation.setEmulatedMedia", media="screen")


def test_the_cross_goes_into_each_organ_of_an_oblique_scan(browser: Browser, tmp_path: Path) -> None:
    upright = PhantomConfig(shape_zyx=(40, 44, 60), spacing_zyx_mm=(7.0, 7.0, 6.0)).grid()
    tilt = np.eye(4)
    tilt[:3, :3] = [[0.93, -0.37, 0.05], [0.36, 0.91, 0.2], [-0.09, -0.17, 1.0]]  # turned, and sheared a little
    phantom = make_phantom(7, grid=Grid(shape_zyx=upright.shape_zyx, affine=tilt @ upright.affine))
    write_volume(phantom.volume, tmp_path / "ct.nii")
    write_label_map(phantom.label_map, tmp_path / "labels.nii")
    with served(str(tmp_path / "ct.nii"), str(tmp_path / "labels.nii")) as url:
        assert browser.open(url, NARROW) == "ready"
    for organ in ORGANS:
        overlay_only(browser, organ.name)
        assert browser.value("place.textContent").endswith(f"HU \u00b7 {organ.name}")
    assert "oblique" in browser.value("document.getElementById('notes').textContent")


def test_a_ct_without_labels_is_shown(browser: Browser, case: Case) -> None:
    with served(str(case.ct)) as url:
        assert browser.open(url, NARROW) == "ready"
    assert browser.complaints() == []
    assert not browser.value("document.getElementById('opacity').checkVisibility()")
    assert 0.2 < (canvas(browser).max(axis=-1) > 60).mean() < 0.9
