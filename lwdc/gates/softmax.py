"""The softmax gate: every candidate in proportion to its tempered probability."""

from torch import Tensor

from lwdc.gates.base import Gate


class Softmax(Gate):
    """Soft weights that the falling temperature turns into a choice."""

    def sample(self) -> Tensor:
        return self.soft()
