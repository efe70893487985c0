"""Cost tables: what every candidate costs at every site, measured once, as whole numbers."""

import copy
import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.candidates import Operator, label
from lwdc.costs.base import CostModel, WholeCostModel, check_cost
from lwdc.costs.macs import Macs
from lwdc.costs.params import Params
from lwdc.costs.size import Size
from lwdc.errors import ArchitectureError, CostError
from lwdc.selection import SelectionOp, selection_ops, supernet_ops
from lwdc.surgery import as_wrapped, discretise, input_size_of, original_network
from lwdc.text import significant
from lwdc.tracing import Shape


class Agreement(NamedTuple):
    """How well a table's sums predict what whole networks were measured to cost; beside it, what a repetition gives."""

    networks: int  # random architectures, from cheap to dear
    rank: float  # Spearman's correlation of sums and measurements
    error: float  # mean relative error, each predicted from the others
    rank_repeated: float  # the same of two measurements
    error_repeated: float


@dataclasses.dataclass(frozen=True)
class CostTable:
    """Costs: per site and label in gate order, of the original layers, and of all the rest.

    They are whole numbers, ``per_unit`` of which are one ``unit``. The cost of a network is their sum, or with
    ``peak`` the largest of them.
    """

    name: str
    unit: str
    sites: Mapping[str, Mapping[str, int]]
    original: Mapping[str, int]
    groups: Mapping[str, str]  # site -> the first site that shares its gate
    rest: int
    per_unit: int = 1
    peak: bool = False
    agreement: Agreement | None = None  # of a measured cost with whole networks
    _shares: dict[torch.device, Tensor] = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def total(self) -> int:
        """Cost of the original network."""
        return self.together(self.original.values())

    def of(self, architecture: Architecture) -> int:
        """Cost of the network that the architecture gives; exact for counted costs."""
        found = []
        for site, costs in self.sites.items():
            name = label(architecture.choices[site]) if site in architecture.choices else "-"
            if name not in costs:
                raise ArchitectureError(f"site {site!r} has costs for {', '.join(costs)}, not for {name!r}.")
            found.append(costs[name])
        return self.together(found)

    @property
    def smallest(self) -> int:
        """The smallest cost that any architecture reaches."""
        return self.together(min(costs) for costs in self.group_costs().values())

    @property
    def largest(self) -> int:
        """The largest cost that any architecture reaches."""
        return self.together(max(costs) for costs in self.group_costs().values())

    def together(self, costs: Iterable[int]) -> int:
        """What layers of these costs cost as a network, with all the rest."""
        return max(self.rest, *costs) if self.peak else self.rest + sum(costs)

    def group_costs(self) -> dict[str, list[int]]:
        """Per gate the cost of each candidate, at all sites together that share the gate."""
        join = max if self.peak else operator.add
        found: dict[str, list[int]] = {}
        for site, costs in self.sites.items():
            group = self.groups[site]
            so_far = found.get(group, [0] * len(costs))
            found[group] = [join(a, b) for a, b in zip(so_far, costs.values(), strict=True)]
        return found

    def in_unit(self, cost: int) -> float:
        """A cost in the unit; whole numbers stay so."""
        return cost if self.per_unit == 1 else cost / self.per_unit

    def show(self, cost: float) -> str:
        """A cost as a person reads it: whole numbers as they are, others with their unit."""
        return f"{cost:,.0f}" if self.per_unit == 1 else f"{significant(cost / self.per_unit)} {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """Json-ready data."""
        fields = (field.name for field in dataclasses.fields(self) if not field.name.startswith("_"))
        return {name: getattr(self, name) for name in fields}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CostTable":
        """The inverse of ``to_dict``. Raises ``KeyError``, ``TypeError``, ``ValueError`` on anything else."""
        agreement = data["agreement"]
        table = cls(**{**data, "agreement": None if agreement is None else Agreement(*agreement)})
        costs = [*table.original.values(), *(cost for costs in table.sites.values() for cost in costs.values())]
        if any(type(cost) is not int for cost in (*costs, table.rest, table.per_unit)) or table.per_unit < 1:
            raise ValueError("costs are whole numbers")
        if any(cost < 0 for cost in costs):
            raise ValueError("a cost is below 0")
        if table.sites.keys() != table.groups.keys() or table.total <= 0:
            raise ValueError("its sites and groups do not belong together, or the original costs nothing")
        return table

    def shares(self, device: torch.device) -> Tensor:
        """All costs of all sites in order, as shares of the original network's: one flat tensor."""
        if device not in self._shares:
            flat = [cost / self.total for costs in self.sites.values() for cost in costs.values()]
            self._shares[device] = torch.tensor(flat, device=device)
        return self._shares[device]


