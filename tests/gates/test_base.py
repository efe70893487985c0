"""What every gate promises, whichever it is: whoever adds one to this list gets the tests for nothing."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lwdc.gates
from lwdc.errors import SpaceError
from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, SinglePath, Softmax, TrainableGate
from lwdc.gates.base import one_hot_of, straight_through

MakeGate = Callable[..., Gate]


def hard_gumbel(num_candidates: int, **schedule: Any) -> Gate:
    """The straight-through form."""
    return GumbelSoftmax(num_candidates, hard=True, **schedule)


ALL: list[MakeGate] = [Softmax, GumbelSoftmax, hard_gumbel, OneHot, TrainableGate, ReinMax, Independent]  # that learn
HARD: list[MakeGate] = [hard_gumbel, OneHot, TrainableGate, ReinMax]
RANDOM: list[MakeGate] = [GumbelSoftmax, hard_gumbel, ReinMax, SinglePath]

every_gate = pytest.mark.parametrize("make", ALL)
any_gate = pytest.mark.parametrize("make", [*ALL, SinglePath])
hard_gates = pytest.mark.parametrize("make", HARD)


def drawn(make: MakeGate, count: int = 5, **schedule: Any) -> Gate:
    """A gate with random logits."""
    gate = make(count, **schedule)
    nn.init.normal_(gate.logits)
    return gate


def forms(gate: Gate) -> list[Tensor]:
    """Everything that a gate says of its candidates."""
    return [
        gate.train()(),
        gate.eval()(),
        gate.expected(),
        gate.expectation(),
        gate.probabilities(),
        gate.scores().exp(),
    ]


def test_the_list_above_holds_every_gate_of_the_package() -> None:
    made = {type(make(2)) for make in ALL}
    assert {getattr(lwdc.gates, name) for name in lwdc.gates.__all__} - {Gate, SinglePath} == made


@any_gate
@given(logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=9), temperature=st.floats(0.05, 5))
@settings(max_examples=40)
def test_every_form_sums_to_one(make: MakeGate, logits: list[float], temperature: float) -> None:
    gate = make(len(logits), temperature=temperature).double()
    gate.logits.data.copy_(torch.tensor(logits))
    for weights in forms(gate):
        assert weights.shape == (len(logits),)
        assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-10)
        assert bool((weights >= 0).all())


@any_gate
def test_expectation_and_evaluation_are_not_random(make: MakeGate) -> None:
    gate = drawn(make)
    for ask in (gate.expectation, gate.expected, gate.probabilities, gate.scores, gate.eval()):
        first = ask()
        state = torch.get_rng_state()
        assert all(torch.equal(ask(), first) for _ in range(20))
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("make", RANDOM)
def test_random_gates_draw_in_proportion_to_their_expectation(make: MakeGate) -> None:
    gate = drawn(make, 4)
    draws = torch.stack([one_hot_of(gate.sample().detach()) for _ in range(4000)])
    torch.testing.assert_close(draws.mean(0), gate.expectation().detach(), rtol=0, atol=0.03)


@hard_gates
def test_hard_gates_are_exactly_one_hot_in_every_draw(make: MakeGate) -> None:
    for trial in range(2000):
        gate = drawn(make, 2 + trial % 7, temperature=(0.05, 0.7, 1.0, 3.0)[trial % 4])
        weights = gate()
        assert sorted(weights.tolist()) == [0.0] * (weights.numel() - 1) + [1.0]


@pytest.mark.parametrize("make", [*ALL, SinglePath])
def test_a_gate_says_how_many_candidates_have_a_part_in_a_sample(make: MakeGate) -> None:
    gate = make(4)
    torch.manual_seed(0)
    counts = {int((gate.sample() != 0).sum()) for _ in range(300)}
    assert counts == {"all": {4}, "some": {1, 2, 3, 4}, "one": {1}}[gate.samples]


@any_gate
def test_a_gate_says_whether_its_expectation_is_one_hot_at_the_largest_logit(make: MakeGate) -> None:
    gate = make(4)
    gate.logits.data = torch.tensor([0.1, 0.3, 0.2, 0.0])
    assert torch.equal(gate.expectation(), one_hot_of(gate.logits.detach())) == gate.expects_one


@every_gate
def test_the_gradient_reaches_every_logit(make: MakeGate) -> None:
    gate = drawn(make)
    for weights in (gate.train()(), gate.expected()):
        (gradient,) = torch.autograd.grad((weights * torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0])).sum(), gate.logits)
        assert bool((gradient != 0).all())


@pytest.mark.parametrize("make", [Softmax, OneHot, TrainableGate])
def test_ties_break_by_the_first(make: MakeGate) -> None:
    gate = make(4)
    gate.logits.data.copy_(torch.tensor([0.0, 2.0, 2.0, 2.0]))
    for weights in (one_hot_of(gate.eval()()), torch.eye(4)[int(gate.scores().argmax())]):
        assert weights.tolist() == [0, 1, 0, 0]


@every_gate
def test_the_warm_up_is_uniform_and_moves_no_logit(make: MakeGate) -> None:
    gate = drawn(make, 4, warmup=0.2)
    gate.advance(0.1)
    for weights in (gate.train()(), gate.eval()(), gate.expected(), gate.probabilities()):
        assert weights.tolist() == [0.25] * 4
    (gradient,) = torch.autograd.grad((gate.train()() * torch.randn(4)).sum(), gate.logits)
    assert gradient.tolist() == [0] * 4
    gate.advance(0.2)
    assert gate.probabilities().tolist() != [0.25] * 4


@any_gate
def test_the_temperature_falls_geometrically_to_its_end(make: MakeGate) -> None:
    gate = make(3, warmup=0.2, annealed=0.8, temperature=2.0, final_temperature=0.02)
    found = []
    for progress in (0.0, 0.2, 0.5, 0.8, 1.0):
        gate.advance(progress)
        found.append(float(gate.temperature))
    assert found == pytest.approx([2, 2, 0.2, 0.02, 0.02])


@pytest.mark.parametrize(("warmup", "annealed"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0)])
def test_every_schedule_ends_at_the_final_temperature(warmup: float, annealed: float) -> None:
    gate = Softmax(3, warmup=warmup, annealed=annealed, final_temperature=0.1)
    gate.advance(1.0)
    assert float(gate.temperature) == pytest.approx(0.1)
    assert int(gate.uniform) == 0


@any_gate
def test_the_state_dict_carries_the_schedule(make: MakeGate) -> None:
    gate, other = drawn(make), drawn(make)
    for progress in (0.5, 0.9):
        gate.advance(progress)
    other.load_state_dict(gate.state_dict())
    torch.manual_seed(1)
    wanted = forms(gate)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(forms(other), wanted, strict=True))
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(forms(copy.deepcopy(gate)), wanted, strict=True))


@every_gate
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("progress", [None, 0.0, 0.5, 1.0])
def test_pointing_makes_every_form_exactly_one_hot(make: MakeGate, precision: torch.dtype, progress: Any) -> None:
    gate = drawn(make).to(precision)
    if progress is not None:
        gate.advance(progress)
    gate.point_at(3)
    for _ in range(50):
        for weights in forms(gate):
            assert one_hot_of(weights).tolist() == [0, 0, 0, 1, 0]
            assert weights.detach().round(decimals=9).tolist() == [0, 0, 0, 1, 0]
        assert gate.train()().tolist() == gate.eval()().tolist() == [0, 0, 0, 1, 0]
    (gradient,) = torch.autograd.grad((gate.train()() * torch.randn(5)).sum(), gate.logits)
    assert bool(gradient.isfinite().all())


def test_the_score_is_an_average_that_outlives_one_flicker() -> None:
    gate = OneHot(3, warmup=0.0)
    gate.logits.data.copy_(torch.tensor([2.0, 0.0, 0.0]))
    for _ in range(30):
        gate.advance(0.5)
    torch.testing.assert_close(gate.scores(), torch.log_softmax(gate.logits.detach(), 0))
    gate.logits.data.copy_(torch.tensor([0.0, 3.0, 0.0]))
    gate.advance(0.5)
    assert int(gate.scores().argmax()) == 0
    for _ in range(60):
        gate.advance(0.5)
    assert int(gate.scores().argmax()) == 1


@any_gate
def test_without_a_schedule_the_logits_decide(make: MakeGate) -> None:
    gate = make(4)
    gate.logits.data.copy_(torch.tensor([0.0, 1.0, 5.0, 2.0]))
    assert int(gate.scores().argmax()) == 2
    gate.advance(0.0)  # a warm-up averages nothing
    assert int(gate.scores().argmax()) == 2


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    soft = torch.rand(2000, requires_grad=True)
    hard = torch.zeros(2000)
    hard[7] = 1.0
    weights = straight_through(hard, soft)
    assert torch.equal(weights, hard)
    (gradient,) = torch.autograd.grad((weights * torch.arange(2000.0)).sum(), soft)
    assert torch.equal(gradient, torch.arange(2000.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, "at least one candidate, found 0"),
        ({"warmup": 0.9, "annealed": 0.5}, "0 <= warmup <= annealed <= 1, found warmup=0.9 and annealed=0.5"),
        ({"warmup": -0.1}, "found warmup=-0.1"),
        ({"annealed": 1.5}, "found warmup=0.15 and annealed=1.5"),
        ({"final_temperature": 0.0}, r"temperatures must be positive, found 1.0 and 0.0"),
    ],
)
def test_an_impossible_schedule_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Softmax(**{"num_candidates": 3, **options})
