"""The single-path gate: one operator a step, drawn evenly, for supernets whose weights many architectures share."""

from typing import Any

import torch
from torch import Tensor

from lwdc.gates.base import Gate, one_hot_of


class SinglePath(Gate):
    """One-hot draws, all candidates equally likely, until the gate is pointed at one of them.

    There is nothing to learn: the logits stay where they are, and the operators that are not drawn need no gradient.
    It needs no warm-up, and must have none where only the operator drawn is run: it would be one of a mixture.
    In evaluation mode it takes the candidate pointed at, or before that the first one. Guo et al.: Single Path One-Shot
    Neural Architecture Search with Uniform Sampling, ECCV 2020.
    """

    samples = "one"
    takes_one = True

    def __init__(self, num_candidates: int, **schedule: Any) -> None:
        super().__init__(num_candidates, **{"warmup": 0.0} | schedule)
        self.logits.requires_grad_(False)

    def sample(self) -> Tensor:
        drawn = torch.multinomial(torch.softmax(self.logits, dim=0), 1)
        return torch.zeros_like(self.logits).index_fill_(0, drawn, 1.0)

    def expectation(self) -> Tensor:
        return torch.softmax(self.logits, dim=0)

    def evaluation(self) -> Tensor:
        return one_hot_of(self.logits)
