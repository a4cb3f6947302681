"""Time, energy and CO2-equivalent of a run: measured where the machine says, else estimated with the assumption stated.

Nothing is asked of the network. GPUs are read through NVML (package nvidia-ml-py), processors and memory through RAPL
(/sys/class/powercap, which many systems let only root read).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

from viscera.core.errors import ConfigError

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6

# RAPL's counters wrap around after some 2^38 microjoules, about 20 minutes at 200 W: they are read far more often.
_POLL_S = 20.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """What turns work into energy where it is not measured, and energy into CO2-equivalent.

    Attributes:
        factor_g_per_kwh: CO2-equivalent of a kWh of electricity; yours is in your supplier's or grid's report.
        factor_source: Where the factor is from. The default is the world's mean of 2024 (IEA, Electricity 2025).
        watts_per_core: Of a busy processor core. The default is what the Green Algorithms calculator takes for a
            processor it does not know (Lannelongue et al., Advanced Science 2021).
        watts_per_gpu: Of a GPU at work; a server's GPU draws between 250 and 700 W.
        overhead: Energy of the building (cooling, conversion) per energy of the machine; 1 leaves it out.
    """

    factor_g_per_kwh: float = 445.0
    factor_source: str = "world mean of 2024, IEA, Electricity 2025"
    watts_per_core: float = 12.0
    watts_per_gpu: float = 400.0
    overhead: float = 1.0

    def __post_init__(self) -> None:
        least = {"factor_g_per_kwh": 0.0, "watts_per_core": 0.0, "watts_per_gpu": 0.0, "overhead": 1.0}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ConfigError(
                    f"setting EnergyConfig.{name}",
                    expected=f"{low:g} or more",
                    got=repr(getattr(self, name)),
                    remedy="Correct the value",
                )


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """What a run took; `dataclasses.asdict` makes a card's entry of it.

    Attributes:
        seconds: Between start and report, by the clock on the wall.
        kwh: Energy, the building's overhead included.
        source: What the energy is from: `NVML`, `RAPL`, `estimate`, or several joined by ` + `.
        assumption: What was assumed and what is left out, as sentences.
        co2eq_g: CO2-equivalent in grams.
        factor_g_per_kwh: Grams per kWh it was reckoned with.
        factor_source: Where that factor is from.
    """

    seconds: float
    kwh: float
    source: str
    assumption: str
    co2eq_g: float
    factor_g_per_kwh: float
    factor_source: str

    def after(self, earlier: EnergyReport) -> EnergyReport:
        """Return both reports as one, for a run that was stopped and resumed."""
        kwh, co2eq_g = self.kwh + earlier.kwh, self.co2eq_g + earlier.co2eq_g
        return replace(
            self,
            seconds=self.seconds + earlier.seconds,
            kwh=kwh,
            source=_joined((earlier.source, self.source), " + "),
            assumption=_joined((earlier.assumption, self.assumption), " "),
            co2eq_g=co2eq_g,
            factor_g_per_kwh=co2eq_g / kwh if kwh > 0 else self.factor_g_per_kwh,
            factor_source=_joined((earlier.factor_source, self.factor_source), "; "),
        )


class EnergyMeter:
    """Measures one run from `start` to `stop`.

    Args:
        config: Assumptions and the CO2 factor.
        devices: The run's devices as torch names them, e.g. `("cuda:0",)`; the processor always counts.
        processes: Equal processes of the run on this machine; an estimate of the processor's share counts this one's
            time for each. One process per machine measures, for all of its devices.
        powercap: Folder of the RAPL counters.
    """

    def __init__(
        self,
        config: EnergyConfig | None = None,
        *,
        devices: Sequence[str] = (),
        processes: int = 1,
        powercap: Path = POWERCAP,
    ) -> None:
        self.config = EnergyConfig() if config is None else config
        self._devices = [name for name in devices if str(name).startswith("cuda")]
        self._processes, self._powercap = processes, powercap
        self._counters: list[_Counter] = []
        self._begun: float | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> Self:
        """Start counting and return this meter."""
        self._ended.clear()
        self._counters = [self._processor(), *self._gpus()]
        self._begun = time.monotonic()
        threading.Thread(target=self._poll, name="viscera-energy", daemon=True).start()
        return self

    def report(self) -> EnergyReport:
        """Return what the run took so far."""
        seconds = 0.0 if self._begun is None else time.monotonic() - self._begun
        with self._lock:
            joules = sum(counter.joules() for counter in self._counters)
        kwh = joules / JOULES_PER_KWH * self.config.overhead
        said = [counter.assumption for counter in self._counters]
        overhead = self.config.overhead
        said.append(
            f"The building's overhead is a factor of {overhead:g}."
            if overhead > 1
            else "The building's overhead is left out."
        )
        return EnergyReport(
            seconds=seconds,
            kwh=kwh,
            source=_joined((counter.source for counter in self._counters), " + "),
            assumption=_joined(said, " "),
            co2eq_g=kwh * self.config.factor_g_per_kwh,
            factor_g_per_kwh=self.config.factor_g_per_kwh,
            factor_source=self.config.factor_source,
        )

    def stop(self) -> EnergyReport:
        """Return what the run took, from start to now; the meter counts no further."""
        report = self.report()
        self._ended.set()
        return report

    def _processor(self) -> _Counter:
        rapl = _rapl_counter(self._powercap)
        return rapl if rapl is not None else _estimated_cores(self.config.watts_per_core, self._processes)

    def _gpus(self) -> list[_Counter]:
        if not self._devices:
            return []
        handles = _nvml_handles(self._devices)
        if handles is not None:
            return [_Nvml(*handles)]
        return [_estimated_gpus(self.config.watts_per_gpu, len(self._devices))]

    def _poll(self) -> None:
        while not self._ended.wait(_POLL_S):
            with self._lock:
                for counter in self._counters:
                    counter.joules()


class _Counter(Protocol):
    """Joules since it was made, where they are from, and what that leaves out."""

    source: str
    assumption: str

    def joules(self) -> float:
        """Grows only; read at least once per round of the hardware's counter."""


