"""Joint search (LWDC-style): weights and selections in one pass, under the pressure of a cost."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.candidates.original import Original
from lwdc.candidates.sampling import starts_of
from lwdc.costs import BudgetController, CostTable, choose, expected_cost
from lwdc.data import DataModule
from lwdc.errors import CostError
from lwdc.records import GateRecord, SearchState
from lwdc.selection import SelectionOp, advance, gates, selection_ops
from lwdc.surgery import candidate_index
from lwdc.training import Fit, OptimiserFactory, Recipe


class JointLesson:
    """Adds the cost to the objective, drives the gates' schedule and trains their logits.

    Either ``factor`` is given, and the pressure ramps up to it over the share ``ramp`` of the search, or
    ``budget``, a controller that finds the factor, with ``bound``, the cost that the choice keeps exactly.

    A mixture is easy and a choice is not, so the search is made to end decided: from the share
    ``decide_from`` on the gates' entropy is penalised, up to the weight ``decide``. All of it is ours.
    """

    def __init__(
        self,
        supernet: nn.Module,
        table: CostTable,
        optim: OptimiserFactory,
        *,
        factor: float | None = None,
        budget: BudgetController | None = None,
        bound: int | None = None,
        shape: Callable[[Tensor], Tensor],
        ramp: float = 0.3,
        decide: float = 1.0,
        decide_from: float = 0.5,
    ) -> None:
        if factor is not None and factor < 0:
            raise CostError(f"cost.factor must not be negative, found {factor}: it would reward cost.")
        if (factor is None) == (budget is None):
            raise CostError("give either cost.factor or cost.budget, not both and not neither.")
        self.supernet, self.table, self.shape, self.ramp = supernet, table, shape, ramp
        self.factor, self.budget = factor, budget
        self.decide, self.decide_from = decide, decide_from
        self._bound = bound
        self._optimiser = optim([gate.logits for gate in gates(supernet)])
        self.hard = any(bool((gate.sample().detach() == 0).any()) for gate in gates(supernet))  # one operator a step
        self._progress = 0.0
        self._expected = 1.0

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [self._optimiser]

    def begin(self, progress: float) -> None:
        self._progress = progress
        advance(self.supernet, progress)
        if self.budget is not None:
            self.budget.advance(progress)

    def extra_loss(self) -> Tensor | None:
        expected = expected_cost(self.supernet, self.table)
        self._expected = float(expected.detach())
        if self.budget is not None:
            term = self.budget.term(expected)
        else:
            assert self.factor is not None
            term = self.factor * self._ramped() * self.shape(expected)
        late = (self._progress - self.decide_from) / max(1 - self.decide_from, 1e-12)
        if late > 0 and self.decide:
            term = term + self.decide * late * mean_entropy(self.supernet)
        return term

    def _ramped(self) -> float:
        return min(1.0, self._progress / self.ramp) if self.ramp > 0 else 1.0

    def after_backward(self) -> None:
        """Operators that took no part have a zero gradient: momentum and decay would still move them."""
        if not self.hard:
            return
        for op in selection_ops(self.supernet).values():
            if op.sampled is None:
                continue
            for operator, weight in zip(op.operators, op.sampled.tolist(), strict=True):
                if weight == 0:
                    for parameter in _weights_of(operator, op):
                        parameter.grad = None

    def end(self, step_share: float) -> None:
        if self.budget is not None:
            self.budget.update(self._expected, step_share)

    def choice(self) -> Architecture:
        """The best architecture under the gates as they stand, within the bound."""
        return choose(self.supernet, self.table, self._bound)

    def decidedness(self, architecture: Architecture) -> dict[str, float]:
        """Per site the probability of the architecture's operator."""
        probabilities = self._probabilities()
        ops = selection_ops(self.supernet)
        return {name: probabilities[name][candidate_index(op, architecture)] for name, op in ops.items()}

    def _probabilities(self) -> dict[str, list[float]]:
        return {name: op.gate.probabilities().tolist() for name, op in selection_ops(self.supernet).items()}

    def state(self) -> SearchState | None:
        ops, probabilities = selection_ops(self.supernet), self._probabilities()
        records = tuple(GateRecord(name, op.labels, tuple(probabilities[name])) for name, op in ops.items())
        expected = float(expected_cost(self.supernet, self.table).detach())
        factor = self.budget.factor(self._expected) if self.budget else (self.factor or 0.0) * self._ramped()
        return SearchState(
            expected_cost=expected,
            bound=self.budget.bound if self.budget else None,
            factor=factor,
            decided=sum(max(r.probabilities) for r in records) / len(records),
            gates=records,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "expected": self._expected,
            "progress": self._progress,
            "budget": self.budget.state_dict() if self.budget else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._expected, self._progress = state["expected"], state["progress"]
        if self.budget is not None:
            self.budget.load_state_dict(state["budget"])


def _weights_of(operator: nn.Module, op: SelectionOp) -> list[nn.Parameter]:
    """The parameters of one operator alone; those of the original are the convolution's, but for the shared bias."""
    if isinstance(operator, Original):
        return [p for name, p in op.conv.named_parameters() if name != "bias"]
    return list(operator.parameters())


def mean_entropy(supernet: nn.Module) -> Tensor:
    """How undecided the gates are: their mean entropy as a share of the largest, in [0, 1]."""
    entropies = []
    for gate in gates(supernet):
        weights = gate.soft().clamp_min(_TINY)  # at 0 the slope of the entropy is infinite
        entropies.append(torch.special.entr(weights).sum() / math.log(max(weights.numel(), 2)))
    return torch.stack(entropies).mean()


_TINY = 1e-12


def weight_parameters(supernet: nn.Module) -> list[nn.Parameter]:
    """Everything that is trained but the gates' logits and the starts of epitomes."""
    logits = {*(gate.logits for gate in gates(supernet)), *starts_of(supernet)}
    return [p for p in supernet.parameters() if p not in logits]


def search_fit(
    supernet: nn.Module,
    data: DataModule,
    recipe: Recipe,
    lesson: JointLesson,
    *,
    seed: int,
    fabric: Fabric,
    teacher: nn.Module | None = None,
) -> Fit:
    """One pass over weights and logits, in place, as a ``Fit``; afterwards ``lesson.choice()`` is the architecture."""
    return Fit(
        "search", supernet, data, recipe, seed=seed, fabric=fabric, teacher=teacher, lesson=lesson,
        parameters=weight_parameters(supernet),
    )  # fmt: skip
