"""Shift convolutions: channels moved by taps, then a 1x1 convolution."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from lwdc.candidates import DoesNotFit, build
from lwdc.candidates.shift import divide
from lwdc.counting import count_macs, count_params


@pytest.mark.parametrize(("channels", "taps"), [(18, 9), (20, 9), (64, 25), (8, 3)])
def test_channels_are_divided_evenly(channels: int, taps: int) -> None:
    given = divide(channels, taps)
    counts = [given.count(tap) for tap in range(taps)]
    assert len(given) == channels and given == sorted(given) and max(counts) - min(counts) <= 1


def test_fewer_channels_than_taps_lie_evenly_among_them() -> None:
    assert divide(4, 9) == [1, 3, 5, 7]
    assert divide(3, 9) == [1, 4, 7]


@pytest.mark.parametrize("stride", [1, 2])
def test_every_channel_is_the_input_moved_by_its_tap(stride: int, place: Any) -> None:
    at = place(nn.Conv2d(9, 9, 3, stride=stride, padding=2, dilation=2), 7, 8)
    shifted = build({"op": "shift"}, at.site).layers[0](at.x)
    padded = F.pad(at.x, (2, 2, 2, 2))
    for channel in range(9):
        row, column = divmod(channel, 3)
        wanted = padded[:, channel, 2 * row : 2 * row + 7 : stride, 2 * column : 2 * column + 8 : stride]
        assert torch.equal(shifted[:, channel], wanted)


def test_a_wrapping_line_is_rolled(place: Any) -> None:
    at = place(nn.Conv1d(6, 6, 3, padding=1, padding_mode="circular", groups=2), 7)
    shifted = build({"op": "shift"}, at.site).layers[0](at.x)
    for channel in range(6):
        assert torch.equal(shifted[:, channel], at.x[:, channel].roll(1 - channel % 3, -1))


@pytest.mark.parametrize("size", [6, 7])
def test_same_padding_follows_each_inputs_own_size(size: int, place: Any, close: Any, released: Any) -> None:
    at = place(Conv2dSame(9, 4, 3, stride=2, bias=False), 6, 6)
    x = torch.randn(2, 9, size, size, dtype=torch.float64)
    operator = build({"op": "shift"}, at.site).double()
    operator.inherit(at.conv.weight)
    assert close(released(operator)(x), torch.func.functional_call(at.conv, {"weight": operator.kernel()}, (x,)))


def test_of_every_channel_the_column_at_its_tap_is_kept(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, bias=False), 7, 7)
    operator = build({"op": "shift"}, at.site).double()
    error = operator.inherit(at.conv.weight)
    weight = at.conv.weight.detach().flatten(2)
    kept = torch.stack([weight[:, channel, tap] for channel, tap in enumerate([1, 3, 5, 7])], 1)
    assert torch.equal(operator.conv.weight.flatten(1), kept)
    assert error == pytest.approx(float((weight.norm() ** 2 - kept.norm() ** 2).sqrt() / weight.norm()))


def test_a_shift_costs_nothing(place: Any) -> None:
    at = place(nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2), 8, 8)
    module = build({"op": "shift"}, at.site).double().release(at.conv.bias)
    assert count_params(module) == 8 * 16 // 2 + 16
    assert count_macs(module, [at.site.input_shape]) == 8 * 16 // 2 * 4 * 4


def test_fresh_weights_have_the_norm_asked_for(place: Any) -> None:
    operator = build({"op": "shift"}, place(nn.Conv2d(8, 16, 3), 8, 8).site)
    operator.reset(3.0)
    assert float(operator.kernel().detach().norm()) == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (nn.Conv2d(8, 8, 1), "there is one tap: nothing to shift"),
        (nn.Conv2d(8, 8, 3, groups=8), "one channel a group cannot be divided among the taps"),
    ],
)
def test_what_cannot_be_shifted_is_refused(conv: nn.Module, message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "shift"}, place(conv, 7, 7).site)
