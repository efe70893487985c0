"""A cost that is held has no place in the objective, and says how it stands."""

import pytest

from lwdc.backbones import Backbone
from lwdc.costs import Macs, tabulate
from lwdc.space import SearchSpace
from lwdc.strategies import Held, add_dial, hold
from lwdc.surgery import wrap


def test_a_held_cost_adds_nothing_and_reports_what_its_dial_does() -> None:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    supernet = wrap(model, SearchSpace([{"op": "original"}, {"op": "separable"}]), input_size=(1, 8, 8))
    table = tabulate(supernet, Macs())
    dial = add_dial(supernet, table, 0.9, 0.6, 3)
    held = Held(table, dial)
    dial.turn(0.5)
    hold(supernet, table)
    assert float(held.term(supernet)) == 0
    state = held.state(supernet)
    assert state.expected == pytest.approx(dial.share, abs=1e-3) and state.bound == dial.share
    assert state.factor == float(dial.pressure) != 0
