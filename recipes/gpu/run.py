"""`gpu.sh run`: unpack, check the device, train both networks for some time, write what is to come back."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpu.pack import PACK, STAGES
from gpu.state import STATE, read_state, write_state
from gpu.unpack import unpack
from viscera.core.errors import VisceraError
from viscera.training.checkpoint import checkpoint_iterations

# A training that was told to end saves its checkpoint within this time, or is ended.
_GRACE_SECONDS = 45.0
# What is kept of --limit for the end.
_END_SECONDS = 15.0
_LOOK_SECONDS = 0.5
_SAID_SECONDS = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gpu.sh run` to `parser`."""
    parser.add_argument("pack", metavar="PACK", type=Path, help="what `gpu.sh pack` made")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for what is to come back: 8 files, 15 MB each")
    parser.add_argument("--seconds", type=float, required=True, help="of training")
    parser.add_argument("--limit", metavar="SECONDS", type=float, help="of the whole command")
    parser.add_argument("--from", dest="source", metavar="DIR", type=Path, help="an OUT from before, to go on from")
    parser.add_argument("--work", metavar="DIR", type=Path, help="folder for what is unpacked (default: in /tmp)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which networks")
    parser.add_argument("--set", metavar="STAGE.NAME=VALUE", action="append", default=[], help="a setting; repeatable")
    parser.add_argument("--save-seconds", type=float, default=120.0, help="between states written to OUT")
    parser.add_argument("--sample-processes", type=int, default=0, help="of each training, to draw samples on the CPU")
    parser.add_argument("--checked", action="store_true", help="the check was passed before, and need not be repeated")
    parser.add_argument("--anyway", action="store_true", help="train even if the check fails")


@dataclass(kw_only=True)
class Training:
    """The process of one training."""

    stage: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    first: int

    def said(self) -> str:
        """Return the end of what it printed."""
        self.output.flush()
        return Path(self.output.name).read_text(encoding="utf-8", errors="replace")[-2000:].strip()


def run(args: argparse.Namespace) -> int:
    """Do all of it; return 1 if a training failed, after the other one's end."""
    begun = time.monotonic()
    work = args.work or default_work(args.pack)
    unpack(args.pack, work)
    print(f"unpacked to {work} in {time.monotonic() - begun:.0f} s", flush=True)
    parts = _taken_up(args, work)
    _checked(args, work)
    latest = math.inf if args.limit is None else begun + args.limit - _END_SECONDS
    trainings = [_started(stage, args, work) for stage in args.stages]
    _waited_for(trainings, work, latest)
    start = time.monotonic()
    end = min(start + args.seconds, latest)

    def save() -> None:
        now = [*parts, _part(trainings, work, time.monotonic() - start)]
        files = write_state(work, args.out, now)
        print(f"wrote {sum(path.stat().st_size for path in files) / 1e6:.1f} MB to {args.out}", flush=True)

    try:
        _watched(trainings, work, end, save, args.save_seconds)
    finally:
        _ended(trainings)
    save()
    return _told(trainings)


def default_work(pack: Path) -> Path:
    """Return a folder for what a pack holds, another one for every pack."""
    digest = hashlib.sha256((pack / PACK).read_bytes() if (pack / PACK).is_file() else b"").hexdigest()
    return Path(tempfile.gettempdir()) / f"viscera-gpu-{digest[:12]}"


def settings_of(stage: str, given: list[str]) -> list[str]:
    """Return the settings meant for a stage; raise VisceraError for one that is meant for none."""
    for setting in given:
        if setting.partition(".")[0] not in STAGES:
            raise VisceraError(
                f"setting {setting}",
                expected=f"{' or '.join(STAGES)} before the first dot",
                got=setting.partition(".")[0],
                remedy="Write for example segment.learning_rate=1e-4",
            )
    return [setting.partition(".")[2] for setting in given if setting.partition(".")[0] == stage]


