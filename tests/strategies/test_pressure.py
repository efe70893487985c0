"""A cost that is weighed and one that is held, and what is refused of either."""

import pytest
from torch import nn

from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, tabulate
from lwdc.errors import CostError
from lwdc.space import SearchSpace
from lwdc.strategies import Held, add_hold, check_pressure, hold
from lwdc.surgery import wrap


def supernet_of() -> tuple[nn.Module, CostTable]:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    supernet = wrap(model, SearchSpace([{"op": "original"}, {"op": "separable"}]), input_size=(1, 8, 8))
    return supernet, tabulate(supernet, Macs())


def test_a_held_cost_adds_nothing_and_reports_its_bound_and_pressure() -> None:
    supernet, table = supernet_of()
    held = Held(add_hold(supernet, [table]), bound=int(0.6 * table.total))
    held.begin(1.0)
    hold(supernet)
    assert held.term(supernet) is None
    state = held.state(supernet)
    assert state.bound == pytest.approx(0.6, abs=1e-3) and state.expected == pytest.approx(state.bound, abs=1e-3)
    assert state.factor == float(held.hold.pressure) > 0


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
