"""Spatially factorised convolutions."""

from typing import Any

import pytest
import torch
from torch import nn

from lwdc.candidates import Chain, DoesNotFit, build


def test_a_kernel_that_is_a_product_is_inherited_whole(place: Any) -> None:
    at = place(nn.Conv2d(6, 8, (3, 5), padding=(1, 2), groups=2), 9, 9)
    first = torch.randn(2, 2, 3, 3, dtype=torch.float64)  # group, middle, channels, rows
    second = torch.randn(2, 4, 2, 5, dtype=torch.float64)  # group, filters, middle, columns
    weight = torch.einsum("gmir,gomc->goirc", first, second).reshape(8, 3, 3, 5)
    assert build({"op": "factorised"}, at.site).double().inherit(weight) < 1e-7


def test_the_layers_share_the_work_of_the_axes(place: Any) -> None:
    operator = build({"op": "factorised", "ratio": 0.25}, place(nn.Conv2d(8, 16, (3, 5), stride=(2, 1)), 9, 9).site)
    assert isinstance(operator, Chain)
    first, second = operator.convolutions
    assert (first.in_channels, first.out_channels, first.kernel_size, first.stride) == (8, 4, (3, 1), (2, 1))
    assert (second.in_channels, second.out_channels, second.kernel_size, second.stride) == (4, 16, (1, 5), (1, 1))


def test_no_more_filters_stand_between_than_the_kernel_has_rank(place: Any) -> None:
    operator = build({"op": "factorised", "ratio": 1}, place(nn.Conv2d(1, 16, 3), 9, 9).site)
    assert isinstance(operator, Chain)
    assert operator.convolutions[0].out_channels == 3


@pytest.mark.parametrize(
    ("conv", "sizes", "options", "message"),
    [
        (nn.Conv2d(8, 8, 3), (6, 6), {"ratio": 0}, r"ratio=0 is not in \(0, 1\]"),
        (nn.Conv2d(8, 8, (1, 5)), (6, 6), {}, "nothing to factorise"),
        (nn.Conv1d(8, 8, 5), (9,), {}, "nothing to factorise"),
    ],
)
def test_what_cannot_be_factorised_is_refused(
    conv: nn.Module, sizes: tuple[int, ...], options: dict[str, Any], message: str, place: Any
) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "factorised", **options}, place(conv, *sizes).site)
