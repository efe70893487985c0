"""ReinMax: one-hot samples with a second-order gradient estimate (Liu et al., NeurIPS 2023)."""

from typing import Any

import torch
from torch import Tensor

from lwdc.gates.base import Gate, one_hot_of


class ReinMax(Gate):
    """Samples from the softmax of the logits; Heun's method instead of Euler's for the gradient.

    It is of second order at a temperature of 1, where it stays by default: with the midpoint from a sharper
    distribution than the draws', the estimate of what is drawn mostly would point away from it.
    """

    samples = "one"

    def __init__(self, num_candidates: int, *, final_temperature: float = 1.0, **schedule: Any) -> None:
        super().__init__(num_candidates, final_temperature=final_temperature, **schedule)

    def sample(self) -> Tensor:
        probabilities = torch.softmax(self.logits, dim=0)
        drawn = torch.zeros_like(probabilities).index_fill_(0, torch.multinomial(probabilities.detach(), 1), 1.0)
        midpoint = (drawn + super().soft().detach()) / 2
        # The same value as `midpoint`, but with the softmax's gradient at that point.
        midpoint = torch.softmax((midpoint.log() - self.logits).detach() + self.logits, dim=0)
        surrogate = 2 * midpoint - probabilities / 2
        return (surrogate - surrogate.detach()) + drawn

    def soft(self) -> Tensor:
        """The probability of each candidate to be drawn, which no temperature changes."""
        return torch.softmax(self.logits, dim=0)

    def evaluation(self) -> Tensor:
        return one_hot_of(self.logits.detach())
