"""The model bundle: a folder with the networks' weights and graphs and a card that says what they are.

    card.json               name, version, settings, organs, training data, figures, licence, sha256 of each file
    localise.safetensors    localise.onnx    the localisation network: weights for torch, graph for OpenVINO
    segment.safetensors     segment.onnx     the segmentation network

Nothing in a bundle is ever executed or unpickled, and reading the card needs the standard library alone. Checksums
find damaged and mixed-up files; they cannot tell who made a bundle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from viscera.core.config import ModelConfig, from_dict, organ_table
from viscera.core.errors import BundleError, ConfigError, WriteError, reason
from viscera.core.organs import ORGANS, Organ

Stage = Literal["localise", "segment"]
STAGES: tuple[Stage, ...] = ("localise", "segment")

CARD = "card.json"
CARD_FORMAT = 1
GRAPHS: dict[Stage, str] = {stage: f"{stage}.onnx" for stage in STAGES}
WEIGHTS: dict[Stage, str] = {stage: f"{stage}.safetensors" for stage in STAGES}
FILES = (*GRAPHS.values(), *WEIGHTS.values())

SHIPPED_FOLDER = Path(__file__).parent / "bundles"
DEFAULT_BUNDLE = "fast"

# Far above the published networks (1 card of some kB, 2.6 and 5.1 MB), far below what would harm a machine.
CARD_LIMIT_BYTES = 1 << 20
FILE_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a bundle says about itself.

    Attributes:
        name, version, description, licence: For people; the name is also the folder's in the package.
        model: Every setting of both stages and their networks.
        organs: The labels; one for each channel of the segmentation network after the background's.
        training: On what and how the networks were trained; free fields.
        metrics: What was measured with them, and on what; free fields.
        limits: What the networks are known not to do, one sentence each.
        files: The sha256 of every file, as lower-case hexadecimal digits; filled in by `write_bundle`.
    """

    name: str
    version: str
    description: str
    licence: str
    model: ModelConfig = field(default_factory=ModelConfig)
    organs: tuple[Organ, ...] = ORGANS
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle: its folder and its card."""

    folder: Path
    card: ModelCard

    def graph(self, stage: Stage) -> Path:
        """The ONNX file of a stage's network."""
        return self.folder / GRAPHS[stage]

    def weights(self, stage: Stage) -> Path:
        """The safetensors file of a stage's network."""
        return self.folder / WEIGHTS[stage]


def load_bundle(source: Path | str | None = None) -> Bundle:
    """The bundle in the folder `source`, or the shipped one of that name if a string, or the default one if None.

    Raises:
        BundleError: If there is no such bundle, or its card or a file is missing, altered or too large, or made for
            another version of the card's format.
    """
    folder = source if isinstance(source, Path) else _shipped(DEFAULT_BUNDLE if source is None else source)
    card = _read_card(folder / CARD)
    for name in FILES:
        _require_file(folder / name, card.files[name])
    return Bundle(folder=folder, card=card)


def list_bundles() -> tuple[str, ...]:
    """Return the names of the bundles that come with the package, in alphabetical order.

    Example:
        >>> list_bundles()
        ('fast',)
    """
    return tuple(sorted(path.parent.name for path in SHIPPED_FOLDER.glob(f"*/{CARD}")))


def bundle_differences(bundle: Bundle, base: Bundle) -> tuple[str, ...]:
    """Return how `bundle` differs from `base`, one line per network and setting; lines on networks come first."""
    card, other = bundle.card, base.card
    lines = []
    for stage in STAGES:
        same = card.files[WEIGHTS[stage]] == other.files[WEIGHTS[stage]]
        lines.append(f"{stage}: {'the same weights' if same else 'other weights'}")
    mine, theirs = (dict(_flat_settings(dataclasses.asdict(one.model))) for one in (card, other))
    lines += [
        f"model.{name}: {mine.get(name)} instead of {theirs.get(name)}"
        for name in {**theirs, **mine}
        if mine.get(name) != theirs.get(name)
    ]
    names, before = (", ".join(organ.name for organ in one.organs) for one in (card, other))
    if names != before:
        lines.append(f"organs: {names} instead of {before}")
    return tuple(lines)


