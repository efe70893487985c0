"""An evolving space: few operators at a time, of which those on the Pareto front meet the next."""

import math
import statistics
from typing import Any

from lwdc.architecture import Architecture
from lwdc.candidates import label, parts
from lwdc.errors import SpaceError
from lwdc.proposers.base import Proposer
from lwdc.proposers.history import Trial
from lwdc.proposers.menu import Code, Decision, Menu
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept


class EvolveSpace(Proposer):
    """Rounds of at least ``sampled`` trials among ``active`` operators a decision, drawn near the budget.

    After a round the operators that the front of all trials uses survive, and the next of a shuffled queue join them;
    when the queue is empty, the survivors go on alone. Ci, Lin, Sun, Chen, Zhang, Ouyang: Evolving Search Space for
    Neural Architecture Search, ICCV 2021 (NSE), as its code has it.

    With a ``rate`` above 0 every operator has a gate of its own, open with a probability ``sigmoid(a)`` whatever the
    others are, as there. Candidates are drawn as independent gates draw them, given that what is open is what some
    candidate consists of; a ``sum`` consists of its parts, where these are candidates too. So a space with sums
    (``branches`` of ``SearchSpace``) has sites of several branches, each of which may survive, and one without takes
    one operator a site, as NSE's switch ``single_branch`` does. With a rate of 0 all candidates are equally likely, and
    every sum is an operator of its own.

    What is ours: NSE trains weights anew in every round, on what is active alone, samples 2,000 networks in it, and
    drops operators whose logit is below -2; here a supernet of the whole space is trained once, rounds are short, and
    the front alone decides. NSE trains gates by gradients of the loss, anew in every round. Nothing is known of
    images here, so they follow the score-function estimate of the gradient of the expected score (Williams, 1992),
    the score taken in standard deviations from the mean of the round so far, and the gates of survivors stay. What
    happens after a draw is not accounted for: networks are made cheaper, and of ``near`` ones the costliest is taken,
    every tenth time the cheapest, so that the front has cheaper ones too. The cheapest candidate of every decision is
    active from the beginning, as skipping a cell is there, so that bounds can be kept; and when the survivors have
    nothing unknown left, the others are shuffled into a new queue.
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
        rate: float = 0.3,
    ) -> None:
        if active < 2 or sampled < 1 or near < 1:
            raise SpaceError(
                f"evolve_space needs active from 2 on, sampled and near from 1 on; found {active}, {sampled} and "
                f"{near}."
            )
        if not 0 <= rate < math.inf:
            raise SpaceError(f"the rate of evolve_space's gates is a number from 0 on; found {rate}.")
        super().__init__(menu, score, reference, seed)
        self.active, self.sampled, self.near, self.rate = active, sampled, near, rate
        self._parts = [_branches(decision) if rate else _whole(decision) for decision in menu.decisions]
        if (most := max(len(made_of) for decision in self._parts for made_of in decision)) >= active:
            raise SpaceError(
                f"a candidate has {most} branches, and evolve_space needs active above that; found {active}."
            )
        self._began = 0  # trials before this round
        self._operators: list[list[int]] = []  # active at every decision
        self._queues: list[list[int]] = []
        self._gates = [[0.0] * count for count in menu.counts]  # logits, by operator
        for made_of, costs in zip(self._parts, menu.costs[0], strict=True):
            cheapest = made_of[costs.index(min(costs))]
            self._operators.append(list(cheapest))
            self._queues.append(self._shuffled(_operators(made_of) - set(cheapest)))
        self._fill()

    def ask(self, count: int) -> list[Architecture]:
        if len(self.history.trials) - self._began >= self.sampled:
            self._evolve()
        return super().ask(count)

    def tell(self, architecture: Architecture, accuracy: float | None, share: float) -> None:
        super().tell(architecture, accuracy, share)
        if self.rate:
            self._learn(self.history.trials[-1])

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "began": self._began,
            "queues": [list(queue) for queue in self._queues],
            "operators": [list(operators) for operators in self._operators],
            "gates": [list(logits) for logits in self._gates],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._began = state["began"]
        self._queues = [list(queue) for queue in state["queues"]]
        self._operators = [list(operators) for operators in state["operators"]]
        self._gates = [list(logits) for logits in state["gates"]]

    def _evolve(self) -> None:
        """Begin the next round: those that the front uses, and more from the queues. The same if there is no front."""
        self._began = len(self.history.trials)
        if front := self.history.front():
            for index, queue in enumerate(self._queues):
                # Where not all have room beside a newcomer, those of the most accurate networks survive: ours.
                survivors: dict[int, None] = {}
                for trial in reversed(front):
                    more = survivors | dict.fromkeys(self._parts[index][trial.code[index]])
                    survivors = more if len(more) <= self.active - bool(queue) else survivors
                self._operators[index] = list(survivors)
            self._fill()

    def _fill(self) -> None:
        for operators, queue, logits in zip(self._operators, self._queues, self._gates, strict=True):
            while queue and len(operators) < self.active:
                newcomer = queue.pop(0)
                if newcomer not in operators:
                    operators.append(newcomer)
                    logits[newcomer] = 0.0

    def _learn(self, trial: Trial) -> None:
        """One step of the gates, by how much better or worse than others of its round the trial is."""
        keeps = self.history.menu.keeps
        of_round = self.history.trials[self._began :]
        scores = [other.score for other in of_round if math.isfinite(other.score) and keeps(other.code)]
        if len(scores) < 2 or not math.isfinite(trial.score) or not keeps(trial.code):
            return
        advantage = (trial.score - statistics.mean(scores)) / (statistics.pstdev(scores) or 1.0)
        for index, taken in enumerate(trial.code):
            made_of, available = self._parts[index], self._available(index)
            if taken not in available:
                continue  # it was not asked for in this round
            odds = self._odds(index, available)
            for operator in self._operators[index]:
                expected = sum(p for p, k in zip(odds, available, strict=True) if operator in made_of[k])
                step = self.rate * advantage * ((operator in made_of[taken]) - expected)
                self._gates[index][operator] = min(max(self._gates[index][operator] + step, -_LIMIT), _LIMIT)

    def propose(self) -> Code | None:
        code = self._draw()
        if code is None and not any(self._queues):
            self._began = len(self.history.trials)
            for index, made_of in enumerate(self._parts):
                self._queues[index] = self._shuffled(_operators(made_of) - set(self._operators[index]))
            self._fill()
            code = self._draw()
        return draw_unknown(self.history, self.rng) if code is None else code

    def _draw(self) -> Code | None:
        """An unknown architecture of active operators, near the budget, or below it if its turn is that."""
        history, found = self.history, list[Code]()
        wanted = self.near if any(bound is not None for bound in history.menu.bounds) else 1
        available = [self._available(index) for index in range(len(self._parts))]
        odds = [self._odds(index, candidates) for index, candidates in enumerate(available)]
        for _ in range(_DRAWS):
            drawn = tuple(self.rng.choices(k, p)[0] for k, p in zip(available, odds, strict=True))
            code = history.menu.within(drawn, self.rng, available)
            if code is not None and not history.is_known(code):
                found.append(code)
            if len(found) == wanted:
                break
        below = (len(history.trials) + len(history.pending)) % _BELOW == _BELOW - 1
        return (min if below else max)(found, key=self._filled, default=None)

    def _available(self, index: int) -> list[int]:
        """The candidates of a decision all of whose operators are active."""
        active = set(self._operators[index])
        return [k for k, made_of in enumerate(self._parts[index]) if active.issuperset(made_of)]

    def _odds(self, index: int, available: list[int]) -> list[float]:
        """How likely each of them is: independent gates, given that one of these is what is open.

        The odds of open gates are ``exp(a)``; those of the closed ones, 1, are a factor that all have in common.
        """
        logits = self._gates[index]
        weights = [math.exp(sum(logits[operator] for operator in self._parts[index][k])) for k in available]
        return [weight / sum(weights) for weight in weights]

    def _filled(self, code: Code) -> float:
        """The largest share of a bound that the network takes."""
        menu = self.history.menu
        bounds = [(which, bound) for which, bound in enumerate(menu.bounds) if bound is not None]
        return max((menu.cost(code, which) / max(bound, 1) for which, bound in bounds), default=0.0)

    def _shuffled(self, operators: set[int]) -> list[int]:
        queue = sorted(operators)
        self.rng.shuffle(queue)
        return queue


_DRAWS = 100  # for one architecture, before the active operators are taken to have no other
_BELOW = 10  # every so many architectures one is as far below the budget as is drawn
_LIMIT = math.log(1 / 5e-4 - 1)  # of logits: NSE keeps probabilities 5e-4 from 0 and 1


def _whole(decision: Decision) -> list[tuple[int, ...]]:
    """Every candidate as an operator of its own."""
    return [(k,) for k in range(len(decision.candidates))]


def _branches(decision: Decision) -> list[tuple[int, ...]]:
    """The operators that each candidate consists of: itself, or the parts of a sum if all are candidates, too."""
    numbers = {name: k for k, name in enumerate(decision.labels)}
    found = []
    for k, candidate in enumerate(decision.candidates):
        names = dict.fromkeys(map(label, parts(candidate)))
        found.append(tuple(numbers[name] for name in names) if names and names.keys() <= numbers.keys() else (k,))
    return found


def _operators(made_of: list[tuple[int, ...]]) -> set[int]:
    """All that candidates consist of, each by the index of the candidate that it is alone."""
    return {operator for candidate in made_of for operator in candidate}
