"""The evolving space: who is active, who survives, who comes next."""

from collections.abc import Callable
from typing import Any

import pytest

from lwdc.errors import SpaceError
from lwdc.proposers import Code, EvolveSpace, Menu, Proposer, RandomSearch

MakeMenu = Callable[..., Menu]
MakeTruth = Callable[..., Callable[[Code], float]]


def answer(proposer: Proposer, accuracy: Callable[[Code], float | None], count: int) -> list[Code]:
    menu = proposer.history.menu
    codes = [menu.encode(architecture) for architecture in proposer.ask(count)]
    for code in codes:
        proposer.tell(menu.decode(code), accuracy(code), menu.share(code))
    return codes


def active(proposer: EvolveSpace) -> list[set[int]]:
    return [set(candidates) for candidates in proposer.state_dict()["candidates"]]


def test_a_round_takes_active_candidates_only_and_the_cheapest_are_among_them(menu: MakeMenu) -> None:
    space = menu(budget=0.5)
    proposer = EvolveSpace(space, active=3, sampled=20)
    before = active(proposer)
    cheapest = [costs.index(min(costs)) for costs in space.costs[0]]
    assert all(len(candidates) == 3 and least in candidates for candidates, least in zip(before, cheapest, strict=True))
    codes = answer(proposer, lambda code: 0.5, 20)
    assert all(taken in candidates for code in codes for taken, candidates in zip(code, before, strict=True))
    assert active(proposer) == before


def test_the_front_survives_and_the_next_join_until_the_queue_is_empty(menu: MakeMenu) -> None:
    space = menu(budget=0.6)
    proposer = EvolveSpace(space, active=3, sampled=20)
    seen = active(proposer)
    for _ in range(4):
        answer(proposer, lambda code: 0.5 + 0.5 * space.share(code) - 0.05 * (code[0] == 1), 20)
        front, queues = proposer.history.front(), proposer.state_dict()["queues"]
        proposer.ask(0)
        for index, (now, queue) in enumerate(zip(active(proposer), queues, strict=True)):
            survivors = {trial.code[index] for trial in front}
            stay = min(len(survivors), 2 if queue else 3)
            come = queue[: 3 - stay]
            assert now - survivors <= set(come)
            assert len(now) == stay + len([k for k in come if k not in survivors])
            seen[index] |= now
    assert seen == [set(range(5))] * 8


def test_of_too_many_survivors_those_of_the_most_accurate_networks_stay(menu: MakeMenu) -> None:
    space = menu(sites=2, budget=None)
    proposer = EvolveSpace(space, active=3, sampled=3)
    for code, accuracy in [((0, 0), 0.9), ((1, 0), 0.8), ((3, 0), 0.7), ((4, 0), 0.6)]:
        proposer.tell(space.decode(code), accuracy, space.share(code))
    assert [trial.code[0] for trial in proposer.history.front()] == [4, 3, 1, 0]
    proposer.ask(0)
    assert {0, 1} <= active(proposer)[0]
    assert len(active(proposer)[0]) == 3
    assert 0 in active(proposer)[1]


def test_most_are_near_the_budget_and_some_below(menu: MakeMenu) -> None:
    space = menu(budget=0.5)
    codes = answer(EvolveSpace(space, sampled=100), lambda code: 0.5, 40)
    shares = [space.share(code) for code in codes]
    near = [share > 0.9 * 0.5 for share in shares]
    assert sum(near) >= 32
    below = [share for index, share in enumerate(shares) if index % 10 == 9]
    assert sum(below) / 4 < 0.9 * sum(shares) / 40


def test_a_round_in_which_all_failed_is_repeated(menu: MakeMenu) -> None:
    proposer = EvolveSpace(menu(), active=3, sampled=10)
    before = active(proposer)
    answer(proposer, lambda code: None, 10)
    assert proposer.ask(5)
    assert active(proposer) == before


def test_when_the_survivors_are_spent_the_others_come_again(menu: MakeMenu) -> None:
    space = menu(sites=3, budget=None)
    proposer = EvolveSpace(space, active=2, sampled=5)
    codes = [code for _ in range(25) for code in answer(proposer, lambda code: space.share(code), 5)]
    assert len(set(codes)) == 125 == space.size


def test_after_ten_rounds_it_has_found_better_ones_than_random_search(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu(sites=10, budget=0.5)
    found: dict[type, float] = {}
    for build in (EvolveSpace, RandomSearch):
        proposers: list[Any] = [build(space, seed=seed) for seed in range(4)]
        for seed, proposer in enumerate(proposers):
            for _ in range(10):
                answer(proposer, truth(space, seed), 20)
        found[build] = sum(proposer.history.best()[0].score for proposer in proposers)
    assert found[EvolveSpace] > found[RandomSearch]


@pytest.mark.parametrize("options", [{"active": 1}, {"sampled": 0}, {"near": 0}])
def test_options_without_sense_are_refused(options: dict[str, Any], menu: MakeMenu) -> None:
    with pytest.raises(SpaceError, match="active from 2 on, sampled and near from 1 on"):
        EvolveSpace(menu(), **options)
