"""Independent gates against the enumeration of all that can be open."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lwdc.gates import Independent

LOGITS = st.lists(st.floats(-6, 6), min_size=1, max_size=7)


def gate_at(logits: list[float], temperature: float = 1.0) -> Independent:
    gate = Independent(len(logits), temperature=temperature).double()
    gate.logits.data.copy_(torch.tensor(logits, dtype=torch.float64))
    return gate


def enumerated(gate: Independent) -> Tensor:
    """The mean of the open ones over every set of them, by its probability; of none the softmax stands in."""
    opening = gate.opening()
    total = torch.zeros_like(opening)
    for given_open in itertools.product((0.0, 1.0), repeat=opening.numel()):
        is_open = torch.tensor(given_open, dtype=opening.dtype)
        probability = torch.where(is_open > 0, opening, 1 - opening).prod()
        mean = is_open / is_open.sum() if any(given_open) else torch.softmax(gate.logits / gate.temperature, 0)
        total = total + probability * mean
    return total


@given(logits=LOGITS, temperature=st.floats(0.2, 3))
@settings(max_examples=40)
def test_the_expectation_is_that_of_all_sets(logits: list[float], temperature: float) -> None:
    gate = gate_at(logits, temperature)
    probe = torch.linspace(-1, 2, len(logits), dtype=torch.float64)
    found, wanted = gate.expected(), enumerated(gate)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad((weights * probe).sum(), gate.logits)[0] for weights in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-10)
    (straight,) = torch.autograd.grad((gate() * probe).sum(), gate.logits)
    assert torch.equal(straight, slopes[0])


def test_candidates_are_open_independently_and_count_alike() -> None:
    gate = gate_at([1.0, -0.5, 0.3])
    draws = torch.stack([gate().detach() for _ in range(6000)])
    counts = (draws > 0).sum(1, keepdim=True)
    assert set(counts.flatten().tolist()) == {1, 2, 3}
    torch.testing.assert_close(draws, (draws > 0).double() / counts)
    torch.testing.assert_close(draws.mean(0), gate.expected().detach(), rtol=0, atol=0.02)
    several = (draws > 0).double().prod(1).mean()  # all three, which no rule for an empty draw has a part in
    assert float(several) == pytest.approx(float(gate.opening().detach().prod()), abs=0.02)


def test_at_the_first_temperature_the_probabilities_are_sigmoids_within_bounds() -> None:
    gate = gate_at([-20.0, -1.0, 0.0, 2.0, 20.0])
    wanted = torch.sigmoid(gate.logits.detach()).clamp(5e-4, 1 - 5e-4)
    torch.testing.assert_close(gate.opening().detach(), wanted, rtol=0, atol=1e-7)
    (slope,) = torch.autograd.grad(gate.opening().sum(), gate.logits)
    assert bool((slope > 0).all())  # also beyond the bounds


def test_as_the_temperature_falls_all_but_the_largest_close() -> None:
    gate = gate_at([3.0, 2.0, 1.0]).requires_grad_(False)
    assert float(gate.opening().min()) > 0.7 and float(gate.expected().max()) < 0.5
    gate.advance(1.0)
    assert float(gate.opening()[0]) == pytest.approx(float(torch.tensor(3.0).sigmoid()))
    assert float(gate.expected()[0]) > 0.999


def test_if_none_is_open_one_is_drawn() -> None:
    gate = gate_at([-9.0, -9.0, -8.0])
    draws = torch.stack([gate().detach() for _ in range(2000)])
    assert float((draws.amax(1) == 1).double().mean()) > 0.99
    torch.testing.assert_close(draws.mean(0), torch.softmax(gate.logits.detach(), 0), rtol=0, atol=0.04)


def test_pointed_at_a_candidate_the_bounds_are_gone() -> None:
    gate = Independent(4, temperature=9.0)
    gate.point_at(2)
    assert all(gate().tolist() == [0, 0, 1, 0] for _ in range(300))
    assert gate.opening().tolist() == [0, 0, 0.5, 0]
