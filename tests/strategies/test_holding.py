"""Holding: gates expect costs within bounds, by the nearest mixture, and what is learned keeps them there."""

import copy
import dataclasses
import functools
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, Params, choose_within, expected_cost, tabulate
from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, Softmax, TrainableGate
from lwdc.selection import gates, selection_ops
from lwdc.space import SearchSpace
from lwdc.strategies import Held, Holding
from lwdc.surgery import begin_with_prior, wrap

GATES: dict[str, Callable[[int], Gate]] = {
    "softmax": Softmax,
    "gumbel": GumbelSoftmax,
    "one_hot": OneHot,
    "lwdc": TrainableGate,
    "reinmax": ReinMax,
    "independent": Independent,
}
SPACE = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable"}, {"op": "pointwise"}])


def supernet_of(gate: str = "softmax") -> nn.Module:
    return copy.deepcopy(_wrapped(gate))


@functools.cache  # examples are many
def _wrapped(gate: str) -> nn.Module:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    return wrap(model, SPACE, GATES[gate], (1, 8, 8))


SUPERNET = supernet_of()
TABLE, PARAMS = tabulate(SUPERNET, Macs()), tabulate(SUPERNET, Params())
UNLIKE = dataclasses.replace(  # what is cheap in the others is dear
    PARAMS,
    sites={name: dict(zip(costs, reversed(costs.values()), strict=True)) for name, costs in PARAMS.sites.items()},
)
PEAK = dataclasses.replace(TABLE, peak=True, rest=10)


def at(share: float, table: CostTable = TABLE) -> Held:
    """A cost held at the share."""
    held = Held(table, round(share * table.total))
    held.begin(1.0)
    return held


def logits(supernet: nn.Module) -> list[torch.Tensor]:
    return [gate.logits.detach().clone() for gate in gates(supernet)]


def expected(supernet: nn.Module, table: CostTable = TABLE) -> float:
    return float(expected_cost(supernet, table).detach())


def shuffle(supernet: nn.Module, seed: int, temperature: float = 1.0, std: float = 5.0) -> None:
    torch.manual_seed(seed)
    for gate in gates(supernet):
        nn.init.normal_(gate.logits, std=std)
        gate.temperature.fill_(temperature)


@settings(max_examples=60)
@given(st.floats(0.35, 1.0), st.floats(0.05, 2.0), st.integers(0, 99))
def test_gates_expect_no_more_than_the_bound_whatever_their_logits_say(
    share: float, temperature: float, seed: int
) -> None:
    supernet = copy.deepcopy(SUPERNET)
    shuffle(supernet, seed, temperature)
    before, held = expected(supernet), at(share)
    Holding(supernet, [held]).hold()
    if before > share + 1e-3:
        assert expected(supernet) == pytest.approx(share, abs=2e-3) and held.pressure > 0
    else:
        assert expected(supernet) == before and held.pressure == 0


@settings(max_examples=40)
@given(st.floats(0.35, 0.9), st.floats(0.35, 0.9), st.floats(0.05, 2.0), st.integers(0, 99))
@example(0.5084109544651553, 0.35, 0.359375, 92)  # where Newton's method overshoots, and sweeps need more than one step
def test_each_of_two_bounds_takes_no_more_than_it_needs(
    macs: float, params: float, temperature: float, seed: int
) -> None:
    supernet = copy.deepcopy(SUPERNET)
    shuffle(supernet, seed, temperature)
    both = [at(macs), at(params, PARAMS)]
    holding = Holding(supernet, both)
    for _ in range(20):  # steps, over which pressures that move each other settle
        holding.hold()
        assert all(expected(supernet, held.table) <= held.share + 2e-3 for held in both)
    for held in both:
        assert held.pressure >= 0 and expected(supernet, held.table) <= held.share + 2e-3
        if held.pressure > 0:
            assert expected(supernet, held.table) == pytest.approx(held.share, abs=2e-3)


