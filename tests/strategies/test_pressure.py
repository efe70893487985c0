"""A cost that is weighed and one that is held, and what is refused of either."""

import pytest
from torch import nn

from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, tabulate
from lwdc.errors import CostError
from lwdc.space import SearchSpace
from lwdc.strategies import Dialled, Held, Holding, add_dial, check_pressure, hold
from lwdc.surgery import wrap


def supernet_of() -> tuple[nn.Module, CostTable]:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    supernet = wrap(model, SearchSpace([{"op": "original"}, {"op": "separable"}]), input_size=(1, 8, 8))
    return supernet, tabulate(supernet, Macs())


def test_a_cost_held_by_a_dial_adds_nothing_and_reports_what_its_dial_does() -> None:
    supernet, table = supernet_of()
    dial = add_dial(supernet, table, 0.9, 0.6, 3)
    held = Dialled(table, dial)
    dial.turn(0.5)
    hold(supernet, table)
    assert held.term(supernet) is None
    state = held.state(supernet)
    assert state.expected == pytest.approx(dial.share, abs=1e-3) and state.bound == dial.share
    assert state.factor == float(dial.pressure) != 0


def test_a_held_cost_adds_nothing_and_reports_its_bound_and_pressure() -> None:
    supernet, table = supernet_of()
    held = Held(table, int(0.6 * table.total))
    held.begin(1.0)
    Holding(supernet, [held]).hold()
    assert held.term(supernet) is None
    state = held.state(supernet)
    assert state.bound == pytest.approx(0.6, abs=1e-3) and state.expected == pytest.approx(state.bound, abs=1e-3)
    assert state.factor == held.pressure > 0


def test_the_bound_falls_geometrically_from_the_original_to_that_of_the_choice() -> None:
    _, table = supernet_of()
    held, shares = Held(table, table.total // 4, begins=0.2, ends=0.6), {}
    for progress in (0.0, 0.2, 0.4, 0.6, 1.0):
        held.begin(progress)
        shares[progress] = held.share
    assert shares == pytest.approx({0.0: 1.0, 0.2: 1.0, 0.4: 0.5, 0.6: 0.25, 1.0: 0.25}, rel=1e-3)


@pytest.mark.parametrize(
    ("factor", "budget", "message"),
    [
        (-0.1, None, r"cost\.factor must not be negative, found -0\.1: it would reward cost"),
        (1.0, 0.5, r"give either cost\.factor or cost\.budget, not both"),
        (None, None, r"give either cost\.factor or cost\.budget, not both and not neither"),
    ],
)
def test_a_pressure_that_makes_no_sense_is_refused(factor: float | None, budget: float | None, message: str) -> None:
    with pytest.raises(CostError, match=message):
        check_pressure("macs", factor, budget)
