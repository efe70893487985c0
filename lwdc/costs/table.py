"""Cost tables: what every candidate costs at every site, measured once, as whole numbers."""

import copy
import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.candidates import Operator, label
from lwdc.costs.base import CostModel
from lwdc.errors import ArchitectureError
from lwdc.selection import SelectionOp, selection_ops
from lwdc.surgery import input_size_of, original_network


@dataclasses.dataclass(frozen=True)
class CostTable:
    """Costs in ``unit``: per site and label in gate order, of the original layers, and of all the rest."""

    name: str
    unit: str
    sites: Mapping[str, Mapping[str, int]]
    original: Mapping[str, int]
    groups: Mapping[str, str]  # site -> the first site that shares its gate
    rest: int
    _shares: dict[torch.device, Tensor] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def total(self) -> int:
        """Cost of the original network."""
        return self.rest + sum(self.original.values())

    def of(self, architecture: Architecture) -> int:
        """Cost of the network that the architecture gives; exact for counted costs."""
        total = self.rest
        for site, costs in self.sites.items():
            name = label(architecture.choices[site]) if site in architecture.choices else "-"
            if name not in costs:
                raise ArchitectureError(f"site {site!r} has costs for {', '.join(costs)}, not for {name!r}.")
            total += costs[name]
        return total

    @property
    def smallest(self) -> int:
        """The smallest cost that any architecture reaches."""
        return self.rest + sum(min(costs) for costs in self.group_costs().values())

    @property
    def largest(self) -> int:
        """The largest cost that any architecture reaches."""
        return self.rest + sum(max(costs) for costs in self.group_costs().values())

    def group_costs(self) -> dict[str, list[int]]:
        """Per gate the cost of each candidate, summed over the sites that share the gate."""
        found: dict[str, list[int]] = {}
        for site, costs in self.sites.items():
            group = self.groups[site]
            so_far = found.get(group, [0] * len(costs))
            found[group] = [a + b for a, b in zip(so_far, costs.values(), strict=True)]
        return found

    def shares(self, device: torch.device) -> Tensor:
        """All costs of all sites in order, as shares of the original network's: one flat tensor."""
        if device not in self._shares:
            flat = [cost / self.total for costs in self.sites.values() for cost in costs.values()]
            self._shares[device] = torch.tensor(flat, device=device)
        return self._shares[device]


def tabulate(supernet: nn.Module, cost: CostModel) -> CostTable:
    """Measure every candidate of every site of ``supernet``, which is left as it was.

    Equal layers are measured once.
    """
    measured: dict[object, int] = {}
    sites: dict[str, dict[str, int]] = {}
    original: dict[str, int] = {}
    groups: dict[str, str] = {}
    first_site: dict[nn.Module, str] = {}
    for name, op in selection_ops(supernet).items():
        sites[name] = {}
        for entry, operator in zip(op.labels, op.operators, strict=True):
            key = _key(op, entry)
            if key not in measured:
                measured[key] = cost(_released(op, operator), [shape for shape, _ in op.site.calls])
            sites[name][entry] = measured[key]
        key = _key(op, "original")
        if key not in measured:  # it may be no candidate
            measured[key] = cost(op.conv, [shape for shape, _ in op.site.calls])
        original[name] = measured[key]
        groups[name] = first_site.setdefault(op.gate, name)
    whole = cost(original_network(supernet), [input_size_of(supernet)])
    return CostTable(cost.name, cost.unit, sites, original, groups, whole - sum(original.values()))


def expected_cost(supernet: nn.Module, table: CostTable) -> Tensor:
    """Cost of the whole network under the gates, as a share of the original's: a scalar, differentiable.

    Costs are normalised before they are summed, because float32 stops counting at 2^24.
    """
    ops = selection_ops(supernet)
    cached = {op.gate: op.gate.expected() for op in ops.values()}
    weights = torch.cat([cached[ops[name].gate] for name in table.sites])
    return weights @ table.shares(weights.device).to(weights.dtype) + table.rest / table.total


def linear(share: Tensor) -> Tensor:
    """The share itself: 1.0 is the original network."""
    return share


def logarithmic(share: Tensor) -> Tensor:
    """``1 + log(share)``: 1.0 is the original network, and every halving counts the same."""
    return 1 + share.log()


def penalty(supernet: nn.Module, table: CostTable, shape: Callable[[Tensor], Tensor] = linear) -> Tensor:
    """What a training loop adds, times its factor: a differentiable scalar, 1.0 for the original network."""
    return shape(expected_cost(supernet, table))


def _key(op: SelectionOp, entry: str) -> object:
    return dataclasses.replace(op.site, name="", index=0, aliases=()), type(op.conv), entry


def _released(op: SelectionOp, operator: nn.Module) -> nn.Module:
    copied = copy.deepcopy(operator)  # releasing attaches the bias
    assert isinstance(copied, Operator)
    return copied.release(op.bias)
