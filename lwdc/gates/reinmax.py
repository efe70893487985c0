"""ReinMax: one-hot samples with a second-order gradient estimate (Liu et al., NeurIPS 2023)."""

import torch
from torch import Tensor

from lwdc.gates.base import Gate, one_hot_of


class ReinMax(Gate):
    """Samples from the softmax of the logits; Heun's method instead of Euler's for the gradient."""

    samples = "one"

    def sample(self) -> Tensor:
        probabilities = torch.softmax(self.logits, dim=0)
        drawn = torch.zeros_like(probabilities).index_fill_(0, torch.multinomial(probabilities.detach(), 1), 1.0)
        midpoint = (drawn + self.soft().detach()) / 2
        # The same value as `midpoint`, but with the softmax's gradient at that point.
        midpoint = torch.softmax((midpoint.log() - self.logits).detach() + self.logits, dim=0)
        surrogate = 2 * midpoint - probabilities / 2
        return (surrogate - surrogate.detach()) + drawn

    def expectation(self) -> Tensor:
        return torch.softmax(self.logits, dim=0)

    def evaluation(self) -> Tensor:
        return one_hot_of(self.logits.detach())
