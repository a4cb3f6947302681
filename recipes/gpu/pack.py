"""`gpu.sh pack`: all that a training on another machine needs in one small folder, the source included."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.numpy import save

from gpu.coding import Parsed, coarser, encoded
from viscera.core.config import from_dict
from viscera.core.errors import ConfigError, ReadError, reason
from viscera.core.files import write_bytes, write_text
from viscera.synthesis.anatomy import ANATOMIES
from viscera.training.cache import CASES, MANIFEST, Cache, StoredArrays, read_arrays
from viscera.training.config import read_train_config
from viscera.training.data_sources import SyntheticData
from viscera.training.step import Trainer

ROOT = Path(__file__).resolve().parents[2]
PACK = "pack.json"
FORMAT = 1
STAGES = ("localise", "segment")
CODED = ".xz"
SOURCE = ("src/viscera/**/*.py", "recipes/gpu.sh", "recipes/gpu/*", "pyproject.toml", "LICENSE")
MEGABYTE = 1_000_000
# Kept free for the list of what is in the pack.
_LIST_BYTES = 100_000


class Coded(NamedTuple):
    """A file in few bytes, and the sha256 and the size of what it decodes to."""

    data: bytes
    sha256: str
    size: int


@dataclass(kw_only=True)
class Pack:
    """A pack that is being filled, up to `limit` bytes.

    Attributes:
        folder: Of the pack.
        limit: Bytes of all its files.
        used: Bytes so far.
        decoded: By the path a coded file decodes to, the sha256 of its content.
        names: Of the anatomies and cases that are in it, by folder.
        left_out: Likewise of those for which there was no room.
    """

    folder: Path
    limit: int
    used: int = _LIST_BYTES
    decoded: dict[str, str] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def add(self, data: bytes, path: str) -> None:
        """Write a file; raise ConfigError if there is no room for it."""
        if self.used + len(data) > self.limit:
            raise ConfigError(
                f"packing {path}",
                expected=f"at most {self.limit / MEGABYTE:.1f} MB in all",
                got=f"{(self.used + len(data)) / MEGABYTE:.1f} MB with what must be there",
                remedy="Raise --limit-mb, or give fewer validation cases",
            )
        write_bytes(data, self.folder / path)
        self.used += len(data)

    def add_coded(self, coded: Sequence[tuple[str, Coded]]) -> bool:
        """Write files that belong together; return False, and write nothing, if there is no room for them."""
        if self.used + sum(len(one.data) for _, one in coded) > self.limit:
            return False
        for path, one in coded:
            self.add(one.data, path.removesuffix(".safetensors") + CODED)
            self.decoded[path] = one.sha256
        return True

    def finish(self, **facts: Any) -> None:
        """Write the list of all files."""
        files = {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        known = {"format": FORMAT, "names": self.names, "left_out": self.left_out, **facts}
        listed = {**known, "files": files, "decoded": self.decoded}
        write_text(json.dumps(listed, indent=1) + "\n", self.folder / PACK)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gpu.sh pack` to `parser`."""
    parser.add_argument("pack", metavar="PACK", type=Path, help="folder to make")
    parser.add_argument("--anatomies", metavar="DIR", type=Path, required=True, help="what `viscera anatomies` wrote")
    parser.add_argument("--real", metavar="CACHE", type=Path, help="prepared real CTs to mix in")
    parser.add_argument("--real-names", metavar="NAME", nargs="+", help="which of them, the most wanted first")
    parser.add_argument("--validation", metavar="CACHE", type=Path, help="prepared CTs to watch the training with")
    for stage in STAGES:
        parser.add_argument(f"--{stage}-config", metavar="FILE.toml", type=Path, default=_beside(f"{stage}.toml"))
        shipped = ROOT / "src" / "viscera" / "model" / "bundles" / "fast" / f"{stage}.safetensors"
        help_weights = "weights to begin with, or none (default: the shipped ones)"
        parser.add_argument(f"--{stage}-weights", metavar="FILE", type=Path, default=shipped, help=help_weights)
    parser.add_argument(
        "--hu-step", metavar="HU", type=int, default=4, help="real CTs are rounded to multiples of this; 1: exact"
    )
    parser.add_argument(
        "--limit-mb",
        metavar="MB",
        type=float,
        default=40.0,
        help="of the whole pack, source included (default: %(default)s, which leaves room for a checkout in 64 MB)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Make the pack and say what is in it."""
    if args.hu_step < 1:
        raise ConfigError("packing", expected="an --hu-step of at least 1", got=str(args.hu_step), remedy="Correct it")
    if args.pack.exists() and not (args.pack / PACK).is_file() and any(args.pack.iterdir()):
        raise ConfigError(
            f"packing {args.pack}", expected="a new folder", got="something else", remedy="Choose another"
        )
    _require_fitting(args)
    begun = args.pack.with_name(f"{args.pack.name}.part")
    shutil.rmtree(begun, ignore_errors=True)
    pack = Pack(folder=begun, limit=int(args.limit_mb * MEGABYTE))
    for path in sorted({path for pattern in SOURCE for path in ROOT.glob(pattern) if path.is_file()}):
        pack.add(path.read_bytes(), path.relative_to(ROOT).as_posix())
    (begun / "recipes" / "gpu.sh").chmod(0o755)
    _add_settings(pack, args)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        if args.validation is not None:
            _add_cases(pack, "validation", args.validation, args, pool)
        _add_anatomies(pack, args.anatomies, pool)
        if args.real is not None:
            _add_cases(pack, "real", args.real, args, pool)
    pack.finish(hu_step=args.hu_step)
    shutil.rmtree(args.pack, ignore_errors=True)
    begun.rename(args.pack)
    for folder, names in pack.names.items():
        left = pack.left_out.get(folder, [])
        rest = f"; no room for {len(left)}: {', '.join(left)}" if left else ""
        print(f"{folder}: {len(names)}{rest}")
    total = sum(path.stat().st_size for path in args.pack.rglob("*") if path.is_file())
    print(f"wrote {args.pack}, {total / MEGABYTE:.1f} MB")
    return 0


def _beside(name: str) -> Path:
    return Path(__file__).parent / name


def _opened(args: argparse.Namespace) -> tuple[SyntheticData, Cache | None, Cache | None]:
    real, validation = (None if path is None else Cache.open(path) for path in (args.real, args.validation))
    return SyntheticData.open(args.anatomies, validation, real=real), real, validation


def _require_fitting(args: argparse.Namespace) -> None:
    """Raise ConfigError or ReadError here for what would be refused on the other machine, where time is dear."""
    data, *_ = _opened(args)
    for stage in STAGES:
        config = read_train_config(getattr(args, f"{stage}_config"))
        data.require(config)
        weights: Path = getattr(args, f"{stage}_weights")
        Trainer(stage, config, None if str(weights) == "none" else weights)


def _add_settings(pack: Pack, args: argparse.Namespace) -> None:
    for stage in STAGES:
        config, weights = getattr(args, f"{stage}_config"), getattr(args, f"{stage}_weights")
        pack.add(config.read_bytes(), f"{stage}.toml")
        if str(weights) != "none":
            pack.add(weights.read_bytes(), f"{stage}.safetensors")


def _add_anatomies(pack: Pack, folder: Path, pool: ProcessPoolExecutor) -> None:
    """Add the anatomies; of those with equally large arrays all but the first are stored as what differs from it."""
    names: list[str] = json.loads((folder / ANATOMIES).read_text(encoding="utf-8"))
    first: dict[tuple[int, ...], str] = {}
    bases = [first.setdefault(_shape(folder / f"{name}.safetensors"), name) for name in names]
    order = sorted(range(len(names)), key=lambda index: names[index] != bases[index])
    paths = [folder / f"{names[index]}.safetensors" for index in order]
    others = [None if bases[i] == names[i] else folder / f"{bases[i]}.safetensors" for i in order]
    kept, left = [], []
    for path, coded in zip(paths, pool.map(_coded, paths, others), strict=True):
        into = kept if pack.add_coded([(f"anatomies/{path.name}", coded)]) else left
        into.append(path.stem)
    if without := sorted({bases[names.index(name)] for name in kept} - set(kept)):
        raise ConfigError(
            "packing anatomies", expected="room for each size's first", got=f"none for {without[0]}", remedy="Raise it"
        )
    pack.names["anatomies"], pack.left_out["anatomies"] = sorted(kept), sorted(left)
    pack.add((json.dumps(sorted(kept)) + "\n").encode(), f"anatomies/{ANATOMIES}")


def _add_cases(pack: Pack, kind: str, folder: Path, args: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
    """Add prepared cases: all that are held out, of the others those for which there is room."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in manifest["cases"]}
    names = list(args.real_names or spread(list(entries))) if kind == "real" else list(entries)
    if unknown := [name for name in names if name not in entries]:
        raise ConfigError(f"packing {folder}", expected="names of cases in it", got=unknown[0], remedy="Correct them")
    kept: list[str] = []
    for name, coded in _coded_cases(folder, [entries[name] for name in names], args.hu_step, pool):
        if not pack.add_coded([(f"{kind}/{CASES}/{file}", one) for file, one in coded.items()]):
            break
        for arrays in entries[name]["arrays"]:
            one = coded[arrays["file"]]
            arrays |= {"sha256": one.sha256, "bytes": one.size, "deflated_labels_zyx": None}
        kept.append(name)
    left = [name for name in names if name not in kept]
    if kind == "validation" and left:
        raise ConfigError(
            "packing validation cases", expected="room for all", got=f"none for {left[0]}", remedy="Raise --limit-mb"
        )
    manifest["cases"] = [entry for entry in manifest["cases"] if entry["name"] in kept]
    pack.names[kind], pack.left_out[kind] = kept, left
    if kept:
        pack.add(json.dumps(manifest).encode(), f"{kind}/{MANIFEST}")


def _coded_cases(
    folder: Path, entries: Sequence[dict[str, Any]], step: int, pool: ProcessPoolExecutor
) -> Iterator[tuple[str, dict[str, Coded]]]:
    for entry in entries:
        coded = pool.map(partial(_coded_arrays, folder / CASES, step=step), entry["arrays"])
        yield entry["name"], dict(zip([arrays["file"] for arrays in entry["arrays"]], coded, strict=True))


def spread(names: Sequence[str]) -> list[str]:
    """Return the names so that the first so many of them are spread over the list, as neighbours often show one person.

    The order is that of the van der Corput sequence.
    """
    bits = max(1, (len(names) - 1).bit_length())
    return [names[i] for i in sorted(range(len(names)), key=lambda index: f"{index:0{bits}b}"[::-1])]


def _shape(path: Path) -> tuple[int, ...]:
    with safe_open(path, framework="np") as file:
        return tuple(file.get_slice("tissues").get_shape())


def _coded_arrays(folder: Path, arrays: dict[str, Any], *, step: int) -> Coded:
    """Return the arrays of a prepared case, which are rounded and stored as they are, not deflated."""
    image, labels = read_arrays(folder / arrays["file"], from_dict(StoredArrays, arrays))
    parsed = coarser(Parsed.of(save({"image": image, "labels": labels})), step)
    content = parsed.content()
    return Coded(encoded(parsed, step=step), hashlib.sha256(content).hexdigest(), len(content))


def _coded(path: Path, base: Path | None = None) -> Coded:
    try:
        parsed = Parsed.of(path.read_bytes())
        known = None if base is None else (base.stem + CODED, Parsed.of(base.read_bytes()).tensors)
    except (OSError, ValueError, KeyError) as error:
        raise ReadError(
            f"packing {path}", expected="a safetensors file", got=reason(error), remedy="Make the data again"
        ) from error
    content = parsed.content()
    return Coded(encoded(parsed, base=known), hashlib.sha256(content).hexdigest(), len(content))
