"""The checks of `viscera info --check`: whether what a segmentation needs works on this machine."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from viscera.cli.options import cache_folder
from viscera.core.errors import BundleError, ConfigError, MemoryBudgetError, ReadError, VisceraError, WriteError, reason
from viscera.core.memory import in_megabytes

if TYPE_CHECKING:
    from viscera.segmenter import Segmenter

# What a whole CT takes where nothing is limited (docs/explanation/efficiency.md).
_COMFORTABLE_BYTES = 1200 * 10**6
_MEMORY = Path("/proc/meminfo")

# One image of 16 x 16 voxels with the values 7, 16, 25, ... in each lossless compression, made with GDCM.
_IMAGE = np.arange(256, dtype=np.uint16).reshape(16, 16) * 9 + 7
_COMPRESSED: dict[str, tuple[str, str]] = {
    "JPEG lossless": (
        "1.2.840.10008.1.2.4.70",
        "|JeV-01FTR5C9MX0TBTI!~hlm0RaI30000000000000001PBlR+5iXv0RRC20Kfr~l%*+3Qk11BO(2w|DN0h5r722j1f?lTQk11B"
        "N>fNBDN0h5r722Mnn5W_Qk11BN>Y^42})9wr722Ml%|kMQk11BN>Y@iG=fr;r722Ml%*-85|pJWN>Y@iDNP`hr722Ml%*+3X#}My"
        "N>Y@iDN0jFB`Hc$l%*+3Qkp?2N>Y@iDN0h5(g{jZl%*+3Qk15UN>Y@iDN0h5r8I(4l%*+3Qk11B|Je",
    ),
    "JPEG-LS": (
        "1.2.840.10008.1.2.4.80",
        "|JeWc01FTR5C9MX0TBTI_y7$7|Nj6I07C&306_oR00;pA00000K-eP#;EWH0V7N>Xf$(e>34_64w1Npi2s#XfLLks+NJvOXC@3XJ"
        "AfTZ_g$fiXP@zD90tiv)5FkK-0tg_22q1zE#~^|TAc6=Wf(Rgj491{>2q1z8Ac7EtAy~vA2tp8qAqYYcj9L(cAqYYcgdq@YQX(QE"
        "A|fIp42eWUL_|bHL_#7F5hRjHB!okxl1U_zNJKJ8B$ZV{AyrjXRRn}pRaM}SZ~t&W|Je",
    ),
    "JPEG 2000": (
        "1.2.840.10008.1.2.4.90",
        "|4;u>04V?f0000G0000G00000000000000G0000G0000000000009pH0sm3}3;+NC0RRI81ONg5TmTI~fQX2Yh=`Dgh>-te04e|h"
        "Lvm$dbY)~9VtF7(L_<w4PjF>!N>D{dAa-SPb7^mGATlm9E-?R)015yA0000}00IA#&-^eT2!b*aA_LCXzys<8fPTQB4F6%j3p``d"
        "-@pO$gn&OVU?LgHXaj$=FX4m00Qmzz55OQcp_#5@pFO5DTM*n_Y5&;(",
    ),
    "RLE": (
        "1.2.840.10008.1.2.5",
        "0ssI2KmY&$Z~y=R00000000000000000000000000000000000000000000000000000000000000000@c{Jz{Q>a-_yPI?@dEq;"
        "_5<+)00Z&_^926|@dft<`v&m_`Udz1@dy3~^a$|?4+jt#A}cgKMo(B_YIA&rjt`fhsj|Do&DP)O@%jS{6&?>KFgZd?R9$9oc!7$O"
        "oTaW0x4_BL+vM%`{|FHpBP=yO4@Xd0Vrz7LhL4z`s<XVs&JWk%>GJyo4Hh3LF*-v`RbCHgaCw4@l%1xpxWUTP+~w{M_W%hJ8ze0@"
        "KS)tpV{CPP4~LMMqN}vM#?RQ{>ht^s4i6U~DKa}mO;%rMae9M{m7Wi$u(`s^)ZOOq_yGzN93?IfH$X{JTV!o^e~6KqqpY>Q5695i"
        ";_LMN1`ik^Dl<GqP7haLX>xmnjh3INvAV;|)!q;1@c9A@6dfinI6+ENTxD(#cYukKo20F_zsS+r<LveR",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check found.

    Attributes:
        name: What was checked.
        found: What was found there.
        failed: Whether it does not work.
        remedy: What to do about it; empty if there is nothing to do.
    """

    name: str
    found: str
    failed: bool = False
    remedy: str = ""


