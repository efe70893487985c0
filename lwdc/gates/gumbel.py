"""Gumbel-softmax: random weights whose argmax follows the softmax of the logits (Jang et al., ICLR 2017)."""

from typing import Any

import torch
from torch import Tensor

from lwdc.gates.base import Gate, one_hot_of, straight_through


class GumbelSoftmax(Gate):
    """Soft samples, or with ``hard`` one-hot samples with the soft gradient (straight-through)."""

    def __init__(self, num_candidates: int, *, hard: bool = False, **schedule: Any) -> None:
        super().__init__(num_candidates, **schedule)
        self.hard = hard
        if hard:
            self.samples = "one"

    def sample(self) -> Tensor:
        noise = -torch.empty_like(self.logits).exponential_().log()
        soft = torch.softmax((self.logits + noise) / self.temperature, dim=0)
        return straight_through(one_hot_of(soft.detach()), soft) if self.hard else soft

    def soft(self) -> Tensor:
        """Probability that each candidate is the largest, which no temperature changes."""
        return torch.softmax(self.logits, dim=0)

    def evaluation(self) -> Tensor:
        return one_hot_of(self.logits.detach()) if self.hard else super().soft()
