"""Convolutions of another kernel size or dilation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from lwdc.candidates import DoesNotFit, build


def test_pointwise_is_the_centre_tap(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), 7, 8)
    operator = build({"op": "pointwise"}, at.site).double()
    operator.inherit(at.conv.weight)
    torch.testing.assert_close(operator(at.x), F.conv2d(at.x, at.conv.weight[..., 1:2, 1:2], stride=2))


def test_a_smaller_kernel_of_an_unpadded_site_crops_the_map(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 5, bias=False), 7, 8)
    operator = build({"op": "kernel", "size": 3}, at.site).double()
    operator.inherit(at.conv.weight)
    cropped = at.x[..., 1:-1, 1:-1]
    torch.testing.assert_close(operator.release(None)(at.x), F.conv2d(cropped, at.conv.weight[..., 1:4, 1:4]))


@pytest.mark.parametrize("size", [6, 7])
def test_the_phase_of_same_padding_follows_each_inputs_own_size(
    size: int, place: Any, close: Any, released: Any
) -> None:
    at = place(Conv2dSame(4, 6, 3, stride=2, bias=False), 6, 6)
    x = torch.randn(2, 4, size, size, dtype=torch.float64)
    for candidate in (
        {"op": "pointwise"},
        {"op": "kernel", "size": 2},
        {"op": "separable"},
        {"op": "kernel", "size": 5},
    ):
        operator = build(candidate, at.site).double()
        operator.inherit(at.conv.weight)
        wide = F.pad(operator.kernel(), [0] * 4)
        y = released(operator)(x)
        if wide.shape[-1] == 3:
            assert close(y, torch.func.functional_call(at.conv, {"weight": wide}, (x,)))
        assert y.shape == at.conv(x).shape


def test_a_wider_kernel_starts_as_the_original(place: Any, close: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, padding=1, bias=False), 7, 7)
    for candidate in ({"op": "kernel", "size": 5}, {"op": "kernel", "size": 7}):
        operator = build(candidate, at.site).double()
        assert operator.inherit(at.conv.weight) == pytest.approx(0, abs=1e-12)
        assert close(operator(at.x), at.conv(at.x))


def test_a_dilated_kernel_keeps_the_tap_that_it_shares(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, padding=1, bias=False), 7, 7)
    operator = build({"op": "dilated"}, at.site).double()
    operator.inherit(at.conv.weight)
    kernel = operator.kernel()
    assert kernel.shape == (6, 4, 5, 5)
    assert torch.equal(kernel[..., 2, 2], at.conv.weight[..., 1, 1])
    assert int((kernel != 0).sum()) == 6 * 4


@pytest.mark.parametrize(
    ("conv", "candidate", "message"),
    [
        (nn.Conv2d(8, 8, 3), {"op": "kernel", "size": 3}, "it is the original"),
        (nn.Conv2d(8, 8, 1), {"op": "pointwise"}, "it is the original"),
        (nn.Conv2d(8, 8, 3, dilation=2), {"op": "dilated"}, "it is the original"),
        (nn.Conv2d(8, 8, 3), {"op": "kernel", "size": 0}, "there is no kernel of size 0"),
        (nn.Conv2d(8, 8, 3), {"op": "dilated", "dilation": 0}, "there is no kernel of size 3 and dilation"),
    ],
)
def test_a_size_that_changes_nothing_is_refused(conv: nn.Module, candidate: Any, message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build(candidate, place(conv, 7, 7).site)