@settings(max_examples=40)
@given(st.floats(0.0, 1.0), st.sampled_from(["one_hot", "lwdc"]), st.sampled_from([TABLE, PEAK]), st.integers(0, 99))
def test_where_expectations_are_one_hot_the_network_keeps_the_bound_under_the_least_pressure(
    way: float, gate: str, table: CostTable, seed: int
) -> None:
    supernet = supernet_of(gate)
    shuffle(supernet, seed)
    before = chosen_cost(supernet, table)
    held = at((table.smallest + way * (table.total - table.smallest)) / table.total, table)
    holding = Holding(supernet, [held])
    holding.hold()
    assert chosen_cost(supernet, table) <= held.share
    assert (held.pressure > 0) == (before > held.share)
    if held.pressure > 0:
        for gate_of, costs in zip(gates(supernet), table.group_costs().values(), strict=True):
            with torch.no_grad():
                gate_of.logits += 2e-3 * (1 + held.pressure) * (torch.tensor(costs) - min(costs)) / table.total
        assert chosen_cost(supernet, table) > held.share


@settings(max_examples=40)
@given(
    st.floats(0.0, 1.0),
    st.sampled_from(["one_hot", "lwdc"]),
    st.sampled_from([[TABLE], [PEAK], [TABLE, UNLIKE]]),
    st.integers(0, 99),
)
def test_logits_rest_at_the_network_that_they_make_if_it_keeps_the_bounds_and_else_at_the_choice(
    way: float, gate: str, tables: list[CostTable], seed: int
) -> None:
    supernet = supernet_of(gate)
    shuffle(supernet, seed)
    draw, ops = random.Random(seed), selection_ops(supernet)
    some = Architecture({name: draw.choice(op.candidates) for name, op in ops.items()})
    held = [at(max(way, table.of(some) / table.total), table) for table in tables]
    holding = Holding(supernet, held)
    holding.hold()
    before = logits(supernet)
    kept = all(chosen_cost(supernet, cost.table) * cost.table.total <= cost.bound for cost in held)
    chosen = choose_within(supernet, [(cost.table, cost.bound) for cost in held])
    holding.rest()
    largest = Architecture({name: op.candidates[int(op.gate.logits.argmax())] for name, op in ops.items()})
    assert all(cost.table.of(largest) <= cost.bound for cost in held)

    def liked(architecture: Architecture) -> float:
        picked = [op.candidates.index(architecture.choices[name]) for name, op in ops.items()]
        return sum(float(of[index]) for of, index in zip(before, picked, strict=True))

    assert liked(largest) == pytest.approx(liked(chosen), abs=1e-3)
    if kept:
        assert [int(of.argmax()) for of in before] == [int(module.logits.argmax()) for module in gates(supernet)]
    else:
        assert len(held) > 1  # costs that pull apart


def test_a_network_that_is_above_a_bound_rests_where_the_choice_would_be() -> None:
    """As where the bound of a search has not yet fallen to that of the choice; ties are no exception."""
    for std in (5.0, 0.0):
        supernet, held = supernet_of("one_hot"), at(0.4)
        shuffle(supernet, 0, std=std)
        chosen = choose_within(supernet, [(TABLE, held.bound)])
        held.share = 1.0
        holding = Holding(supernet, [held])
        holding.hold()
        assert chosen_cost(supernet, TABLE) > 0.4
        holding.rest()
        ops = selection_ops(supernet)
        picked = {name: op.candidates[int(op.gate.logits.argmax())] for name, op in ops.items()}
        assert TABLE.of(Architecture(picked)) <= held.bound
        assert std == 0 or Architecture(picked) == chosen


