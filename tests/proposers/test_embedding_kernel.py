"""Embedding kernels: the closed forms against what they stand for."""

import math

import torch
from torch import Tensor

from lwdc.proposers.embedding_kernel import (
    Embedding,
    Fitting,
    Process,
    expected_improvement,
    left_out,
    left_out_likelihood,
    rbf,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def embedding(seed: int = 0, *, hidden: int = 4) -> Embedding:
    return Embedding(3, hidden=hidden, layers=1, generator=torch.Generator().manual_seed(seed))


def test_the_kernel_is_that_of_the_distance() -> None:
    vectors = torch.nn.functional.normalize(draw(7, 5))
    expected = torch.exp(-torch.cdist(vectors, vectors).square() / (2 * 0.3))
    torch.testing.assert_close(rbf(vectors, vectors, 0.3), expected, rtol=1e-10, atol=0)


def test_what_is_left_out_is_predicted_as_if_it_had_been_left_out() -> None:
    vectors, targets = torch.nn.functional.normalize(draw(12, 4)), draw(12, seed=1)
    covariance = rbf(vectors, vectors, 0.1) + 0.05 * torch.eye(12, dtype=torch.float64)
    mean, variance = left_out(covariance, targets)
    for i in range(12):
        others = [j for j in range(12) if j != i]
        weights = covariance[i, others] @ torch.linalg.inv(covariance[others][:, others])
        assert math.isclose(mean[i], weights @ targets[others], rel_tol=1e-8, abs_tol=1e-8)
        assert math.isclose(variance[i], covariance[i, i] - weights @ covariance[others, i], rel_tol=1e-8)


def test_expected_improvement_is_its_integral() -> None:
    for mean, deviation, best in [(0.3, 0.2, 0.5), (1.0, 0.1, 0.2), (-2.0, 0.7, 0.1)]:
        x = torch.linspace(best, max(best, mean) + 12 * deviation, 200_001, dtype=torch.float64)
        density = torch.exp(-((x - mean) / deviation).square() / 2) / (deviation * math.sqrt(2 * math.pi))
        integral = torch.trapezoid((x - best) * density, x)
        found = expected_improvement(torch.tensor([mean]).double(), torch.tensor([deviation]).double(), best)
        assert math.isclose(found.item(), integral.item(), rel_tol=1e-5, abs_tol=1e-12)
    at_best = expected_improvement(torch.zeros(1).double(), torch.ones(1).double(), 0.0)
    assert math.isclose(at_best.item(), 1 / math.sqrt(2 * math.pi), rel_tol=1e-12)


def test_the_posterior_is_that_of_explicit_inversion() -> None:
    known, others, targets = draw(9, 6, 3).float(), draw(5, 6, 3, seed=1).float(), 5 + 0.1 * draw(9, seed=2)
    process = Process(embedding(), known, targets, Fitting(alpha=0.1))
    mean, deviation = process.posterior(others)
    with torch.no_grad():
        a, b = process.embedding(known).double(), process.embedding(others).double()
    inverse = torch.linalg.inv(rbf(a, a, 0.1) + 0.05 * torch.eye(9, dtype=torch.float64))
    spread = targets.std(correction=0)
    expected = targets.mean() + rbf(b, a, 0.1) @ inverse @ (targets - targets.mean())
    variance = 1 - (rbf(b, a, 0.1) @ inverse * rbf(b, a, 0.1)).sum(1) + 0.05
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(deviation, spread * variance.sqrt(), rtol=1e-8, atol=0)


def test_targets_that_are_all_alike_are_borne() -> None:
    process = Process(embedding(), draw(4, 6, 3).float(), torch.full((4,), 0.5), Fitting(steps=3))
    process.fit()
    mean, _ = process.posterior(draw(2, 6, 3, seed=1).float())
    torch.testing.assert_close(mean, torch.full((2,), 0.5).double())


def test_training_raises_the_likelihood_of_what_is_left_out() -> None:
    sequences = draw(30, 6, 3).float()
    process = Process(embedding(hidden=8), sequences, sequences[:, 2, 0], Fitting(lr=0.01, steps=20))
    before = _likelihood(process)
    process.fit()
    assert _likelihood(process) > before + 0.2


def test_an_embedding_is_a_function_of_its_generator_and_leaves_the_global_one_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = embedding(1), embedding(1), embedding(2)
    assert torch.equal(torch.get_rng_state(), state)
    sequences = draw(5, 6, 3).float()
    assert torch.equal(one(sequences), same(sequences))
    assert not torch.equal(one(sequences), other(sequences))
    torch.testing.assert_close(one(sequences).norm(dim=1), torch.ones(5))


@torch.no_grad()
def _likelihood(process: Process) -> float:
    embedded = process.embedding(process.sequences).double()
    covariance = rbf(embedded, embedded, 0.01) + 0.05 * torch.eye(len(embedded), dtype=torch.float64)
    targets = (process.targets - process.targets.mean()) / process.targets.std(correction=0)
    return left_out_likelihood(covariance, targets).item()
