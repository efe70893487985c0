"""What every gate promises: mixing weights from logits, under a schedule."""

import abc
from typing import Literal

import torch
from torch import Tensor, nn

from lwdc.errors import SpaceError


class Gate(nn.Module, abc.ABC):
    """Turns ``num_candidates`` logits into mixing weights that sum to 1.

    In training ``forward`` samples the weights of one step; in evaluation mode nothing is random. The
    schedule is ours: for the share ``warmup`` of a search the weights are uniform, so that every
    operator trains; then the temperature falls geometrically from ``temperature`` to
    ``final_temperature``, which it reaches at the share ``annealed``. All of it is in ``state_dict()``.

    A subclass gives ``sample`` and, where candidates do not count by the tempered softmax on average, ``soft``, by
    which it also says how decided it is; where a cost or an evaluation takes something else, ``expectation`` or
    ``evaluation``.
    """

    samples: Literal["all", "some", "one"] = "all"  # of the candidates: how many have a part in a sample
    expects_one = False  # its expectation is one-hot, at the largest logit
    takes_one = False  # every sample is one-hot, and what it leaves out needs no gradient: it need not run

    logits: nn.Parameter
    uniform: Tensor
    temperature: Tensor
    average: Tensor

    def __init__(
        self,
        num_candidates: int,
        *,
        warmup: float = 0.15,
        temperature: float = 1.0,
        final_temperature: float = 0.05,
        annealed: float = 0.8,
    ) -> None:
        super().__init__()
        if num_candidates < 1:
            raise SpaceError(f"a gate needs at least one candidate, found {num_candidates}.")
        if not 0 <= warmup <= annealed <= 1:
            raise SpaceError(f"a gate needs 0 <= warmup <= annealed <= 1, found {warmup=} and {annealed=}.")
        if min(temperature, final_temperature) <= 0:
            raise SpaceError(f"temperatures must be positive, found {temperature} and {final_temperature}.")
        self.warmup, self.annealed = warmup, annealed
        self.temperatures = (temperature, final_temperature)
        self.logits = nn.Parameter(torch.zeros(num_candidates))  # the papers' alpha of one layer
        # Buffers and not attributes: a copy, a checkpoint or an average must carry the schedule's position.
        self.register_buffer("uniform", torch.zeros((), dtype=torch.long))  # 1 in the warm-up; an integer: no EMA lags
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.register_buffer("average", torch.zeros(num_candidates))  # sums to 1 only in the long run

    def forward(self) -> Tensor:
        """Mixing weights ``(num_candidates,)`` of this step."""
        weights = self.sample() if self.training else self.evaluation()
        return self._blend(weights)

    def expected(self) -> Tensor:
        """The expectation under the schedule, never random, differentiable: ``(num_candidates,)``."""
        return self._blend(self.expectation())

    @abc.abstractmethod
    def sample(self) -> Tensor:
        """Mixing weights of one training step; may be random, may be one-hot."""

    def expectation(self) -> Tensor:
        """What a cost should multiply: never random. The default is the tempered softmax."""
        return self.soft()

    def evaluation(self) -> Tensor:
        """What the supernet mixes in evaluation mode: never random. The default is ``expectation``."""
        return self.expectation()

    def soft(self) -> Tensor:
        """What candidates count on average; by default the softmax of the logits at the present temperature."""
        return torch.softmax(self.logits / self.temperature, dim=0)

    def advance(self, progress: float) -> None:
        """Set the schedule, in place, to the share ``progress`` in [0, 1] of the search."""
        warm = progress < self.warmup
        share = 0.0 if warm else 1.0
        if self.warmup <= progress < self.annealed:
            share = (progress - self.warmup) / (self.annealed - self.warmup)
        start, end = self.temperatures
        self.uniform.fill_(int(warm))
        self.temperature.fill_(start * (end / start) ** share)
        if not warm:
            self.average.lerp_(torch.softmax(self.logits.detach(), dim=0), _AVERAGE_RATE)

    def probabilities(self) -> Tensor:
        """How decided the gate is: ``soft()`` under the schedule, without gradient, sums to 1."""
        return self._blend(self.soft()).detach()

    def scores(self) -> Tensor:
        """Log-probability of each candidate for the final choice, from the running average: choices flicker.

        A gate whose schedule was never advanced has no average: its logits decide.
        """
        total = self.average.sum()
        if total == 0:
            return torch.log_softmax(self.logits.detach(), dim=0)
        return (self.average / total).clamp_min(1e-12).log()

    def point_at(self, index: int) -> None:
        """Choose a candidate for good, in place: every form of the gate becomes exactly one-hot."""
        with torch.no_grad():
            self.logits.fill_(-1e4).index_fill_(0, torch.tensor([index], device=self.logits.device), 1e4)
            self.average.zero_()
            self.average[index] = 1.0
        self.uniform.fill_(0)

    def _blend(self, weights: Tensor) -> Tensor:
        # Exactly `weights` with `uniform` at 0, exactly 1 / n with it at 1.
        return torch.lerp(weights, weights.new_tensor(1 / weights.numel()), self.uniform.to(weights.dtype))


_AVERAGE_RATE = 0.02  # the running average looks back about 50 steps


def one_hot_of(scores: Tensor) -> Tensor:
    """1 at the first largest entry, 0 elsewhere; carries no gradient."""
    return torch.zeros_like(scores).index_fill_(0, scores.argmax(), 1.0)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Exactly ``hard`` forward, the gradient of ``soft`` backward."""
    # In this order the bracket is exactly zero, so a one-hot stays one.
    return (soft - soft.detach()) + hard