def test_logits_that_are_not_finite_or_bounds_that_nothing_keeps_are_left_to_others() -> None:
    """Training stops at such a loss, the choice at such a bound, and both say more."""
    for cost in (at(0.4), at(TABLE.smallest / TABLE.total / 2)):
        supernet = supernet_of("one_hot")
        shuffle(supernet, 0)
        if cost.bound > TABLE.smallest:
            with torch.no_grad():
                next(iter(gates(supernet))).logits[0] = torch.nan
        holding = Holding(supernet, [cost])
        holding.hold()
        before = logits(supernet)
        holding.rest()
        assert all(
            torch.equal(old.nan_to_num(), new.nan_to_num()) for old, new in zip(before, logits(supernet), strict=True)
        )


@pytest.mark.parametrize("other", [PARAMS, UNLIKE], ids=["alike", "unlike"])
def test_a_network_keeps_two_bounds_at_once(other: CostTable) -> None:
    for seed in range(30):
        supernet = supernet_of("one_hot")
        shuffle(supernet, seed)
        draw = random.Random(seed)
        some = Architecture({name: draw.choice(op.candidates) for name, op in selection_ops(supernet).items()})
        both = [at(table.of(some) / table.total + 0.1, table) for table in (TABLE, other)]
        Holding(supernet, both).hold()
        assert all(chosen_cost(supernet, held.table) <= held.share for held in both), seed


def chosen_cost(supernet: nn.Module, table: CostTable) -> float:
    largest = {name: op.candidates[int(op.gate.logits.argmax())] for name, op in selection_ops(supernet).items()}
    return table.of(Architecture(largest)) / table.total


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_is_held(gate: str) -> None:
    supernet = supernet_of(gate)
    for module in gates(supernet):
        module.advance(1.0)
    shuffle(supernet, 0, std=1.0)
    with torch.no_grad():
        for module in gates(supernet):
            module.logits[0] += 3  # of the original
    assert expected(supernet) > 0.45
    holding = Holding(supernet, [held := at(0.35)])
    for _ in range(3):
        holding.hold()
        assert held.pressure > 0
        assert expected(supernet) <= held.share + (1e-6 if gate in ("one_hot", "lwdc") else 2e-3)


def test_a_pressure_that_is_needed_no_longer_goes_away_without_a_trace() -> None:
    supernet = copy.deepcopy(SUPERNET)
    before, held = logits(supernet), at(0.4)
    holding = Holding(supernet, [held])
    holding.hold()
    assert held.pressure > 0
    held.share = 1.0
    holding.hold()
    assert held.pressure == 0
    for old, new in zip(before, logits(supernet), strict=True):
        torch.testing.assert_close(old, new)


def test_a_held_mixture_is_the_nearest_with_that_cost() -> None:
    supernet = copy.deepcopy(SUPERNET)
    begin_with_prior(supernet, 4.0)
    before, held = logits(supernet), at(0.4)
    Holding(supernet, [held]).hold()
    taken = []  # off the logits, in proportion to costs, alike everywhere
    for old, op, costs in zip(before, selection_ops(supernet).values(), TABLE.group_costs().values(), strict=True):
        shares = (torch.tensor(costs) - min(costs)) / TABLE.total
        taken += ((old - op.gate.logits.detach()) / shares)[shares > 1e-3].tolist()
    assert taken == pytest.approx([held.pressure] * len(taken), rel=1e-3) and taken[0] > 0


@pytest.mark.parametrize("gate", ["softmax", "one_hot"])
def test_a_bound_that_no_mixture_reaches_takes_the_cheapest(gate: str) -> None:
    supernet = supernet_of(gate)
    Holding(supernet, [at(TABLE.smallest / TABLE.total / 2)]).hold()
    assert expected(supernet) == pytest.approx(TABLE.smallest / TABLE.total, abs=1e-3)


def test_a_peak_is_held() -> None:
    supernet = copy.deepcopy(SUPERNET)
    shuffle(supernet, 0, std=1.0)
    share = 0.7 * expected(supernet, PEAK)
    Holding(supernet, [held := at(share, PEAK)]).hold()
    assert held.pressure > 0 and expected(supernet, PEAK) == pytest.approx(held.share, abs=2e-3)


