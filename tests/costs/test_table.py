"""Cost tables: equal, as whole numbers, to what the released networks count."""

import dataclasses
import functools
import itertools
import json
import random
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.costs import CostModel, CostTable, Macs, Memory, Params, expected_cost, logarithmic, penalty, tabulate
from lwdc.errors import ArchitectureError, CostError
from lwdc.gates import OneHot, Softmax
from lwdc.pipeline import CostSettings
from lwdc.selection import gates, selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import discretise, original_network, point_at, wrap
from lwdc.tracing import Shape

EVERYTHING = SearchSpace(
    [
        {"op": "original"},
        {"op": "grouped", "groups": 4},
        {"op": "separable"},
        {"op": "separable_norm"},
        {"op": "pointwise"},
        {"op": "low_rank", "ratio": 0.25},
        {"op": "kernel", "size": 5},
        {"op": "dilated", "size": 3, "dilation": 2},
        {"op": "skip"},
        {"op": "max_pool"},
        {"op": "zero"},
    ],
    stem=True,
    shortcuts=True,
    costlier=True,
)
NETWORKS: dict[str, tuple[Shape, SearchSpace]] = {
    "cifar_resnet20": ((3, 16, 16), EVERYTHING),
    "mobilenetv2_100": ((3, 32, 32), SearchSpace(EVERYTHING.candidates[::5] + EVERYTHING.candidates[1:2])),
}


@functools.cache
def supernet_of(name: str) -> tuple[Shape, nn.Module, CostTable]:
    """An image size, a supernet whose gates anyone may set, and its MACs."""
    size, space = NETWORKS[name]
    supernet = wrap(Backbone(name, 10, 3).create(), space, Softmax, size, inherit=False)
    return size, supernet, tabulate(supernet, Macs())


class Twice(nn.Module):
    """A convolution used twice, at two sizes, and one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.after = nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.again(self.again(self.stem(x))))


def line() -> nn.Module:
    """Three sites: with a bias, without one, and one that changes the number of channels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 16, 3, padding=1),
    )  # fmt: skip


def supernet_of_line(**options: object) -> nn.Module:
    return wrap(line(), SearchSpace(**options), Softmax, (3, 8, 8))  # type: ignore[arg-type]


def one_of_each(supernet: nn.Module, choose: Callable[[int], int]) -> Architecture:
    """An architecture from an index per gate, for ``choose`` from its number of candidates."""
    indices = {gate: choose(gate.logits.numel()) for gate in gates(supernet)}
    return Architecture({name: op.candidates[indices[op.gate]] for name, op in selection_ops(supernet).items()})


@pytest.mark.parametrize("name", ["cifar_resnet20", pytest.param("mobilenetv2_100", marks=pytest.mark.long)])
def test_the_tables_equal_the_counts_of_released_networks_that_have_every_operator_at_every_site(name: str) -> None:
    size, supernet, macs = supernet_of(name)
    params = tabulate(supernet, Params())
    most = max(gate.logits.numel() for gate in gates(supernet))
    for turn in range(most):
        rng = random.Random(name)  # the same at every turn: a site goes through its candidates from one drawn at random
        architecture = one_of_each(supernet, lambda count, turn=turn, rng=rng: (rng.randrange(count) + turn) % count)
        network, _ = discretise(supernet, architecture)
        assert macs.of(architecture) == Macs()(network, [size])
        assert params.of(architecture) == Params()(network, [size])
    original = original_network(supernet)
    assert (macs.total, params.total) == (Macs()(original, [size]), Params()(original, [size]))
    for table in (macs, params):
        assert all(type(entry) is int for costs in table.sites.values() for entry in costs.values())


def test_costs_of_sites_are_those_counted_by_hand() -> None:
    table = tabulate(supernet_of_line(), Macs())
    pixels = 8 * 8
    assert table.original == {"1": pixels * 8 * 8 * 9, "3": pixels * 8 * 8 * 9, "4": pixels * 8 * 16 * 9}
    assert table.rest == pixels * 3 * 8 * 9
    assert table.sites["4"] == {
        "original": pixels * 8 * 16 * 9,
        **{f"factorised_{r / 16}": pixels * (8 * 3 * r + r * 3 * 16) for r in (12, 8, 4, 2)},
        **{f"low_rank_{r / 16}": pixels * (8 * 9 * r + r * 16) for r in (4, 2)},
        "separable": pixels * (8 * 9 + 8 * 16),
        "pointwise": pixels * 8 * 16,
    }


