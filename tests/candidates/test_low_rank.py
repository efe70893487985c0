"""Low-rank convolutions."""

from typing import Any

import pytest
import torch
from torch import nn

from lwdc.candidates import Chain, DoesNotFit, build
from lwdc.candidates.low_rank import truncate


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (40, 4, 3, 3), (12, 6, 5), (6, 6, 1, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_product_is_the_truncated_svd(shape: tuple[int, ...], groups: int) -> None:
    weight, rank = torch.randn(shape, dtype=torch.float64), 2
    core, back = truncate(weight, groups, rank)
    left = back.reshape(groups, shape[0] // groups, rank)
    product = (left @ core.reshape(groups, rank, -1)).reshape(shape)
    u, s, v = torch.linalg.svd(weight.reshape(groups, shape[0] // groups, -1), full_matrices=False)
    best = (u[..., :rank] * s[:, None, :rank]) @ v[:, :rank]
    torch.testing.assert_close(product, best.reshape(shape), rtol=1e-9, atol=1e-9)
    assert float(core.norm()) == pytest.approx(float(back.norm()))


def product(factors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    core, back = factors
    return (back.flatten(1) @ core.flatten(1)).reshape(-1, *core.shape[1:])


def best(weight: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(weight.double().flatten(1), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(weight.shape)


def test_what_is_kept_of_a_decomposition_never_serves_another_weight() -> None:
    weight = torch.randn(6, 4, 3, dtype=torch.float64)
    for rank in (1, 2, 3):  # one decomposition serves all
        torch.testing.assert_close(product(truncate(weight, 1, rank)), best(weight, rank))
    for changed in (torch.randn(6, 4, 3, dtype=torch.float64), weight):
        torch.testing.assert_close(product(truncate(changed, 1, 2)), best(changed, 2))
    weight.data[0] += 1  # in place, unseen by its version
    torch.testing.assert_close(product(truncate(weight, 1, 2)), best(weight, 2))
    half = truncate(weight.bfloat16(), 1, 2)
    assert half[0].dtype == torch.bfloat16
    torch.testing.assert_close(product(truncate(weight.bfloat16().double(), 1, 2)), best(weight.bfloat16(), 2))


def test_a_weight_of_lower_rank_is_inherited_whole(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3), 6, 6)
    with torch.no_grad():
        at.conv.weight[2:] = 0
    operator = build({"op": "low_rank", "ratio": 0.5}, at.site).double()
    assert operator.inherit(at.conv.weight) < 1e-7
    assert all(bool(p.isfinite().all()) for p in operator.parameters())


def test_the_ratio_is_of_the_full_rank_of_each_group(place: Any) -> None:
    def rank(conv: nn.Module, ratio: float) -> int:
        operator = build({"op": "low_rank", "ratio": ratio}, place(conv, 6, 6).site)
        assert isinstance(operator, Chain)
        return operator.convolutions[0].out_channels

    assert rank(nn.Conv2d(8, 16, 3), 0.25) == 4  # of 16 filters
    assert rank(nn.Conv2d(8, 16, 1), 0.25) == 2  # of 8 inputs
    assert rank(nn.Conv2d(8, 16, 3, groups=2), 0.25) == 2 * 2  # of 8 filters in each of 2 groups
    assert rank(nn.Conv2d(8, 16, 3), 0.01) == 1


@pytest.mark.parametrize(
    ("conv", "ratio", "message"),
    [
        (nn.Conv2d(8, 8, 3), 0.0, "ratio=0.0 is not between 0 and 1"),
        (nn.Conv2d(8, 8, 3), 1.0, "ratio=1.0 is not between 0 and 1"),
        (nn.Conv2d(8, 8, 3, groups=8), 0.5, "the rank is at most 1: nothing to reduce"),
    ],
)
def test_what_cannot_be_reduced_is_refused(conv: nn.Module, ratio: float, message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "low_rank", "ratio": ratio}, place(conv, 6, 6).site)
