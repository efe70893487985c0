"""Embedding kernels: a Gaussian process over architectures whose kernel is learned.

Cao, Wang, Kitani: Learnable Embedding Space for Efficient Neural Architecture Compression, ICLR 2019 (ESNAC), as its
code has it. The algebra is a few lines of ``torch.linalg``: GPyTorch has this likelihood too, and would be a dependency
for them alone.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """Sequences ``(architectures, decisions, channels)`` as unit vectors ``(architectures, 2 * hidden)``.

    A bidirectional LSTM, and the mean of its outputs over the decisions. Weights are drawn from ``generator`` alone.
    """

    def __init__(self, channels: int, *, hidden: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        # On "meta", where nothing is drawn from the global generator.
        lstm = nn.LSTM(channels, hidden, layers, batch_first=True, bidirectional=True, device="meta")
        self.lstm = lstm.to_empty(device="cpu")
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden), generator=generator)

    def forward(self, sequences: Tensor) -> Tensor:
        outputs, _ = self.lstm(sequences)
        return nn.functional.normalize(outputs.mean(1))


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How an embedding is trained, and the kernel over it. The defaults are those of ESNAC's code."""

    alpha: float = 0.01  # squared length at which embeddings cease to be alike
    beta: float = 0.05  # variance of the noise, of targets of variance 1
    steps: int = 100  # at most
    lr: float = 1e-3
    weight_decay: float = 5e-4


class Process:
    """A Gaussian process over embeddings, given targets ``(architectures,)``, which it standardises."""

    def __init__(self, embedding: Embedding, sequences: Tensor, targets: Tensor, fitting: Fitting) -> None:
        self.embedding, self.sequences, self.targets, self.fitting = embedding, sequences, targets.double(), fitting
        self._middle = self.targets.mean()
        spread = self.targets.std(correction=0)
        self._spread = spread if spread > 0 else torch.ones_like(spread)
        self._standard = (self.targets - self._middle) / self._spread

    @torch.enable_grad()
    def fit(self) -> None:
        """Train the embedding, in place, until the likelihood of each target given the others ceases to grow."""
        fitting = self.fitting
        optimizer = torch.optim.Adam(self.embedding.parameters(), fitting.lr, weight_decay=fitting.weight_decay)
        average = 0.0
        for step in range(fitting.steps):
            covariance = _with_noise(self.embedding(self.sequences).double(), fitting)
            loss = -left_out_likelihood(covariance, self._standard)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average = loss.item() if step == 0 else (average + loss.item()) / 2
            if step > _EARLIEST and abs(average - loss.item()) < _SETTLED:
                break

    @torch.no_grad()
    def posterior(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of other architectures' targets, noise included: ``(architectures,)`` each."""
        known = self.embedding(self.sequences).double()
        factor = torch.linalg.cholesky(_with_noise(known, self.fitting))
        across = rbf(known, self.embedding(sequences).double(), self.fitting.alpha)  # (known, others)
        mean = across.T @ torch.cholesky_solve(self._standard[:, None], factor)[:, 0]
        explained = torch.linalg.solve_triangular(factor, across, upper=False).square().sum(0)
        deviation = (1 - explained + self.fitting.beta).sqrt()
        return self._middle + self._spread * mean, self._spread * deviation


def rbf(one: Tensor, other: Tensor, alpha: float) -> Tensor:
    """``exp(-|a - b|^2 / (2 alpha))`` of unit vectors ``(n, d)`` and ``(m, d)``: ``(n, m)``."""
    return torch.exp(-(1 - one @ other.T) / alpha)  # |a - b|^2 = 2 - 2 ab: without a root, whose gradient ends at 0


def left_out(covariance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each target given all others, by one factorisation: ``(n,)`` each.

    ``mean_i = y_i - [K^-1 y]_i / [K^-1]_ii`` and ``variance_i = 1 / [K^-1]_ii``; the covariance ``(n, n)`` includes the
    noise. Rasmussen, Williams: Gaussian Processes for Machine Learning, 2006, Section 5.4.2.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    precision = inverse.diagonal()
    return targets - inverse @ targets / precision, 1 / precision


def left_out_likelihood(covariance: Tensor, targets: Tensor) -> Tensor:
    """The mean over all targets of their log-density given the others: a scalar."""
    mean, variance = left_out(covariance, targets)
    return -0.5 * (torch.log(2 * math.pi * variance) + (targets - mean).square() / variance).mean()


def expected_improvement(mean: Tensor, deviation: Tensor, best: float) -> Tensor:
    """By how much normal variables are expected to exceed ``best``, where they do: of their shape."""
    beyond = (mean - best) / deviation
    density = torch.exp(-beyond.square() / 2) / math.sqrt(2 * math.pi)
    return (mean - best) * torch.special.ndtr(beyond) + deviation * density


def _with_noise(embedded: Tensor, fitting: Fitting) -> Tensor:
    return rbf(embedded, embedded, fitting.alpha) + fitting.beta * torch.eye(len(embedded), dtype=embedded.dtype)


_EARLIEST, _SETTLED = 5, 1e-3  # steps before training may end, and the change at which it does
