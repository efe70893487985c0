"""Independent gates: every candidate is open or closed on its own, and those that are open are averaged, NSE-style."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwdc.gates.base import Gate, straight_through


class Independent(Gate):
    """Candidate i is open with a probability ``sigmoid(alpha_i)``, whatever the others are; the open ones count alike.

    That, probabilities kept 5e-4 from 0 and 1, and the mean of the open ones are those of Ci et al., "Evolving Search
    Space for Neural Architecture Search", ICCV 2021 (NSE), as its code has them. There the input is one of the open
    ones, with none open a cell is skipped, weights are trained under even odds and not under the logits', and the
    logits between whiles, from two draws at once. Ours: where none is open, one is drawn as if exactly one were, which
    is by the softmax of the logits; the gradient is that of the exact expectation, straight through, which is unbiased
    where the loss is linear in the weights; and, as one operator is kept in the end, a falling temperature divides the
    distances to the largest logit, so that the others close. At a temperature of 1 the probabilities are NSE's.
    """

    samples = "some"

    least: Tensor
    nodes: Tensor
    shares: Tensor

    def __init__(self, num_candidates: int, **schedule: Any) -> None:
        super().__init__(num_candidates, **schedule)
        self.register_buffer("least", torch.tensor(5e-4))  # distance of a probability from 0 and 1; 0 once pointed
        # Gauss' rule on [0, 1], exact for the polynomials that `soft` integrates.
        nodes, shares = np.polynomial.legendre.leggauss((num_candidates + 1) // 2)
        self.register_buffer("nodes", torch.tensor((nodes + 1) / 2), persistent=False)
        self.register_buffer("shares", torch.tensor(shares / 2), persistent=False)

    def sample(self) -> Tensor:
        is_open = torch.bernoulli(self.opening().detach())
        alone = torch.zeros_like(is_open).index_fill(0, torch.multinomial(super().soft().detach(), 1), 1.0)
        is_open = torch.where(is_open.any(), is_open, alone)
        return straight_through(is_open / is_open.sum(), self.soft())

    def opening(self) -> Tensor:
        """The probability of each candidate to be open: ``(num_candidates,)``."""
        largest = self.logits.amax()
        probabilities = torch.sigmoid(largest + (self.logits - largest) / self.temperature)
        # Clipped in value alone: a closed one can be opened again.
        return probabilities + (probabilities.clamp(self.least, 1 - self.least) - probabilities).detach()

    def soft(self) -> Tensor:
        """The expectation of a sample: what candidates count on average. It takes the place of the softmax."""
        opening = self.opening()
        # With K others open it is the mean of 1 / (1 + K), which is the integral of their generating function.
        others_closed = 1 - self.nodes.to(opening)[:, None] * opening  # (nodes, num_candidates)
        logs = others_closed.log()
        alone = (logs.sum(1, keepdim=True) - logs).exp()
        counted = opening * (self.shares.to(opening)[:, None] * alone).sum(0)  # no product: autocast would round it
        none = (1 - opening).clamp_min(_TINY).log().sum().exp()
        weights = counted + none * super().soft()
        return weights / weights.sum()

    def point_at(self, index: int) -> None:
        super().point_at(index)
        with torch.no_grad():
            self.least.zero_()
            self.logits.clamp_max_(0)  # so that the others are closed at any temperature


_TINY = 1e-30
