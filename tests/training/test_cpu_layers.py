"""The layers for training on CPUs against the plain ones, in float64 and in bfloat16."""

import copy

import pytest
import torch
import torch.nn.functional as F

from viscera.core.config import ScnConfig, UNetConfig
from viscera.model.networks import SpatialConfigurationNet, UNet
from viscera.training.cpu_layers import faster_precision, use_cpu_layers
from viscera.training.losses import one_hot, segmentation_loss

SMALL = UNetConfig(inputs=1, outputs=2, filters=4, levels=3, dropout=0.0)
SIZE = (8, 12, 16)


def image(size=SIZE, channels=1, dtype=torch.float64):
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(4), dtype=dtype) - 0.5


def both(config, dtype=torch.float64):
    torch.manual_seed(3)
    plain = UNet(config).to(dtype)
    fast = copy.deepcopy(plain)
    use_cpu_layers(fast, dtype)
    return plain, fast


def gradients(network, x):
    network.zero_grad()
    (network(x) * torch.linspace(-1, 1, x.numel() * 2, dtype=x.dtype).reshape(2, 2, *x.shape[2:])).sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize("size", [SIZE, (4, 4, 8)], ids=["usual", "flat at the bottom"])
def test_a_u_net_gives_the_same_output_and_gradients(size):
    plain, fast = both(SMALL)
    x = image(size)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-12, atol=1e-13)
    for one, other in zip(gradients(fast, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_gradients_reach_an_input_that_wants_them():
    plain, fast = both(SMALL)
    wanted = []
    for network in (plain, fast):
        x = image().requires_grad_()
        network(x).square().sum().backward()
        wanted.append(x.grad)
    torch.testing.assert_close(wanted[1], wanted[0], rtol=1e-10, atol=1e-12)


def test_the_whole_network_has_the_same_gradient_of_the_published_loss():
    torch.manual_seed(1)
    plain = SpatialConfigurationNet(ScnConfig(local_filters=4, local_levels=3, spatial_filters=4, spatial_levels=2))
    plain.eval().double()  # no dropout and no noise, whose random numbers depend on the layout in memory
    fast = copy.deepcopy(plain)
    use_cpu_layers(fast, torch.float64)
    x, labels = image((16, 16, 32))[:1], torch.randint(0, 5, (1, 16, 16, 32))
    for network in (plain, fast):
        segmentation_loss(network(x), one_hot(labels, 5).double(), (1.0, 1.0)).backward()
    for (name, one), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        # The fusion computes in float32.
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-8, msg=name)


def test_bfloat16_differs_by_its_rounding_alone():
    plain, fast = both(SMALL, torch.float32)
    use_cpu_layers(fast, torch.bfloat16)
    x = image(dtype=torch.float32)
    output = fast(x)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, plain(x), rtol=0.05, atol=0.02)
    for one, other in zip(gradients(fast, x), gradients(plain, x), strict=True):
        assert one.dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99


def test_a_convolution_over_two_slices_has_finite_gradients_in_bfloat16():
    plain, fast = both(UNetConfig(inputs=4, outputs=2, filters=32, levels=1, dropout=0.0), torch.float32)
    use_cpu_layers(fast, torch.bfloat16)
    x = torch.rand(2, 4, 2, 12, 12)
    for network in (plain, fast):
        network(x).square().mean().backward()
    one, other = fast.contracting[0].second.weight.grad, plain.contracting[0].second.weight.grad
    assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98


def test_the_faster_precision_is_one_of_two():
    assert faster_precision() in (torch.bfloat16, torch.float32)
