"""Sums: several operators side by side."""

import copy
import functools
import itertools
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lwdc.candidates import Candidate, Chain, DoesNotFit, build, check, label, parts, sums
from lwdc.candidates.fixed import Fixed
from lwdc.candidates.partial import Partial
from lwdc.candidates.sampling import advance_starts, expand, starts_of
from lwdc.candidates.sums import sums_of
from lwdc.counting import count_macs, count_params
from lwdc.errors import SpaceError

SEPARABLE: Candidate = {"op": "separable"}
LOW_RANK: Candidate = {"op": "low_rank", "ratio": 0.25}
POINTWISE: Candidate = {"op": "pointwise"}
NORMED: Candidate = {"op": "separable_norm"}
EPITOME: Candidate = {"op": "epitome", "ratio": 3, "indexing": "per_block"}


def sum_of(*of: Candidate) -> Candidate:
    return {"op": "sum", "of": list(of)}


@pytest.fixture
def at(place: Any) -> Any:
    """An ordinary convolution."""
    return place(nn.Conv2d(8, 12, 3, padding=1), 7, 6)


@pytest.fixture
def made(at: Any) -> Any:
    """``made(*candidates)``: their sum at the ordinary convolution, inherited; and the error."""

    def make(*of: Candidate) -> tuple[Any, float]:
        operator = build(sum_of(*of), at.site).double()
        return operator, operator.inherit(at.weight)

    return make


def test_two_separable_ones_are_the_two_leading_terms_of_every_channel(at: Any, made: Any) -> None:
    """Then alternation needs one round: the second takes what a truncated SVD has next."""
    operator, error = made(SEPARABLE, SEPARABLE)
    slices = at.weight.transpose(0, 1).flatten(2)  # (C_in, C_out, taps)
    u, s, v = torch.linalg.svd(slices, full_matrices=False)
    wanted = (u[..., :2] * s[:, None, :2] @ v[:, :2]).view(8, 12, 3, 3).transpose(0, 1)
    torch.testing.assert_close(operator.kernel().detach(), wanted)
    assert error == pytest.approx(float(s[:, 2:].norm() / s.norm()))


def test_a_low_rank_and_a_block_diagonal_are_found_again(place: Any) -> None:
    """Where the weight is such a sum the turns come ever nearer to it, by either order and from one part's share."""
    at = place(nn.Linear(12, 12, bias=False))
    with torch.no_grad():
        blocks = torch.block_diag(*torch.randn(3, 4, 4, dtype=torch.float64))
        at.conv.weight.copy_(torch.outer(*torch.randn(2, 12, dtype=torch.float64)) + blocks)
    low_rank, grouped = {"op": "low_rank", "ratio": 0.1}, {"op": "grouped", "groups": 3}
    alone = min(build(c, at.site).double().inherit(at.weight) for c in (low_rank, grouped))
    for of in ((low_rank, grouped), (grouped, low_rank)):
        assert build(sum_of(*of), at.site).double().inherit(at.weight) < 0.4 * alone


@given(data=st.data())
@settings(max_examples=10)
def test_no_further_round_and_no_further_part_makes_it_worse(data: st.DataObject, places: Any) -> None:
    place = data.draw(places)
    trained: list[Candidate] = [
        SEPARABLE, LOW_RANK, POINTWISE, {"op": "grouped", "groups": 2}, {"op": "tucker", "ratio": 0.5}, {"op": "shift"}
    ]  # fmt: skip
    of = data.draw(st.lists(st.sampled_from(trained), min_size=2, max_size=3))
    try:
        operator = build(sum_of(*of), place.site).double()
    except DoesNotFit:
        return
    first = build(of[0], place.site).double().inherit(place.weight)
    errors = [first]
    with pytest.MonkeyPatch.context() as patch:
        for rounds in (1, 2, 3, 5):
            patch.setattr(sums, "_ROUNDS", rounds)
            errors.append(copy.deepcopy(operator).inherit(place.weight))
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("other", [SEPARABLE, LOW_RANK, NORMED, POINTWISE])
def test_a_part_to_which_nothing_is_left_learns_all_the_same(at: Any, made: Any, other: Candidate) -> None:
    operator, error = made({"op": "kernel", "size": 5}, other)  # the first one takes all
    assert error < 1e-12
    x = at.x.double()
    torch.testing.assert_close(operator(x), nn.functional.conv2d(x, at.weight.double(), padding=1))
    wanted = torch.randn(len(x), 12, 7, 6, dtype=torch.float64)
    optimiser = torch.optim.SGD(operator.parameters(), lr=1e-2)
    for _ in range(2):  # the weights before those of zeros follow a step later
        optimiser.zero_grad()
        (operator(x) - wanted).square().mean().backward()
        optimiser.step()
    assert all(p.grad is not None and bool(p.grad.any()) for p in operator.parameters() if p.dim() > 1)


