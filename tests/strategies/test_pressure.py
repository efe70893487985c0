"""A range of budgets: its multipliers are learned where the dial stands, and weigh there."""

import pytest
import torch
from torch import nn

from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, expected_cost, tabulate
from lwdc.space import SearchSpace
from lwdc.strategies import RangePressure, add_dial
from lwdc.strategies.dial import Dial
from lwdc.surgery import wrap


@pytest.fixture(scope="module")
def parts() -> tuple[nn.Module, CostTable, Dial]:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    supernet = wrap(model, SearchSpace([{"op": "original"}, {"op": "separable"}]), input_size=(1, 8, 8))
    return supernet, tabulate(supernet, Macs()), add_dial(supernet, 0.9, 0.2, 3)


def test_an_excess_moves_the_multipliers_of_the_knots_beside_the_position(
    parts: tuple[nn.Module, CostTable, Dial],
) -> None:
    supernet, table, dial = parts
    dial.multipliers.zero_()
    pressure = RangePressure(table, dial, stiffness=20.0, rate=100.0, start=0.2)
    dial.turn(0.375)  # between the first and the second knot, three quarters of the way
    for progress, moves in ((0.1, False), (0.2, True)):
        pressure.begin(progress)
        pressure.term(supernet)
        pressure.end(0.01)
        excess = float(expected_cost(supernet, table).detach()) - dial.share
        change = 100 * 0.01 * 3 * excess
        wanted = [0.25 * change, 0.75 * change, 0.0] if moves else [0.0] * 3
        assert dial.multipliers.tolist() == pytest.approx(wanted, rel=1e-4)
    assert abs(excess) > 0.01


def test_the_term_is_that_of_an_augmented_lagrangian_and_its_slope_is_reported(
    parts: tuple[nn.Module, CostTable, Dial],
) -> None:
    supernet, table, dial = parts
    pressure = RangePressure(table, dial, stiffness=20.0)
    dial.multipliers.copy_(torch.tensor([1.0, -2.0, 5.0]))
    for position, multiplier in ((0.25, -0.5), (0.75, 1.5)):
        dial.turn(position)
        expected = expected_cost(supernet, table)
        excess = float(expected.detach()) - dial.share
        term = pressure.term(supernet)
        assert float(term.detach()) == pytest.approx(multiplier * excess + 10 * excess**2, rel=1e-4)
        state = pressure.state(supernet)
        assert state.factor == pytest.approx(multiplier + 20 * excess, rel=1e-4) and state.bound == dial.share
