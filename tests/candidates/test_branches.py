"""Operators that run as branches: chains with norms inside, max-pooling."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from lwdc.candidates import DoesNotFit, build
from lwdc.counting import count_macs, count_params


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (2, 1), (2, 0), (4, 2), (4, 1), ((1, 3), (0, 1))])
def test_max_pooling_is_pytorchs_own_on_the_sites_window(kernel: Any, padding: Any, place: Any) -> None:
    at = place(nn.Conv2d(4, 4, kernel, stride=2, padding=padding), 7, 8)
    operator = build({"op": "max_pool"}, at.site)
    assert torch.equal(operator(at.x), F.max_pool2d(at.x, kernel, 2, padding))
    assert isinstance(operator.release(at.conv.bias), nn.MaxPool2d)


@pytest.mark.parametrize(("padding", "size"), [(2, None), (1, 2), (0, 5), (1, 5)])
def test_other_paddings_of_max_pooling_are_never_the_maximum(padding: int, size: int | None, place: Any) -> None:
    at = place(nn.Conv2d(4, 4, 3, stride=2, padding=padding), 7, 8)
    y = build({"op": "max_pool", "size": size}, at.site)(at.x - 100)
    assert y.shape == at.conv(at.x).shape
    assert bool(y.isfinite().all()) and bool((y < 0).all())


def test_max_pooling_with_windows_of_padding_alone_is_refused(place: Any) -> None:
    with pytest.raises(DoesNotFit, match="leaves windows without a pixel"):
        build({"op": "max_pool"}, place(nn.Conv2d(4, 4, 3, padding=3), 7, 8).site)


@pytest.mark.parametrize("size", [6, 7])
def test_max_pooling_follows_same_padding(size: int, place: Any) -> None:
    at = place(Conv2dSame(4, 4, 3, stride=2), size, size)
    y = build({"op": "max_pool"}, at.site)(at.x)
    before = 0 if size == 6 else 1
    assert torch.equal(y, F.max_pool2d(F.pad(at.x, [before, 1] * 2, value=-torch.inf), 3, 2))


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2)]
)
def test_a_separable_convolution_with_a_norm_is_the_mobilenet_block(conv: nn.Module, place: Any) -> None:
    at = place(conv, *[7] * (conv.weight.dim() - 2))
    operator = build({"op": "separable_norm"}, at.site).double().eval()
    linear = build({"op": "separable"}, at.site).double()
    assert operator.inherit(at.conv.weight) == pytest.approx(linear.inherit(at.conv.weight))
    depthwise, pointwise = linear.convolutions
    wanted = pointwise(torch.relu(depthwise(at.x) / (1 + 1e-5) ** 0.5))
    torch.testing.assert_close(operator(at.x), wanted)
    torch.testing.assert_close(operator.release(at.conv.bias)(at.x), wanted)  # the bias is not its own


def test_fresh_weights_of_a_normed_operator_give_the_originals_second_moment(place: Any) -> None:
    at = place(nn.Conv2d(32, 32, 3, padding=1, bias=False), 16, 16)
    x = torch.randn(8, 32, 16, 16, dtype=torch.float64)
    operator = build({"op": "separable_norm"}, at.site).double().train()
    operator.reset(float(at.conv.weight.detach().norm()))
    moment = float((operator(x).detach() ** 2).mean() / (at.conv(x).detach() ** 2).mean())
    assert 0.7 < moment < 1.4


def test_branches_without_channels_or_taps_to_work_on_are_refused(place: Any) -> None:
    with pytest.raises(DoesNotFit, match="it keeps the channels, the site maps 4 to 8"):
        build({"op": "max_pool"}, place(nn.Conv2d(4, 8, 3), 7, 8).site)
    for conv, message in (
        (nn.Conv2d(4, 8, 1), "has nothing to separate"),
        (nn.Conv2d(4, 4, 3, groups=4), "the site is depthwise already"),
    ):
        with pytest.raises(DoesNotFit, match=message):
            build({"op": "separable_norm"}, place(conv, 7, 8).site)


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_separable_convolution_of_another_size_or_twice_costs_what_its_layers_do(repeats: int, place: Any) -> None:
    at = place(nn.Conv2d(8, 16, 3, stride=2, padding=1), 8, 8)
    module = build({"op": "separable_norm", "size": 5, "repeats": repeats}, at.site).release(at.conv.bias)
    weights = 8 * 25 + 8 * 16 + (8 * 8 + 8 * 25) * (repeats - 1)
    assert count_params(module) == weights + 2 * 8  # and the norm
    assert count_macs(module, [at.site.input_shape]) == weights * 4 * 4  # all behind the stride


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(8, 6, (4, 2), groups=2, dilation=2, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 8, 4, stride=2, padding=1, padding_mode="circular"),
        Conv2dSame(4, 6, 4, stride=2),
    ],
)
def test_a_second_separable_convolution_begins_as_the_identity(conv: nn.Module, place: Any) -> None:
    at = place(conv, *[9] * (conv.weight.dim() - 2))
    once, twice = (build({"op": "separable_norm", "repeats": n}, at.site).double() for n in (1, 2))
    assert once.inherit(at.conv.weight) == twice.inherit(at.conv.weight)
    torch.testing.assert_close(once(at.x), twice(at.x))


def test_a_squeezed_convolution_is_the_bottleneck_of_tuckers_factors(place: Any) -> None:
    at = place(nn.Conv2d(8, 12, 3, stride=2, padding=1), 7, 7)
    operator = build({"op": "squeezed", "ratio": 0.5}, at.site).double().eval()
    linear = build({"op": "tucker", "ratio": 0.5}, at.site).double()
    assert operator.inherit(at.conv.weight) == linear.inherit(at.conv.weight)
    first, core, last = linear.convolutions
    scale = (1 + 1e-5) ** 0.5
    wanted = last(torch.relu(core(torch.relu(first(at.x) / scale)) / scale))
    torch.testing.assert_close(operator(at.x), wanted)
    module = operator.release(at.conv.bias)
    torch.testing.assert_close(module(at.x), wanted)  # the bias is not its own
    assert count_params(module) == 4 * 8 + 6 * 4 * 9 + 12 * 6 + 2 * (4 + 6)
    assert count_macs(module, [at.site.input_shape]) == 49 * 4 * 8 + 16 * (6 * 4 * 9 + 12 * 6)


@pytest.mark.parametrize("candidate", [{"op": "separable_norm", "repeats": 2}, {"op": "squeezed", "ratio": 0.5}])
def test_every_fresh_branch_gives_the_originals_second_moment(candidate: Any, place: Any) -> None:
    at = place(nn.Conv2d(32, 32, 3, padding=1, bias=False), 16, 16)
    x = torch.randn(8, 32, 16, 16, dtype=torch.float64)
    operator = build(candidate, at.site).double().train()
    operator.reset(float(at.conv.weight.detach().norm()))
    moment = float((operator(x).detach() ** 2).mean() / (at.conv(x).detach() ** 2).mean())
    assert 0.5 < moment < 2


def test_a_separable_convolution_is_repeated_once_at_most(place: Any) -> None:
    with pytest.raises(DoesNotFit, match="repeats=3 is neither 1 nor 2"):
        build({"op": "separable_norm", "repeats": 3}, place(nn.Conv2d(4, 4, 3), 7, 8).site)
