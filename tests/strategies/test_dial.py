"""The dial: one position for all gates, logits linear between its knots, held at any budget."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn

from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, expected_cost, tabulate
from lwdc.selection import gates, selection_ops
from lwdc.space import SearchSpace
from lwdc.strategies import add_dial, dial_of, hold
from lwdc.strategies.dial import Dial
from lwdc.surgery import begin_with_prior, wrap

SPACE = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable"}, {"op": "pointwise"}])


def supernet_of() -> nn.Module:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    return wrap(model, SPACE, input_size=(1, 8, 8))


def with_dial(supernet: nn.Module, largest: float, smallest: float, knots: int) -> Dial:
    return add_dial(supernet, tabulate(supernet, Macs()), largest, smallest, knots)


def logits(supernet: nn.Module) -> list[torch.Tensor]:
    return [gate.logits.detach().clone() for gate in gates(supernet)]


@given(st.floats(0.3, 1.0), st.floats(0.01, 0.29), st.floats(0.0, 1.0))
def test_a_budget_is_found_again_where_it_lies(largest: float, smallest: float, position: float) -> None:
    dial = Dial(largest, smallest, 3)
    dial.turn(position)
    share = dial.share
    assert smallest * 0.999 <= share <= largest * 1.001
    dial.turn(0.0)
    dial.turn_to(share)
    assert float(dial.position) == pytest.approx(position, abs=1e-4)


def test_budgets_beyond_the_scale_are_at_its_ends() -> None:
    dial = Dial(0.9, 0.2, 3)
    for share, end in ((1.0, 0.0), (0.1, 1.0)):
        dial.turn_to(share)
        assert float(dial.position) == end


@pytest.mark.parametrize("knots", [2, 3, 5])
def test_gates_begin_as_they_were_at_every_position(knots: int) -> None:
    supernet = supernet_of()
    begin_with_prior(supernet, 4.0)
    before = logits(supernet)
    dial = with_dial(supernet, 0.9, 0.2, knots)
    for position in (0.0, 0.3, 1.0):
        dial.turn(position)
        for a, b in zip(before, logits(supernet), strict=True):
            torch.testing.assert_close(a, b)


def test_logits_are_linear_between_knots_and_theirs_at_them() -> None:
    supernet = supernet_of()
    dial = with_dial(supernet, 0.9, 0.2, 3)
    at_knots = []
    for gate in gates(supernet):
        (parameter,) = gate.parameters()
        nn.init.normal_(parameter)
        at_knots.append(parameter.detach())
    for position, weights in ((0.0, [1, 0, 0]), (0.25, [0.5, 0.5, 0]), (0.5, [0, 1, 0]), (0.9, [0, 0.2, 0.8])):
        dial.turn(position)
        assert dial.weights().tolist() == pytest.approx(weights, abs=1e-6)
        for found, given_ in zip(logits(supernet), at_knots, strict=True):
            torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float32) @ given_)


def test_autocast_leaves_logits_in_full_precision() -> None:
    supernet = supernet_of()
    dial = with_dial(supernet, 0.9, 0.2, 3)
    for gate in gates(supernet):
        nn.init.normal_(next(gate.parameters()), std=5)
    dial.turn(0.3)
    wanted = logits(supernet)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits(supernet)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_a_copy_has_a_dial_of_its_own_and_a_checkpoint_carries_the_position() -> None:
    supernet = supernet_of()
    dial = with_dial(supernet, 0.9, 0.2, 3)
    dial.turn(0.125)
    copied, fresh = copy.deepcopy(supernet), supernet_of()
    with_dial(fresh, 0.9, 0.2, 3)
    fresh.load_state_dict(supernet.state_dict())
    dial.turn(1.0)
    for other in (copied, fresh):
        assert float(dial_of(other).position) == 0.125
        assert len([m for m in other.modules() if isinstance(m, Dial)]) == 1


def expected(supernet: nn.Module, table: CostTable) -> float:
    return float(expected_cost(supernet, table).detach())


@settings(max_examples=40)
@given(st.floats(0.0, 1.0), st.floats(0.05, 2.0), st.integers(0, 99))
def test_gates_expect_the_cost_of_the_budget_whatever_their_logits_say(
    position: float, temperature: float, seed: int
) -> None:
    supernet, table = copy.deepcopy(SUPERNET), TABLE
    dial = add_dial(supernet, table, 0.9, 0.35, 3)
    torch.manual_seed(seed)
    for gate in gates(supernet):
        nn.init.normal_(next(gate.parameters()), std=5)
        gate.temperature.fill_(temperature)
    dial.turn(position)
    hold(supernet, table)
    assert expected(supernet, table) == pytest.approx(dial.share, abs=2e-3)


SUPERNET = supernet_of()
TABLE = tabulate(SUPERNET, Macs())


def test_a_held_mixture_is_the_nearest_with_that_cost() -> None:
    supernet = supernet_of()
    begin_with_prior(supernet, 4.0)
    before = logits(supernet)
    dial = with_dial(supernet, 0.7, 0.35, 2)
    hold(supernet, TABLE)
    taken = []  # off the logits, in proportion to costs, alike everywhere
    for old, op, costs in zip(before, selection_ops(supernet).values(), TABLE.group_costs().values(), strict=True):
        shares = torch.tensor(costs) / TABLE.total
        taken += ((old - op.gate.logits.detach()) / shares)[shares > 1e-3].tolist()
    assert taken == pytest.approx([float(dial.pressure)] * len(taken), rel=1e-3) and taken[0] > 0


def test_a_budget_that_no_mixture_reaches_takes_the_cheapest() -> None:
    supernet = supernet_of()
    with_dial(supernet, 1.0, TABLE.smallest / TABLE.total / 2, 2).turn(1.0)
    hold(supernet, TABLE)
    assert expected(supernet, TABLE) == pytest.approx(TABLE.smallest / TABLE.total, abs=1e-3)


def test_gates_that_are_uniform_cannot_be_held_and_keep_the_pressure() -> None:
    supernet = supernet_of()
    dial = with_dial(supernet, 0.9, 0.35, 2)
    dial.pressure.fill_(7.0)
    for gate in gates(supernet):
        gate.advance(0.0)
    hold(supernet, TABLE)
    assert float(dial.pressure) == 7.0


def test_what_is_learned_leaves_the_expected_cost_as_it_is() -> None:
    supernet = supernet_of().double()
    dial = add_dial(supernet, TABLE, 0.7, 0.35, 2).double()
    curves = [next(gate.parameters()) for gate in gates(supernet)]
    for curve in curves:
        nn.init.normal_(curve)
    hold(supernet, TABLE, learning=True)
    of_cost = torch.autograd.grad(expected_cost(supernet, TABLE), curves, retain_graph=True)
    assert all(float(gradient.abs().max()) < 1e-12 for gradient in of_cost)

    def score() -> torch.Tensor:
        return torch.cat([gate.soft() for gate in gates(supernet)]).square().sum()

    gradient = torch.autograd.grad(score(), curves)
    with torch.no_grad():  # the slope along a direction, with the budget kept all the way
        direction = [torch.randn_like(curve) for curve in curves]
        found = []
        for step in (1e-3, -1e-3):
            for curve, way in zip(curves, direction, strict=True):
                curve += step * way
            dial.pressure.fill_(exactly_held(supernet, dial))
            found.append(float(score()))
            for curve, way in zip(curves, direction, strict=True):
                curve -= step * way
    slope = sum(float((g * way).sum()) for g, way in zip(gradient, direction, strict=True))
    assert (found[0] - found[1]) / 2e-3 == pytest.approx(slope, rel=1e-3)


def exactly_held(supernet: nn.Module, dial: Dial) -> float:
    dial.lifted = None

    def excess(pressure: float) -> float:
        dial.pressure.fill_(pressure)
        return float(expected_cost(supernet, TABLE)) - dial.share

    return float(brentq(excess, -1e3, 1e3, xtol=1e-12))
