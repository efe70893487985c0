"""The evolving space: who is active, who survives, who comes next."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from lwdc.costs import Macs, tabulate
from lwdc.errors import SpaceError
from lwdc.proposers import Code, EvolveSpace, Menu, Proposer, RandomSearch
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import wrap

MakeMenu = Callable[..., Menu]
MakeTruth = Callable[..., Callable[[Code], float]]


def answer(proposer: Proposer, accuracy: Callable[[Code], float | None], count: int) -> list[Code]:
    menu = proposer.history.menu
    codes = [menu.encode(architecture) for architecture in proposer.ask(count)]
    for code in codes:
        proposer.tell(menu.decode(code), accuracy(code), menu.share(code))
    return codes


def active(proposer: EvolveSpace) -> list[set[int]]:
    return [set(candidates) for candidates in proposer.state_dict()["operators"]]


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


@pytest.mark.parametrize("rate", [-0.1, math.inf, math.nan])
def test_a_rate_without_sense_is_refused(rate: float, menu: MakeMenu) -> None:
    with pytest.raises(SpaceError, match="gates is a number from 0 on"):
        EvolveSpace(menu(), rate=rate)


def test_candidates_of_more_branches_than_can_be_active_are_refused(menu: MakeMenu) -> None:
    with pytest.raises(SpaceError, match="a candidate has 2 branches, and evolve_space needs active above that"):
        EvolveSpace(menu(branches=2), active=2)


def operators(space: Menu, index: int, candidate: int) -> set[str]:
    """What stands side by side in a candidate."""
    name = space.decisions[index].labels[candidate]
    return set(name.removeprefix("sum(").removesuffix(")").split("+"))


def pointed(proposer: EvolveSpace, logits: dict[str, float]) -> None:
    """Set the gates of the first decision, of operators in the order of its single candidates."""
    state = proposer.state_dict()
    for operator, logit in enumerate(logits.values()):
        state["gates"][0][operator] = logit
    proposer.load_state_dict(state)


def test_what_is_drawn_is_what_independent_gates_leave_open(menu: MakeMenu) -> None:
    space = menu(sites=1, budget=None, branches=2)
    logits = {"original": -1.0, "grouped_2": 0.5, "grouped_4": -0.5, "separable": 1.0, "pointwise": 0.0}
    # By hand: every set of open gates, of which those stay that some candidate consists of.
    weights = {}
    sets = {frozenset(operators(space, 0, k)): k for k in range(space.counts[0])}
    for is_open in itertools.product([False, True], repeat=5):
        found = frozenset(name for name, o in zip(logits, is_open, strict=True) if o)
        odds = [1 / (1 + math.exp(-a if o else a)) for a, o in zip(logits.values(), is_open, strict=True)]
        if found in sets:
            weights[sets[found]] = math.prod(odds)
    drawn: Counter[int] = Counter()
    for seed in range(3000):
        proposer = EvolveSpace(space, seed=seed, active=5)
        pointed(proposer, logits)
        drawn[space.encode(proposer.ask(1)[0])[0]] += 1
    assert set(drawn) == set(weights) == set(range(space.counts[0]))
    for candidate, weight in weights.items():
        share = weight / sum(weights.values())
        assert drawn[candidate] / 3000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 3000))


def test_gates_follow_the_gradient_of_the_expected_score(menu: MakeMenu) -> None:
    """Of the step of one trial: the difference quotient of the logarithm of its probability, times what it is worth."""
    space = menu(sites=1, budget=None, branches=2)
    proposer = EvolveSpace(space, rate=0.01, active=5)
    logits = {"original": -1.0, "grouped_2": 0.5, "grouped_4": -0.5, "separable": 1.0, "pointwise": 0.0}
    proposer.tell(space.decode((0,)), 0.4, 1.0)
    pointed(proposer, logits)
    chosen = next(k for k in range(space.counts[0]) if operators(space, 0, k) == {"separable", "grouped_2"})

    def log_probability(logits: dict[str, float]) -> float:
        weights = [math.exp(sum(logits[o] for o in operators(space, 0, k))) for k in range(space.counts[0])]
        return math.log(weights[chosen] / sum(weights))

    proposer.tell(space.decode((chosen,)), 0.8, space.share((chosen,)))  # one deviation above the mean of two
    moved = proposer.state_dict()["gates"][0]
    for operator, (name, before) in enumerate(logits.items()):
        step = 1e-6
        slope = (log_probability(logits | {name: before + step}) - log_probability(logits)) / step
        assert moved[operator] - before == pytest.approx(0.01 * slope, abs=1e-7)


def test_gates_open_for_what_scores_and_close_for_what_does_not(menu: MakeMenu) -> None:
    space = menu(sites=6, budget=None, branches=2)
    proposer = EvolveSpace(space, active=5, sampled=1000)

    def accuracy(code: Code) -> float:
        taken = [operators(space, index, k) for index, k in enumerate(code)]
        return 0.5 + 0.05 * sum("separable" in t for t in taken) - 0.03 * sum("pointwise" in t for t in taken)

    for _ in range(10):
        answer(proposer, accuracy, 20)
    names = ["original", "grouped_2", "grouped_4", "separable", "pointwise"]
    gates = [dict(zip(names, logits[:5], strict=True)) for logits in proposer.state_dict()["gates"]]
    assert sum(max(g, key=g.__getitem__) == "separable" for g in gates) >= 5
    assert all(g["separable"] > 0 for g in gates)
    assert sum(g["pointwise"] < 0 for g in gates) >= 5


def test_without_gates_all_that_is_active_stays_as_likely(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu(budget=0.6)
    proposer = EvolveSpace(space, rate=0, sampled=10)
    for _ in range(3):
        answer(proposer, truth(space), 10)
    assert proposer.state_dict()["gates"] == [[0.0] * 5] * 8


def test_branches_survive_one_by_one(menu: MakeMenu) -> None:
    """With gates it is operators that are active, and a sum is drawn where all its parts are."""
    space = menu(sites=4, budget=None, branches=2)
    proposer = EvolveSpace(space, active=3, sampled=10)
    names = ["original", "grouped_2", "grouped_4", "separable", "pointwise"]
    for _ in range(4):
        now = [{names[o] for o in found} for found in active(proposer)]
        codes = answer(proposer, lambda code: 0.5 + 0.1 * space.share(code), 10)
        for code in codes:
            assert all(operators(space, i, k) <= now[i] for i, k in enumerate(code))
        front = proposer.history.front()
        proposer.ask(0)
        for index, found in enumerate(active(proposer)):
            best = operators(space, index, front[-1].code[index])
            assert best <= {names[o] for o in found}
        assert any(len(operators(space, 0, code[0])) == 2 for code in codes)


def test_a_sum_of_what_is_no_candidate_is_an_operator_of_its_own() -> None:
    """Its parts could only come one by one, and each would be of no use alone."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    candidates: list[dict[str, Any]] = [
        {"op": "original"},
        {"op": "grouped", "groups": 2},
        {"op": "separable"},
        {"op": "sum", "of": [{"op": "grouped", "groups": 2}, {"op": "separable"}]},
        {"op": "sum", "of": [{"op": "separable"}, {"op": "pointwise"}]},
    ]
    plan = make_plan(model, SearchSpace(candidates), (3, 4, 4))
    space = Menu.of(plan, [tabulate(wrap(model, plan=plan), Macs())], [None])
    gated, whole = EvolveSpace(space), EvolveSpace(space, rate=0)
    assert active(gated) == [{0, 1, 2, 4}] * 2
    assert active(whole) == [{0, 1, 2, 3, 4}] * 2
    taken = {code[0] for _ in range(3) for code in answer(gated, lambda code: 0.5, 5)}
    assert taken == {0, 1, 2, 3, 4}


def test_scores_without_bound_teach_gates_nothing(menu: MakeMenu) -> None:
    def logarithm(relative: Any, share: Any) -> Any:
        return math.log(relative) if relative else -math.inf

    space = menu(sites=4, budget=None)
    proposer = EvolveSpace(space, score=logarithm)
    answer(proposer, lambda code: 0.5 + space.share(code) / 4, 10)
    gates = proposer.state_dict()["gates"]
    assert any(logit for logits in gates for logit in logits)
    answer(proposer, lambda code: 0.0, 1)
    assert proposer.state_dict()["gates"] == gates
    answer(proposer, lambda code: 0.7, 1)  # of which nothing infinite is the mean
    moved = proposer.state_dict()["gates"]
    assert moved != gates and all(abs(logit) < 3 for logits in moved for logit in logits)