def test_a_round_that_ends_worse_is_taken_back(at: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, error = made(LOW_RANK, POINTWISE)
    monkeypatch.setattr(sums, "_ROUNDS", 1)
    _, after_one = made(LOW_RANK, POINTWISE)
    assert error < after_one
    monkeypatch.setattr(sums, "_ROUNDS", 9)
    inherit, calls = Chain.inherit, []

    def unlucky(chain: Chain, weight: torch.Tensor) -> float:
        calls.append(chain)
        return inherit(chain, weight if len(calls) <= 2 else 5 * weight)

    monkeypatch.setattr(Chain, "inherit", unlucky)
    assert operator.inherit(at.weight) == pytest.approx(after_one)
    assert operator._error(at.weight) == pytest.approx(after_one)
    assert len(calls) == 4


def test_what_cannot_be_trained_is_there_from_the_beginning(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 6, 6)
    operator = build(sum_of(LOW_RANK, {"op": "skip"}), at.site).double()
    alone, skip = build(LOW_RANK, at.site).double(), build({"op": "skip"}, at.site).double()
    operator.inherit(at.weight)
    alone.inherit(at.weight - skip.kernel())
    torch.testing.assert_close(operator.parts[0].compact_kernel(), alone.compact_kernel())


def test_parts_that_are_not_linear_share_what_the_others_leave(at: Any, made: Any) -> None:
    operator, error = made(POINTWISE, NORMED)
    pointwise, normed = build(POINTWISE, at.site).double(), build(NORMED, at.site).double()
    left = pointwise.inherit(at.weight)
    lost = normed.inherit(at.weight - pointwise.kernel().detach())
    assert operator.support is None and error == pytest.approx(left * lost)
    for own, alone in zip(operator.parts, (pointwise, normed), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), alone.parameters(), strict=True))

    two, error = made(NORMED, NORMED)
    assert error == pytest.approx(normed.inherit(at.weight / 2))
    for part in two.parts:
        assert all(torch.equal(a, b) for a, b in zip(part.parameters(), normed.parameters(), strict=True))


@given(data=st.data(), norm=st.floats(0.1, 10))
@settings(max_examples=10)
def test_fresh_weights_together_have_the_norm_asked_for(
    data: st.DataObject, norm: float, places: Any, operators_at: Any
) -> None:
    for operator in operators_at(data.draw(places), "sum"):
        operator.reset(norm)
        if operator.support is not None and not any(isinstance(part, (Fixed, Partial)) for part in operator.parts):
            assert float(operator.kernel().detach().norm()) == pytest.approx(norm, rel=1e-9)


def test_what_is_fixed_adds_its_own_to_fresh_weights(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 6, 6)
    operator = build(sum_of(SEPARABLE, {"op": "skip"}), at.site).double()
    operator.reset(3.0)
    assert float(operator.parts[0].compact_kernel().detach().norm()) == pytest.approx(3)
    assert torch.equal(operator.parts[1].compact_kernel(), torch.ones(8, 1, 1, 1).double())


@pytest.mark.parametrize(
    "of", [(SEPARABLE, LOW_RANK), ({"op": "skip"}, LOW_RANK, SEPARABLE), ({"op": "skip"}, {"op": "avg_pool"})]
)
def test_the_bias_is_added_once(of: Any, place: Any, released: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 6, 6)
    operator = build(sum_of(*of), at.site).double()
    operator.inherit(at.weight)
    module = released(operator, at.bias)
    assert sum(name.rpartition(".")[2] == "bias" for name, _ in module.named_parameters()) == 1
    torch.testing.assert_close(module(at.x), at.biased(operator(at.x)))


def test_a_sum_with_a_part_that_is_not_linear_has_no_bias_as_such_operators_have_none(at: Any, made: Any) -> None:
    operator, _ = made(POINTWISE, {"op": "ghost"})
    module = copy.deepcopy(operator).release(at.bias).eval()
    assert torch.equal(module(at.x), operator.eval()(at.x))


def test_costs_are_those_of_the_parts_together(at: Any) -> None:
    module = build(sum_of(SEPARABLE, LOW_RANK), at.site).release(torch.zeros(12))
    assert count_params(module) == (8 * 9 + 8 * 12) + (8 * 9 * 3 + 3 * 12) + 12
    assert count_macs(module, [at.site.input_shape]) == 7 * 6 * (8 * 9 + 8 * 12 + 8 * 9 * 3 + 3 * 12)


