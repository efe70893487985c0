"""Gumbel-softmax."""

import torch

from lwdc.gates import GumbelSoftmax


def test_the_temperature_sharpens_the_draws_and_not_their_odds() -> None:
    gate = GumbelSoftmax(3)
    gate.logits.data.copy_(torch.tensor([0.0, 1.0, 2.0]))
    peaks = []
    for temperature in (2.0, 0.1):
        gate.temperature.fill_(temperature)
        torch.manual_seed(0)
        draws = torch.stack([gate.sample().detach() for _ in range(500)])
        peaks.append((float(draws.amax(1).mean()), draws.argmax(1)))
        torch.testing.assert_close(gate.expectation(), torch.softmax(gate.logits, 0))
    assert peaks[0][0] < 0.8 < 0.9 < peaks[1][0]
    assert torch.equal(peaks[0][1], peaks[1][1])


def test_it_is_as_decided_as_its_draws_are() -> None:
    gate = GumbelSoftmax(3, hard=True)
    gate.logits.data.copy_(torch.tensor([0.5, 0.0, 0.0]))
    gate.advance(1.0)
    torch.manual_seed(0)
    drawn = torch.stack([gate.sample().detach() for _ in range(5000)]).mean(0)
    torch.testing.assert_close(gate.probabilities(), drawn, rtol=0, atol=0.02)
    assert float(gate.probabilities().max()) < 0.5


def test_the_hard_form_has_the_soft_ones_gradient() -> None:
    soft, hard = GumbelSoftmax(4, temperature=0.7), GumbelSoftmax(4, hard=True, temperature=0.7)
    gradients = []
    for gate in (soft, hard):
        torch.manual_seed(3)
        gradients.append(torch.autograd.grad((gate.sample() * torch.arange(4.0)).sum(), gate.logits)[0])
    assert torch.equal(*gradients)


def test_a_hard_gate_evaluates_at_its_largest_logit() -> None:
    gate = GumbelSoftmax(3, hard=True).eval()
    gate.logits.data.copy_(torch.tensor([0.0, 1.0, 0.5]))
    assert gate().tolist() == [0, 1, 0]


def test_no_draw_of_many_is_undefined() -> None:
    gate = GumbelSoftmax(1_000_000)
    assert bool(gate.sample().isfinite().all())