def installation_checks(bundle: str | None, *, device: str, precision: str) -> Iterator[Check]:
    """Check one part of the installation after the other; none ends the others."""
    loaded = partial(_loaded_segmenter, bundle, device, precision)
    yield _tried("networks", lambda: _networks(loaded()))
    for name, (syntax, image) in _COMPRESSED.items():
        yield _tried(f"DICOM {name}", partial(_decoded, syntax, image))
    yield _tried("GPU", _gpu)
    yield _tried("cache", _cache)
    for name, folder in (("this folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        yield _tried(name, partial(_writable, folder))
    yield _tried("free memory", _memory)


def _tried(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name=name, found=check())
    except VisceraError as error:
        return Check(name=name, found=f"{error.got}, not {error.expected}", failed=True, remedy=f"{error.remedy}.")
    except (ImportError, OSError) as error:  # a package that is broken, a library that it needs
        remedy = "Install viscera again, into an environment of its own."
        return Check(name=name, found=reason(error), failed=True, remedy=remedy)


def _loaded_segmenter(bundle: str | None, device: str, precision: str) -> Segmenter:
    from viscera.segmenter import Segmenter

    return Segmenter.load(bundle, device=device, precision=precision)


def _networks(segmenter: Segmenter) -> str:
    """Run the localisation network on its smallest image."""
    stage, engine, card = segmenter.bundle.card.model.localise, segmenter.engine, segmenter.bundle.card
    shape = (1, 1, stage.sizes_z_vox[0], stage.sizes_y_vox[0], stage.sizes_x_vox[0])
    start = time.perf_counter()
    output = engine.run("localise", np.zeros(shape, dtype=np.float32)).output
    if not np.isfinite(output).all():
        raise BundleError(
            "running the localisation network",
            expected="finite numbers",
            got=f"others from the engine {engine.name} in {engine.precision}",
            remedy="Try --precision f32, or --device cpu",
        )
    seconds = time.perf_counter() - start
    return (
        f"bundle {card.name} {card.version}, engine {engine.name} on {segmenter.device} in {engine.precision}, "
        f"loaded and run in {seconds:.1f} s"
    )


def _decoded(syntax: str, image: str) -> str:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    from viscera.formats.dicom.pixels import dataset_images
    from viscera.formats.dicom.series import DICOM_FAULTS

    compressed: Any = Dataset()
    compressed.file_meta = FileMetaDataset()
    compressed.file_meta.TransferSyntaxUID = syntax
    compressed.Rows, compressed.Columns = _IMAGE.shape
    compressed.SamplesPerPixel, compressed.PhotometricInterpretation = 1, "MONOCHROME2"
    compressed.BitsAllocated, compressed.BitsStored, compressed.HighBit, compressed.PixelRepresentation = 16, 16, 15, 0
    compressed.PixelData = encapsulate([base64.b85decode(image)])
    compressed["PixelData"].is_undefined_length = True
    doing, remedy = f"decoding an image in the transfer syntax {syntax}", "Install python-gdcm and pydicom again"
    try:
        (found,) = dataset_images(compressed, [0])
    except DICOM_FAULTS as error:
        raise ReadError(doing, expected="an image", got=reason(error), remedy=remedy) from error
    if not np.array_equal(found, _IMAGE):
        raise ReadError(doing, expected="the values that were compressed", got="others", remedy=remedy)
    return "decodes"


def _gpu() -> str:
    from viscera.engines.choice import driver_is_loaded, torch_is_installed

    if not driver_is_loaded():
        return "none; the CPU computes"
    if not torch_is_installed():
        return "a driver; the CPU computes, as torch is not installed (pip install 'viscera[gpu]')"
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "looking for a GPU",
            expected="one that torch can use",
            got=f"an NVIDIA driver, and torch {torch.__version__} without a usable GPU",
            remedy="Install a build of torch for this driver (docs/how-to/gpu.md), or use --device cpu",
        )
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {in_megabytes(free)} of {in_megabytes(total)} free"


def _cache() -> str:
    folder = cache_folder(os.environ, sys.platform)
    if folder is None:
        return "the system names no folder; each run compiles the networks, which takes 0.2 s for each"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _writable(folder)


def _writable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
    except OSError as error:
        raise WriteError(
            f"writing to {folder}",
            expected="a folder with space that can be written",
            got=f"{folder}: {reason(error)}",
            remedy="Check free space and rights, or write to another folder",
        ) from error
    return f"{folder} can be written"


def _memory() -> str:
    try:
        rows = dict(line.split(":", 1) for line in _MEMORY.read_text(encoding="ascii").splitlines() if ":" in line)
        available = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return "the system does not say"
    if available < _COMFORTABLE_BYTES:
        raise MemoryBudgetError(
            "looking at free memory",
            expected=f"{in_megabytes(_COMFORTABLE_BYTES)}, as a large CT takes",
            got=in_megabytes(available),
            remedy="Close other programs, or give --memory-limit 800MB, which takes longer",
        )
    return in_megabytes(available)
