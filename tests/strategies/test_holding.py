"""Holding: gates expect costs within bounds, by the nearest mixture, and what is learned keeps them there."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn

from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, Params, expected_cost, tabulate
from lwdc.selection import gates, selection_ops
from lwdc.space import SearchSpace
from lwdc.strategies import Held, Hold, add_dial, add_hold, hold
from lwdc.surgery import begin_with_prior, wrap

SPACE = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable"}, {"op": "pointwise"}])


def supernet_of() -> nn.Module:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    return wrap(model, SPACE, input_size=(1, 8, 8))


SUPERNET = supernet_of()
TABLE, PARAMS = tabulate(SUPERNET, Macs()), tabulate(SUPERNET, Params())


def held_at(supernet: nn.Module, share: float, *, exactly: bool = True) -> Hold:
    held = add_hold(supernet, [TABLE], exactly=exactly)
    held.shares.fill_(share)
    return held


def logits(supernet: nn.Module) -> list[torch.Tensor]:
    return [gate.logits.detach().clone() for gate in gates(supernet)]


def expected(supernet: nn.Module, table: CostTable = TABLE) -> float:
    return float(expected_cost(supernet, table).detach())


def shuffle(supernet: nn.Module, seed: int, temperature: float) -> None:
    torch.manual_seed(seed)
    for gate in gates(supernet):
        nn.init.normal_(next(gate.parameters()), std=5)
        gate.temperature.fill_(temperature)


@settings(max_examples=40)
@given(st.floats(0.35, 0.9), st.floats(0.05, 2.0), st.integers(0, 99), st.booleans())
def test_gates_expect_the_cost_of_the_bound_whatever_their_logits_say(
    share: float, temperature: float, seed: int, dial: bool
) -> None:
    """Also where a dial computes the logits that costs take from."""
    supernet = copy.deepcopy(SUPERNET)
    if dial:
        add_dial(supernet, 0.9, 0.35, 3)
    held_at(supernet, share)
    shuffle(supernet, seed, temperature)
    hold(supernet)
    assert expected(supernet) == pytest.approx(share, abs=2e-3)


@settings(max_examples=40)
@given(st.floats(0.35, 0.9), st.floats(0.35, 0.9), st.floats(0.05, 2.0), st.integers(0, 99))
def test_bounds_are_held_from_above_each_by_no_more_than_it_takes(
    macs: float, params: float, temperature: float, seed: int
) -> None:
    supernet = copy.deepcopy(SUPERNET)
    held = add_hold(supernet, [TABLE, PARAMS])
    held.shares.copy_(torch.tensor([macs, params]))
    shuffle(supernet, seed, temperature)
    before = [expected(supernet, table) for table in (TABLE, PARAMS)]
    hold(supernet)
    for table, share, pressure in zip((TABLE, PARAMS), (macs, params), held.pressure.tolist(), strict=True):
        assert pressure >= 0 and expected(supernet, table) <= share + 2e-3
        if pressure > 1e-2:
            assert expected(supernet, table) == pytest.approx(share, abs=2e-3)
    if before[0] <= macs and before[1] <= params:
        assert held.pressure.tolist() == [0, 0]


def test_a_pressure_that_is_needed_no_longer_goes_away() -> None:
    supernet = copy.deepcopy(SUPERNET)
    held = held_at(supernet, 0.4, exactly=False)
    hold(supernet)
    assert float(held.pressure) > 0
    held.shares.fill_(1.0)
    hold(supernet)
    assert float(held.pressure) == 0


def test_a_held_mixture_is_the_nearest_with_that_cost() -> None:
    supernet = supernet_of()
    begin_with_prior(supernet, 4.0)
    before = logits(supernet)
    held = held_at(supernet, 0.5)
    hold(supernet)
    taken = []  # off the logits, in proportion to costs, alike everywhere
    for old, op, costs in zip(before, selection_ops(supernet).values(), TABLE.group_costs().values(), strict=True):
        shares = torch.tensor(costs) / TABLE.total
        taken += ((old - op.gate.logits.detach()) / shares)[shares > 1e-3].tolist()
    assert taken == pytest.approx([float(held.pressure)] * len(taken), rel=1e-3) and taken[0] > 0


def test_a_bound_that_no_mixture_reaches_takes_the_cheapest() -> None:
    supernet = supernet_of()
    held_at(supernet, TABLE.smallest / TABLE.total / 2)
    hold(supernet)
    assert expected(supernet) == pytest.approx(TABLE.smallest / TABLE.total, abs=1e-3)


def test_gates_that_are_uniform_cannot_be_held_and_keep_the_pressure() -> None:
    supernet = supernet_of()
    held = held_at(supernet, 0.4)
    held.pressure.fill_(7.0)
    for gate in gates(supernet):
        gate.advance(0.0)
    hold(supernet)
    assert float(held.pressure) == 7.0


@pytest.mark.parametrize("both", [False, True])
def test_what_is_learned_leaves_the_expected_costs_as_they_are(both: bool) -> None:
    supernet = supernet_of().double()
    tables = (TABLE, PARAMS) if both else (TABLE,)
    held = add_hold(supernet, tables)
    originals = [next(gate.parameters()) for gate in gates(supernet)]
    torch.manual_seed(0)
    for original in originals:
        nn.init.normal_(original)
    held.pressure.fill_(5.0)
    held.shares.copy_(torch.tensor([expected(supernet, table) for table in tables]))
    held.pressure.zero_()
    hold(supernet, learning=True)
    assert bool((held.pressure > 0).all())
    for table in tables:
        of_cost = torch.autograd.grad(expected_cost(supernet, table), originals, retain_graph=True)
        assert all(float(gradient.abs().max()) < 1e-12 for gradient in of_cost)


def test_the_slope_of_what_is_learned_is_the_one_along_the_bound() -> None:
    supernet = supernet_of().double()
    held = held_at(supernet, 0.5)
    originals = [next(gate.parameters()) for gate in gates(supernet)]
    for original in originals:
        nn.init.normal_(original)
    hold(supernet, learning=True)

    def score() -> torch.Tensor:
        return torch.cat([gate.soft() for gate in gates(supernet)]).square().sum()

    gradient = torch.autograd.grad(score(), originals)
    with torch.no_grad():
        direction = [torch.randn_like(original) for original in originals]
        found = []
        for step in (1e-3, -1e-3):
            for original, way in zip(originals, direction, strict=True):
                original += step * way
            held.pressure.fill_(exactly_held(supernet, held))
            found.append(float(score()))
            for original, way in zip(originals, direction, strict=True):
                original -= step * way
    slope = sum(float((g * way).sum()) for g, way in zip(gradient, direction, strict=True))
    assert (found[0] - found[1]) / 2e-3 == pytest.approx(slope, rel=1e-3)


def exactly_held(supernet: nn.Module, held: Hold) -> float:
    held.lifted = None

    def excess(pressure: float) -> float:
        held.pressure.fill_(pressure)
        return float(expected_cost(supernet, TABLE)) - float(held.shares)

    return float(brentq(excess, -1e3, 1e3, xtol=1e-12))


def test_a_copy_holds_by_itself_and_a_freed_gate_keeps_its_logits() -> None:
    supernet = supernet_of()
    held = held_at(supernet, 0.5)
    hold(supernet, learning=True)
    copied = copy.deepcopy(supernet)
    under = logits(supernet)
    for gate in list(gates(supernet)):
        gate.free()
    assert all(torch.equal(a, b) for a, b in zip(under, logits(supernet), strict=True))
    assert {name for name, _ in supernet.named_parameters()} == {name for name, _ in supernet_of().named_parameters()}
    held.shares.fill_(0.4)
    hold(copied)
    assert expected(copied) == pytest.approx(0.5, abs=2e-3)


def test_the_bound_falls_geometrically_from_the_original_to_that_of_the_choice() -> None:
    supernet = supernet_of()
    held = Held(add_hold(supernet, [TABLE]), 0, TABLE.total // 4, begins=0.2, ends=0.6)
    bounds = {}
    for progress in (0.0, 0.2, 0.4, 0.6, 1.0):
        held.begin(progress)
        bounds[progress] = held.state(supernet).bound
    assert bounds == pytest.approx({0.0: 1.0, 0.2: 1.0, 0.4: 0.5, 0.6: 0.25, 1.0: 0.25}, rel=1e-3)
