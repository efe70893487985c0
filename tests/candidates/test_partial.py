"""Partial convolutions: some channels convolved, the others passed through."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lwdc.candidates import DoesNotFit, build
from lwdc.counting import count_macs, count_params


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_channels_are_convolved_and_the_others_pass(stride: int, place: Any, released: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, stride=stride, padding=1), 7, 8)
    operator = build({"op": "partial"}, at.site).double()
    operator.inherit(at.conv.weight)
    convolved = F.conv2d(at.x[:, :2], at.conv.weight[:2, :2], stride=stride, padding=1)
    wanted = torch.cat([convolved, at.x[:, 2:, ::stride, ::stride]], 1)
    torch.testing.assert_close(operator(at.x), wanted)
    torch.testing.assert_close(released(operator, at.conv.bias)(at.x), at.biased(wanted))


def test_each_group_of_the_site_is_split(place: Any) -> None:
    at = place(nn.Conv1d(8, 8, 3, padding=1, groups=2), 7)
    operator = build({"op": "partial", "ratio": 2}, at.site).double()
    operator.inherit(at.conv.weight)
    y = operator(at.x)
    assert torch.equal(y[:, [2, 3, 6, 7]], at.x[:, [2, 3, 6, 7]])
    torch.testing.assert_close(y[:, 4:6], F.conv1d(at.x[:, 4:6], at.conv.weight[4:6, :2], padding=1))


def test_the_error_counts_what_the_identity_cannot_be(place: Any) -> None:
    at = place(nn.Conv2d(4, 4, 3, padding=1, bias=False), 6, 6)
    with torch.no_grad():
        nn.init.dirac_(at.conv.weight)
    assert build({"op": "partial"}, at.site).double().inherit(at.conv.weight) == pytest.approx(0)
    nn.init.normal_(at.conv.weight)
    operator = build({"op": "partial", "ratio": 2}, at.site).double()
    target = at.conv.weight.detach().clone()
    error = operator.inherit(target)
    others = target.clone()
    others[:2, :2] = 0
    others[[2, 3], [2, 3], 1, 1] -= 1
    assert error == pytest.approx(float(others.norm() / target.norm()))


def test_costs_are_those_of_the_channels_convolved(place: Any) -> None:
    at = place(nn.Conv2d(16, 16, 3, stride=2, padding=1), 8, 8)
    module = build({"op": "partial", "ratio": 4}, at.site).release(at.conv.bias)
    assert count_params(module) == 4 * 4 * 9 + 16
    assert count_macs(module, [at.site.input_shape]) == 4 * 4 * 9 * 4 * 4


def test_fresh_weights_take_their_share_of_the_norm(place: Any) -> None:
    operator = build({"op": "partial"}, place(nn.Conv2d(16, 16, 3), 8, 8).site)
    operator.reset(3.0)
    assert float(operator.layer.weight.detach().norm()) == pytest.approx(3 * (4 / 16) ** 0.5)


@pytest.mark.parametrize(
    ("conv", "ratio", "message"),
    [
        (nn.Conv2d(4, 8, 3), 4, "it keeps the channels, the site maps 4 to 8"),
        (nn.Conv2d(8, 8, 3), 1, "ratio=1 leaves no channel to pass through"),
        (nn.Conv2d(8, 8, 3, groups=4), 4, "1 / 4 of 2 channels is none"),
    ],
)
def test_what_cannot_be_split_is_refused(conv: nn.Module, ratio: int, message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "partial", "ratio": ratio}, place(conv, 7, 7).site)
