"""Energy of a run from counters with known readings."""

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from viscera.core.errors import ConfigError
from viscera.training import energy
from viscera.training.distributed import World
from viscera.training.energy import EnergyConfig, EnergyMeter, EnergyReport

KWH_UJ = 3_600_000_000_000


def zone(powercap: Path, folder: str, name: str, microjoules: int, limit: int = 2**38) -> Path:
    place = powercap / folder
    place.mkdir(parents=True)
    (place / "name").write_text(name + "\n")
    (place / "max_energy_range_uj").write_text(f"{limit}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    return place / "energy_uj"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for NVML with readings in millijoules by UUID, and torch devices of those UUIDs."""

    class NVMLError(Exception):
        pass

    def energy_of(handle: str) -> int:
        if handle not in module.millijoules:
            raise NVMLError("not supported")
        return module.millijoules[handle]

    module: Any = types.ModuleType("pynvml")
    module.NVMLError, module.millijoules = NVMLError, {"GPU-a": 5_000, "GPU-b": 70_000}
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    module.nvmlDeviceGetTotalEnergyConsumption = energy_of
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(energy, "_uuid", {"cuda:0": "GPU-a", "cuda:1": "GPU-b", "cuda:2": "GPU-c"}.get)
    return module


def test_rapl_packages_and_memory_are_counted_once(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core", 0),
        zone(tmp_path, "intel-rapl:1", "psys", 0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    meter = EnergyMeter(EnergyConfig(factor_g_per_kwh=100.0), powercap=tmp_path).start()
    package.write_text(f"{1_000 + KWH_UJ // 20}")
    memory.write_text(f"{KWH_UJ // 100}")
    for other in others:
        other.write_text(f"{KWH_UJ // 20}")
    report = meter.stop()
    assert report.kwh == pytest.approx(0.06, rel=1e-9)
    assert report.co2eq_g == pytest.approx(6.0, rel=1e-9)
    assert report.source == "RAPL"
    assert "other programs included" in report.assumption


def test_a_counter_that_begins_anew_is_followed(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 900_000_000, limit=1_000_000_000)
    meter = EnergyMeter(powercap=tmp_path).start()
    counter.write_text("100000000")  # 200 J on, over the end
    meter.report()
    counter.write_text("400000000")
    assert meter.stop().kwh * 3.6e6 == pytest.approx(500.0)


def test_the_meter_reads_on_its_own_before_a_counter_comes_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_POLL_S", 0.005)
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0, limit=1_000_000)
    meter = EnergyMeter(powercap=tmp_path).start()
    for reading in (600_000, 200_000, 800_000):  # 0.6, then 0.6 over the end, then 0.6 J
        counter.write_text(str(reading))
        time.sleep(0.1)
    assert meter.stop().kwh * 3.6e6 == pytest.approx(1.8)


@pytest.mark.parametrize("broken", ["energy_uj", "max_energy_range_uj"])
def test_a_counter_that_cannot_be_read_gives_an_estimate(tmp_path: Path, broken: str) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000)
    (tmp_path / "intel-rapl:0" / broken).unlink()
    meter = EnergyMeter(powercap=tmp_path)
    assert meter.start().stop().source == "estimate"


def clock_at(times: list[float]) -> Callable[[], float]:
    return lambda: times[0]


def test_the_estimate_is_processor_time_times_watts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(energy.time, "process_time", clock_at(now))
    meter = EnergyMeter(EnergyConfig(watts_per_core=10.0, overhead=1.5), processes=2, powercap=tmp_path).start()
    now[0] += 7200.0
    report = meter.stop()
    assert report.kwh == pytest.approx(2 * 10.0 * 2 / 1000 * 1.5)
    assert report.source == "estimate"
    assert "10 W per busy core" in report.assumption
    assert "2 times" in report.assumption
    assert "factor of 1.5" in report.assumption


def test_gpus_are_read_by_their_uuid(tmp_path: Path, nvml: Any) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(devices=("cpu", "cuda:1"), powercap=tmp_path).start()
    nvml.millijoules["GPU-a"] += 1_000_000
    nvml.millijoules["GPU-b"] += 36_000
    report = meter.stop()
    assert report.kwh * 3.6e6 == pytest.approx(36.0)
    assert report.source == "RAPL + NVML"


def test_a_gpu_lost_on_the_way_keeps_its_last_reading(tmp_path: Path, nvml: Any) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(devices=("cuda:0",), powercap=tmp_path).start()
    nvml.millijoules["GPU-a"] += 2_000
    meter.report()
    del nvml.millijoules["GPU-a"]
    assert meter.stop().kwh * 3.6e6 == pytest.approx(2.0)


@pytest.mark.parametrize("device", ["cuda:2", "cuda:0"])
def test_gpus_nvml_cannot_measure_are_estimated(
    tmp_path: Path, nvml: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    if device == "cuda:0":
        monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    now = [0.0]
    monkeypatch.setattr(energy.time, "monotonic", clock_at(now))
    meter = EnergyMeter(EnergyConfig(watts_per_gpu=300.0), devices=(device,), powercap=tmp_path).start()
    now[0] = 3600.0
    report = meter.stop()
    assert report.kwh == pytest.approx(0.3)
    assert report.seconds == 3600.0
    assert report.source == "RAPL + estimate"
    assert "300 W for each of 1" in report.assumption


@pytest.mark.parametrize(
    ("size", "device", "names"),
    [
        (1, "cpu", ()),
        (4, "cpu", ()),
        (1, "cuda:2", ("cuda:2",)),
        (3, "cuda:0", ("cuda:0", "cuda:1", "cuda:2")),
        (16, "cuda:0", tuple(f"cuda:{index}" for index in range(8))),  # two machines of eight
    ],
)
def test_one_process_counts_all_gpus_of_its_machine(
    monkeypatch: pytest.MonkeyPatch, size: int, device: str, names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert World(size=size, device=torch.device(device)).gpus == names


def test_reports_of_a_resumed_run_add_up() -> None:
    parts = {"source": "estimate", "assumption": "12 W.", "factor_source": "grid A"}
    first = EnergyReport(seconds=10, kwh=1.0, co2eq_g=100.0, factor_g_per_kwh=100.0, **parts)
    others = {"source": "RAPL + estimate", "assumption": "All.", "factor_source": "grid B"}
    second = EnergyReport(seconds=5, kwh=3.0, co2eq_g=900.0, factor_g_per_kwh=300.0, **others)
    assert second.after(first) == EnergyReport(
        seconds=15,
        kwh=4.0,
        source="RAPL + estimate",
        assumption="12 W. All.",
        co2eq_g=1000.0,
        factor_g_per_kwh=250.0,
        factor_source="grid A; grid B",
    )


def test_a_run_stopped_and_resumed_the_same_way_reads_like_one() -> None:
    same = EnergyReport(
        seconds=1, kwh=0.0, source="RAPL", assumption="A.", co2eq_g=0.0, factor_g_per_kwh=445.0, factor_source="IEA"
    )
    both = same.after(same)
    assert (both.source, both.assumption, both.factor_source) == ("RAPL", "A.", "IEA")
    assert both.factor_g_per_kwh == 445.0


@pytest.mark.parametrize(
    "values", [{"factor_g_per_kwh": -1.0}, {"watts_per_core": float("nan")}, {"watts_per_gpu": -1.0}, {"overhead": 0.9}]
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        EnergyConfig(**values)


def test_the_default_factor_names_its_source() -> None:
    report = EnergyMeter(powercap=Path("nowhere")).start().stop()
    assert report.factor_g_per_kwh == 445.0
    assert "IEA" in report.factor_source
    assert 0 <= report.seconds < 10