class _Rapl:
    """Joules of all processor packages and their memory."""

    source = "RAPL"
    assumption = "Processors and, where RAPL counts it, memory: all of the machine's, other programs included."

    def __init__(self, zones: Sequence[tuple[Path, int]]) -> None:
        self._zones = zones
        self._last = [_number(file) for file, _ in zones]
        self._microjoules = 0

    def joules(self) -> float:
        for index, (file, limit) in enumerate(self._zones):
            now, before = _number(file), self._last[index]
            if now is not None and before is not None:
                self._microjoules += now - before if now >= before else now + limit - before
                self._last[index] = now
        return self._microjoules * 1e-6


class _Nvml:
    """Joules of whole GPUs since the counter was made."""

    source = "NVML"
    assumption = "GPUs: all of what they drew, other programs included."

    def __init__(self, nvml: Any, handles: Sequence[Any]) -> None:
        self._nvml, self._handles = nvml, handles
        self._begun = self._millijoules()
        self._last = self._begun

    def joules(self) -> float:
        try:
            self._last = self._millijoules()
        except self._nvml.NVMLError as error:  # a GPU that is gone keeps its last reading; the run continues
            _log.debug("reading the GPUs' energy: %s", error)
        return (self._last - self._begun) * 1e-3

    def _millijoules(self) -> int:
        return sum(int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in self._handles)


class _Estimate:
    """Joules as seconds of some clock times watts."""

    source = "estimate"

    def __init__(self, clock: Callable[[], float], watts: float, assumption: str) -> None:
        self._clock, self._watts, self.assumption = clock, watts, assumption
        self._begun = clock()

    def joules(self) -> float:
        return (self._clock() - self._begun) * self._watts


def _estimated_cores(watts: float, processes: int) -> _Estimate:
    of = "the process's" if processes == 1 else f"{processes} times one process's"
    said = f"Processor: an estimate, {watts:g} W per busy core over {of} processor time; memory and discs are left out."
    return _Estimate(time.process_time, watts * processes, said)


def _estimated_gpus(watts: float, count: int) -> _Estimate:
    said = (
        f"GPUs: an estimate, {watts:g} W for each of {count} all of the time, as NVML (viscera[gpu]) gave no reading."
    )
    return _Estimate(time.monotonic, watts * count, said)


def _rapl_counter(powercap: Path) -> _Rapl | None:
    """Return RAPL's counter of packages and memory; None if any of them cannot be read or there are none."""
    zones = []
    # Zones of intel-rapl-mmio repeat the packages, "psys" holds them all, "core" and "uncore" are parts of them.
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            kind = (zone / "name").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if kind.startswith(("package", "dram")):
            limit = _number(zone / "max_energy_range_uj")
            if limit is None or _number(zone / "energy_uj") is None:
                return None
            zones.append((zone / "energy_uj", limit))
    return _Rapl(zones) if zones else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _nvml_handles(devices: Sequence[str]) -> tuple[Any, list[Any]] | None:
    """Return NVML and its handles of torch's CUDA devices; None if it is missing or does not know their energy."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        # By UUID, as torch and NVML number the GPUs differently where only some of them are visible.
        handles = [pynvml.nvmlDeviceGetHandleByUUID(_uuid(name)) for name in devices]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        _log.debug("asking NVML for the GPUs' energy: %s", error)
        return None
    return pynvml, handles


def _uuid(device: str) -> str:
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _joined(texts: Any, between: str) -> str:
    """Return the texts, each once, in their order; those that hold another are kept and the other left out."""
    kept: list[str] = []
    for text in texts:
        if not any(text in other for other in kept):
            kept = [other for other in kept if other not in text] + [text]
    return between.join(kept)
