"""Tucker convolutions: reduction, core and expansion."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwdc.candidates import Chain, DoesNotFit, build
from lwdc.candidates.low_rank import truncate
from lwdc.candidates.tucker import decompose
from lwdc.counting import count_macs, count_params


def product(front: Tensor, core: Tensor, back: Tensor, groups: int) -> Tensor:
    front = front.flatten(1).unflatten(0, (groups, -1))  # (g, s, i)
    core = core.unflatten(0, (groups, -1))  # (g, r, s, *k)
    back = back.flatten(1).unflatten(0, (groups, -1))  # (g, o, r)
    return torch.einsum("gor,grs...,gsi->goi...", back, core, front).flatten(0, 1)


@pytest.mark.parametrize(("shape", "groups"), [((6, 5, 3, 3), 1), ((8, 4, 3), 2)])
def test_a_kernel_of_that_rank_is_inherited_whole(shape: tuple[int, ...], groups: int) -> None:
    out, into, *taps = shape
    front = torch.randn(groups * 2, into, dtype=torch.float64)
    core = torch.randn(groups * 3, 2, *taps, dtype=torch.float64)
    weight = product(front, core, torch.randn(out, 3, dtype=torch.float64), groups)
    parts = decompose(weight, groups, 2, 3)
    torch.testing.assert_close(product(*parts, groups), weight, rtol=1e-9, atol=1e-9)
    assert parts[0].norm() == pytest.approx(float(parts[1].norm())) == pytest.approx(float(parts[2].norm()))


@pytest.mark.parametrize("groups", [1, 2])
def test_every_turn_brings_it_nearer_than_the_higher_order_svd(groups: int) -> None:
    weight = torch.randn(16, 8, 3, 3, dtype=torch.float64)
    lost = [float((weight - product(*decompose(weight, groups, 3, 4, t), groups)).norm()) for t in range(5)]
    assert lost[1] < lost[0] and all(b <= a + 1e-12 for a, b in itertools.pairwise(lost))
    # Nothing of lower rank between the filters and the rest alone can be nearer than the truncated SVD.
    core, back = truncate(weight, groups, 4)
    ranked = torch.einsum(
        "gor,grj->goj", back.flatten(1).unflatten(0, (groups, -1)), core.flatten(1).unflatten(0, (groups, -1))
    )
    assert lost[-1] >= float((weight.flatten(1) - ranked.flatten(0, 1)).norm())


def test_the_core_carries_the_sites_geometry_and_costs_are_exact(place: Any) -> None:
    at = place(nn.Conv2d(8, 16, 3, stride=2, padding=2, dilation=2, groups=2, bias=False), 8, 8)
    operator = build({"op": "tucker", "ratio": 0.5}, at.site)
    assert isinstance(operator, Chain)
    first, core, last = operator.convolutions
    assert [conv.groups for conv in (first, core, last)] == [2, 2, 2]
    assert (core.stride, core.padding, core.dilation) == ((2, 2), (2, 2), (2, 2))
    module = operator.release(None)
    reduction, kernel, expansion = 4 * 8 // 2, 8 * 4 * 9 // 2, 16 * 8 // 2
    assert count_params(module) == reduction + kernel + expansion
    assert count_macs(module, [at.site.input_shape]) == 64 * reduction + 16 * (kernel + expansion)


@pytest.mark.parametrize("op", ["tucker", "squeezed"])
@pytest.mark.parametrize(
    ("conv", "ratio", "message"),
    [
        (nn.Conv2d(8, 8, 3), 1, "ratio=1 is not between 0 and 1"),
        (nn.Conv2d(8, 8, 1), 0.5, "a kernel of one tap has no core to keep"),
        (nn.Conv2d(8, 8, 3, groups=8), 0.5, "1 -> 1 channels are too few to be reduced"),
        (nn.Conv2d(8, 2, 3), 0.9, "8 -> 2 channels are too few to be reduced"),
    ],
)
def test_what_cannot_be_reduced_is_refused(op: str, conv: nn.Module, ratio: float, message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": op, "ratio": ratio}, place(conv, 7, 7).site)
