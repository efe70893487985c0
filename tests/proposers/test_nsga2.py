"""NSGA-II: it is after fronts, of all costs, and keeps nothing but what it was told."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from lwdc.costs import Macs, Memory, tabulate
from lwdc.errors import LwdcError, SpaceError
from lwdc.proposers import Code, Menu, Nsga2, Proposer, RandomSearch
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import wrap

MakeMenu = Callable[..., Menu]
MakeTruth = Callable[..., Callable[[Code], float]]


def run(proposer: Proposer, truth: Callable[[Code], float], rounds: int) -> None:
    menu = proposer.history.menu
    for _ in range(rounds):
        for architecture in proposer.ask(10):
            code = menu.encode(architecture)
            proposer.tell(architecture, truth(code), menu.share(code))


def area(proposer: Proposer, budget: float) -> float:
    """What the front dominates, of accuracies from 0 and shares up to the budget."""
    front = proposer.history.front()
    shares = [*(trial.share for trial in front), budget]
    return sum(
        (right - left) * (trial.accuracy or 0) for trial, left, right in zip(front, shares, shares[1:], strict=False)
    )


def test_its_front_is_beyond_that_of_random_search(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu(sites=10, budget=0.8)
    found: dict[type, float] = {}
    for build in (Nsga2, RandomSearch):
        proposers: list[Any] = [build(space, seed=seed) for seed in range(3)]
        for seed, proposer in enumerate(proposers):
            run(proposer, truth(space, seed), 10)
        found[build] = sum(area(proposer, 0.8) for proposer in proposers)
    assert found[Nsga2] > found[RandomSearch]


def test_every_cost_of_the_menu_is_an_objective() -> None:
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(7)))
    plan = make_plan(model, SearchSpace([{"op": "original"}, {"op": "separable"}], stem=True), (8, 4, 4))
    supernet = wrap(model, plan=plan)
    tables = [tabulate(supernet, Macs()), tabulate(supernet, Memory())]
    for count in (1, 2):
        proposer = Nsga2(Menu.of(plan, tables[:count], [None] * count), population=4)
        run(proposer, lambda code: 0.5, 1)
        study = proposer._study(0)
        assert [direction.name for direction in study.directions] == ["MAXIMIZE", *["MINIMIZE"] * count]
        trial, told = study.trials[0], proposer.history.trials[0]
        assert trial.values == [0.5, *(table.of(proposer.history.menu.decode(told.code)) for table in tables[:count])]


def test_parents_are_the_best_of_whole_generations(menu: MakeMenu) -> None:
    space = menu(budget=None)
    proposer = Nsga2(space, population=10)
    run(proposer, lambda code: 1 - 0.1 * code[0] - space.share(code) / 2, 3)  # cheap and code[0] == 0 is best
    study = proposer._study(0)
    sampler: Any = study.sampler
    told = study.trials
    assert sampler.get_population(study, 1) == told[10:20]
    parents = sampler.get_parent_population(study, 2)
    assert len(parents) == 10
    assert {trial.number for trial in parents} <= set(range(20))
    fronts = [t for t in told[:20] if not any(_beats(other.values, t.values) for other in told[:20])]
    assert {t.number for t in fronts[:10]} <= {t.number for t in parents} or len(fronts) > 10


def test_optuna_is_asked_for_by_name(menu: MakeMenu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LwdcError, match=r"nsga2 needs optuna, .*pip install 'lwdc\[sweeps\]'"):
        Nsga2(menu())


def test_a_population_of_one_is_refused(menu: MakeMenu) -> None:
    with pytest.raises(SpaceError, match="a population from 2 on, found 1"):
        Nsga2(menu(), population=1)


def test_questions_do_not_depend_on_who_asked_before(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    one, other = Nsga2(space, seed=1), Nsga2(space, seed=1)
    run(one, truth(space), 3)
    for trial in one.history.trials:
        other.tell(space.decode(trial.code), trial.accuracy, trial.share)
    assert one.ask(5) == other.ask(5)


def _beats(one: list[float], other: list[float]) -> bool:
    better = [one[0] >= other[0], *(a <= b for a, b in zip(one[1:], other[1:], strict=True))]
    return all(better) and one != other
