"""Damaged inputs to every reader: no crash, no hang, no flood of memory, no file touched, only viscera's own errors.

Run `python tools/reliability/fuzz.py [--inputs N] [--seed N]`; it needs Linux, and `viscera[all]` for all formats.
Each input is a valid file or folder after one to four changes. Child processes read them under watch; one that dies,
reads for more than 10 s or takes more than 1 GiB counts against the input, which is kept, and a new child goes on with
the next. `--replay NUMBER` reads one input again, here, and shows what comes of it; `--keep FOLDER` is where failing
inputs go. The exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mutations import mutated
from rich.progress import Progress
from seeds import Seed, make_seeds
from tables import print_table
from watching import LONGEST_SECONDS, Reading, Watcher, limit_address_space, scratch_folder

# A child is replaced after as many, so that a leak of one reader cannot hide behind another.
INPUTS_PER_CHILD = 20_000
# For the imports and the seeds, on a busy machine.
STARTING_SECONDS = 120.0


@dataclass
class Tally:
    """One row: what came of the inputs of a kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0

    def add(self, reading: dict[str, Any]) -> None:
        self.outcomes[reading["outcome"]] += 1
        self.slowest = max(self.slowest, reading["seconds"])
        self.largest = max(self.largest, reading["peak_bytes"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="of all mutations")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="seeds with it in their kind or name; numbers change"
    )
    parser.add_argument("--keep", type=Path, help="folder for failing inputs (default: a new temporary one)")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="read this one input again")
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        read_range(range(*options.child), options.seed, options.only)
        return 0
    if options.replay is not None:
        return replayed(options.replay, options.seed, options.only)
    keep = options.keep or Path(tempfile.mkdtemp(prefix="viscera-fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    tallies = watched_range(options.inputs, options.seed, options.only, keep)
    return report(tallies, keep)


def input_of(number: int, seed: int, seeds: list[Seed]) -> Seed:
    """Input `number`: the seeds take turns, and the mutation follows from both numbers."""
    return mutated(seeds[number % len(seeds)], seeds, random.Random(f"{seed}-{number}"))


def chosen_seeds(only: str) -> list[Seed]:
    """Seeds of every kind, or those with `only` in their kind or name; the same bytes each time."""
    with tempfile.TemporaryDirectory() as name:
        return [seed for seed in make_seeds(Path(name)) if only in f"{seed.kind}, {seed.name}"]


def read_range(numbers: range, seed: int, only: str) -> None:
    """A child's work: a line of JSON for each input."""
    seeds = chosen_seeds(only)
    with scratch_folder() as work:
        watcher = Watcher(work)
        for one in seeds:  # imports what readers import late, and shows that the seeds are valid
            if (reading := watcher.read(one)).outcome != "read":
                raise SystemExit(f"{one.kind}, {one.name}: {reading}")
        limit_address_space()
        print("ready", flush=True)
        for number in numbers:
            damaged = input_of(number, seed, seeds)
            reading = watcher.read(damaged)
            print(json.dumps({"number": number, "kind": damaged.kind, **asdict(reading)}), flush=True)


def replayed(number: int, seed: int, only: str) -> int:
    """Reads one input and shows it; 1 if it fails."""
    seeds = chosen_seeds(only)
    with scratch_folder() as work:
        watcher = Watcher(work)
        damaged = input_of(number, seed, seeds)
        watcher.read(seeds[number % len(seeds)])
        reading: Reading = watcher.read(damaged)
    print(f"input {number} of seed {seed}: {damaged.kind}, {damaged.name}")
    print(f"{reading.outcome}, {reading.seconds:.3f} s, {reading.peak_bytes / 2**20:.1f} MiB\n{reading.trace}")
    return int(reading.outcome.startswith("!"))


def watched_range(count: int, seed: int, only: str, keep: Path) -> dict[str, Tally]:
    """The tallies by kind of all inputs, read by one child after the other."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    seeds, number = chosen_seeds(only), 0
    progress = Progress(disable=not sys.stderr.isatty())
    task = progress.add_task("inputs", total=count)
    progress.start()
    while number < count:
        last = min(number + INPUTS_PER_CHILD, count)
        for reading in readings_of_child(range(number, last), [f"--seed={seed}", f"--only={only}"], keep / "child.log"):
            kind = seeds[reading["number"] % len(seeds)].kind
            tallies[kind].add(reading)
            number = reading["number"] + 1
            progress.advance(task)
            if reading["outcome"].startswith("!"):
                keep_input(reading, input_of(reading["number"], seed, seeds), keep)
    progress.stop()
    return tallies


def readings_of_child(numbers: range, options: list[str], log: Path) -> Iterator[dict[str, Any]]:
    """What a child said of each input, up to the one that ended it; `log` is its stderr."""
    command = [sys.executable, __file__, *options, "--child", str(numbers.start), str(numbers.stop)]
    with log.open("w") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    lines: SimpleQueue[str] = SimpleQueue()

    def pass_on() -> None:
        for line in child.stdout or ():
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=pass_on)
    reader.start()
    number, fate = numbers.start, ""
    try:
        started = lines.get(timeout=STARTING_SECONDS)
        while started and (line := lines.get(timeout=LONGEST_SECONDS)):
            reading = json.loads(line)
            number = reading["number"] + 1
            yield reading
    except Empty:
        fate = f"!no answer in {LONGEST_SECONDS:.0f} s"
    finally:
        child.kill()  # has ended, unless it hangs
        code = child.wait()
        reader.join()
        if child.stdout is not None:
            child.stdout.close()
    if not started:
        raise SystemExit(f"a child did not start, exit code {code}; see {log}")
    if number < numbers.stop:
        seconds = LONGEST_SECONDS if fate else 0.0
        yield {"number": number, "outcome": fate or f"!died with {code}", "seconds": seconds, "peak_bytes": 0}


def keep_input(reading: dict[str, Any], damaged: Seed, keep: Path) -> None:
    """Stores a failing input with what came of it."""
    folder = keep / f"{reading['number']}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in damaged.files.items():
        (folder / name).write_bytes(content)
    (keep / f"{reading['number']}.json").write_text(json.dumps(reading, indent=1))
    print(f"input {reading['number']} ({damaged.kind}, {damaged.name}): {reading['outcome']}", file=sys.stderr)


def report(tallies: dict[str, Tally], keep: Path) -> int:
    """Prints the table; 1 if an input failed."""
    rows, failed = [], 0
    for kind, tally in tallies.items():
        wrong = sum(count for outcome, count in tally.outcomes.items() if outcome.startswith("!"))
        failed += wrong
        refused = sum(tally.outcomes.values()) - wrong - tally.outcomes["read"]
        rows.append([kind, str(sum(tally.outcomes.values())), str(refused), str(tally.outcomes["read"]), str(wrong),
                     f"{tally.slowest:.2f} s", f"{tally.largest / 2**20:.0f} MiB"])  # fmt: skip
    total = [str(sum(int(row[column]) for row in rows)) for column in range(1, 5)]
    slowest, largest = max(t.slowest for t in tallies.values()), max(t.largest for t in tallies.values())
    rows.append(["all", *total, f"{slowest:.2f} s", f"{largest / 2**20:.0f} MiB"])
    print_table(["reader", "inputs", "refused", "read", "failed", "slowest", "most memory"], rows)
    if failed:
        print(f"failing inputs are in {keep}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
