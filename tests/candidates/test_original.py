"""The original layer as a candidate."""

import copy
from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn

from lwdc.candidates import build
from lwdc.candidates.original import effective_weight


@pytest.mark.parametrize("kind", [StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame])
def test_the_effective_weight_is_the_standardised_one(kind: type[nn.Conv2d], place: Any) -> None:
    conv = kind(4, 6, 3, stride=2)
    if hasattr(conv, "gain"):
        nn.init.normal_(conv.gain)
    at = place(conv, 6, 6)
    same = isinstance(conv, (StdConv2dSame, ScaledStdConv2dSame))
    plain = (Conv2dSame if same else nn.Conv2d)(4, 6, 3, stride=2, padding=0 if same else 1).double()
    y = torch.func.functional_call(plain, {"weight": effective_weight(conv), "bias": conv.bias}, (at.x,))
    torch.testing.assert_close(y, conv(at.x), rtol=1e-10, atol=1e-10)


def test_the_original_is_the_sites_own_layer(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3), 6, 6)
    operator = build({"op": "original"}, at.site)
    operator.own(at.conv)
    assert operator.release(at.conv.bias) is at.conv
    assert operator.inherit(at.conv.weight) == 0
    assert not list(operator.parameters())  # the selection operator registers them, once


def test_a_copy_together_with_its_layer_follows_the_copied_layer(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3), 6, 6)
    operator = build({"op": "original"}, at.site)
    operator.own(at.conv)
    conv, twin = copy.deepcopy((at.conv, operator))
    assert twin.release(None) is conv
