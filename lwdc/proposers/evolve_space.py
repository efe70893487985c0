"""An evolving space: few candidates at a time, of which those on the Pareto front meet the next."""

from collections.abc import Iterable
from typing import Any

from lwdc.architecture import Architecture
from lwdc.errors import SpaceError
from lwdc.proposers.base import Proposer
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept


class EvolveSpace(Proposer):
    """Rounds of at least ``sampled`` trials among ``active`` candidates a decision, drawn near the budget.

    After a round the candidates that the front of all trials uses survive, and the next of a shuffled queue join them;
    when the queue is empty, the survivors go on alone. Ci, Lin, Sun, Chen, Zhang, Ouyang: Evolving Search Space for
    Neural Architecture Search, ICCV 2021 (NSE), as its code has it.

    What is left out: NSE trains a gate for each operator by gradients, independently of the others, and samples from
    these gates, so that a cell may keep any of its branches. Here a decision takes one candidate, as with its switch
    ``single_branch``, and all that are active are as likely; several branches are a candidate of their own, a ``sum``,
    which the space lists (``conf/space/branched.yaml``). Such gates themselves are ``lwdc.gates.Independent``, for
    joint searches; these rounds learn none. What is ours: the cheapest candidate of every decision is
    active from the beginning, as skipping a cell is there, so that bounds can be kept; of ``near`` draws the costliest
    is taken, but every tenth time the cheapest, which competes on the front only; and when the survivors have nothing
    unknown left, the others are shuffled into a new queue.
    """

    def __init__(
        self,
        menu: Menu,
        *,
        score: Score = kept,
        reference: float = 1.0,
        seed: int = 0,
        active: int = 5,
        sampled: int = 20,
        near: int = 8,
    ) -> None:
        if active < 2 or sampled < 1 or near < 1:
            raise SpaceError(
                f"evolve_space needs active from 2 on, sampled and near from 1 on; found {active}, {sampled} and "
                f"{near}."
            )
        super().__init__(menu, score, reference, seed)
        self.active, self.sampled, self.near = active, sampled, near
        self._began = 0  # trials before this round
        self._candidates: list[list[int]] = []  # active at every decision
        self._queues: list[list[int]] = []
        for costs in menu.costs[0]:
            cheapest = costs.index(min(costs))
            self._candidates.append([cheapest])
            self._queues.append(self._shuffled(k for k in range(len(costs)) if k != cheapest))
        self._fill()

    def ask(self, count: int) -> list[Architecture]:
        if len(self.history.trials) - self._began >= self.sampled:
            self._evolve()
        return super().ask(count)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "began": self._began,
            "queues": [list(queue) for queue in self._queues],
            "candidates": [list(candidates) for candidates in self._candidates],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._began = state["began"]
        self._queues = [list(queue) for queue in state["queues"]]
        self._candidates = [list(candidates) for candidates in state["candidates"]]

    def _evolve(self) -> None:
        """Begin the next round: those that the front uses, and more from the queues. The same if there is no front."""
        self._began = len(self.history.trials)
        if front := self.history.front():
            for index, queue in enumerate(self._queues):
                # Where not all have room beside a newcomer, those of the most accurate networks survive: ours.
                survivors = list(dict.fromkeys(trial.code[index] for trial in reversed(front)))
                self._candidates[index] = survivors[: self.active - bool(queue)]
            self._fill()

    def _fill(self) -> None:
        for candidates, queue in zip(self._candidates, self._queues, strict=True):
            while queue and len(candidates) < self.active:
                newcomer = queue.pop(0)
                if newcomer not in candidates:
                    candidates.append(newcomer)

    def propose(self) -> Code | None:
        code = self._draw()
        if code is None and not any(self._queues):
            self._began = len(self.history.trials)
            for index, count in enumerate(self.history.menu.counts):
                self._queues[index] = self._shuffled(k for k in range(count) if k not in self._candidates[index])
            self._fill()
            code = self._draw()
        return draw_unknown(self.history, self.rng) if code is None else code

    def _draw(self) -> Code | None:
        """An unknown architecture of active candidates, near the budget, or below it if its turn is that."""
        history, found = self.history, list[Code]()
        wanted = self.near if any(bound is not None for bound in history.menu.bounds) else 1
        for _ in range(_DRAWS):
            drawn = tuple(self.rng.choice(candidates) for candidates in self._candidates)
            code = history.menu.within(drawn, self.rng, self._candidates)
            if code is not None and not history.is_known(code):
                found.append(code)
            if len(found) == wanted:
                break
        below = (len(history.trials) + len(history.pending)) % _BELOW == _BELOW - 1
        return (min if below else max)(found, key=self._filled, default=None)

    def _filled(self, code: Code) -> float:
        """The largest share of a bound that the network takes."""
        menu = self.history.menu
        bounds = [(which, bound) for which, bound in enumerate(menu.bounds) if bound is not None]
        return max((menu.cost(code, which) / max(bound, 1) for which, bound in bounds), default=0.0)

    def _shuffled(self, candidates: Iterable[int]) -> list[int]:
        queue = list(candidates)
        self.rng.shuffle(queue)
        return queue


_DRAWS = 100  # for one architecture, before the active candidates are taken to have no other
_BELOW = 10  # every so many architectures one is as far below the budget as is drawn
