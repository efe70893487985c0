"""Sums: several operators side by side at one site, whose outputs are added."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, embed, scaled_like
from lwdc.candidates.branches import Normed
from lwdc.candidates.chain import Chain, ungroup
from lwdc.candidates.fixed import Fixed
from lwdc.candidates.partial import Partial
from lwdc.candidates.registry import Candidate, build, label, parts, register_candidate
from lwdc.candidates.sampling import starts_of
from lwdc.errors import SpaceError
from lwdc.geometry import own_support, union
from lwdc.sites import Site


@register_candidate("sum")
class Sum(Operator):
    """The candidates ``of``, each as it would stand alone; linear where all of them are.

    A cell with several branches, as in Ci et al., "Evolving Search Space for Neural Architecture Search", ICCV 2021
    (NSE), is so one candidate among others. There a cell gives the mean of its branches and, where shapes allow, its
    input; here ``skip`` is the input, and a mean needs no place of its own, as the weights take up its factor.
    Inheritance and fresh weights are ours.
    """

    def __init__(self, site: Site, *, of: Sequence[Candidate]) -> None:
        names = [candidate["op"] for candidate in of]
        if len(of) < 2:
            raise SpaceError(f"a sum is of two candidates or more, found {len(of)}; list a single one itself.")
        for name, reason in _NO_PARTS.items():
            if name in names:
                raise SpaceError(f"a sum takes no {name!r} as a part: {reason}.")
        parts = [_part(candidate, site) for candidate in of]
        supports = [part.support for part in parts if part.support is not None]
        linear = len(supports) == len(parts)
        super().__init__(
            site, union(supports) if linear else None, math.gcd(*(part.groups for part in parts)) if linear else 1
        )
        self.parts = nn.ModuleList(parts)

    @property
    def product_rank(self) -> int:
        return max(part.product_rank for part in self._parts())

    def compact_kernel(self) -> Tensor:
        first, *others = self._parts()
        kernel = self._placed(first)
        for part in others:
            kernel = kernel + self._placed(part)
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        return add(self.parts, x)

    def inherit(self, weight: Tensor) -> float:
        """Linear parts take turns: each the best approximation of what the others leave, the first one of all.

        Some rounds, none of which ends worse than the one before, until they gain little. Parts that are not linear
        then take equal shares of what is left, so that the sum is no larger than one of them would be; the error is
        then a bound, as if they were what their own errors speak of. All at the site's own taps: what a part without
        weights has elsewhere the others do not mend. A part to which nothing is left begins with fresh weights but for
        a last one of zeros, as factors that are all zeros would never learn.
        """
        linear = [part for part in self._parts() if part.support is not None]
        others = [part for part in self._parts() if part.support is None]
        self._take_turns(linear, weight)
        rest, left = self._left(weight, linear)
        errors = [part.inherit(rest / len(others)) for part in others]
        whole = float(weight.norm())
        for part in self._parts():
            given = rest if part.support is None else part.kernel()
            if isinstance(part, (Chain, Normed)) and float(given.detach().norm()) <= _NOTHING * whole:
                part.reset(whole)
                nn.init.zeros_(_last_weight(part))
        share = sum(errors) / len(errors) if errors else 1.0
        return left * share / max(whole, 1e-30)

    def _take_turns(self, linear: Sequence[Any], weight: Tensor) -> None:
        trained = [part for part in linear if _has_weights(part)]
        there = [part for part in linear if not _has_weights(part)]  # from the beginning, as it cannot be otherwise
        best, kept = math.inf, self.parts.state_dict()
        for _ in range(_ROUNDS if len(trained) > 1 else 1):
            for part in trained:
                there = [other for other in there if other is not part]
                part.inherit(self._left(weight, there)[0])
                there.append(part)
            _, left = self._left(weight, there)
            if not left < best:
                self.parts.load_state_dict(kept)
                break
            gained, best, kept = 1 - left / best, left, copy.deepcopy(self.parts.state_dict())
            if gained < _GAIN:
                break

    def _left(self, weight: Tensor, parts: Sequence[Any]) -> tuple[Tensor, float]:
        """What linear ``parts`` leave of ``weight`` at the site's own taps, and the norm of all that they leave."""
        own = own_support(self.site)
        support = union([own, *(part.support for part in parts)])
        with torch.no_grad():
            left = embed(weight, self.site, support) - sum(part.kernel(support) for part in parts)
        return left[(..., *support.slices_of(own))], float(left.norm())

    def reset(self, norm: float) -> None:
        """Parts with weights share the variance evenly, and then ``norm`` is that of their sum if all are linear.

        What is fixed in a part, such as the input in ``skip``, adds its own.
        """
        drawn = [part for part in self._parts() if _has_weights(part)]
        for part in drawn:
            part.reset(norm / len(drawn) ** 0.5)
        if self.support is not None and not any(isinstance(part, (Fixed, Partial)) for part in self.parts):
            factor = scaled_like(self.compact_kernel(), norm)
            with torch.no_grad():
                for part in drawn:
                    _last_weight(part).mul_(factor)

    def release(self, bias: Tensor | None) -> nn.Module:
        """The parts, of which one has the bias: the first with weights, if there is one.

        The site's bias belongs to its linear operators; a sum is none with a part that is none.
        """
        parts = self._parts()
        carrier = next((part for part in parts if _has_weights(part)), parts[0])
        own = bias if self.support is not None else None
        return Added([part.release(own if part is carrier else None) for part in parts])

    def _placed(self, part: Operator) -> Tensor:
        """The kernel of a part in the shape of the sum's."""
        assert self.support is not None and part.support is not None
        kernel = ungroup(part.compact_kernel(), part.groups, self.groups)
        if part.support == self.support:
            return kernel
        wide = kernel.new_zeros(*kernel.shape[:2], *self.support.count)
        wide[(..., *self.support.slices_of(part.support))] = kernel
        return wide

    def _parts(self) -> list[Any]:
        return list(self.parts)


