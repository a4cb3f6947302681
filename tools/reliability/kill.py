"""SIGKILL at random moments: is a result lost, half written or wrong, and does the next run go on?

Run `python tools/reliability/kill.py [--kills N] [--verb segment|batch]`. Each run is started on the output
folder that the last one left, and killed: every other time at a random moment of the time an undisturbed run takes,
else just after a file has begun to be written, when half a result is likeliest. After each kill every file in the
folder must be, byte for byte, that of the undisturbed run, or bear a passing name; reports and ledgers must be whole
JSON. When all cases are there the folder is completed by a run that is not killed, which must end with exit code 0 and
all results, and an hour later (the files are dated back) the next run must remove the temporary files. The exit code is
1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.progress import Progress
from soak import drawn_scans
from tables import print_table

PASSING = ".viscera-*.part"
# Files whose content follows from the scans alone.
RESULTS = (".nii.gz", ".png")
AN_HOUR_SECONDS = 3700.0


class Trial:
    """Runs of one verb on one folder of scans, and what an undisturbed one writes."""

    def __init__(self, work: Path, verb: str, bundle: str | None) -> None:
        self.output = work / "out"
        self.folders = (self.output, self.output / "ledger")
        scans = work / "scans"
        scans.mkdir(parents=True)
        drawn_scans(scans)
        options = ["--preview", "--device", "cpu", "--threads", "1", *(["--bundle", bundle] if bundle else [])]
        if verb == "segment":
            options += ["--skip-existing", "--report", str(self.output / "report.json")]
        program = [sys.executable, "-m", "viscera", verb, str(scans), "-o", str(self.output)]
        self.command = [*program, *options]
        start = time.monotonic()
        self.finish()
        self.seconds = time.monotonic() - start
        self.expected = self.results()
        self.labels = {name for name in self.expected if name.endswith(".nii.gz")}
        shutil.rmtree(self.output)

    def start(self) -> subprocess.Popen[bytes]:
        """A run in the background."""
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self) -> None:
        """A run to its end, which must be a good one."""
        done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}: {done.stderr}")

    def results(self) -> dict[str, bytes]:
        """The files that follow from the scans alone, by their names."""
        found = self.output.glob("*") if self.output.exists() else ()
        return {path.name: path.read_bytes() for path in found if path.name.endswith(RESULTS)}

    def passing(self) -> list[Path]:
        """Files half written."""
        return [path for folder in self.folders for path in folder.glob(PASSING)]

    def faults(self) -> list[str]:
        """What is wrong in the folder."""
        wrong = [name for name, content in self.results().items() if self.expected.get(name) != content]
        for path in self.output.rglob("*.json"):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                wrong.append(path.name)
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--verb", choices=("segment", "batch"), default="segment")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--bundle", help="folder or name of a bundle (default: the one that ships)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        trial = Trial(Path(work), options.verb, options.bundle)
        counts = killed(trial, options.kills, random.Random(options.seed))
    columns = ("killed", "while a file was written", "temporary files left", "wrong or half files", "lost results",
               "folders completed", "temporary files after an hour")  # fmt: skip
    print_table(["verb", *columns], [[options.verb, *(str(counts[column]) for column in columns)]])
    bad = ("wrong or half files", "lost results", "temporary files after an hour")
    return int(any(counts[column] for column in bad))


def killed(trial: Trial, kills: int, rng: random.Random) -> Counter[str]:
    """What became of so many kills."""
    counts: Counter[str] = Counter()
    progress = Progress(disable=not sys.stderr.isatty())
    task = progress.add_task("kills", total=kills)
    progress.start()
    while counts["killed"] < kills:
        known = set(trial.passing())
        process = trial.start()
        if rng.random() < 0.5:
            await_seconds(process, rng.uniform(0, trial.seconds))
        else:
            await_write(trial, process, rng)
        process.kill()
        if process.wait() == 0:  # it was quicker
            finish_folder(trial, counts)
            continue
        counts["killed"] += 1
        progress.advance(task)
        counts["while a file was written"] += bool(set(trial.passing()) - known)
        faults = trial.faults()
        counts["wrong or half files"] += len(faults)
        if faults:
            print(f"after kill {counts['killed']}: {faults}", file=sys.stderr)
        if trial.results().keys() >= trial.labels:
            finish_folder(trial, counts)
    progress.stop()
    return counts


def await_seconds(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def await_write(trial: Trial, process: subprocess.Popen[bytes], rng: random.Random) -> None:
    """Until a file is begun that was not there, one of the first few, and every other time up to 2 ms more."""
    known, wanted = {path.name for path in trial.passing()}, rng.randrange(1, 12)
    while process.poll() is None:
        for folder in trial.folders:  # listed as fast as can be: most files take a millisecond
            with contextlib.suppress(FileNotFoundError):
                new = {name for name in os.listdir(folder) if name.endswith(".part")} - known  # noqa: PTH208
                known |= new
                wanted -= len(new)
                if new and wanted <= 0:
                    time.sleep(max(0.0, rng.uniform(-0.002, 0.002)))
                    return


def finish_folder(trial: Trial, counts: Counter[str]) -> None:
    """Completes the folder, looks at it, has what is left removed, and takes it away."""
    trial.finish()
    counts["folders completed"] += 1
    counts["wrong or half files"] += len(trial.faults())
    counts["lost results"] += len(trial.expected.keys() - trial.results().keys())
    left = trial.passing()
    counts["temporary files left"] += len(left)
    for path in left:
        os.utime(path, (time.time() - AN_HOUR_SECONDS,) * 2)
    trial.finish()
    counts["temporary files after an hour"] += len(trial.passing())
    shutil.rmtree(trial.output)


if __name__ == "__main__":
    raise SystemExit(main())
