"""Budgets: read, and kept exactly."""

import functools
import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import milp
from torch import nn

from lwdc.architecture import Architecture
from lwdc.candidates import label
from lwdc.costs import CostTable, Macs, Params, choose, choose_within, parse_budget, read_budget, tabulate
from lwdc.costs import budget as budgets
from lwdc.costs.budget import best_within
from lwdc.costs.units import shown
from lwdc.errors import CostError
from lwdc.gates import Softmax
from lwdc.selection import gates, selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import wrap

TABLE = CostTable(
    "macs",
    "MAC",
    sites={"a": {"original": 60_000_000, "skip": 0}, "b": {"original": 20_000_000, "grouped_2": 10_000_000}},
    original={"a": 60_000_000, "b": 20_000_000},
    groups={"a": "a", "b": "b"},
    rest=1_000_000,
)
PARAMS = CostTable("params", "params", {"a": {"original": 900, "skip": 0}}, {"a": 900}, {"a": "a"}, 100)


@pytest.mark.parametrize(
    ("budget", "bound"),
    [
        (0.5, 40_500_000),
        ("0.5", 40_500_000),
        ("50%", 40_500_000),
        (" 50 % ", 40_500_000),
        (".5", 40_500_000),
        ("5e-1", 40_500_000),
        (1, 81_000_000),
        ("100%", 81_000_000),
        ("40MMAC", 40_000_000),
        ("40 MMACs", 40_000_000),
        ("0.04gmac", 40_000_000),
        ("40000kMAC", 40_000_000),
        ("40000000MAC", 40_000_000),
        ("80MMAC", 80_000_000),
        (1 / 3, 26_999_999),
    ],
)
def test_budgets_are_read(budget: float | str, bound: int) -> None:
    assert parse_budget(budget, TABLE) == bound


@pytest.mark.parametrize("unit", ["J", "mJ", "uJ", "nJ", "pJ", "fJ", "s", "ms", "B", "MAC", "params", "requests"])
@pytest.mark.parametrize("value", [0.0123, 5, 409, 999.9, 409_123, 2.5e7, 7.89e11])
def test_what_is_shown_is_a_budget_of_the_same_amount(value: float, unit: str) -> None:
    assert read_budget(shown(value, unit), unit) == (pytest.approx(value, rel=0.005), False)


def test_an_amount_is_shown_with_one_prefix() -> None:
    assert [shown(409_123, unit) for unit in ("pJ", "J", "B", "requests")] == [
        "409nJ", "409kJ", "409kB", "409123 requests"
    ]  # fmt: skip
    assert shown(1500, "ms") == "1.50s"


@pytest.mark.parametrize(("budget", "bound"), [("0.3kparams", 300), ("300params", 300), ("300param", 300)])
def test_budgets_of_parameters_are_read(budget: str, bound: int) -> None:
    assert parse_budget(budget, PARAMS) == bound


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("half", "budget 'half' cannot be read; write a share like 0.5 or an amount like 40.5MMAC"),
        ("", "cannot be read"),
        ("-0.5", "cannot be read"),
        ("nan", "cannot be read"),
        ("1.2.3", "cannot be read"),
        ("0", r"is a share of the original and must lie in \(0, 1\]"),
        ("40", r"must lie in \(0, 1\]; an amount needs its unit, like 40.5MMAC"),
        ("120%", r"must lie in \(0, 1\]"),
        ("40kparams", "has the unit 'kparams', the cost is counted in MAC; .* like 40.5MMAC"),
        ("40M", "has the unit 'M', the cost is counted in MAC"),
        ("40xMAC", "has the unit 'xMAC'"),
        ("0.1", r"\(8,100,000 MAC\) cannot be reached: the smallest macs of this space is 11,000,000 \(0.136"),
        ("3MMAC", r"\(3,000,000 MAC\) cannot be reached: .* Raise it, or add cheaper candidates"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(budget: str, message: str) -> None:
    with pytest.raises(CostError, match=message):
        parse_budget(budget, TABLE)


@given(share=st.floats(0.136, 1.0))
def test_a_share_is_never_rounded_up(share: float) -> None:
    assert parse_budget(share, TABLE) <= Fraction(str(share)) * TABLE.total  # a product of floats may be rounded down


def small() -> nn.Module:
    """Five sites, of which two are tied."""
    widths = [4, 8, 8, 8, 8, 16]
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers)
    return wrap(model, SearchSpace(tie=["[24]"]), Softmax, (3, 6, 6), inherit=False)


SUPERNET = small()
COSTS = {cost.name: tabulate(SUPERNET, cost) for cost in (Macs(), Params())}


def scores(seed: int, spread: float) -> None:
    """Give the gates random logits, in place."""
    torch.manual_seed(seed)
    for gate in gates(SUPERNET):
        with torch.no_grad():
            gate.logits.normal_(std=spread)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.01, 1.0, 100.0]), cost=st.sampled_from(["macs", "params"]))