def sums_of(candidates: Sequence[Candidate], branches: int, listed: Sequence[Candidate] = ()) -> list[Candidate]:
    """The sums of two up to ``branches`` of those candidates that may be parts, but for those ``listed`` already.

    No two parts are of one operator, as that is mostly the same as one of another size.
    """
    able = [candidate for candidate in candidates if candidate["op"] not in _NO_PARTS and not parts(candidate)]
    there = [sorted(map(label, parts(candidate))) for candidate in listed]
    return [
        {"op": "sum", "of": list(chosen)}
        for count in range(2, min(branches, len(able)) + 1)
        for chosen in itertools.combinations(able, count)
        if len({part["op"] for part in chosen}) == count and sorted(map(label, chosen)) not in there
    ]


class Added(nn.Module):
    """Modules side by side, whose outputs are added."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return add(self.parts, x)


def add(parts: nn.ModuleList, x: Tensor) -> Tensor:
    """The sum of what ``parts`` give for ``x``."""
    first, *others = parts
    total: Tensor = first(x)
    for part in others:
        total = total + part(x)
    return total


_ROUNDS = 16  # of least squares, at most
_GAIN = 0.005  # of the error, below which a round is the last one
_NOTHING = 1e-6  # of the norm of what is inherited
_NO_PARTS = {
    "original": "a sum with the whole layer only costs more than it; list it as a candidate of its own",
    "zero": "it adds nothing",
}


def _part(candidate: Candidate, site: Site) -> Operator:
    try:
        return build(candidate, site)
    except DoesNotFit as reason:
        raise DoesNotFit(f"{label(candidate)}: {reason}") from reason


def _has_weights(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def _last_weight(part: nn.Module) -> nn.Parameter:
    """One of those in which the kernel is linear, as it is in each but for starts."""
    starts = set(starts_of(part))
    return [weight for weight in part.parameters() if weight not in starts][-1]
