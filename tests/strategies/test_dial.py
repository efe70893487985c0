"""The dial: one position for all gates, logits linear between its knots."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lwdc.backbones import Backbone
from lwdc.selection import gates
from lwdc.space import SearchSpace
from lwdc.strategies import add_dial, dial_of
from lwdc.strategies.dial import Dial
from lwdc.surgery import begin_with_prior, wrap

SPACE = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable"}, {"op": "pointwise"}])


def supernet_of() -> nn.Module:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    return wrap(model, SPACE, input_size=(1, 8, 8))


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
    dial = add_dial(supernet, 0.9, 0.2, knots)
    for position in (0.0, 0.3, 1.0):
        dial.turn(position)
        for a, b in zip(before, logits(supernet), strict=True):
            torch.testing.assert_close(a, b)


def test_logits_are_linear_between_knots_and_theirs_at_them() -> None:
    supernet = supernet_of()
    dial = add_dial(supernet, 0.9, 0.2, 3)
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
    dial = add_dial(supernet, 0.9, 0.2, 3)
    for gate in gates(supernet):
        nn.init.normal_(next(gate.parameters()), std=5)
    dial.turn(0.3)
    wanted = logits(supernet)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits(supernet)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_a_copy_has_a_dial_of_its_own_and_a_checkpoint_carries_the_position() -> None:
    supernet = supernet_of()
    dial = add_dial(supernet, 0.9, 0.2, 3)
    dial.turn(0.125)
    copied, fresh = copy.deepcopy(supernet), supernet_of()
    add_dial(fresh, 0.9, 0.2, 3)
    fresh.load_state_dict(supernet.state_dict())
    dial.turn(1.0)
    for other in (copied, fresh):
        assert float(dial_of(other).position) == 0.125
        assert len([m for m in other.modules() if isinstance(m, Dial)]) == 1
