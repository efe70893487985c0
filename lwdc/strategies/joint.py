"""Joint search (LWDC-style): weights and selections in one pass, under the pressure of a cost."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.candidates.sampling import starts_of
from lwdc.costs import choose_within
from lwdc.data import DataModule
from lwdc.records import GateRecord, SearchState
from lwdc.selection import advance, gates, selection_ops
from lwdc.strategies.holding import Holding
from lwdc.strategies.idle import spare_idle
from lwdc.strategies.pressure import Dialled, Held, Pressure
from lwdc.surgery import candidate_index
from lwdc.training import AS_IT_STANDS, Execution, Fit, Lesson, OptimiserFactory, Recipe


class JointLesson:
    """Weighs costs in the objective or holds them at bounds, drives the gates' schedule and trains their logits.

    A mixture is easy and a choice is not, so the search is made to end decided: from the share
    ``decide_from`` on the gates' entropy is penalised, up to the weight ``decide``. Where gates are one-hot and never
    random, logits are not trained from ``rest_from`` on, so that what will be chosen trains by itself: where
    costs are held, a network within the bounds of the choice (``Holding.rest``). All of it is ours.
    """

    def __init__(
        self,
        supernet: nn.Module,
        pressures: Sequence[Pressure | Held | Dialled],
        optim: OptimiserFactory,
        *,
        decide: float = 1.0,
        decide_from: float = 0.5,
        rest_from: float = 1.0,
    ) -> None:
        self.supernet, self.pressures = supernet, tuple(pressures)
        self.decide, self.decide_from, self.rest_from = decide, decide_from, rest_from
        self._optimiser = optim([p for gate in gates(supernet) for p in gate.parameters()])
        self.hard = any(gate.samples == "one" for gate in gates(supernet))  # operators are trained one at a time
        held = [pressure for pressure in self.pressures if isinstance(pressure, Held)]
        self._holding = Holding(supernet, held) if held else None
        self._one_hot = all(gate.expects_one for gate in gates(supernet))
        self._leaves_out = any(gate.samples != "all" for gate in gates(supernet))
        self._progress = 0.0
        self._resting = False  # logits have come to rest

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [self._optimiser]

    def begin(self, progress: float) -> None:
        self._progress = progress
        advance(self.supernet, progress)
        for pressure in self.pressures:
            pressure.begin(progress)
        if self._holding is not None and not self._resting:
            self._holding.hold()
        if self._rests:
            if self._holding is not None and not self._resting:
                self._holding.rest()
            self._resting = True
            for gate in gates(self.supernet):
                gate.average.zero_()  # nothing flickers any more: the logits decide

    def extra_loss(self) -> Tensor | None:
        if self._rests:
            return None
        terms = [term for pressure in self.pressures if (term := pressure.term(self.supernet)) is not None]
        late = (self._progress - self.decide_from) / max(1 - self.decide_from, 1e-12)
        if late > 0 and self.decide:
            terms.append(self.decide * late * mean_entropy(self.supernet))
        return torch.stack(terms).sum() if terms else None

    def after_backward(self) -> None:
        if self._rests:
            self._optimiser.zero_grad(set_to_none=True)
        elif self._holding is not None:
            self._holding.project()
        if self._leaves_out:
            spare_idle(self.supernet)

    def end(self) -> None:
        return

    def choice(self, bounds: Sequence[int | None] | None = None) -> Architecture:
        """The best architecture under the gates as they stand, within the pressures' bounds, or within others."""
        if bounds is None:
            bounds = [pressure.bound for pressure in self.pressures]
        pairs = zip(self.pressures, bounds, strict=True)
        return choose_within(self.supernet, [(p.table, bound) for p, bound in pairs if bound is not None])

    def decidedness(self, architecture: Architecture) -> dict[str, float]:
        """Per site the probability of the architecture's operator."""
        probabilities = self._probabilities()
        ops = selection_ops(self.supernet)
        return {name: probabilities[name][candidate_index(op, architecture)] for name, op in ops.items()}

    @property
    def _rests(self) -> bool:
        """Whether logits are trained no longer."""
        return self._one_hot and self._progress >= self.rest_from

    def _probabilities(self) -> dict[str, list[float]]:
        return {name: op.gate.probabilities().tolist() for name, op in selection_ops(self.supernet).items()}

    def state(self) -> SearchState | None:
        ops, probabilities = selection_ops(self.supernet), self._probabilities()
        records = tuple(GateRecord(name, op.labels, tuple(probabilities[name])) for name, op in ops.items())
        return SearchState(
            costs=tuple(pressure.state(self.supernet) for pressure in self.pressures),
            decided=sum(max(r.probabilities) for r in records) / len(records),
            gates=records,
        )

    def state_dict(self) -> dict[str, Any]:
        pressures = [pressure.state_dict() for pressure in self.pressures]
        return {"progress": self._progress, "resting": self._resting, "pressures": pressures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._progress = state["progress"]
        self._resting = state.get("resting", False)  # earlier versions did nothing then
        for pressure, saved in zip(self.pressures, state["pressures"], strict=True):
            pressure.load_state_dict(saved)


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
    apart = {*(p for gate in gates(supernet) for p in gate.parameters()), *starts_of(supernet)}
    return [p for p in supernet.parameters() if p not in apart]


def search_fit(
    supernet: nn.Module,
    data: DataModule,
    recipe: Recipe,
    lesson: Lesson,
    *,
    seed: int,
    fabric: Fabric,
    phase: str = "search",
    teacher: nn.Module | None = None,
    execution: Execution = AS_IT_STANDS,
) -> Fit:
    """One pass over the weights, and over what the lesson trains, in place, as a ``Fit``.

    Afterwards ``lesson.choice()`` of a ``SearchLesson`` is the architecture.
    """
    return Fit(
        phase, supernet, data, recipe, seed=seed, fabric=fabric, teacher=teacher, lesson=lesson,
        parameters=weight_parameters(supernet), execution=execution,
    )  # fmt: skip
