"""Networks streamed plane by plane against the same networks computed at once."""

import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from viscera.core.config import ScnConfig, UNetConfig  # noqa: E402
from viscera.engines.torch_tiled import (  # noqa: E402
    fitting_planes,
    least_bytes,
    streamed_bytes,
    streamed_output,
    whole_bytes,
)
from viscera.model.networks import SpatialConfigurationNet, UNet, disagreement  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

UNET = UNetConfig(inputs=1, outputs=2, filters=6, levels=3)
# Float32 sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def unet(config: UNetConfig = UNET) -> Any:
    torch.manual_seed(3)
    return with_biases(UNet(config))


def scn(factor: int) -> Any:
    torch.manual_seed(4)
    config = ScnConfig(local_filters=6, local_levels=3, spatial_filters=4, spatial_levels=2, spatial_factor=factor)
    return with_biases(SpatialConfigurationNet(config))


def with_biases(network: Any) -> Any:
    """Biases make zero padding at a wrong place show: a convolution of padding is the bias, not zero."""
    for name, values in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values, std=0.5)
    return network.eval()


def image_of(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("planes", [1, 2, 3, 4, 6, 10, 24, 100])
def test_a_streamed_unet_is_the_unet(planes: int) -> None:
    network, image = unet(), image_of(1, 1, 24, 8, 12)
    (found,) = streamed_output(network, image, planes)
    torch.testing.assert_close(found, network(image), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_any_number_of_levels_streams(levels: int) -> None:
    network, image = unet(UNetConfig(inputs=1, outputs=3, filters=4, levels=levels)), image_of(1, 1, 16, 8, 24)
    (found,) = streamed_output(network, image, 4)
    torch.testing.assert_close(found, network(image), atol=TOLERANCE, rtol=0)


def test_a_batch_streams() -> None:
    network, image = unet(), image_of(3, 1, 16, 8, 12)
    (found,) = streamed_output(network, image, 4)
    torch.testing.assert_close(found, network(image), atol=TOLERANCE, rtol=0)


def test_the_fewest_planes_a_network_takes_stream() -> None:
    network, image = unet(), image_of(1, 1, 4, 4, 8)
    (found,) = streamed_output(network, image, 2)
    torch.testing.assert_close(found, network(image), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("planes", [2, 6, 16, 48])
def test_a_streamed_scn_is_the_scn(planes: int, factor: int) -> None:
    network, image = scn(factor), image_of(1, 1, 48, 16, 24)
    probabilities, apart = streamed_output(network, image, planes)
    whole = network(image)
    torch.testing.assert_close(probabilities, whole.probabilities, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(apart, disagreement(whole, factor), atol=TOLERANCE, rtol=0)
    assert torch.equal(probabilities.argmax(dim=1), whole.probabilities.argmax(dim=1))


# Memory


class TensorPeak(TorchDispatchMode):
    """Counts the bytes of the tensors alive at once among those made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def peak_bytes(network: Any, image: Any, planes: int | None) -> int:
    """Of the tensors made for an output, which itself is not counted, and of the image."""
    with TensorPeak() as counted:
        output = network(image) if planes is None else streamed_output(network, image, planes)[0]
    output_bytes = output.untyped_storage().nbytes() if planes is not None else 0
    return counted.peak - output_bytes + image.untyped_storage().nbytes()


# As wide and deep as the published networks, on a slim image.
PUBLISHED = UNetConfig(inputs=1, outputs=1, filters=32, levels=5)
SLIM = (1, 1, 96, 16, 32)


def test_the_whole_network_needs_what_is_foretold() -> None:
    found = peak_bytes(unet(PUBLISHED), image_of(*SLIM), None)
    assert 0.95 < whole_bytes(PUBLISHED, SLIM, 4) / found < 1.1


@pytest.mark.parametrize("planes", [2, 4, 8, 16])
def test_a_stream_needs_at_most_what_is_foretold_and_not_much_less(planes: int) -> None:
    found = peak_bytes(unet(PUBLISHED), image_of(*SLIM), planes)
    assert 1.0 <= streamed_bytes(PUBLISHED, SLIM, planes, 4) / found < 1.45


def test_a_stream_of_few_planes_needs_a_fraction() -> None:
    image = image_of(1, 1, 160, 16, 16)
    network = unet(PUBLISHED)
    assert peak_bytes(network, image, 4) < 0.15 * peak_bytes(network, image, None)


def test_the_most_planes_that_fit_are_taken() -> None:
    for wish in (2, 8, 30):
        assert fitting_planes(UNET, SLIM, streamed_bytes(UNET, SLIM, wish, 4), 4) == wish
    assert fitting_planes(UNET, SLIM, streamed_bytes(UNET, SLIM, 10, 4) - 1, 4) == 8


def test_the_least_is_that_of_two_planes_or_of_a_network_that_is_smaller_still() -> None:
    assert least_bytes(UNET, SLIM, 4) == streamed_bytes(UNET, SLIM, 2, 4) < whole_bytes(UNET, SLIM, 4)
    low = (1, 1, 4, 64, 64)
    assert least_bytes(UNET, low, 4) == whole_bytes(UNET, low, 4) < streamed_bytes(UNET, low, 2, 4)


def test_half_precision_needs_about_half() -> None:
    half, full = streamed_bytes(PUBLISHED, SLIM, 8, 2), streamed_bytes(PUBLISHED, SLIM, 8, 4)
    assert math.isclose(half / full, 0.5, rel_tol=0.05)