def test_a_choice_is_never_over_its_budget(seed: int, spread: float, cost: str) -> None:
    scores(seed, spread)
    table = COSTS[cost]
    for tenths in range(9, 0, -1):
        bound = max(table.total * tenths // 10, table.smallest)
        assert table.of(choose(SUPERNET, table, bound)) <= bound


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([1e-3, 1.0, 30.0]), share=st.floats(0.12, 1.0))
def test_a_choice_is_the_best_of_all_within_the_budget(seed: int, spread: float, share: float) -> None:
    scores(seed, spread)
    table = COSTS["macs"]
    bound = max(int(share * table.total), table.smallest)
    architecture = choose(SUPERNET, table, bound)
    ops = selection_ops(SUPERNET)
    costs = table.group_costs()
    values = {group: ops[group].gate.scores().double().tolist() for group in costs}
    best = max(
        sum(values[group][i] for group, i in zip(costs, picked, strict=True))
        for picked in itertools.product(*(range(len(c)) for c in costs.values()))
        if table.rest + sum(costs[group][i] for group, i in zip(costs, picked, strict=True)) <= bound
    )
    found = sum(values[g][ops[g].candidates.index(architecture.choices[g])] for g in costs)
    assert found == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_without_a_budget_every_gate_gets_its_best() -> None:
    scores(1, 1.0)
    architecture = choose(SUPERNET, COSTS["macs"])
    for name, op in selection_ops(SUPERNET).items():
        assert architecture.choices[name] == op.candidates[int(op.gate.logits.argmax())]


