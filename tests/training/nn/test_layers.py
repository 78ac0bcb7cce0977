"""Layers against their definitions written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from training.nn.layers import EqualLinear, MinibatchStddev, ModulatedConv2d, PixelNorm, blur_kernel, upfirdn2d


def zero_insert(x: torch.Tensor, up: int) -> torch.Tensor:
    y = x.new_zeros(*x.shape[:2], x.shape[2] * up, x.shape[3] * up)
    y[:, :, ::up, ::up] = x
    return y


@pytest.mark.parametrize(("up", "down", "pad"), [(1, 1, (2, 1)), (2, 1, (2, 1)), (1, 2, (1, 1)), (2, 2, (3, 0))])
def test_upfirdn2d_is_zeros_filter_and_stride(up, down, pad, rng, device):
    x = torch.randn(2, 3, 7, 6, generator=rng).to(device)
    kernel = torch.randn(4, 4, generator=rng).to(device)
    padded = F.pad(zero_insert(x, up), (pad[0], pad[1], pad[0], pad[1]))
    wanted = F.conv2d(padded.flatten(0, 1)[:, None], kernel.flip(0, 1)[None, None])[:, 0]
    wanted = wanted.view(2, 3, *wanted.shape[1:])[:, :, ::down, ::down]
    torch.testing.assert_close(upfirdn2d(x, kernel, up=up, down=down, pad=pad), wanted, atol=1e-4, rtol=1e-4)


def test_upfirdn2d_has_second_gradients(rng):
    x = torch.randn(1, 2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    kernel = blur_kernel().double()
    assert torch.autograd.gradgradcheck(lambda x: upfirdn2d(x, kernel, up=2, pad=(2, 1)).square(), (x,))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_equals_its_definition(up, demodulate, rng):
    """Per-picture weights w'_oik = s_i w_oik / sqrt(sum (s_i w_oik)^2), picture by picture (StyleGAN2 Eq. 1-3)."""
    conv = ModulatedConv2d(3, 5, 3, 4, demodulate=demodulate, up=up)
    x, style = torch.randn(2, 3, 6, 6, generator=rng), torch.randn(2, 4, generator=rng)
    s = conv.modulation(style)
    for i in range(2):
        weight = conv.weight[0] * conv.scale * s[i][None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            wanted = F.conv_transpose2d(x[i : i + 1], weight.transpose(0, 1), stride=2)
            wanted = upfirdn2d(wanted, blur_kernel(4), pad=(1, 1))
        else:
            wanted = F.conv2d(x[i : i + 1], weight, padding=1)
        torch.testing.assert_close(conv(x, style)[i : i + 1], wanted, atol=1e-5, rtol=1e-4)


def test_equal_linear_keeps_variance_whatever_its_learning_rate(rng):
    torch.manual_seed(1)
    for lr_mul in (1.0, 0.01):
        y = EqualLinear(512, 512, lr_mul=lr_mul)(torch.randn(256, 512, generator=rng))
        assert y.std().item() == pytest.approx(1, abs=0.05)


def test_pixel_norm_by_hand():
    x = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(PixelNorm()(x), x / math.sqrt(12.5))


def test_minibatch_stddev_by_hand():
    """Two pictures that differ by 2 everywhere have deviation 1 around their mean; equal ones have none."""
    x = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 2.0)])
    y = MinibatchStddev(2)(x)
    assert y.shape == (2, 4, 2, 2)
    torch.testing.assert_close(y[:, 3], torch.ones(2, 2, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        MinibatchStddev(2)(x[:1].repeat(2, 1, 1, 1))[:, 3], torch.zeros(2, 2, 2), atol=2e-4, rtol=0
    )