def _taken_up(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Return the parts trained before, whose state then lies in `work`; without any, trainings begin."""
    source = args.source or (args.out if (args.out / STATE).is_file() else None)
    if source is None:
        print("trainings begin", flush=True)
        shutil.rmtree(work / "runs", ignore_errors=True)
        return []
    parts = read_state(source, work / "runs")
    places = {stage: iteration(work / "runs" / stage) for stage in STAGES}
    print("going on from " + ", ".join(f"{stage} {place}" for stage, place in places.items()), flush=True)
    return parts


def iteration(run: Path) -> int:
    """Return the iteration of a run's newest checkpoint."""
    return max(checkpoint_iterations(run), default=0)


def _checked(args: argparse.Namespace, work: Path) -> None:
    """Raise VisceraError, with what the check said already on the screen, if the device differs from the CPU."""
    if args.checked:
        return
    command = [sys.executable, "-m", "gpu", "check", str(work), "--device", args.device]
    if subprocess.run(command, check=False).returncode and not args.anyway:
        raise VisceraError(
            "training", expected="a device that passes the check", got="another", remedy="See the line above"
        )


def _started(stage: str, args: argparse.Namespace, work: Path) -> Training:
    output = (work / f"{stage}.txt").open("wb")
    threads = max(1, (os.cpu_count() or 1) // len(args.stages))
    command = [sys.executable, "-m", "gpu", "train", stage, str(work), "--device", args.device]
    command += ["--threads", str(threads), "--sample-processes", str(args.sample_processes)]
    for setting in settings_of(stage, args.set):
        command += ["--set", setting]
    _settings(work, stage).unlink(missing_ok=True)
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    return Training(stage=stage, process=process, output=output, first=iteration(work / "runs" / stage))


def _waited_for(trainings: list[Training], work: Path, latest: float) -> None:
    """Wait until every training has read what it needs, which it says by writing down its settings."""
    while time.monotonic() < latest and not all(
        one.process.poll() is not None or _settings(work, one.stage).is_file() for one in trainings
    ):
        time.sleep(0.05)


def _settings(work: Path, stage: str) -> Path:
    return work / "runs" / stage / "config.json"


def _watched(trainings: list[Training], work: Path, end: float, save: Any, every: float) -> None:
    """Wait for the trainings' end or that of the time, saying and saving where they are."""
    said = saved = time.monotonic()
    while time.monotonic() < end and any(one.process.poll() is None for one in trainings):
        time.sleep(min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))
        now = time.monotonic()
        if now - said > _SAID_SECONDS:
            print("; ".join(f"{one.stage}: {last_record(work / 'runs' / one.stage)}" for one in trainings), flush=True)
            said = now
        if now - saved > every:
            save()
            saved = now


def last_record(run: Path) -> str:
    """Return the last line of a run's log in words."""
    log = run / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    records: list[Mapping[str, Any]] = [json.loads(line) for line in lines[-50:] if line.endswith("}")]
    steps = [record for record in records if "loss" in record]
    scores = [record for record in records if "validation" in record]
    text = f"{steps[-1]['iteration']}, loss {steps[-1]['loss']:.4f}, {steps[-1]['rate']:.2f} a second" if steps else "-"
    return text + (f", DSC {json.dumps(scores[-1]['validation'])}" if scores else "")


def _ended(trainings: list[Training]) -> None:
    """Let the trainings save their checkpoints, and wait for it."""
    for one in trainings:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + _GRACE_SECONDS
    for one in trainings:
        try:
            one.process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


def _part(trainings: list[Training], work: Path, seconds: float) -> dict[str, Any]:
    """Return what this part of the training did."""
    places = {one.stage: [one.first, iteration(work / "runs" / one.stage)] for one in trainings}
    rates = {stage: round((last - first) / max(seconds, 1e-9), 3) for stage, (first, last) in places.items()}
    return {"seconds": round(seconds, 1), "iterations": places, "iterations_per_second": rates}


def _told(trainings: list[Training]) -> int:
    """Print how each training ended; return 1 if one failed."""
    failed = [one for one in trainings if one.process.returncode != 0]
    for one in trainings:
        print(f"{one.stage}: {'failed' if one in failed else 'ended'}", flush=True)
    for one in failed:
        print(f"{one.stage} printed: {one.said()}", file=sys.stderr)
    return 1 if failed else 0