def test_tied_sites_get_one_operator() -> None:
    for seed in range(10):
        scores(seed, 1.0)
        choices = choose(SUPERNET, COSTS["params"], COSTS["params"].total // 2).choices
        assert choices["2"] == choices["4"]


def test_the_smallest_budget_of_all_gives_the_cheapest_network() -> None:
    scores(0, 10.0)
    table = COSTS["macs"]
    assert table.of(choose(SUPERNET, table, table.smallest)) == table.smallest


def test_whole_numbers_decide_where_the_solver_would_round() -> None:
    """One unit in a milliard is below any solver's tolerance."""
    rng = random.Random(0)
    for _ in range(20):
        costs = {str(g): {"original": 10**9 + rng.randrange(50), "skip": rng.randrange(10**8)} for g in range(6)}
        scores = {group: np.array([0.0, -1.0 - rng.random()]) for group in costs}
        table = CostTable("macs", "MAC", costs, {g: c["original"] for g, c in costs.items()}, {g: g for g in costs}, 7)
        chosen = best_within(scores, [(table, table.total - 1)])
        assert chosen is not None
        assert 7 + sum(list(costs[g].values())[i] for g, i in chosen.items()) <= table.total - 1
        # One site has to give way, and it must be the one that loses least.
        gave_way = [g for g, i in chosen.items() if i == 1]
        assert gave_way == [max(scores, key=lambda g: scores[g][1])]


def test_a_bound_just_below_what_many_choices_cost_is_kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a solver's tolerance lets all of them through they would be ruled out one by one."""
    calls = []
    monkeypatch.setattr(budgets, "milp", lambda *given, **options: calls.append(1) or milp(*given, **options))
    whole = 115_605_504
    names = [str(i) for i in range(16)]
    costs = {name: {"original": whole, "half": whole // 2} for name in names}
    table = CostTable("macs", "MAC", costs, dict.fromkeys(names, whole), {name: name for name in names}, 3)
    rng = random.Random(0)
    values = {name: np.array([0.0, -1.0 - rng.random()]) for name in names}
    chosen = best_within(values, [(table, 12 * whole + 2)])
    assert chosen is not None and sum(chosen.values()) == 9  # 8 would cost 12 and the rest
    assert sorted(names, key=lambda name: -values[name][1])[:9] == sorted(
        (name for name in names if chosen[name]), key=lambda name: -values[name][1]
    )
    assert len(calls) == 1


GROUPS = tuple(dict.fromkeys(COSTS["macs"].groups.values()))


@functools.cache
def every_architecture() -> list[tuple[tuple[int, ...], tuple[int, int]]]:
    """By the index of each group's candidate: MACs and parameters."""
    found = []
    ops, groups = selection_ops(SUPERNET), COSTS["macs"].groups
    for picked in itertools.product(*(range(len(ops[group].candidates)) for group in GROUPS)):
        index = dict(zip(GROUPS, picked, strict=True))
        architecture = Architecture({name: op.candidates[index[groups[name]]] for name, op in ops.items()})
        found.append((picked, (COSTS["macs"].of(architecture), COSTS["params"].of(architecture))))
    return found


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), macs=st.floats(0.1, 1.0), params=st.floats(0.1, 1.0))
def test_two_budgets_are_kept_by_the_best_of_all_that_keep_both(seed: int, macs: float, params: float) -> None:
    scores(seed, 1.0)
    bounds = [(COSTS["macs"], int(macs * COSTS["macs"].total)), (COSTS["params"], int(params * COSTS["params"].total))]
    ops = selection_ops(SUPERNET)
    values = [ops[group].gate.scores().double().tolist() for group in GROUPS]
    kept = (
        sum(each[i] for each, i in zip(values, picked, strict=True))
        for picked, costs in every_architecture()
        if all(cost <= bound for cost, (_, bound) in zip(costs, bounds, strict=True))
    )
    best = max(kept, default=None)
    if best is None:
        with pytest.raises(CostError, match=r"no architecture of this space keeps macs .* MAC, params .* together"):
            choose_within(SUPERNET, bounds)
        return
    architecture = choose_within(SUPERNET, bounds)
    found = [ops[group].candidates.index(architecture.choices[group]) for group in GROUPS]
    assert all(table.of(architecture) <= bound for table, bound in bounds)
    assert sum(each[i] for each, i in zip(values, found, strict=True)) == pytest.approx(best, abs=1e-9)


def test_a_bound_on_a_peak_rules_out_what_is_above_it() -> None:
    peaks = {name: {label: 100 * i for i, label in enumerate(costs)} for name, costs in COSTS["macs"].sites.items()}
    table = CostTable("memory", "B", peaks, dict.fromkeys(peaks, 0), COSTS["macs"].groups, 50, peak=True)
    assert (table.total, table.smallest) == (50, 50)
    assert table.largest == 100 * (max(map(len, peaks.values())) - 1)
    for bound in (50, 100, 250, table.largest):
        for seed in range(5):
            scores(seed, 1.0)
            architecture = choose(SUPERNET, table, bound)
            assert table.of(architecture) <= bound
            assert all(table.sites[n][label(c)] <= bound for n, c in architecture.choices.items())
    with pytest.raises(CostError, match="keeps memory 49 B"):
        choose(SUPERNET, table, 49)


@pytest.mark.parametrize(
    ("unit", "per_unit", "budget", "bound"),
    [
        ("ms", 10**6, "5ms", 5_000_000), ("ms", 10**6, "1800us", 1_800_000), ("ms", 10**6, "0.002s", 2_000_000),
        ("ms", 10**6, "0.5", 4_500_000), ("B", 1, "4MB", 4_000_000), ("B", 1, "3.5MiB", 3_670_016),
        ("B", 1, "2000kb", 2_000_000), ("mJ", 1000, "5000mJ", 5_000_000), ("mJ", 1000, "5J", 5_000_000),
        ("J", 10**6, "4500mJ", 4_500_000),
        ("kWh", 10**6, "5000Wh", 5_000_000), ("J/img", 10**6, "5J/img", 5_000_000), ("µJ", 1, "5J", 5_000_000),
    ],
)  # fmt: skip
def test_amounts_are_read_in_the_units_of_the_cost(unit: str, per_unit: int, budget: str, bound: int) -> None:
    sites = {"a": {"original": 8_000_000, "skip": 0}}
    table = CostTable("cost", unit, sites, {"a": 8_000_000}, {"a": "a"}, 1_000_000, per_unit)
    assert parse_budget(budget, table) == bound


def test_an_amount_above_what_the_original_costs_is_refused() -> None:
    table = CostTable("energy", "J", {"a": {"original": 8_000, "skip": 0}}, {"a": 8_000}, {"a": "a"}, 0, 1000)
    with pytest.raises(CostError, match=r"budget '5MJ' \(5000000 J\) is more than the original network costs, 8.00 J"):
        parse_budget("5MJ", table)
    assert parse_budget("5J", table) == 5000


@pytest.mark.parametrize(
    ("unit", "like"),
    [("MAC", "40.0MMAC"), ("params", "300kparams"), ("B", "2.00MB"), ("ms", "5.00ms"), ("img", "5.00img")],
)
def test_a_budget_is_read_without_a_table(unit: str, like: str) -> None:
    assert read_budget("25%", unit) == (Fraction(1, 4), True)
    assert read_budget(like, unit)[1] is False
    with pytest.raises(CostError, match=f"has the unit 'x', the cost is counted in {unit}; .* like {like}"):
        read_budget("5x", unit)
    with pytest.raises(CostError, match=f"an amount needs its unit, like {like}"):
        read_budget(5, unit)


@pytest.mark.parametrize(
    ("unit", "budget"), [("ms", "5MMAC"), ("ms", "5m"), ("B", "5ms"), ("mJ", "5MB"), ("B", "5Mi"), ("units", "5kunits")]
)
def test_amounts_in_other_units_are_refused(unit: str, budget: str) -> None:
    table = CostTable("cost", unit, {"a": {"original": 9_000_000}}, {"a": 9_000_000}, {"a": "a"}, 0)
    with pytest.raises(CostError, match=f"the cost is counted in {unit}; write a share like 0.5 or an amount like"):
        parse_budget(budget, table)
