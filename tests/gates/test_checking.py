"""Gates of others: a mistake that training would not show is refused before any."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwdc.errors import SpaceError
from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, SinglePath, Softmax, TrainableGate
from lwdc.gates.checking import check_gate, make_gate
from lwdc.space import SearchSpace
from lwdc.surgery import wrap

THREE = [{"op": "original"}, {"op": "low_rank", "ratio": 0.5}, {"op": "pointwise"}]
GATES = [GumbelSoftmax, Independent, OneHot, ReinMax, SinglePath, Softmax, TrainableGate]


@pytest.mark.parametrize("make", [*GATES, lambda n: GumbelSoftmax(n, hard=True)])
def test_every_gate_of_the_package_passes_and_no_random_state_moves_on(make: Any) -> None:
    state = torch.get_rng_state()
    check_gate(make_gate(make, 3))
    assert torch.equal(torch.get_rng_state(), state)


def sampling(sample: Any) -> type[Gate]:
    """A class of gates that give ``sample(gate)``."""
    return type("Mine", (Gate,), {"sample": sample, "expectation": sample})


class Plain(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()


class Bare(Gate):
    def __init__(self, count: int) -> None:
        nn.Module.__init__(self)
        self.logits = nn.Parameter(torch.zeros(count))

    def sample(self) -> Tensor:
        return self.logits.softmax(0)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            sampling(lambda gate: 2 * gate.soft()),
            r"gate Mine: sample\(\) is \[0.667, .*: mixing weights are \(3,\)",
        ),
        (sampling(lambda gate: gate.logits + 0), "and sum to 1"),
        (sampling(lambda gate: gate.soft()[:, None]), "mixing weights are"),
        (sampling(lambda gate: gate.soft()[:-1]), "mixing weights are"),
        (sampling(lambda gate: gate.soft() * float("nan")), "finite"),
        (sampling(lambda gate: None), r"sample\(\) is None"),
        (sampling(lambda gate: gate.logits.argmax()), r"sample\(\) is tensor\(0\)"),
        (sampling(lambda gate: gate.soft().detach()), "has no gradient for the logits"),
        (sampling(lambda gate: 0.9 * gate.soft() + 0.1 / 3), "exactly one-hot, but train"),
        (Gate, "cannot be built for 3 candidates: .*abstract"),
        (Plain, "a gate is a subclass of lwdc.gates.Gate, found a Plain"),
        (Bare, r"Bare does not call Gate.__init__"),
        (Softmax(3), "found one Softmax, which is for one site"),
    ],
)
def test_what_is_no_gate_is_refused_when_a_network_is_wrapped(gate: Any, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3))
    with pytest.raises(SpaceError, match=message):
        wrap(model, SearchSpace(THREE), gate=gate, input_size=(3, 4, 4))
