"""Holding: logits shifted in proportion to costs, until what the gates expect keeps to bounds."""

import functools
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lwdc.costs import best_within, expected_cost
from lwdc.costs.table import check_table
from lwdc.selection import supernet_ops
from lwdc.strategies.falling import held_at, least_within
from lwdc.strategies.pressure import Held


class Holding:
    """Keeps what the gates of a supernet expect of costs within their shares, whatever their logits say.

    From every logit a cost takes what its candidate costs beyond the cheapest of its gate, as a share of the original
    network's cost, ``pressure`` times: from 0 on and no more than it takes. Of all mixtures with these (summed) costs
    that gives, for gates that are a softmax, the one nearest to the one before, in relative entropy. Logits are shifted
    in place, so gates stay what they are. Where expectations are one-hot, what is held is the cost of the network that
    the largest logits make, within the share by less than one change of an operator (of several costs, that pull apart,
    as near as some twenty raises of the pressures bring it). While gates are uniform nothing can be held. Ours.
    """

    def __init__(self, supernet: nn.Module, held: Sequence[Held]) -> None:
        self.supernet, self.held = supernet, tuple(held)
        ops = supernet_ops(supernet)
        for cost in self.held:
            check_table(cost.table, ops)
        self._costs = [cost.table.group_costs() for cost in self.held]
        self._gates = [ops[group].gate for group in self._costs[0]]
        self._one_hot = all(gate.expects_one for gate in self._gates)
        # Of the costs that press: their numbers, how far they are above their shares, their gradients in the logits.
        self._pressing: list[int] = []
        self._excesses: list[float] = []
        self._slopes: list[list[Tensor]] = []

    @functools.cached_property
    def _shares(self) -> list[list[Tensor]]:
        """By cost and gate what one unit of pressure takes from the logits, where these lie when it is first held."""
        found = []
        for costs, held in zip(self._costs, self.held, strict=True):
            whole = [torch.tensor(costs[group], dtype=torch.float64) / held.table.total for group in self._costs[0]]
            found.append([(w - w.min()).to(logit) for w, logit in zip(whole, self._logits, strict=True)])
        return found

    @property
    def _logits(self) -> list[Tensor]:
        return [gate.logits for gate in self._gates]

    def hold(self) -> None:
        """Set the pressures, and shift the logits, in place, until costs are within their shares."""
        self._pressing, self._excesses, self._slopes = [], [], []
        if bool(self._gates[0].uniform):
            return
        if self._one_hot:  # their costs fall in steps, which no slope tells of
            self._search()
            if len(self.held) > 1:
                self._raise()
        if self._look() or self._one_hot:
            return
        begun = [cost.pressure for cost in self.held]
        for _ in range(_STEPS):
            if not self._newton():
                break
            if self._look():
                return
        for k, pressure in enumerate(begun):  # where Newton's method has gone astray is no place to go on from
            self._press(k, pressure)
        self._search()
        self._look()

    def rest(self) -> None:
        """Let the largest logits be, in place, of a network within the bounds of the choice, which logits may rest at.

        Once held, they mostly are, and stay. Where they are not (of several costs, or while bounds still fall) the
        choice is made, by the logits as they stand; nothing is done where nothing keeps the bounds.
        """
        with torch.no_grad():
            if not all(bool(logit.isfinite().all()) for logit in self._logits):
                return  # training stops at its next loss, and says so
            scores = [logit.double().cpu().numpy() for logit in self._logits]
            best = best_within(
                dict(zip(self._costs[0], scores, strict=True)), [(held.table, held.bound) for held in self.held]
            )
            for logit, index in zip(self._logits, (best or {}).values(), strict=False):
                if int(logit.argmax()) != index:
                    most = logit.max()
                    logit[index] = 2 * most - logit[index] + _TIE * (1 + most.abs())

    def project(self) -> None:
        """Take from the gradients of the logits, in place, what would raise the costs that press."""
        gradients = [gate.logits.grad for gate in self._gates]
        if not self._pressing or any(gradient is None for gradient in gradients):
            return
        grads = cast(list[Tensor], gradients)
        # Pressures are functions of the logits, by the implicit function theorem. What a descent lowers is not held.
        along = torch.stack([_dot(self._shares[k], grads) for k in self._pressing])
        jacobian, active = self._jacobian(), list(range(len(self._pressing)))
        while active:
            weights, failed = torch.linalg.solve_ex(jacobian[active][:, active].T, along[active])
            found = weights.tolist()
            if bool(failed) or min(found) >= 0:
                break
            active = [k for k, weight in zip(active, found, strict=True) if weight >= 0]
        if not active or bool(failed):
            return
        for weight, k in zip(found, active, strict=True):
            torch._foreach_add_(grads, self._slopes[k], alpha=weight)

    def _look(self) -> bool:
        """Find how costs stand and what they would gain by the logits; whether all are where they shall be."""
        excesses, self._pressing, self._slopes = [], [], []
        for k, cost in enumerate(self.held):
            expected = expected_cost(self.supernet, cost.table)
            excess = float(expected.detach()) - cost.share
            if excess > _NEAR or cost.pressure > 0:
                excesses.append(excess)
                self._pressing.append(k)
                self._slopes.append(list(torch.autograd.grad(expected, self._logits)))
        self._excesses = excesses
        return all(abs(excess) < _NEAR for excess in excesses)

    def _jacobian(self) -> Tensor:
        """Of the costs that press in their pressures."""
        return -torch.stack(
            [torch.stack([_dot(self._shares[k], slopes) for k in self._pressing]) for slopes in self._slopes]
        )

    def _newton(self) -> bool:
        """Go one step of Newton's method; False, and nothing done, where the costs hardly follow."""
        jacobian = self._jacobian().double()
        if bool((jacobian.diagonal() > -_FLAT).any()):
            return False
        excess = torch.tensor(self._excesses, dtype=jacobian.dtype, device=jacobian.device)
        steps, failed = torch.linalg.solve_ex(jacobian, -excess)
        before = [self.held[k].pressure for k in self._pressing]
        if bool(failed) or not float(steps.abs().max()) <= _FAR + max(before):  # nor where they are NaN
            return False
        for k, pressure, step in zip(self._pressing, before, steps.tolist(), strict=True):
            self._press(k, max(pressure + step, 0.0))
        return True

    def _press(self, which: int, pressure: float) -> None:
        with torch.no_grad():
            torch._foreach_add_(self._logits, self._shares[which], alpha=self.held[which].pressure - pressure)
        self.held[which].pressure = pressure

    def _search(self) -> None:
        """Find the pressures by bisection, one cost after the other, as long as they move each other."""
        for _ in range(_SWEEPS if len(self.held) > 1 else 1):
            before = [cost.pressure for cost in self.held]
            for k in range(len(self.held)):
                self._search_one(k)
            if all(abs(cost.pressure - old) <= 1e-3 * (1 + old) for cost, old in zip(self.held, before, strict=True)):
                break

    def _search_one(self, which: int) -> None:
        if self._one_hot:
            self._press(which, least_within(self._network_excess(which), 0.0))
            return
        cost, shares = self.held[which], self._shares[which]
        begun, logits = cost.pressure, torch._foreach_add([logit.detach() for logit in self._logits], 0.0)

        def excess(pressure: float) -> float:
            # From where they stood, because far away logits are rounded.
            shifted = torch._foreach_add(logits, shares, alpha=begun - pressure)
            torch._foreach_copy_(self._logits, shifted)
            return float(expected_cost(self.supernet, cost.table)) - cost.share

        with torch.no_grad():
            cost.pressure = held_at(excess, begun, least=0.0)
            excess(cost.pressure)

    def _raise(self) -> None:
        """Raise pressures until all costs are within: what one takes off, another may have put on."""
        for _ in range(2 * _SWEEPS):
            over = [k for k, cost in enumerate(self.held) if self._network_excess(k)(cost.pressure) > 0]
            for k in over:
                self._press(k, least_within(self._network_excess(k), 1.2 * self.held[k].pressure + 0.1))
            if not over:
                break

    def _network_excess(self, which: int) -> Callable[[float], float]:
        """What the network of the largest logits costs beyond the share, by the pressure."""
        cost, begun = self.held[which], self.held[which].pressure
        logits = pad_sequence([logit.detach() for logit in self._logits], True, -torch.inf).cpu().double()
        shares = pad_sequence(self._shares[which], True).cpu().double()
        costs = [self._costs[which][group] for group in self._costs[0]]

        def excess(pressure: float) -> float:
            picked = (logits + (begun - pressure) * shares).argmax(1).tolist()
            found = [of_gate[index] for of_gate, index in zip(costs, picked, strict=True)]
            return cost.table.together(found) / cost.table.total - cost.share

        return excess


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([total.sum() for total in torch._foreach_mul(list(first), list(second))]).sum()


_NEAR = 1e-3  # of the original's cost
_TIE = 1e-3  # of a logit: no tie is left
_FLAT = 1e-6
_FAR = 10.0  # steps of Newton's method that go further, and more than double a pressure, are not trusted
_STEPS = 3  # of Newton's method, before bisection takes over
_SWEEPS = 10  # over several costs, each of which moves the others