def tabulate(supernet: nn.Module, cost: CostModel | WholeCostModel) -> CostTable:
    """Measure every candidate of every site of ``supernet``, which is left as it was.

    Equal layers are measured once. Raises ``SpaceError`` for what is no supernet and ``CostError`` for a cost that is
    no whole number from 0 on, or no sum.
    """
    supernet = as_wrapped(supernet)
    check_cost(cost)
    if isinstance(cost, WholeCostModel):
        return _checked(cost.tabulate(supernet), supernet, cost.name)
    measured: dict[object, int] = {}
    for entry in entries(supernet):
        if entry.key not in measured:
            calls = [shape for shape, _ in entry.op.site.calls]
            measured[entry.key] = _counted(cost, entry.module(), calls, f"{entry.label!r} at site {entry.site!r}")
    sites, original, groups = laid_out(supernet, lambda entry: measured[entry.key])
    whole = _counted(cost, original_network(supernet), [input_size_of(supernet)], "the original network")
    if whole == 0:
        raise CostError(f"by cost {cost.name!r} the original network costs nothing: there is nothing to save.")
    layers = sum(original.values())
    if whole < layers:
        raise _no_sum(cost, f"the original network costs {whole:,}, its layers alone together {layers:,}")
    table = CostTable(cost.name, cost.unit, sites, original, groups, whole - layers)
    if type(cost) not in _SUMS:
        _check_sum(supernet, cost, table)
    return table


_SUMS: tuple[type, ...] = (Macs, Params, Size)  # to count a network once more would take as long as the table


def _counted(cost: CostModel, module: nn.Module, shapes: Sequence[Shape], what: str) -> int:
    value: Any = cost(module, shapes)
    try:
        found = operator.index(value)
    except TypeError:
        found = -1
    if found < 0:
        raise CostError(
            f"cost {cost.name!r} gives {value!r:.100} for {what}: a cost is a whole number of one unit, 0 or more; for "
            "fractions count in a smaller unit."
        )
    return found


def _check_sum(supernet: nn.Module, cost: CostModel, table: CostTable) -> None:
    """Raise ``CostError`` unless the network of the cheapest operators costs what the table says, but for rounding."""
    grouped = table.group_costs()
    cheapest = {}
    for name, op in selection_ops(supernet).items():
        costs = grouped[table.groups[name]]
        cheapest[name] = op.candidates[costs.index(min(costs))]
    network, architecture = discretise(supernet, Architecture(cheapest))
    found = _counted(cost, network, [input_size_of(supernet)], "the network of the cheapest operators")
    said = table.of(architecture)
    if abs(found - said) > 2 * (len(table.sites) + 1):  # each number may be rounded
        raise _no_sum(cost, f"the network of the cheapest operators costs {found:,}, by its layers {said:,}")


def _no_sum(cost: CostModel, found: str) -> CostError:
    return CostError(
        f"cost {cost.name!r} is no sum over layers: {found}. One of whole networks has tabulate(supernet) instead, as "
        "lwdc.costs.Memory."
    )


def _checked(table: Any, supernet: nn.Module, name: str) -> CostTable:
    """The table of a cost of whole networks. Raises ``CostError`` unless it is one of this supernet."""
    if not isinstance(table, CostTable):
        raise CostError(f"cost {name!r}: tabulate(supernet) returns a CostTable, found a {type(table).__name__}.")
    try:
        CostTable.from_dict(table.to_dict())  # as a run that is resumed reads it
    except (KeyError, TypeError, ValueError) as error:
        raise CostError(f"cost {name!r}: the table that tabulate(supernet) returns cannot be used: {error}.") from error
    wanted = {site: list(op.labels) for site, op in selection_ops(supernet).items()}
    if [(site, list(costs)) for site, costs in table.sites.items()] != list(wanted.items()):
        raise CostError(
            f"cost {name!r}: the table that tabulate(supernet) returns has other sites or operators than the supernet; "
            "lwdc.costs.table.laid_out(supernet, cost) lists them as it should."
        )
    return table


