"""Ghost convolutions: cheap maps made from others."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lwdc.candidates import DoesNotFit, build
from lwdc.counting import count_macs, count_params


def test_with_the_networks_norm_and_relu_it_is_the_ghostnet_module(place: Any) -> None:
    at = place(nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), 7, 8)
    operator = build({"op": "ghost"}, at.site).double().train()
    operator.reset(1.0)
    layer = operator.layer

    def norm(y: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(y, None, None, training=True)

    primary = torch.relu(norm(layer.primary(at.x)))
    cheap = torch.relu(norm(F.conv2d(primary, layer.cheap.weight, padding=1, groups=4)))
    torch.testing.assert_close(torch.relu(norm(operator(at.x))), torch.cat([primary, cheap], 1))


@pytest.mark.parametrize(("ratio", "kept"), [(2, 5), (3, 3), (4, 3)])
def test_costs_are_those_of_the_paper(ratio: int, kept: int, place: Any) -> None:
    at = place(nn.Conv2d(8, 9, 3, stride=2, padding=1), 8, 8)
    module = build({"op": "ghost", "ratio": ratio, "size": 5}, at.site).release(at.conv.bias)
    primary, cheap = kept * 8 * 9, kept * (ratio - 1) * 25
    assert count_params(module) == primary + cheap + 2 * kept  # and the norm
    assert count_macs(module, [at.site.input_shape]) == (primary + cheap) * 4 * 4


def test_first_filters_are_kept_and_multiples_of_them_too(place: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, bias=False), 7, 7)
    with torch.no_grad():
        at.conv.weight[2:4] = -2 * at.conv.weight[[0, 0]]
        at.conv.weight[4:6] = 0.5 * at.conv.weight[[1, 1]]
    operator = build({"op": "ghost", "ratio": 3}, at.site).double()
    assert operator.inherit(at.conv.weight) < 1e-12
    # Not to the last bit: convolutions of 2 and of 6 filters may sum in another order.
    torch.testing.assert_close(operator(at.x)[:, :2], at.conv(at.x)[:, :2], rtol=1e-12, atol=1e-12)
    assert operator.layer.cheap.weight[:, 0, 1, 1].tolist() == pytest.approx([-2, -2, 0.5, 0.5])


@pytest.mark.parametrize("groups", [1, 2])
def test_the_error_is_that_of_the_best_multiples(groups: int, place: Any) -> None:
    at = place(nn.Conv2d(4, 10, 3, groups=groups, bias=False), 7, 7)
    error = build({"op": "ghost"}, at.site).double().inherit(at.conv.weight)
    lost = 0.0
    for rows in at.conv.weight.detach().flatten(1).chunk(groups):
        kept = -(-len(rows) // 2)
        for own, other in zip(rows, rows[kept:], strict=False):
            cosine = F.cosine_similarity(own, other, 0)
            lost += float(other.norm() ** 2 * (1 - cosine**2))
    assert error == pytest.approx(lost**0.5 / float(at.conv.weight.detach().norm()))


def test_ghosts_of_a_group_are_made_from_that_group(place: Any) -> None:
    at = place(nn.Conv1d(8, 12, 3, padding=1, groups=2, bias=False), 9)
    operator = build({"op": "ghost"}, at.site).double().eval()
    operator.reset(1.0)
    changed = at.x.clone()
    changed[:, 4:] += 1
    same = (operator(changed) == operator(at.x)).all(2).all(0)
    assert same.tolist() == [True] * 6 + [False] * 6


def test_fresh_weights_give_the_originals_second_moment(place: Any) -> None:
    at = place(nn.Conv2d(32, 32, 3, padding=1, bias=False), 16, 16)
    x = torch.randn(8, 32, 16, 16, dtype=torch.float64)
    operator = build({"op": "ghost"}, at.site).double().train()
    operator.reset(float(at.conv.weight.detach().norm()))
    for maps in operator(x).detach().chunk(2, 1):
        moment = float((maps**2).mean() / (at.conv(x).detach() ** 2).mean())
        assert 0.6 < moment < 1.6


@pytest.mark.parametrize(
    ("conv", "options", "message"),
    [
        (nn.Conv2d(8, 8, 3), {"ratio": 1}, "ratio=1 leaves nothing to the cheap kernel"),
        (nn.Conv2d(8, 8, 3), {"size": 4}, "the cheap kernel needs an odd size, not 4"),
        (nn.Conv2d(8, 8, 3, groups=8), {}, "one filter a group cannot be shared"),
    ],
)
def test_what_has_no_ghosts_is_refused(conv: nn.Module, options: dict[str, Any], message: str, place: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "ghost", **options}, place(conv, 7, 7).site)
