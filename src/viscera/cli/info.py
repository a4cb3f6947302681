"""`viscera info`: versions, the model bundle, the engine, the networks."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from viscera.cli.console import Console
from viscera.cli.options import DEVICES, PRECISIONS, device

if TYPE_CHECKING:
    from viscera.core.config import StageConfig
    from viscera.core.geometry import Size
    from viscera.model.bundle import Bundle
    from viscera.model.flops import Complexity

HELP = "show versions, the model bundle and the engine; check the installation"
DESCRIPTION = """\
Shows versions, a model bundle's card, the engine this machine would use, and the networks' complexity. With --check the
installation is tested instead: one line for each part, ok or failed and what to do; exit code 1 if any failed."""
EXAMPLE = "viscera info --check"

_PACKAGES = ("numpy", "nibabel", "pydicom", "openvino", "torch", "scipy", "SimpleITK", "highdicom")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="folder or shipped name (default: the shipped one)")
    parser.add_argument(
        "--check", action="store_true", help="test the installation: engine, DICOM, GPU, folders, memory"
    )
    parser.add_argument("--networks", action="store_true", help="parameters and operations of the networks, by layer")
    parser.add_argument(
        "--device", type=device, choices=DEVICES, default="auto", help="as for segment (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="as for segment (default: %(default)s)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the information and return the exit code."""
    from viscera.core.version import version
    from viscera.segmenter import Segmenter

    console.say(f"viscera {version()}, Python {platform.python_version()}, {platform.platform(terse=True)}")
    console.say(", ".join(f"{package} {_version(package)}" for package in _PACKAGES))
    if args.check:
        return _check(args, console)
    segmenter = Segmenter.load(args.bundle, device=args.device, precision=args.precision)
    console.say("")
    for line in _bundle_lines(segmenter.bundle):
        console.say(line)
    engine = segmenter.engine
    console.say(f"\nengine: {engine.name} on {segmenter.device}, precision {engine.precision}")
    if args.networks:
        for line in _network_lines(segmenter.bundle):
            console.say(line)
    return 0


def _check(args: argparse.Namespace, console: Console) -> int:
    from viscera.cli.installation import installation_checks

    console.say("")
    failed = 0
    for check in installation_checks(args.bundle, device=args.device, precision=args.precision):
        failed += check.failed
        line = f"{'failed' if check.failed else 'ok':6}  {check.name}: {check.found}"
        console.say(f"{line}. {check.remedy}" if check.remedy else line)
    console.say(f"\n{failed} failed" if failed else "\nall ok")
    return 1 if failed else 0


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _bundle_lines(bundle: Bundle) -> Iterator[str]:
    card = bundle.card
    yield f"bundle: {card.name} {card.version} in {bundle.folder}"
    yield f"  {card.description}"
    yield f"  licence: {card.licence}"
    yield f"  labels: {', '.join(f'{organ.index} {organ.name}' for organ in card.organs)}"
    yield f"  localisation: {_sampling(card.model.localise)}"
    yield f"  segmentation: {_sampling(card.model.segment)}, margin {card.model.margin_mm:g} mm"
    for title, values in (("training", card.training), ("metrics", card.metrics)):
        yield from (f"  {title}, {line}" for line in _plain_lines(values))
    yield from (f"  limit: {limit}" for limit in card.limits)


def _sampling(stage: StageConfig) -> str:
    low, high = _sizes(stage)
    sizes = " to ".join(" x ".join(map(str, size)) for size in (low, high))
    return f"{stage.spacing_mm:g} mm, smoothed by {stage.sigma_mm:g} mm, {sizes} voxels (z, y, x)"


def _sizes(stage: StageConfig) -> tuple[Size, Size]:
    axes = stage.sizes_z_vox, stage.sizes_y_vox, stage.sizes_x_vox
    return (axes[0][0], axes[1][0], axes[2][0]), (axes[0][-1], axes[1][-1], axes[2][-1])


def _plain_lines(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Nested values of a card as lines without brackets, one for each innermost object."""
    for name, value in values.items():
        title = f"{above}{name}"
        objects = [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
        if isinstance(value, Mapping):
            yield from _object_lines(value, title)
        elif objects:
            for number, item in enumerate(objects, start=1):
                yield from _object_lines(item, f"{title} {number}")
        else:
            yield f"{title}: {_plain(value)}"


def _object_lines(values: Mapping[str, Any], title: str) -> Iterator[str]:
    if any(isinstance(value, Mapping) for value in values.values()):
        yield from _plain_lines(values, f"{title}, ")
    else:
        yield f"{title}: {'; '.join(f'{name}: {_plain(value)}' for name, value in values.items())}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, bool | None):
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value)


def _network_lines(bundle: Bundle) -> Iterator[str]:
    from viscera.model.flops import scn_complexity, unet_complexity

    model = bundle.card.model
    yield from _table("localisation", model.localise, lambda size: unet_complexity(model.localiser, size))
    yield from _table("segmentation", model.segment, lambda size: scn_complexity(model.scn, size))


def _table(title: str, stage: StageConfig, count: Callable[[Size], Complexity]) -> Iterator[str]:
    from viscera.model.flops import complexity_rows

    low, high = _sizes(stage)
    smallest, largest = count(low), count(high)
    rows = [("layer", "output (channels, z, y, x)", "parameters", "FLOPs")]
    rows += [(name, shape, f"{number:,}", f"{flops:,}") for name, shape, number, flops in complexity_rows(largest)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    yield f"\n{title} network: {largest.parameters:,} parameters"
    for size, complexity in ((low, smallest), (high, largest)):
        yield f"  {complexity.flops:,} FLOPs at {' x '.join(map(str, size))} (z, y, x)"
    for name, shape, number, flops in rows:
        yield f"  {name:{widths[0]}}  {shape:{widths[1]}}  {number:>{widths[2]}}  {flops:>{widths[3]}}"