def _flat_settings(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat_settings(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def write_bundle(folder: Path, card: ModelCard, contents: Mapping[str, bytes], *, overwrite: bool = False) -> Bundle:
    """The bundle written to the new `folder`: the card with every file's sha256, and `contents` by file name.

    All or nothing: everything is written to a temporary folder next to it, which is then renamed. The same arguments
    give the same bytes. With `overwrite` an existing bundle is replaced, any other existing path never.

    Raises:
        BundleError: If the files are not the four of a bundle, `folder` is taken, or the card would not be readable.
        WriteError: If the folder cannot be written.
    """
    if set(contents) != set(FILES):
        raise _error(folder, ", ".join(FILES), ", ".join(sorted(contents)) or "no file", "Pass these four files")
    _require_free(folder, overwrite)
    digests = {name: hashlib.sha256(contents[name]).hexdigest() for name in FILES}
    card = dataclasses.replace(card, files=digests)
    text = _card_text(card, folder)
    _card_from_text(text, folder / CARD)
    try:
        write_folder(folder, {CARD: text.encode()} | dict(contents))
    except OSError as error:
        raise WriteError(
            f"writing the bundle {folder}",
            expected="a folder that can be written",
            got=reason(error),
            remedy="Check free space and rights, or choose another folder",
        ) from error
    return Bundle(folder=folder, card=card)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by their relative paths to `folder`, whole or not at all; one that exists is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".viscera-", dir=folder.parent) as temporary:
        fresh, replaced = Path(temporary) / "fresh", Path(temporary) / "replaced"
        fresh.mkdir()
        for name, content in contents.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        if not folder.exists():
            fresh.rename(folder)
            return
        folder.rename(replaced)
        try:
            fresh.rename(folder)
        except OSError:
            replaced.rename(folder)
            raise


def _shipped(name: str) -> Path:
    names = list_bundles()
    if name not in names:
        raise BundleError(
            f"choosing the bundle {name!r}",
            expected=f"one of the bundles that come with viscera ({', '.join(names) or 'none in this installation'})",
            got=repr(name),
            remedy="Choose one of these, or pass the folder of another bundle as a path",
        )
    return SHIPPED_FOLDER / name


def _read_card(path: Path) -> ModelCard:
    try:
        if path.exists() and not path.is_file():  # of a device or a pipe there is no end
            raise _error(path, "a file", "something else", "Use a bundle written by viscera")
        size = path.stat().st_size
        if size > CARD_LIMIT_BYTES:
            raise _error(path, f"at most {CARD_LIMIT_BYTES} bytes", f"{size} bytes", "Use a bundle written by viscera")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _error(
            path, "a readable model card", str(error), "Pass the folder that holds the bundle's card.json"
        ) from error
    return _card_from_text(text, path)


def _card_from_text(text: str, path: Path) -> ModelCard:
    try:
        values = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _error(path, "valid JSON", str(error), "Use a bundle written by viscera") from error
    names = {f.name for f in dataclasses.fields(ModelCard)} | {"format"}
    if not isinstance(values, dict) or set(values) != names:
        fields = set(values) if isinstance(values, dict) else set()
        different = ", ".join(sorted(map(str, fields ^ names)))
        raise _error(path, "exactly the fields of a card", f"unknown or missing: {different}", "Correct the card")
    if (version := values.pop("format")) != CARD_FORMAT:
        remedy = "Use the version of viscera it was made for"
        raise _error(path, f"card format {CARD_FORMAT}", repr(version), remedy)
    card = ModelCard(**_card_fields(values, path))
    _require_consistent(card, path)
    return card


def _card_fields(values: dict[str, Any], path: Path) -> dict[str, Any]:
    kinds = {"organs": list, "limits": list} | dict.fromkeys(("model", "training", "metrics", "files"), dict)
    for name, value in values.items():
        kind = kinds.get(name, str)
        if not isinstance(value, kind):
            raise _error(path, f"{name} as {kind.__name__}", type(value).__name__, "Correct the card")
    for name in ("limits", "organs"):
        kind = str if name == "limits" else dict
        if not all(isinstance(item, kind) for item in values[name]):
            raise _error(path, f"{name} as a list of {kind.__name__}", "something else in it", "Correct the card")
    try:
        values["model"] = from_dict(ModelConfig, values["model"])
        values["organs"] = organ_table(values["organs"])
    except ConfigError as error:
        raise _error(
            path, "settings and organs of this version", f"an error {error.doing}: {error}", "Correct the card"
        ) from error
    values["limits"] = tuple(values["limits"])
    return values


def _require_consistent(card: ModelCard, path: Path) -> None:
    model, localiser = card.model, card.model.localiser
    labels = len(card.organs) + 1
    files = ", ".join(sorted(card.files)) or "none"
    ends = f"{localiser.inputs} and {localiser.outputs}"
    checks = [
        (model.scn.labels == labels, f"{labels} labels, one more than organs", f"{model.scn.labels} labels"),
        ((localiser.inputs, localiser.outputs) == (1, 2), "a localiser with 1 input and 2 outputs", ends),
        (set(card.files) == set(FILES), f"the checksums of {', '.join(FILES)}", files),
    ]
    for holds, expected, got in checks:
        if not holds:
            raise _error(path, expected, got, "Use a bundle made for this version of viscera")


def _require_file(path: Path, digest: str) -> None:
    remedy = "Get the bundle again; the file is damaged or from another bundle"
    try:
        if not path.is_file():
            raise _error(path, "a file", "none", remedy)
        size = path.stat().st_size
        if size > FILE_LIMIT_BYTES:
            raise _error(path, f"at most {FILE_LIMIT_BYTES} bytes", f"{size} bytes", remedy)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _error(path, "a readable file", str(error), remedy) from error
    if found != digest:
        raise _error(path, f"sha256 {digest}", found, remedy)


def _require_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not (overwrite and (folder / CARD).is_file()):
        got = "a bundle" if (folder / CARD).is_file() else "something else"
        raise _error(folder, "no such folder yet", got, "Choose another folder, or allow the bundle to be replaced")


def _card_text(card: ModelCard, path: Path) -> str:
    values = {"format": CARD_FORMAT} | dataclasses.asdict(card)
    try:
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise _error(path, "plain values with finite numbers in the card", str(error), "Correct the card") from error


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field is given twice")
    return values


def _error(path: Path, expected: str, got: str, remedy: str) -> BundleError:
    return BundleError(f"checking the bundle file {path}", expected=expected, got=got, remedy=remedy)