@pytest.mark.parametrize("cost", [Macs(), Params()], ids=lambda cost: cost.name)
def test_a_module_used_twice_costs_two_uses_and_one_set_of_weights(cost: CostModel) -> None:
    supernet = wrap(Twice(), SearchSpace(), Softmax, (3, 8, 8))
    table = tabulate(supernet, cost)
    uses = {"macs": (4 * 4 + 2 * 2) * 8 * 8 * 9, "params": 8 * 8 * 9 + 8}
    assert table.original["again"] == uses[cost.name]
    for choice in range(max(len(costs) for costs in table.sites.values())):
        architecture = one_of_each(supernet, lambda count, choice=choice: choice % count)
        network, _ = discretise(supernet, architecture)
        assert table.of(architecture) == cost(network, [(3, 8, 8)])


def test_tied_sites_are_one_choice_that_costs_the_sum() -> None:
    supernet = supernet_of_line(tie=["[13]"])
    table = tabulate(supernet, Params())
    assert table.groups == {"1": "1", "3": "1", "4": "4"}
    summed = [a + b for a, b in zip(table.sites["1"].values(), table.sites["3"].values(), strict=True)]
    assert table.group_costs()["1"] == summed
    assert table.smallest == table.rest + min(summed) + min(table.sites["4"].values())
    mean = sum(summed) / len(summed) + sum(table.sites["4"].values()) / len(table.sites["4"])
    assert float(expected_cost(supernet, table).detach()) == pytest.approx((table.rest + mean) / table.total)


def test_smallest_and_largest_are_those_of_all_architectures() -> None:
    supernet = supernet_of_line(costlier=True, candidates=[*EVERYTHING.candidates[:4]])
    table = tabulate(supernet, Macs())
    sizes = [gate.logits.numel() for gate in gates(supernet)]
    costs = []
    for picked in itertools.product(*(range(size) for size in sizes)):
        indices = iter(picked)
        costs.append(table.of(one_of_each(supernet, lambda _, indices=indices: next(indices))))
    assert (table.smallest, table.largest) == (min(costs), max(costs))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_penalty_is_the_share_of_the_architecture_that_the_gates_point_at(name: str) -> None:
    _, supernet, table = supernet_of(name)
    rng = random.Random(name)
    for _ in range(5):
        architecture = one_of_each(supernet, rng.randrange)
        point_at(supernet, architecture)
        assert float(penalty(supernet, table).detach()) == pytest.approx(table.of(architecture) / table.total, abs=1e-6)


def test_the_penalty_of_a_mixture_is_the_sum_over_sites_in_float64_to_a_millionth() -> None:
    _, supernet, table = supernet_of("cifar_resnet20")
    exact = float(table.rest)
    for name, op in selection_ops(supernet).items():
        with torch.no_grad():
            op.gate.logits.normal_()
        weights = torch.softmax(op.gate.logits.detach().double(), 0)
        exact += float(weights @ torch.tensor(list(table.sites[name].values()), dtype=torch.float64))
    assert float(penalty(supernet, table).detach()) == pytest.approx(exact / table.total, abs=1e-6)


@pytest.mark.parametrize("shape", [None, logarithmic])
def test_the_original_network_has_penalty_one(shape: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
    supernet = supernet_of_line()
    table = tabulate(supernet, Macs())
    point_at(supernet, one_of_each(supernet, lambda _: 0))
    shapes = () if shape is None else (shape,)
    assert float(penalty(supernet, table, *shapes).detach()) == pytest.approx(1.0, abs=1e-6)


def test_the_logarithmic_penalty_falls_by_as_much_at_every_halving() -> None:
    shares = torch.tensor([1.0, 0.5, 0.25, 0.125])
    falls = -logarithmic(shares).diff()
    assert torch.allclose(falls, torch.full((3,), 2.0).log())


def test_the_penalty_is_differentiable_and_pushes_towards_cheaper_candidates() -> None:
    supernet = supernet_of_line()
    table = tabulate(supernet, Macs())
    penalty(supernet, table).backward()
    for name, op in selection_ops(supernet).items():
        gradient, costs = op.gate.logits.grad, torch.tensor(list(table.sites[name].values()))
        assert gradient is not None and gradient.sum().abs() < 1e-6
        assert gradient.argmax() == costs.argmax() and gradient.argmin() == costs.argmin()


@pytest.mark.parametrize("gate", [Softmax, OneHot])
def test_descending_the_cost_alone_ends_at_the_cheapest_candidates(gate: type[Softmax | OneHot]) -> None:
    supernet = wrap(line(), SearchSpace(), gate, (3, 8, 8))
    table = tabulate(supernet, Macs())
    optimiser = torch.optim.Adam([g.logits for g in gates(supernet)], lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        penalty(supernet, table).backward()
        optimiser.step()
    _, architecture = discretise(supernet)
    assert table.of(architecture) == table.smallest


def test_tabulating_leaves_the_supernet_alone() -> None:
    supernet = supernet_of_line(candidates=EVERYTHING.candidates)
    supernet.train()
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    modules = [(type(module), module.training) for module in supernet.modules()]
    tabulate(supernet, Macs())
    tabulate(supernet, Params())
    assert [(type(module), module.training) for module in supernet.modules()] == modules
    after = supernet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_equal_layers_are_measured_once() -> None:
    calls: list[nn.Module] = []

    class Counting:
        name, unit = "macs", "MAC"

        def __call__(self, module: nn.Module, input_shapes: object) -> int:
            calls.append(module)
            return len(list(module.modules()))

    tabulate(wrap(nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(4))), input_size=(8, 20, 20)), Counting())
    sizes = {type(module) for module in calls}
    assert nn.Conv2d in sizes
    same = wrap(nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))), input_size=(8, 20, 20))
    calls.clear()
    tabulate(same, Counting())
    (candidates,) = {len(op.candidates) for op in selection_ops(same).values()}
    assert len(calls) == candidates + 2  # candidates once, the whole, and that of the cheapest


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({}, "site '1' has costs for original, .* not for '-'"),
        ({"1": {"op": "skip"}}, "site '1' has costs for original, .* not for 'skip'"),
    ],
)
def test_an_architecture_of_another_space_is_refused(choices: dict[str, dict[str, str]], message: str) -> None:
    table: CostTable = tabulate(supernet_of_line(), Macs())
    with pytest.raises(ArchitectureError, match=message):
        table.of(Architecture(choices))


