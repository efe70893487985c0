"""Epitomes: a kernel sampled from a smaller tensor, in every form the same function, with starts that learn."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lwdc.candidates import DoesNotFit, build
from lwdc.candidates.epitome import AxisEpitome, BlockEpitome
from lwdc.candidates.sampling import Starts, TiedConv, advance_starts, expand, sample, starts_of
from lwdc.counting import count_macs, count_params
from lwdc.errors import SpaceError


def epitome_at(place: Any, **options: Any) -> Any:
    return build({"op": "epitome", **options}, place.site).double()


@pytest.fixture
def at(place: Any) -> Any:
    return place(nn.Conv2d(16, 32, 3, padding=1), 8, 8)


@given(
    total=st.integers(1, 40), extent=st.integers(1, 40), share=st.floats(0.05, 1), learned=st.booleans(),
    wrap=st.booleans(),
)  # fmt: skip
@settings(max_examples=200)
def test_at_first_every_entry_is_read(total: int, extent: int, share: float, learned: bool, wrap: bool) -> None:
    extent = min(extent, total)
    window = max(1, round(extent * share))
    starts = Starts(total, extent, window, "learned" if learned else "fixed", wrap=wrap and extent > 1)
    lower, upper, weight = starts.flat()
    assert lower.shape == (total,)
    read = torch.zeros(extent).index_add(0, lower, torch.ones(total) if weight is None else (1 - weight).detach())
    if weight is not None:
        read = read.index_add(0, upper, weight.detach())
    assert bool((read > 1e-3).all())


@pytest.mark.parametrize("options", [{"ratio": 3}, {"ratio": 3, "indexing": "per_block"}, {"out": 2, "into": 3}])
def test_at_first_the_whole_epitome_gets_a_gradient(options: dict[str, Any], at: Any) -> None:
    operator = epitome_at(at, **options)
    operator.reset(1.0)
    (gradient,) = torch.autograd.grad(operator.kernel().square().sum(), operator.epitome())
    assert bool((gradient != 0).all())


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 4},
        {"ratio": 4, "wrap": True},
        {"ratio": 4, "indexing": "per_block"},
        {"out": 2, "into": 2, "taps": 1.5},
    ],
)
def test_gradients_of_epitome_and_starts_are_right(options: dict[str, Any], place: Any) -> None:
    small = place(nn.Conv2d(4, 6, 3, padding=1), 5, 5)
    operator = epitome_at(small, **options)
    operator.reset(1.0)
    shares = starts_of(operator)
    assert shares
    with torch.no_grad():  # off the integers, where the slope is defined
        for starts in operator.starts():
            if starts.learned:
                starts.share.uniform_(0.1, 0.9)
                fraction = (starts.share * starts.ranges) % 1
                assert bool(((fraction > 1e-4) & (fraction < 1 - 1e-4))[starts.ranges > 0].all())
    names = [name for name, _ in operator.named_parameters()]

    def kernel(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(_Kernel(operator), dict(zip([f"op.{n}" for n in names], values, strict=True)))

    values = tuple(p.detach().clone().requires_grad_(True) for p in operator.parameters())
    assert torch.autograd.gradcheck(kernel, values, eps=1e-7, atol=1e-5)


class _Kernel(nn.Module):
    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self) -> torch.Tensor:
        return self.op.compact_kernel()


def test_starts_learn_to_find_what_made_the_kernel(place: Any) -> None:
    """Only the starts are trained, from a neighbouring place: plain gradient descent finds the right one."""
    at = place(nn.Conv2d(8, 16, 1), 4, 4)
    truth = epitome_at(at, out=2, into=1)
    with torch.no_grad():  # smooth along the filters, so that there is a slope to follow
        rows = torch.linspace(0, 3, 8, dtype=torch.float64)
        truth.epitome().copy_(torch.sin(rows[:, None] + torch.linspace(0, 2, 8, dtype=torch.float64))[..., None, None])
    target = truth.compact_kernel().detach()
    learner = copy.deepcopy(truth)
    (share,) = starts_of(learner)
    with torch.no_grad():
        share.add_(torch.tensor([0.2, -0.15, 0.15, -0.2], dtype=torch.float64)).clamp_(0, 1)
    optimiser = torch.optim.Adam([share], lr=0.01)
    before = float((learner.compact_kernel() - target).detach().norm())
    for _ in range(200):
        optimiser.zero_grad()
        (learner.compact_kernel() - target).square().sum().backward()
        optimiser.step()
    assert float((learner.compact_kernel() - target).detach().norm()) < 0.05 * before


def test_a_start_pushed_over_the_end_comes_back(at: Any) -> None:
    operator = epitome_at(at, ratio=4)
    (share, _) = starts_of(operator)
    with torch.no_grad():
        share.fill_(1.2)  # momentum carried it there
    operator.reset(1.0)
    kernel = operator.compact_kernel()
    assert bool(torch.autograd.grad(kernel.sum(), [share])[0].any())  # it may lead back
    advance_starts(operator, 0.1)
    assert bool((share == 1).all())
    assert torch.equal(operator.compact_kernel(), kernel)


def test_a_start_at_the_end_of_its_range_has_the_slope_of_the_way_back() -> None:
    starts = Starts(8, 6, 4, "learned").double()
    source = torch.randn(6, dtype=torch.float64)
    probe = torch.randn(8, dtype=torch.float64)

    def of_last(share: float) -> torch.Tensor:
        with torch.no_grad():
            starts.share[-1] = share
        return (sample(source, 0, starts) * probe).sum()

    (slope,) = torch.autograd.grad(of_last(1.0), starts.share)
    back = (of_last(1.0) - of_last(1.0 - 1e-6)) / 1e-6
    torch.testing.assert_close(slope[-1], back.detach(), rtol=1e-6, atol=1e-6)
    of_last(1.0)
    assert torch.equal(sample(source, 0, starts)[4:], source[2:])  # and is whole


@pytest.mark.parametrize("indexing", ["per_axis", "per_block"])
def test_frozen_starts_are_whole_and_stay(indexing: str, at: Any) -> None:
    operator = epitome_at(at, ratio=3, indexing=indexing)
    operator.reset(1.0)
    with torch.no_grad():
        for share in starts_of(operator):
            share.mul_(0.9)
    advance_starts(operator, 0.49)
    before = operator.compact_kernel()
    assert all(g is not None for g in torch.autograd.grad(before.sum(), starts_of(operator)))
    advance_starts(operator, 0.5)
    after = operator.compact_kernel()
    assert not torch.equal(before, after)
    with torch.no_grad():
        for share in starts_of(operator):
            share.mul_(0.7)  # momentum
    advance_starts(operator, 0.9)
    assert torch.equal(operator.compact_kernel(), after)
    for starts in operator.starts():
        assert starts()[1] is None
    again = epitome_at(at, ratio=3, indexing=indexing)
    again.load_state_dict(operator.state_dict())
    assert torch.equal(again.compact_kernel(), after)


@pytest.mark.parametrize("norm", [0.3, 7.0])
@pytest.mark.parametrize("options", [{"ratio": 4}, {"ratio": 4, "indexing": "per_block"}])
def test_fresh_weights_make_up_for_interpolation(options: dict[str, Any], norm: float, at: Any) -> None:
    operator = epitome_at(at, **options)
    with torch.no_grad():
        for share in starts_of(operator):
            share.uniform_(0.1, 0.9)
    operator.reset(norm)
    assert float(operator.compact_kernel().detach().norm()) == pytest.approx(norm)


@pytest.mark.parametrize("options", [{"ratio": 2}, {"ratio": 4, "wrap": True}, {"ratio": 3, "indexing": "per_block"}])
def test_learned_starts_never_inherit_worse_than_fixed_ones(options: dict[str, Any], at: Any) -> None:
    for _ in range(3):
        weight = torch.randn(32, 16, 3, 3, dtype=torch.float64)
        fixed = epitome_at(at, **options, sampling="fixed").inherit(weight)
        assert epitome_at(at, **options).inherit(weight) <= fixed * (1 + 1e-6)  # shares are kept in float32


@pytest.mark.parametrize("options", [{"ratio": 2}, {"ratio": 4, "wrap": True}, {"ratio": 3, "indexing": "per_block"}])
def test_what_is_inherited_outlives_the_freezing(options: dict[str, Any], at: Any) -> None:
    weight = torch.randn(32, 16, 3, 3, dtype=torch.float64)
    operator = epitome_at(at, **options)
    error = operator.inherit(weight)
    advance_starts(operator, 1.0)
    assert operator._error(weight) == pytest.approx(error, abs=1e-5)  # the starts were whole already
    assert operator.inherit(weight) <= error + 1e-5  # frozen ones stay, and the epitome is solved for


@pytest.mark.parametrize("options", [{"ratio": 3}, {"ratio": 3, "indexing": "per_block"}, {"out": 4, "taps": 1.5}])
def test_what_an_epitome_made_is_inherited_without_error(options: dict[str, Any], at: Any) -> None:
    operator = epitome_at(at, **options, sampling="fixed")
    operator.reset(3.0)
    kernel = operator.compact_kernel().detach()
    assert epitome_at(at, **options, sampling="fixed").inherit(kernel) < 1e-6


def test_the_epitome_is_the_least_squares_one(at: Any) -> None:
    weight = torch.randn(32, 16, 3, 3, dtype=torch.float64)
    for options in ({"ratio": 3}, {"ratio": 3, "indexing": "per_block"}):
        operator = epitome_at(at, **options)
        error = operator.inherit(weight)
        for scale in (1e-1, 1e-3):
            moved = copy.deepcopy(operator)
            with torch.no_grad():
                moved.epitome().add_(scale * torch.randn_like(moved.epitome()))
            assert moved._error(weight) >= error - 1e-5


def test_per_axis_saves_macs_and_per_block_keeps_the_rank(place: Any) -> None:
    at = place(nn.Conv2d(64, 64, 1), 8, 8)
    axis, block = epitome_at(at, out=2, into=2), epitome_at(at, out=2, into=2, indexing="per_block")
    assert isinstance(axis, AxisEpitome) and isinstance(block, BlockEpitome)
    for operator in (axis, block):
        operator.reset(1.0)
    assert int(torch.linalg.matrix_rank(axis.compact_kernel()[..., 0, 0])) <= 32
    assert int(torch.linalg.matrix_rank(block.compact_kernel()[..., 0, 0])) > 48
    released = [copy.deepcopy(operator).float().release(None) for operator in (axis, block)]
    assert [count_macs(module, [at.site.input_shape]) for module in released] == [32 * 32 * 64, 64 * 64 * 64]
    assert [count_params(module) for module in released] == [32 * 32 + 4 + 4, 32 * 32 + 2 * 16]


def test_the_formed_kernel_is_kept_in_evaluation_and_never_stale(at: Any) -> None:
    module = epitome_at(at, ratio=3, indexing="per_block").release(None).eval()
    with torch.no_grad():
        first = module(at.x)
        kept = module._kept[1]
        assert torch.equal(module(at.x), first) and module._kept[1] is kept
        module.weight.mul_(2)
        torch.testing.assert_close(module(at.x), 2 * first)
        for factor in range(2, 12):  # a tensor may come to lie where one lay that is gone
            y = torch.func.functional_call(module, {"weight": factor * module.weight}, (at.x,))
            torch.testing.assert_close(y, 2 * factor * first)
    assert copy.deepcopy(module)._kept is None


def test_expanding_puts_equal_plain_convolutions_in_place(at: Any) -> None:
    tied = epitome_at(at, ratio=3, indexing="per_block").release(at.conv.bias).eval()
    network = nn.Sequential(nn.Identity(), nn.Sequential(tied))
    with torch.no_grad():
        wanted = network(at.x)
        plain = expand(copy.deepcopy(network))
        assert not any(isinstance(m, TiedConv) for m in plain.modules())
        assert torch.equal(plain(at.x), wanted)
        assert type(expand(copy.deepcopy(tied))) is nn.Conv2d


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either ratio, or out and into"),
        ({"ratio": 2, "out": 2}, "either ratio, or out and into"),
        ({"ratio": 0.5}, "ratio must be a number of at least 1, found 0.5"),
        ({"ratio": float("nan")}, "ratio must be a number of at least 1, found nan"),
        ({"ratio": 2, "wrap": "yes"}, "wrap is true or false, found 'yes'"),
        ({"out": float("inf")}, "out must be a number of at least 1, found inf"),
        ({"into": -1}, "into must be a number of at least 1, found -1"),
        ({"ratio": 2, "window": 0}, r"window is a share of its channels in \(0, 1\], found 0"),
        ({"ratio": 2, "window": 1.5}, "found 1.5"),
        ({"ratio": 2, "indexing": "axis"}, "indexing is per_axis or per_block, found 'axis'"),
        ({"ratio": 2, "sampling": "wsnet"}, "an operator of its own: {op: wsnet"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str, at: Any) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        build({"op": "epitome", **options}, at.site)
    assert not isinstance(refusal.value, DoesNotFit)  # everywhere, not at this site alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1}, "32 x 16 x .* is no smaller than the kernel"),
        ({"ratio": 2, "taps": 2}, "no smaller than the kernel"),
        ({"out": 32, "wrap": True}, "1 of 32 filters cannot wrap"),
        ({"into": 16, "wrap": True}, "1 of 16 channels cannot wrap"),
        ({"ratio": 2, "window": 1.0}, "no window can move"),
    ],
)
def test_what_cannot_stand_at_a_site_says_why(options: dict[str, Any], message: str, at: Any) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "epitome", **options}, at.site)


@pytest.mark.parametrize("state", ["moving", "outside", "frozen"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 3},
        {"into": 2, "wrap": True},
        {"ratio": 3, "indexing": "per_block"},
        {"out": 2, "into": 2, "taps": 1.5},
        {"ratio": 3, "sampling": "fixed"},
    ],
)
def test_kernels_of_sites_alike_are_the_same_formed_together(
    options: dict[str, Any], groups: int, state: str, place: Any
) -> None:
    at = place(nn.Conv2d(12, 20, 3, padding=1, groups=groups), 6, 6)
    operators = [epitome_at(at, **options) for _ in range(3)]
    for operator in operators:
        operator.reset(1.0)
        with torch.no_grad():
            for share in starts_of(operator):
                share.uniform_(0.1, 1.0 if state == "moving" else 1.2)
        if state == "frozen":
            advance_starts(operator, 0.5)
    assert len({operator.alike() for operator in operators}) == 1 and operators[0].alike() is not None
    together = operators[0].compact_kernels(operators[1:]).split(20)
    for operator, kernel in zip(operators, together, strict=True):
        alone, weights = operator.compact_kernel(), list(operator.parameters())
        torch.testing.assert_close(kernel, alone, rtol=1e-12, atol=1e-12)
        back = torch.randn_like(alone)
        pair = [torch.autograd.grad(k, weights, back, retain_graph=True, allow_unused=True) for k in (kernel, alone)]
        assert [g is None for g in pair[0]] == [state == "frozen" and p.dim() < 3 for p in weights]
        for found, wanted in zip(*pair, strict=True):
            if wanted is not None:
                torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_only_kernels_with_equal_windows_are_formed_together(place: Any) -> None:
    at = place(nn.Conv2d(16, 16, 3), 6, 6)
    learned, frozen = epitome_at(at, ratio=3), epitome_at(at, ratio=3)
    advance_starts(frozen, 0.5)
    others = [frozen, epitome_at(at, ratio=4), epitome_at(at, ratio=3, window=0.25), epitome_at(at, ratio=3).float()]
    assert len({operator.alike() for operator in (learned, *others)}) == 5


def test_many_windows_are_read_where_they_were_in_half_precision(place: Any) -> None:
    at = place(nn.Linear(96, 768))
    for options in ({"ratio": 3}, {"ratio": 4, "window": 0.1}, {"ratio": 4, "window": 0.1, "indexing": "per_block"}):
        for sampling in ("fixed", "learned"):
            module = epitome_at(at, **options, sampling=sampling).release(at.bias)
            for starts in (m for m in module.modules() if isinstance(m, Starts)):
                before = starts()
                after = copy.deepcopy(starts).bfloat16()()
                assert torch.equal(before[0], after[0])


def test_a_kernel_is_formed_in_inference_mode_too(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3), 6, 6)
    module = epitome_at(at, ratio=3, indexing="per_block").release(at.bias).eval()
    with torch.inference_mode():
        wanted = module(at.x)
        assert torch.equal(copy.deepcopy(module)(at.x), wanted)


def test_expansion_reaches_every_parent_and_keeps_the_settings_that_networks_read(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 6, 6)
    tied = epitome_at(at, ratio=3, indexing="per_block").release(at.bias)
    twice = nn.ModuleDict({"a": tied, "b": nn.Sequential(tied)})
    expanded = expand(twice)
    assert expanded["a"] is expanded["b"][0] and type(expanded["a"]) is nn.Conv2d
    assert (expanded["a"].kernel_size, expanded["a"].padding) == ((3, 3), (1, 1))
    torch.testing.assert_close(expanded["a"](at.x), tied(at.x), rtol=1e-12, atol=1e-12)
