"""Operators without weights that are linear: skip, average pooling and zero."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from lwdc.backbones.cifar_resnet import PadShortcut
from lwdc.candidates import DoesNotFit, build


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 2), (1, 1), (5, 1)])
def test_skip_is_the_strided_input_where_the_padding_is_balanced(
    stride: int, kernel: int, dilation: int, place: Any
) -> None:
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(4, 4, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    at = place(conv, 11, 12)
    assert torch.equal(build({"op": "skip"}, at.site).release(None)(at.x), at.x[..., ::stride, ::stride])


@pytest.mark.parametrize(("outputs", "before"), [(8, 2), (7, 1), (5, 0)])
def test_skip_to_more_channels_is_option_a_of_resnet(outputs: int, before: int, place: Any, released: Any) -> None:
    at = place(nn.Conv2d(4, outputs, 3, stride=2, padding=1), 7, 8)
    operator = build({"op": "skip"}, at.site).double()
    wanted = F.pad(at.x[..., ::2, ::2], (0, 0, 0, 0, before, outputs - 4 - before))
    assert torch.equal(operator(at.x), wanted)
    assert torch.equal(released(operator, at.conv.bias)(at.x), at.biased(wanted))
    assert int(operator.kernel().count_nonzero()) == 4 and float(operator.kernel().sum()) == 4
    assert not list(operator.parameters())


@pytest.mark.parametrize("outputs", [4, 8])
def test_skip_to_more_channels_is_the_cifar_resnets_own_shortcut(outputs: int, place: Any) -> None:
    at = place(nn.Conv2d(4, outputs, 3, stride=2, padding=1, bias=False), 8, 8)
    shortcut = PadShortcut(4, outputs, 2)
    assert torch.equal(build({"op": "skip"}, at.site).release(None)(at.x), shortcut(at.x))


def test_skip_to_more_channels_widens_each_group_of_the_site(place: Any) -> None:
    at = place(nn.Conv1d(4, 10, 3, padding=1, groups=2), 6)
    y = build({"op": "skip"}, at.site)(at.x)
    assert torch.equal(y[:, [1, 2, 6, 7]], at.x)  # of five channels a group: one before, two behind
    assert not y[:, [0, 3, 4, 5, 8, 9]].any()


def test_skip_of_an_unpadded_site_crops_as_the_site_does(place: Any) -> None:
    at = place(nn.Conv2d(4, 4, 3, bias=False), 7, 7)
    assert torch.equal(build({"op": "skip"}, at.site)(at.x), at.x[..., 1:-1, 1:-1])


@pytest.mark.parametrize("size", [6, 7])
def test_skip_at_a_same_padded_site_keeps_its_phase(size: int, place: Any) -> None:
    at = place(Conv2dSame(4, 4, 3, stride=2, bias=False), size, size)
    with torch.no_grad():
        nn.init.dirac_(at.conv.weight)
    torch.testing.assert_close(build({"op": "skip"}, at.site)(at.x), at.conv(at.x))


def test_a_released_skip_lets_the_next_layer_write_in_place(place: Any) -> None:
    at = place(nn.Conv2d(4, 4, 3, padding=1, bias=False), 5, 5)
    module, x = build({"op": "skip"}, at.site).release(None), at.x.clone()
    y = F.relu(module(x), inplace=True) + x  # as in a residual block
    assert torch.equal(y, at.x.relu() + at.x)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (2, 1), (2, 0), (4, 1), (4, 2), ((1, 3), (0, 1))])
def test_average_pooling_counts_the_padding(kernel: Any, padding: Any, place: Any) -> None:
    at = place(nn.Conv2d(4, 4, kernel, stride=2, padding=padding, bias=False), 7, 8)
    operator = build({"op": "avg_pool"}, at.site).double()
    wanted = F.avg_pool2d(at.x, kernel, 2, padding, count_include_pad=True)
    torch.testing.assert_close(operator(at.x), wanted)
    assert isinstance(operator.release(None), nn.AvgPool2d)


def test_average_pooling_of_another_size_keeps_the_phase(place: Any) -> None:
    at = place(nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False), 8, 8)
    padded = F.pad(at.x, [2, 2, 2, 2])
    torch.testing.assert_close(build({"op": "avg_pool", "size": 5}, at.site)(at.x), F.avg_pool2d(padded, 5, 2))
    # Even windows cannot be centred: they hold the tap before the middle.
    even = build({"op": "avg_pool", "size": 2}, at.site)
    torch.testing.assert_close(even(at.x), F.avg_pool2d(F.pad(at.x, [1, 0, 1, 0]), 2, 2))


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 6, 3, stride=2), nn.Conv1d(4, 6, 3, stride=2, padding=2)])
def test_zero_leaves_the_bias(conv: nn.Module, place: Any) -> None:
    at = place(conv, *[7] * (conv.weight.dim() - 2))
    operator = build({"op": "zero"}, at.site)
    assert operator.inherit(at.conv.weight) == pytest.approx(1)
    y = operator.release(at.conv.bias)(at.x)
    assert torch.equal(y, (0 * at.conv(at.x) + at.conv.bias.view(-1, *[1] * at.site.dims)))


def test_fixed_patterns_stay_exact_in_every_precision(place: Any) -> None:
    at = place(nn.Conv2d(4, 4, 3), 6, 6)
    operator = build({"op": "avg_pool"}, at.site)
    kernel = operator.to(torch.bfloat16).double().compact_kernel()
    assert torch.equal(kernel, torch.full((4, 1, 3, 3), 1 / 9, dtype=torch.float64))


@pytest.mark.parametrize(
    ("conv", "candidate", "message"),
    [
        (nn.Conv2d(8, 4, 3), {"op": "skip"}, "it leaves out no channels, the site maps 8 to 4"),
        (nn.Conv2d(4, 8, 3), {"op": "avg_pool"}, "it keeps the channels, the site maps 4 to 8"),
        (nn.Conv2d(4, 4, 1), {"op": "avg_pool"}, r"a window of \(1, 1\) pools nothing"),
        (nn.Conv2d(4, 4, 3), {"op": "avg_pool", "size": -3}, r"a window of \(-3, -3\) pools nothing"),
        (nn.Conv2d(4, 4, 3, dilation=2), {"op": "avg_pool"}, "pooling windows are not dilated; give its size"),
    ],
)
def test_what_cannot_stand_is_refused(conv: nn.Module, candidate: Any, message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build(candidate, place(conv, 7, 7).site)
