"""Separable convolutions without a norm between."""

from typing import Any

import pytest
import torch
from torch import nn

from lwdc.candidates import Chain, DoesNotFit, build
from lwdc.candidates.separable import separate


@pytest.mark.parametrize("groups", [1, 2])
def test_every_input_channel_gets_its_best_rank_one_product(groups: int) -> None:
    weight = torch.randn(12, 6 // groups, 3, 2, dtype=torch.float64)
    depthwise, pointwise = separate(weight, groups)
    for channel in range(6):
        group, within = divmod(channel, 6 // groups)
        rows = slice(group * 12 // groups, (group + 1) * 12 // groups)
        u, s, v = torch.linalg.svd(weight[rows, within].flatten(1), full_matrices=False)
        found = pointwise[rows, within].flatten(1) * depthwise[channel].flatten()
        torch.testing.assert_close(found, s[0] * u[:, :1] @ v[:1], rtol=1e-9, atol=1e-9)
        assert float(depthwise[channel].norm()) == pytest.approx(float(pointwise[rows, within].norm()))


def test_a_channel_of_zeros_stays_zero_and_finite() -> None:
    weight = torch.randn(4, 3, 3, 3)
    weight[:, 1] = 0
    depthwise, pointwise = separate(weight, 1)
    assert not depthwise[1].any() and not pointwise[:, 1].any()
    assert bool(depthwise.isfinite().all()) and bool(pointwise.isfinite().all())


def test_stride_padding_and_dilation_sit_on_the_depthwise_layer(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2), 7, 7)
    operator = build({"op": "separable"}, at.site)
    assert isinstance(operator, Chain)
    depthwise, pointwise = operator.convolutions
    assert (depthwise.stride, depthwise.padding, depthwise.dilation) == ((2, 2), (2, 2), (2, 2))
    assert depthwise.groups == 4 and depthwise.weight.shape == (4, 1, 3, 3)
    assert (pointwise.stride, pointwise.padding, pointwise.dilation) == ((1, 1), (0, 0), (1, 1))


def test_a_larger_depthwise_kernel_takes_the_sites_own_in_its_middle(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, padding=1, bias=False), 7, 7)
    wide, own = (build(c, at.site).double() for c in ({"op": "separable", "size": 5}, {"op": "separable"}))
    assert wide.inherit(at.conv.weight) == pytest.approx(own.inherit(at.conv.weight))
    torch.testing.assert_close(wide(at.x), own(at.x))


@pytest.mark.parametrize(
    ("conv", "options", "message"),
    [
        (nn.Conv2d(8, 8, 1), {}, "has nothing to separate"),
        (nn.Conv2d(8, 8, 3), {"size": 1}, "has nothing to separate"),
        (nn.Conv2d(8, 8, 3), {"size": -3}, "has nothing to separate"),
        (nn.Conv2d(8, 8, 3, groups=8), {}, "the site is depthwise already"),
    ],
)
def test_what_cannot_be_separated_is_refused(conv: nn.Module, options: Any, message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "separable", **options}, place(conv, 6, 6).site)