def test_gates_that_are_uniform_cannot_be_held_and_stay() -> None:
    supernet = copy.deepcopy(SUPERNET)
    for gate in gates(supernet):
        gate.advance(0.0)
    before, held = logits(supernet), at(0.4)
    Holding(supernet, [held]).hold()
    assert held.pressure == 0 and all(torch.equal(a, b) for a, b in zip(before, logits(supernet), strict=True))


def score(supernet: nn.Module) -> torch.Tensor:
    """Something to be learned."""
    return torch.cat([gate.soft() for gate in gates(supernet)]).square().sum()


@pytest.mark.parametrize("both", [False, True])
def test_what_is_learned_leaves_the_costs_that_press_as_they_are(both: bool) -> None:
    supernet = copy.deepcopy(SUPERNET).double()
    tables = (TABLE, PARAMS) if both else (TABLE,)
    shuffle(supernet, 0, std=1.0)
    for gate, costs in zip(gates(supernet), TABLE.group_costs().values(), strict=True):
        gate.logits.data -= 5 * torch.tensor(costs) / TABLE.total
    every = [at(expected(supernet, table) - 1e-2, table) for table in tables]
    holding = Holding(supernet, every)
    holding.hold()
    assert all(held.pressure > 0 for held in every)
    score(supernet).backward()
    holding.project()
    found = [gate.logits.grad for gate in gates(supernet)]
    for table in tables:
        shares = [torch.tensor(costs).double() / table.total for costs in table.group_costs().values()]
        along = [float((g * s).sum()) for g, s in zip(found, shares, strict=True)]  # type: ignore[operator]
        assert sum(along) == pytest.approx(0.0, abs=1e-12) and max(map(abs, along)) > 1e-4


def test_the_slope_of_what_is_learned_is_the_one_along_the_bound() -> None:
    supernet = copy.deepcopy(SUPERNET).double()
    shuffle(supernet, 0, std=1.0)
    holding = Holding(supernet, [held := at(0.8 * expected(supernet))])
    for _ in range(5):
        holding.hold()
    score(supernet).backward()
    holding.project()
    parameters = [gate.logits for gate in gates(supernet)]
    shares = [torch.tensor(costs).double() / TABLE.total for costs in TABLE.group_costs().values()]
    share = expected(supernet)

    def excess(begun: list[torch.Tensor], pressure: float) -> float:
        for parameter, logit, taken in zip(parameters, begun, shares, strict=True):
            parameter.data = logit - pressure * taken
        return expected(supernet) - share

    torch.manual_seed(1)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    begun, values = logits(supernet), []
    for step in (1e-3, -1e-3):
        moved = [logit + step * way for logit, way in zip(begun, direction, strict=True)]
        excess(moved, brentq(functools.partial(excess, moved), -50, 50, xtol=1e-13))
        values.append(float(score(supernet).detach()))
    slope = sum(float((p.grad * way).sum()) for p, way in zip(parameters, direction, strict=True))  # type: ignore[operator]
    assert held.pressure > 0 and (values[0] - values[1]) / 2e-3 == pytest.approx(slope, rel=1e-3)


def test_a_cost_that_the_objective_lowers_by_itself_is_not_held_up() -> None:
    """MACs have a factor, parameters a bound that their descent leaves behind."""
    supernet = copy.deepcopy(SUPERNET)
    begin_with_prior(supernet, 4.0)
    parameters = [gate.logits for gate in gates(supernet)]
    optimiser, held = torch.optim.Adam(parameters, lr=0.1), at(0.8 * expected(supernet, PARAMS), PARAMS)
    holding = Holding(supernet, [held])
    pressures = []
    for _ in range(200):
        holding.hold()
        pressures.append(held.pressure)
        optimiser.zero_grad()
        (3 * expected_cost(supernet, TABLE)).backward()
        holding.project()
        optimiser.step()
    assert max(pressures) > 0 and held.pressure == 0
    assert expected(supernet) < 1.05 * TABLE.smallest / TABLE.total
