"""Shuffled convolutions: grouped, and then the channels dealt out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lwdc.candidates import DoesNotFit, build
from lwdc.candidates.shuffled import ChannelShuffle, deal
from lwdc.counting import count_macs, count_params


def test_the_shuffle_is_pytorchs_own(place: Any, released: Any) -> None:
    at = place(nn.Conv2d(8, 12, 3, stride=2, padding=1), 7, 8)
    operator = build({"op": "shuffled", "groups": 4}, at.site).double()
    operator.inherit(at.conv.weight)
    grouped = F.conv2d(at.x, operator.convolutions[0].weight, stride=2, padding=1, groups=4)
    assert torch.equal(operator(at.x), nn.ChannelShuffle(4)(grouped))
    torch.testing.assert_close(released(operator, at.conv.bias)(at.x), at.biased(operator(at.x)))


def test_dealing_out_and_back_is_the_identity() -> None:
    x = torch.randn(2, 24, 3)
    assert torch.equal(deal(deal(x, 1, 2, 4), 1, 2, 3), x)


def test_the_channels_of_a_sites_own_groups_stay_apart(place: Any) -> None:
    at = place(nn.Conv1d(8, 8, 3, groups=2, bias=False), 9)
    operator = build({"op": "shuffled", "groups": 4}, at.site).double()
    operator.inherit(at.conv.weight)
    changed = at.x.clone()
    changed[:, 4:] += 1
    assert torch.equal(operator(changed)[:, :4], operator(at.x)[:, :4])


@pytest.mark.parametrize("size", [None, 1])
def test_the_entries_that_have_a_place_are_kept(size: int | None, place: Any) -> None:
    at = place(nn.Conv2d(6, 6, 3, padding=1, bias=False), 7, 7)
    operator = build({"op": "shuffled", "groups": 3, "size": size}, at.site).double()
    error = operator.inherit(at.conv.weight)
    kernel, weight = operator.kernel().detach(), at.conv.weight.detach()
    place_of = kernel != 0
    assert torch.equal(kernel[place_of], weight[place_of])
    for row in range(6):  # row r reads the inputs of group r modulo 3
        group = row % 3
        assert set(place_of[row].any(2).any(1).nonzero().flatten().tolist()) == {2 * group, 2 * group + 1}
    assert int(place_of.sum()) == 6 * 2 * (9 if size is None else 1)
    lost = weight.masked_fill(place_of, 0).norm() / weight.norm()
    assert error == pytest.approx(float(lost))


@pytest.mark.parametrize(("size", "taps"), [(None, 9), (1, 1)])
def test_costs_are_those_of_the_grouped_convolution(size: int | None, taps: int, place: Any) -> None:
    at = place(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), 8, 8)
    module = build({"op": "shuffled", "groups": 4, "size": size}, at.site).release(None)
    assert count_params(module) == 8 * 16 * taps // 4
    assert count_macs(module, [at.site.input_shape]) == 8 * 16 * taps // 4 * 4 * 4
    assert isinstance(module[-1], ChannelShuffle)


@pytest.mark.parametrize(
    ("conv", "options", "message"),
    [
        (nn.Conv2d(8, 8, 3, groups=4), {"groups": 4}, "the site itself has 4 groups"),
        (nn.Conv2d(8, 8, 3), {"groups": 8}, "8 groups of one filter: there is nothing to shuffle"),
        (nn.Conv2d(8, 8, 3), {"groups": 2, "size": 0}, "there is no kernel of size 0"),
        (nn.Conv2d(8, 8, 3), {"groups": 3}, "groups=3 does not divide 8 -> 8 channels"),
    ],
)
def test_what_cannot_be_shuffled_is_refused(conv: nn.Module, options: dict[str, Any], message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "shuffled", **options}, place(conv, 7, 7).site)
