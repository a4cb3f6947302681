"""The picture of a training and the reading of its log."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from viscera.core.errors import MissingExtraError, ReadError
from viscera.training.curves import CurveOptions, CurvesMonitor, curves_figure, curves_png, smoothed, write_curves
from viscera.training.log_reader import Curve, read_curves
from viscera.training.monitor import StepRecord, ValidationRecord


def log(folder: Path, *records: dict[str, Any] | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path = folder / "log.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def step(iteration: int, loss: float, **terms: float) -> dict[str, Any]:
    return StepRecord(
        stage="segment",
        iteration=iteration,
        iterations=100,
        loss=loss,
        terms=terms,
        learning_rate=1e-4,
        rate=4.0,
        seconds=iteration / 4,
    ).as_json()


def scores(iteration: int, **dsc: float) -> dict[str, Any]:
    return ValidationRecord(iteration=iteration, validation=dsc, seconds=0.0).as_json()


def as_lists(curves: list[Curve]) -> dict[str, list[tuple[float, float]]]:
    return {c.name: list(zip(c.iterations.tolist(), c.values.tolist(), strict=True)) for c in curves}


def curve(name: str, values: list[float], every: int = 10) -> Curve:
    count = len(values)
    return Curve(name=name, iterations=np.arange(1, count + 1) * float(every), values=np.array(values, dtype=float))


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels - colour).max(axis=2) <= 40


def test_a_log_becomes_curves(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        step(10, 0.9, dice=0.6, local=0.3),
        step(20, 0.5, dice=0.4, local=0.1),
        scores(20, liver=0.8, spleen=0.7),
    )
    loss, validation = read_curves(path)
    assert as_lists(loss) == {
        "loss": [(10, 0.9), (20, 0.5)],
        "dice": [(10, 0.6), (20, 0.4)],
        "local": [(10, 0.3), (20, 0.1)],
    }
    assert as_lists(validation) == {"liver": [(20, 0.8)], "spleen": [(20, 0.7)]}


def test_a_loss_of_one_term_is_one_curve(tmp_path: Path) -> None:
    loss, _ = read_curves(log(tmp_path, step(10, 0.9, dice=0.9), step(20, 0.5, dice=0.5)))
    assert list(as_lists(loss)) == ["loss"]


def test_iterations_done_once_more_count_as_done_the_second_time(tmp_path: Path) -> None:
    path = log(
        tmp_path, step(10, 0.9), step(20, 0.8), scores(20, liver=0.1), step(30, 0.7), step(20, 0.6), scores(20, liver=1)
    )
    loss, validation = read_curves(path)
    assert as_lists(loss) == {"loss": [(10, 0.9), (20, 0.6)]}
    assert as_lists(validation) == {"liver": [(20, 1.0)]}


def test_later_iterations_of_the_earlier_course_are_forgotten(tmp_path: Path) -> None:
    path = log(tmp_path, step(10, 0.9), step(20, 0.8), scores(20, liver=0.1), step(30, 0.7), step(10, 0.6))
    loss, validation = read_curves(path)
    assert as_lists(loss) == {"loss": [(10, 0.6)]}
    assert validation == []


def test_a_validation_after_a_resume_ends_the_earlier_course(tmp_path: Path) -> None:
    loss, _ = read_curves(log(tmp_path, step(10, 0.9), step(20, 0.8), scores(10, liver=0.1)))
    assert as_lists(loss) == {"loss": [(10, 0.9)]}


def test_what_is_no_finite_number_is_left_out(tmp_path: Path) -> None:
    path = log(
        tmp_path, step(10, 0.9), '{"iteration": 20, "loss": NaN}', '{"iteration": 30, "validation": {"a": null}}'
    )
    loss, validation = read_curves(path)
    assert as_lists(loss) == {"loss": [(10, 0.9)]}
    assert validation == []


def test_a_last_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = log(tmp_path, step(10, 0.9))
    path.write_text(path.read_text() + '{"iteration": 20, "lo')
    assert as_lists(read_curves(path)[0]) == {"loss": [(10, 0.9)]}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"iteration": 1, "lo', '{"iteration": 2, "loss": 1}'], "line 1"),
        (['{"iteration": 1, "loss": 1}', '{"loss": 1}'], "line 2"),
        (['{"iteration": 1, "note": "?"}'], "line 1"),
        (["[1]"], "line 1"),
        (['{"iteration": 1, "validation": {"liver": 1}}'], "got none"),
        ([], "got none"),
    ],
)
def test_a_log_that_is_none_is_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(ReadError, match=said):
        read_curves(log(tmp_path, *lines))


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="nothing"):
        read_curves(tmp_path / "nothing" / "log.jsonl")


def test_smoothing_by_hand() -> None:
    keep = math.exp(-1 / 2)
    first, second, third = 3.0, (3 * keep + 1) / (keep + 1), (3 * keep**2 + keep + 5) / (keep**2 + keep + 1)
    np.testing.assert_allclose(smoothed(np.array([3.0, 1.0, 5.0]), 2), [first, second, third], rtol=1e-12)


def test_smoothing_keeps_a_constant_and_can_be_left_out() -> None:
    np.testing.assert_allclose(smoothed(np.full(50, 0.7), 9.5), 0.7, rtol=1e-12)
    values = np.array([3.0, 1.0])
    assert smoothed(values, 1) is values


def test_equal_curves_give_equal_bytes() -> None:
    curves = [curve("loss", [3, 2, 1, 0.5])], [curve("liver", [0.5, 0.9])]
    assert curves_png(*curves, CurveOptions()) == curves_png(*curves, CurveOptions())


def lines_of(panel: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """The lines with a name in the legend, by name."""
    drawn = {line.get_label(): line for line in panel.get_lines() if not str(line.get_label()).startswith("_")}
    return {str(name).split("  ")[0]: (list(line.get_xdata()), list(line.get_ydata())) for name, line in drawn.items()}


def test_losses_are_drawn_on_a_logarithmic_axis() -> None:
    (panel,) = curves_figure(
        [curve("loss", [1.0, 0.1, 0.01]), curve("dice", [0.5, 0.0, 0.01])], [], CurveOptions(smoothing=0)
    ).axes
    assert panel.get_yscale() == "log"
    assert lines_of(panel)["loss"] == ([10, 20, 30], [1.0, 0.1, 0.01])
    low, high = panel.get_ylim()
    assert 0.005 < low < 0.01
    assert 1.0 < high < 2.0
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["loss  0.01", "dice  0.01"]


def test_a_falling_loss_is_drawn_falling() -> None:
    pixels = picture(curves_png([curve("loss", [1.0, 0.1, 0.01])], [], CurveOptions(smoothing=0)))
    rows, columns = np.nonzero(near(pixels[60:420], (32, 35, 42)))  # without letters and axes
    left, right = rows[(columns > 380) & (columns < 600)], rows[(columns > 720) & (columns < 950)]
    assert left.size > 200
    assert right.size > 200
    assert left.max() < right.min()


def test_validation_has_a_panel_of_its_own() -> None:
    loss = [curve("loss", [1.0, 0.5])]
    organs = [curve("liver", [0.5, 0.9]), curve("spleen", [0.7, 0.6])]
    alone, both = (curves_figure(loss, validation, CurveOptions()) for validation in ([], organs))
    assert (len(alone.axes), len(both.axes)) == (1, 2)
    assert both.get_figheight() > alone.get_figheight()
    scores = both.axes[1]
    assert scores.get_ylim() == (0.5, 1.0)
    lines = lines_of(scores)
    assert lines["liver"] == ([10, 20], [0.5, 0.9])
    assert lines["mean"] == ([10, 20], pytest.approx([0.6, 0.75]))
    texts = [text.get_text() for text in scores.get_legend().get_texts()]
    assert texts == ["mean  0.750", "liver  0.900", "spleen  0.600", "best mean  0.750\nat 20"]


def test_a_wild_record_does_not_set_the_scale() -> None:
    values = [1.0] * 400
    values[200] = 1e6
    (panel,) = curves_figure([curve("loss", values)], [], CurveOptions()).axes
    assert panel.get_ylim()[1] < 1e6


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ([curve("loss", [0.5])], CurveOptions()),
        ([curve("loss", [0.5])], CurveOptions(iterations="log")),
        ([curve("loss", [0.5], every=1)], CurveOptions(iterations="log", loss="linear")),
        ([curve("loss", [0.0, 0.0])], CurveOptions()),
        ([curve("loss", [0.4, 0.4]), curve("dice", [0.0, 0.4])], CurveOptions(smoothing=0.9)),
        ([curve("loss", [-1.0, -2.0])], CurveOptions(loss="linear")),
        ([curve("loss", [1e-9, 1e9])], CurveOptions(width_px=700)),
    ],
)
def test_odd_courses_can_be_drawn(loss: list[Curve], options: CurveOptions) -> None:
    organs = [
        curve("liver", [1.0]),
        curve("spleen", [0.0]),
        Curve(name="x", iterations=np.array([3.0]), values=np.ones(1)),
    ]
    for validation in ([], organs[:2], organs):
        assert picture(curves_png(loss, validation, options)).shape[1] == options.width_px


def test_the_picture_lies_beside_the_log(tmp_path: Path) -> None:
    log(tmp_path, step(10, 0.9), step(20, 0.5))
    path = write_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_matplotlib_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"viscera\[plots\]"):
        curves_png([curve("loss", [1.0])], [], CurveOptions())


def test_the_picture_follows_a_training(tmp_path: Path) -> None:
    now = [0.0]
    monitor = CurvesMonitor(tmp_path, pause_s=100, clock=lambda: now[0])
    one, best = records()
    path, drawn = tmp_path / "curves.png", []
    log(tmp_path, one.as_json(), best.as_json())
    monitor.step(one)
    assert not path.exists()
    monitor.validated(best)
    for now[0] in (50.0, 100.0):
        path.unlink(missing_ok=True)
        monitor.validated(best)
        drawn.append(path.exists())
    path.unlink(missing_ok=True)
    monitor.close()
    assert (drawn, path.exists()) == ([False, True], True)


def test_a_training_goes_on_without_a_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, best = records()
    monitor = CurvesMonitor(tmp_path)
    monitor.close()  # ended before its first record: nothing to draw, nothing to say
    assert not caplog.records
    monitor.step(one)
    monitor.validated(best)  # the log is missing
    assert "log.jsonl" in caplog.text


def records() -> tuple[StepRecord, ValidationRecord]:
    one = StepRecord(stage="segment", iteration=10, iterations=20, loss=0.5, learning_rate=1e-4, rate=1.0, seconds=1.0)
    return one, ValidationRecord(iteration=10, validation={"liver": 0.9}, seconds=1.0)