def test_starts_within_a_sum_are_found_and_end_whole_and_its_kernel_is_kept(at: Any, made: Any) -> None:
    operator, _ = made(EPITOME, LOW_RANK)
    starts = starts_of(operator)
    assert starts
    module = operator.release(at.bias)
    assert starts_of(module) == starts
    with torch.no_grad():
        starts[0].add_(0.01)
    advance_starts(module, 0.5)
    assert torch.equal(copy.deepcopy(operator.parts[0]).compact_kernel(), module.eval().parts[0].kernel())
    with torch.no_grad():
        tied, plain = module(at.x), expand(copy.deepcopy(module))
        assert not starts_of(plain) and type(plain.parts[0]) is nn.Conv2d
        torch.testing.assert_close(plain(at.x), tied)
        module.parts[0].weight.add_(1)
        assert not torch.equal(module(at.x), tied)  # no kernel of before


def test_whether_kernels_are_products_is_asked_of_every_part(at: Any) -> None:
    rank = build(LOW_RANK, at.site).product_rank
    assert build(sum_of(SEPARABLE, LOW_RANK), at.site).product_rank == rank > 0
    assert build(sum_of(SEPARABLE, POINTWISE), at.site).product_rank == 0


def test_groups_and_taps_are_those_that_hold_every_part(place: Any) -> None:
    at = place(nn.Conv2d(24, 24, 3, padding=1, groups=2), 6, 6)
    narrow = build(sum_of({"op": "grouped", "groups": 12}, {"op": "grouped", "groups": 8}), at.site)
    assert narrow.groups == 4 and narrow.compact_kernel().shape == (24, 6, 3, 3)
    wide = build(sum_of({"op": "grouped", "groups": 24}, {"op": "dilated"}), at.site)
    assert wide.groups == 2 and wide.compact_kernel().shape == (24, 12, 5, 5)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ([], "a sum is of two candidates or more, found 0"),
        ([SEPARABLE], "a sum is of two candidates or more, found 1; list a single one itself"),
        ([SEPARABLE, {"op": "original"}], "a sum takes no 'original' as a part: a sum with the whole layer only costs"),
        ([SEPARABLE, {"op": "zero"}], "a sum takes no 'zero' as a part: it adds nothing"),
        ([SEPARABLE, sum_of(SEPARABLE, POINTWISE)], "operator 'sum' takes no 'sum' as a part: list its parts"),
        ([SEPARABLE, {"op": "pointwse"}], "unknown operator 'pointwse'. Did you mean 'pointwise'"),
        ([SEPARABLE, {"op": "low_rank"}], "operator 'low_rank' cannot be built from {}: .*; it takes ratio"),
        ([SEPARABLE, "pointwise"], "a candidate is written {op: name, option: value}, found 'pointwise'"),
        ("separable", "operator 'sum' takes a list of candidates as of, found 'separable'"),
        ((SEPARABLE, POINTWISE), "operator 'sum' takes a list of candidates as of"),
    ],
)
def test_what_is_no_sum_is_refused_with_what_is(of: Any, message: str, at: Any) -> None:
    with pytest.raises(SpaceError, match=message) as refused:
        build({"op": "sum", "of": of}, at.site)
    assert not isinstance(refused.value, DoesNotFit)


def test_deep_nesting_is_refused_without_descending() -> None:
    deep = functools.reduce(lambda inner, _: sum_of(inner, inner), range(5000), SEPARABLE)
    with pytest.raises(SpaceError, match="takes no 'sum' as a part"):
        check(deep)


def test_a_sum_fits_where_all_of_its_parts_do(place: Any) -> None:
    at = place(nn.Conv2d(8, 12, 1), 6, 6)
    with pytest.raises(DoesNotFit, match=r"^separable: a kernel of \(1, 1\) has nothing to separate"):
        build(sum_of(LOW_RANK, SEPARABLE), at.site)


def test_its_label_names_its_parts_without_a_comma() -> None:
    candidate = sum_of(SEPARABLE, {"op": "dilated", "size": 3, "dilation": 2}, LOW_RANK)
    assert label(candidate) == "sum(separable+dilated_3_2+low_rank_0.25)"
    assert json.loads(json.dumps(candidate)) == candidate
    assert parts(candidate) == candidate["of"] and parts(SEPARABLE) == []


def test_branches_are_all_sets_of_different_operators_but_those_listed() -> None:
    four: Candidate = {"op": "grouped", "groups": 4}
    two: Candidate = {"op": "grouped", "groups": 2}
    listed = [{"op": "original"}, two, four, SEPARABLE, POINTWISE, {"op": "zero"}, sum_of(POINTWISE, two)]
    assert sums_of(listed, 1, listed) == []
    pairs = [sum_of(two, SEPARABLE), sum_of(four, SEPARABLE), sum_of(four, POINTWISE), sum_of(SEPARABLE, POINTWISE)]
    assert sums_of(listed, 2, listed) == pairs
    assert sums_of(listed, 3, listed) == [*pairs, sum_of(two, SEPARABLE, POINTWISE), sum_of(four, SEPARABLE, POINTWISE)]
    assert sums_of(listed, 10**9, listed) == sums_of(listed, 3, listed)
    assert sum_of(two, POINTWISE) in sums_of(listed, 2)
