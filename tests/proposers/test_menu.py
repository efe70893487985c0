"""The menu: codes and architectures say the same, costs are the table's, draws keep the bounds."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs import Macs, Memory, Params, tabulate
from lwdc.errors import ArchitectureError, SpaceError
from lwdc.proposers import Menu
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import wrap

MakeMenu = Callable[..., Menu]


def test_codes_and_architectures_say_the_same_at_the_tables_cost(menu: MakeMenu) -> None:
    space = menu(budget=None)

    @settings(max_examples=40)
    @given(st.tuples(*(st.integers(0, count - 1) for count in space.counts)))
    def check(code: tuple[int, ...]) -> None:
        architecture = space.decode(code)
        assert space.encode(architecture) == code
        assert space.cost(code) == space.tables[0].of(architecture)

    check()
    assert space.share(space.original) == 1


def test_tied_sites_are_one_decision(menu: MakeMenu) -> None:
    space = menu(sites=4, budget=None, tie=("[23]",))
    assert space.counts == (5, 5, 5)
    architecture = space.decode((1, 2, 0))
    assert list(architecture.choices) == ["1", "2", "3", "4"]
    assert architecture.choices["2"] == architecture.choices["3"] == {"op": "grouped", "groups": 4}
    assert space.cost((1, 2, 0)) == space.tables[0].of(architecture)
    parted = Architecture({**architecture.choices, "3": {"op": "original"}})
    with pytest.raises(ArchitectureError, match="tied to others, and the architecture parts them"):
        space.encode(parted)


@pytest.mark.parametrize("budget", [0.3, 0.6])
def test_draws_and_variations_keep_the_bound_and_spread_below_it(budget: float, menu: MakeMenu) -> None:
    space, rng = menu(budget=budget), random.Random(0)
    drawn = [space.draw(rng) for _ in range(100)]
    assert len(set(drawn)) > 90
    shares = [space.share(code) for code in drawn if code is not None]
    assert max(shares) <= budget
    assert max(shares) - min(shares) > 0.3 * budget
    varied = [(code, space.vary(code, 1, rng)) for code in drawn if code is not None]
    assert sum(other is not None for _, other in varied) > 50
    assert all(other != code and space.keeps(other) for code, other in varied if other is not None)


def test_exchanges_pay_for_a_dearer_candidate_elsewhere(menu: MakeMenu) -> None:
    space, rng = menu(budget=0.5), random.Random(0)
    found = 0
    for _ in range(200):
        code = space.draw(rng)
        assert code is not None
        other = space.exchange(code, rng)
        if other is not None:
            changed = [i for i in range(len(code)) if other[i] != code[i]]
            assert len(changed) == 2 and space.keeps(other)
            assert any(space.costs[0][i][other[i]] > space.costs[0][i][code[i]] for i in changed)
            found += 1
    assert found > 20
    cheapest = tuple(
        min(range(n), key=costs.__getitem__) for n, costs in zip(space.counts, space.costs[0], strict=True)
    )
    least = menu(budget=space.share(cheapest))
    assert all(least.exchange(cheapest, rng) is None for _ in range(20))


def test_several_bounds_and_a_peak_are_kept_at_once() -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))]
    model = nn.Sequential(*layers)
    plan = make_plan(model, SearchSpace([{"op": "original"}, {"op": "separable"}, {"op": "pointwise"}]), (3, 8, 8))
    supernet = wrap(model, plan=plan)
    tables = [tabulate(supernet, cost) for cost in (Macs(), Params(), Memory())]
    bounds = [int(0.6 * tables[0].total), int(0.5 * tables[1].total), tables[2].total]
    space, rng = Menu.of(plan, tables, bounds), random.Random(0)
    for code in (space.draw(rng) for _ in range(30)):
        assert code is not None
        for which, (table, bound) in enumerate(zip(tables, bounds, strict=True)):
            assert space.cost(code, which) == table.of(space.decode(code)) <= bound


def test_bounds_that_nothing_keeps_give_nothing(menu: MakeMenu) -> None:
    assert menu(budget=0.01).draw(random.Random(0)) is None


def test_a_space_of_one_architecture_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    plan = make_plan(model, SearchSpace([{"op": "separable"}], stem=True), (3, 8, 8))
    table = tabulate(wrap(model, plan=plan), Macs())
    with pytest.raises(SpaceError, match="holds one architecture: there is nothing to search for"):
        Menu.of(plan, [table], [None])