class Entry(NamedTuple):
    """One operator at one site, or the original layer there, which may be no candidate."""

    site: str
    label: str
    op: SelectionOp
    operator: nn.Module | None  # None: the original layer

    @property
    def key(self) -> object:
        """Equal for operators that are equal but for where they stand."""
        site = dataclasses.replace(self.op.site, name="", index=0, aliases=())
        return site, type(self.op.conv), self.label

    def module(self) -> nn.Module:
        """What would stand in the network."""
        if self.operator is None:
            return self.op.conv
        copied = copy.deepcopy(self.operator)  # releasing attaches the bias
        assert isinstance(copied, Operator)
        return copied.release(self.op.bias)


def entries(supernet: nn.Module) -> Iterator[Entry]:
    """All that a table holds, site by site: the candidates in gate order, then the original layer if it is none."""
    for name, op in selection_ops(supernet).items():
        for entry, candidate in zip(op.labels, op.operators, strict=True):
            yield Entry(name, entry, op, candidate)
        if "original" not in op.labels:
            yield Entry(name, "original", op, None)


def laid_out(
    supernet: nn.Module, cost: Callable[[Entry], int]
) -> tuple[dict[str, dict[str, int]], dict[str, int], dict[str, str]]:
    """``sites``, ``original`` and ``groups`` of a table, with a cost for every entry."""
    sites: dict[str, dict[str, int]] = {}
    original: dict[str, int] = {}
    groups: dict[str, str] = {}
    first_site: dict[nn.Module, str] = {}
    for entry in entries(supernet):
        found = cost(entry)
        if entry.operator is not None:
            sites.setdefault(entry.site, {})[entry.label] = found
        if entry.label == "original":
            original[entry.site] = found
        groups[entry.site] = first_site.setdefault(entry.op.gate, entry.site)
    return sites, original, groups


def check_table(table: CostTable, ops: Mapping[str, SelectionOp]) -> None:
    """Raise ``CostError`` unless the table is of a supernet with these selection operators."""
    if not isinstance(table, CostTable):
        raise CostError(f"table is what lwdc.tabulate(supernet, lwdc.Macs()) returns, found {table!r:.200}.")
    counts = {name: len(costs) for name, costs in table.sites.items()}
    if counts != {name: len(op.candidates) for name, op in ops.items()}:
        raise CostError(
            f"the table ({table.name}) is of another supernet, with {sum(counts.values())} candidates at {len(counts)} "
            f"site(s), {', '.join(list(counts)[:3])}, ...; this one has {len(ops)} site(s), "
            f"{', '.join(list(ops)[:3])}, ...: give the table that lwdc.tabulate makes of it."
        )


def expected_cost(supernet: nn.Module, table: CostTable) -> Tensor:
    """Cost of the whole network under the gates, as a share of the original's: a scalar, differentiable.

    Costs are normalised before they are summed, because float32 stops counting at 2^24. Of a peak it is the
    largest site's; its slope is that of a norm of high order, so that sites which come near the largest learn as well.
    Ours.
    """
    ops = supernet_ops(supernet)
    cached = {op.gate: op.gate.expected() for op in ops.values()}
    weights = torch.cat([cached[ops[name].gate] for name in table.sites])
    shares = table.shares(weights.device).to(weights.dtype)
    rest = table.rest / table.total
    if not table.peak:
        return weights @ shares + rest
    parts = (weights * shares).split([len(costs) for costs in table.sites.values()])
    expected = torch.stack([weights.new_tensor(rest), *(part.sum() for part in parts)])
    expected = expected.clamp_min(torch.finfo(expected.dtype).tiny)
    largest = expected.detach().amax()  # powers of shares alone would vanish
    smooth = largest * (expected / largest).pow(_ORDER).sum().pow(1 / _ORDER)
    return smooth + (largest - smooth).detach()


_ORDER = 100  # of the norm: a site that takes 99% of the largest has a third of its part in the slope


def linear(share: Tensor) -> Tensor:
    """The share itself: 1.0 is the original network."""
    return share


def logarithmic(share: Tensor) -> Tensor:
    """``1 + log(share)``: 1.0 is the original network, and every halving counts the same."""
    return 1 + share.log()


def penalty(supernet: nn.Module, table: CostTable, shape: Callable[[Tensor], Tensor] = linear) -> Tensor:
    """What a training loop adds, times its factor: a differentiable scalar, 1.0 for the original network."""
    check_table(table, supernet_ops(supernet))
    return shape(expected_cost(supernet, table))
