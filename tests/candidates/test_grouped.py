"""Grouped convolutions."""

from typing import Any

import pytest
import torch
from torch import nn

from lwdc.candidates import DoesNotFit, build, label
from lwdc.errors import SpaceError


def test_a_grouped_operator_keeps_the_diagonal_blocks(place: Any) -> None:
    at = place(nn.Conv2d(8, 4, 3, bias=False), 6, 6)
    operator = build({"op": "grouped", "groups": 2}, at.site).double()
    error = operator.inherit(at.conv.weight)
    kernel, weight = operator.kernel(), at.conv.weight
    assert torch.equal(kernel[:2, :4], weight[:2, :4]) and torch.equal(kernel[2:, 4:], weight[2:, 4:])
    assert not kernel[:2, 4:].any() and not kernel[2:, :4].any()
    lost = torch.cat([weight[:2, 4:].flatten(), weight[2:, :4].flatten()]).norm() / weight.norm()
    assert error == pytest.approx(float(lost.detach()))


def test_the_released_module_is_one_grouped_convolution(place: Any) -> None:
    at = place(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), 6, 6)
    module = build({"op": "grouped", "groups": 4}, at.site).release(None)
    assert isinstance(module, nn.Conv2d)
    assert module.groups == 4 and module.weight.shape == (16, 2, 3, 3)


@pytest.mark.parametrize("groups", [1, 2])
def test_no_more_groups_than_the_site_has_already_is_refused(groups: int, place: Any) -> None:
    with pytest.raises(DoesNotFit, match="the site itself has 2 groups"):
        build({"op": "grouped", "groups": groups}, place(nn.Conv2d(8, 8, 3, groups=2), 6, 6).site)


@pytest.mark.parametrize("groups", [0, -1, "depthwise", 2.0])
def test_what_is_no_number_of_groups_is_refused(groups: Any, place: Any) -> None:
    with pytest.raises(SpaceError, match="groups is a number from 1 on, or most, found") as refusal:
        build({"op": "grouped", "groups": groups}, place(nn.Conv2d(8, 8, 3), 6, 6).site)
    assert not isinstance(refusal.value, DoesNotFit)


@pytest.mark.parametrize(("into", "out", "groups"), [(8, 8, 8), (8, 16, 8), (16, 8, 8), (8, 12, 4)])
def test_most_groups_are_those_that_both_sides_allow(into: int, out: int, groups: int, place: Any) -> None:
    candidate = {"op": "grouped", "groups": "most"}
    module = build(candidate, place(nn.Conv2d(into, out, 3), 6, 6).site).release(None)
    assert isinstance(module, nn.Conv2d)
    assert module.groups == groups and module.weight.shape == (out, into // groups, 3, 3)
    assert label(candidate) == "grouped_most"


def test_most_groups_are_refused_where_the_site_has_them(place: Any) -> None:
    with pytest.raises(DoesNotFit, match="the site itself has 8 groups"):
        build({"op": "grouped", "groups": "most"}, place(nn.Conv2d(8, 8, 3, groups=8), 6, 6).site)