class Counted:
    """A cost made of the multiply-accumulates."""

    name, unit = "counted", "u"

    def __init__(self, made: Callable[[int], object]) -> None:
        self.made = made

    def __call__(self, module: nn.Module, input_shapes: Sequence[Shape]) -> Any:
        return self.made(Macs()(module, input_shapes))


@pytest.fixture(scope="module")
def lined() -> nn.Module:
    return supernet_of_line(candidates=[{"op": "original"}, {"op": "pointwise"}])


@pytest.mark.parametrize("made", [lambda macs: 4 * macs, np.int64, torch.tensor, lambda macs: round(0.37 * macs)])
def test_costs_of_any_whole_numbers_are_kept_as_plain_ones(made: Callable[[int], Any], lined: nn.Module) -> None:
    table = tabulate(lined, Counted(made))
    assert CostTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert table.total == int(made(tabulate(lined, Macs()).total))


@pytest.mark.parametrize("value", [0.5, float("nan"), None, -3, "12", torch.tensor(0.5)])
def test_a_cost_that_is_no_whole_number_is_refused_by_operator_and_site(value: object, lined: nn.Module) -> None:
    with pytest.raises(CostError, match=r"'counted' gives .* for 'original' at site '1': a cost is a whole number"):
        tabulate(lined, Counted(lambda macs: value))


@pytest.mark.parametrize("power", [0.5, 2])
def test_a_cost_that_is_no_sum_over_layers_is_refused(power: float, lined: nn.Module) -> None:
    with pytest.raises(CostError, match=r"'counted' is no sum over layers: .* has tabulate\(supernet\) instead"):
        tabulate(lined, Counted(lambda macs: int(macs**power)))


class Nameless(Counted):
    name = None  # type: ignore[assignment]


class Whole:
    """Gives what it is told to as a table."""

    name, unit = "whole", "u"

    def __init__(self, changed: Callable[[CostTable], object]) -> None:
        self.changed = changed

    def tabulate(self, supernet: nn.Module) -> Any:
        return self.changed(tabulate(supernet, Macs()))


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (Counted(lambda macs: 0), "the original network costs nothing"),
        (Memory, r"cost is a cost model, such as lwdc\.Macs\(\)"),
        (Nameless(int), "a cost has a name, as text; that of Nameless is None"),
        (lambda module, shapes: 3, "a cost has a name, as text; that of function is None"),
        (types.SimpleNamespace(name="a", unit="u"), "'a': SimpleNamespace measures nothing"),
        (Whole(lambda table: table.to_dict()), "returns a CostTable, found a dict"),
        (Whole(lambda table: dataclasses.replace(table, rest=0.5)), "cannot be used: costs are whole numbers"),
        (Whole(lambda table: dataclasses.replace(table, sites={}, groups={})), "other sites or operators"),
    ],
)
def test_what_is_no_cost_is_refused(cost: Any, message: str, lined: nn.Module) -> None:
    with pytest.raises(CostError, match=message):
        tabulate(lined, cost)
    if not isinstance(cost, Counted | Whole) or isinstance(cost, Nameless):
        with pytest.raises(CostError, match=message):  # before anything is built
            CostSettings(cost)
