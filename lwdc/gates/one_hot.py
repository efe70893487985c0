"""The one-hot gate: the largest logit forward, the softmax backward."""

from torch import Tensor

from lwdc.gates.base import Gate, one_hot_of, straight_through


class OneHot(Gate):
    """A hard choice at every step; the tempered softmax carries the gradient to every candidate."""

    samples = "one"
    expects_one = True

    def sample(self) -> Tensor:
        return straight_through(one_hot_of(self.logits.detach()), self.soft())

    def expectation(self) -> Tensor:
        """The choice itself, so that a cost is the cost of the network now selected."""
        return self.sample()
