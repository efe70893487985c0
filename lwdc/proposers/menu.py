"""The menu: what a search that only sees scores chooses from, with architectures as tuples of whole numbers."""

import dataclasses
import functools
import math
import random
from collections.abc import Sequence

from lwdc.architecture import Architecture
from lwdc.candidates import Candidate, label
from lwdc.costs import CostTable
from lwdc.errors import ArchitectureError, SpaceError
from lwdc.space import Choice, Plan

Code = tuple[int, ...]  # the index of the candidate taken at every decision, in forward order


@dataclasses.dataclass(frozen=True)
class Decision:
    """One candidate to take, for one site or for all sites that are tied to it."""

    name: str  # the first site's
    choices: tuple[Choice, ...]  # one a site, all with the same candidates

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What can be taken."""
        return self.choices[0].candidates

    @property
    def labels(self) -> tuple[str, ...]:
        """Their short names."""
        return tuple(label(candidate) for candidate in self.candidates)


@dataclasses.dataclass(frozen=True)
class Menu:
    """The decisions of a space laid on a network, what each answer costs, and the bounds on costs.

    ``tables`` and ``bounds`` belong together, one for every cost, the one asked for first before the others; a bound is
    a whole number of its table, or None.
    """

    decisions: tuple[Decision, ...]
    tables: tuple[CostTable, ...]
    bounds: tuple[int | None, ...]

    @classmethod
    def of(cls, plan: Plan, tables: Sequence[CostTable], bounds: Sequence[int | None]) -> "Menu":
        """The menu of a plan. Raises ``SpaceError`` if there is nothing to choose."""
        groups: dict[str, list[Choice]] = {}
        for choice in plan.choices:
            groups.setdefault(choice.group, []).append(choice)
        menu = cls(tuple(Decision(n, tuple(c)) for n, c in groups.items()), tuple(tables), tuple(bounds))
        if menu.size < 2:
            raise SpaceError("this space holds one architecture: there is nothing to search for. Add candidates.")
        return menu

    @property
    def size(self) -> int:
        """How many architectures there are, whatever they cost."""
        return math.prod(self.counts)

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """How many candidates each decision has."""
        return tuple(len(decision.candidates) for decision in self.decisions)

    @functools.cached_property
    def costs(self) -> tuple[list[list[int]], ...]:
        """Per table and decision the cost of each candidate, over all its sites."""
        groups = [table.group_costs() for table in self.tables]
        return tuple([by_group[decision.name] for decision in self.decisions] for by_group in groups)

    @functools.cached_property
    def original(self) -> Code:
        """The network to compress: original layers, or the costliest candidates where those are not among them."""
        code = []
        for index, decision in enumerate(self.decisions):
            costs = self.costs[0][index]
            operators = [candidate["op"] for candidate in decision.candidates]
            code.append(operators.index("original") if "original" in operators else costs.index(max(costs)))
        return tuple(code)

    def encode(self, architecture: Architecture) -> Code:
        """The inverse of ``decode``. Raises ``ArchitectureError`` if it is not one of this space."""
        code = []
        for decision in self.decisions:
            found = {_index(choice, architecture) for choice in decision.choices}
            if len(found) > 1:
                raise ArchitectureError(
                    f"{decision.choices[0].site} is tied to others, and the architecture parts them."
                )
            code.append(found.pop())
        return tuple(code)

    def decode(self, code: Code) -> Architecture:
        """The architecture with the candidates at these indices."""
        pairs = zip(self.decisions, code, strict=True)
        taken = {choice.site.name: choice.candidates[index] for d, index in pairs for choice in d.choices}
        return Architecture({site: taken[site] for site in sorted(taken, key=self._order.__getitem__)})

    def cost(self, code: Code, which: int = 0) -> int:
        """What the network costs, as ``tables[which].of`` its architecture has it."""
        table, costs = self.tables[which], self.costs[which]
        found = [by_candidate[index] for by_candidate, index in zip(costs, code, strict=True)]
        return max(table.rest, *found) if table.peak else table.rest + sum(found)

    def share(self, code: Code) -> float:
        """The first cost, as a share of the original network's."""
        return self.cost(code) / self.tables[0].total

    def keeps(self, code: Code) -> bool:
        """Whether the network is within every bound."""
        return not self._exceeded(code)

    def draw(self, rng: random.Random) -> Code | None:
        """An architecture within the bounds, at random; None in the rare case that several bounds let none be found.

        A share of the decisions, itself drawn from 0 to 60%, is left at the original; then the network is made cheaper
        at random, if it has to be. So sizes are spread. ESNAC does alike in its code, with removals and widths.
        """
        left = rng.choice(_LEFT)
        code = tuple(
            kept if rng.random() < left else rng.randrange(count)
            for kept, count in zip(self.original, self.counts, strict=True)
        )
        return self.within(code, rng)

    def vary(self, code: Code, changes: int, rng: random.Random) -> Code | None:
        """The same but for other candidates at ``changes`` decisions, and for whatever the bounds then require.

        None where that leads nowhere else.
        """
        free = [index for index, count in enumerate(self.counts) if count > 1]
        varied = list(code)
        for index in rng.sample(free, min(changes, len(free))):
            varied[index] = rng.choice([k for k in range(self.counts[index]) if k != code[index]])
        found = self.within(tuple(varied), rng)
        return None if found == code else found

    def within(self, code: Code, rng: random.Random, among: Sequence[Sequence[int]] | None = None) -> Code | None:
        """The same made cheaper at random decisions until it keeps the bounds; None if that does not succeed.

        ``among``: the candidates that may be taken at each decision, instead of all.
        """
        among = [range(count) for count in self.counts] if among is None else among
        for _ in range(_PATIENCE * len(code)):
            exceeded = self._exceeded(code)
            if not exceeded:
                return code
            cheaper: dict[int, list[int]] = {}
            for index in range(len(code)):
                if options := [k for k in among[index] if self._is_cheaper(index, k, code, exceeded)]:
                    cheaper[index] = options
            if not cheaper:
                return None
            index = rng.choice(list(cheaper))
            code = (*code[:index], rng.choice(cheaper[index]), *code[index + 1 :])
        return None

    def exchange(self, code: Code, rng: random.Random) -> Code | None:
        """The same but for two decisions drawn at random, where that is within the bounds and the first costs more now.

        It is how an architecture at its bound can change: what one decision costs more by the first cost, the other one
        has to save. None where what was drawn is no such pair.
        """
        free = [index for index, count in enumerate(self.counts) if count > 1]
        if len(free) < 2:
            return None
        first, second = rng.sample(free, 2)
        varied = list(code)
        for index in (first, second):
            varied[index] = rng.choice([k for k in range(self.counts[index]) if k != code[index]])
        dearer = self.costs[0][first][varied[first]] > self.costs[0][first][code[first]]
        return tuple(varied) if dearer and self.keeps(tuple(varied)) else None

    def neighbours(self, code: Code) -> list[Code]:
        """All architectures within the bounds that differ from ``code`` at one decision."""
        found = [
            (*code[:index], k, *code[index + 1 :])
            for index, count in enumerate(self.counts)
            for k in range(count)
            if k != code[index]
        ]
        return [other for other in found if self.keeps(other)]

    @functools.cached_property
    def _order(self) -> dict[str, int]:
        sites = [choice.site for decision in self.decisions for choice in decision.choices]
        return {site.name: site.index for site in sites}

    def _exceeded(self, code: Code) -> list[int]:
        """Which tables' bounds the network exceeds."""
        return [i for i, bound in enumerate(self.bounds) if bound is not None and self.cost(code, i) > bound]

    def _is_cheaper(self, index: int, candidate: int, code: Code, exceeded: Sequence[int]) -> bool:
        """Whether this answer instead of the code's helps with every bound that is exceeded."""
        for which in exceeded:
            costs, bound = self.costs[which][index], self.bounds[which]
            assert bound is not None
            too_much = not self.tables[which].peak or costs[code[index]] > bound
            if not too_much or costs[candidate] >= costs[code[index]]:
                return False
        return True


_LEFT = (0.0, 0.1, 0.2, 0.4, 0.6)  # shares of the decisions left at the original
_PATIENCE = 20  # changes a decision, after which several bounds at once are given up


def _index(choice: Choice, architecture: Architecture) -> int:
    candidate = architecture.choices.get(choice.site.name)
    if candidate not in choice.candidates:
        known = ", ".join(label(c) for c in choice.candidates)
        found = "nothing" if candidate is None else repr(label(candidate))
        raise ArchitectureError(f"{choice.site} has candidates {known}; the architecture says {found}.")
    return choice.candidates.index(candidate)
