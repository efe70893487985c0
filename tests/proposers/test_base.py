"""What every proposer keeps: it stays within bounds, never asks twice, repeats itself, and resumes to the same."""

import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lwdc.architecture import Architecture
from lwdc.errors import ArchitectureError, TrainingError
from lwdc.proposers import (
    Bayes,
    Code,
    Evolution,
    EvolveSpace,
    Latent,
    LocalSearch,
    Menu,
    Nsga2,
    Proposer,
    RandomSearch,
    compression,
    kept,
)

Build = Callable[..., Proposer]
MakeMenu = Callable[..., Menu]
MakeTruth = Callable[..., Callable[[Code], float]]

QUICK = {"begin": 20, "unlabelled": 100, "training_steps": 25, "descent_steps": 10, "drawn": 5}

PROPOSERS: dict[str, Build] = {
    "random": RandomSearch,
    "evolution": Evolution,
    "local": LocalSearch,
    "bayes": functools.partial(Bayes, kernels=2, candidates=30, hidden=8, steps=3, lr=0.01),
    "nsga2": Nsga2,
    "evolve_space": EvolveSpace,
    "latent": functools.partial(Latent, **QUICK),
}
every = pytest.mark.parametrize("name", PROPOSERS)


def run(proposer: Proposer, truth: Callable[[Code], float], rounds: int, count: int = 10) -> list[list[Code]]:
    """Ask, evaluate and tell, so many times; what was asked for."""
    menu, asked = proposer.history.menu, []
    for _ in range(rounds):
        codes = [menu.encode(architecture) for architecture in proposer.ask(count)]
        asked.append(codes)
        for code in codes:
            proposer.tell(menu.decode(code), truth(code), menu.share(code))
    return asked


@every
@pytest.mark.parametrize("score", [kept, compression])
def test_it_asks_for_new_architectures_within_the_bounds_only(
    name: str, score: Callable[[float, float], float], menu: MakeMenu, truth: MakeTruth
) -> None:
    space = menu(budget=0.4)
    proposer = PROPOSERS[name](space, score=score, reference=0.9, seed=1)
    proposer.tell(space.decode(space.original), 0.9, 1.0)
    codes = [code for batch in run(proposer, truth(space), 6) for code in batch]
    assert len(codes) == 60
    assert len({*codes, space.original}) == 61
    assert all(space.keeps(code) for code in codes)


@every
def test_the_same_seed_and_answers_give_the_same_questions(name: str, menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    asked = [run(PROPOSERS[name](space, seed=seed), truth(space), 4) for seed in (3, 3, 4)]
    assert asked[0] == asked[1] != asked[2]


@every
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name: str, menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    proposer, resumed = (PROPOSERS[name](space, seed=2) for _ in range(2))
    run(proposer, truth(space), 3)
    pending = proposer.ask(4)
    file = io.BytesIO()
    torch.save(proposer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for one in (proposer, resumed):
        for architecture in pending:
            code = space.encode(architecture)
            one.tell(architecture, truth(space)(code), space.share(code))
    assert run(proposer, truth(space), 3) == run(resumed, truth(space), 3)
    assert proposer.history.best(5) == resumed.history.best(5)


@every
def test_a_small_space_is_searched_to_its_end(name: str, menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu(sites=2, budget=None)
    proposer = PROPOSERS[name](space)
    asked = run(proposer, truth(space), 8)
    assert len({code for batch in asked for code in batch}) == space.size == 25
    assert asked[-1] == []


class Fixed(RandomSearch):
    """Proposes what it is given."""

    code: Any = None

    def propose(self) -> Code | None:
        return self.code


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ((0, 1), "a code is a tuple of 8 whole numbers"),
        ([4] * 8, "a code is a tuple of 8 whole numbers"),
        ((4,) * 7 + (5,), "each an index below"),
        ((4,) * 7 + (-1,), "each an index below"),
        ((0,) * 8, r"exceeds a bound on costs: menu\.keeps tells"),
        ((4,) * 8, r"was asked for or told before: history\.is_known tells"),
    ],
)
def test_a_search_that_breaks_the_promise_is_told_how(code: Any, rule: str, menu: MakeMenu) -> None:
    proposer = Fixed(menu())
    proposer.code = code
    with pytest.raises(TrainingError, match=rf"^Fixed\.propose gave .*{rule}"):
        proposer.ask(2)


@every
def test_failed_evaluations_are_borne_and_never_the_best(name: str, menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    proposer = PROPOSERS[name](space)
    run(proposer, lambda code: None if code[0] else truth(space)(code), 5)  # type: ignore[arg-type,return-value]
    failed = [trial for trial in proposer.history.trials if trial.accuracy is None]
    assert failed
    assert all(trial.code[0] == 0 for trial in proposer.history.best(50))


@every
@pytest.mark.parametrize("accuracy", [float("nan"), float("inf"), -0.1, 1.5])
def test_figures_that_are_no_accuracies_are_refused(name: str, accuracy: float, menu: MakeMenu) -> None:
    space = menu()
    with pytest.raises(TrainingError, match=r"an accuracy in \[0, 1\], or None where it failed"):
        PROPOSERS[name](space).tell(space.decode(space.original), accuracy, 1.0)


@every
def test_an_architecture_of_another_space_is_refused(name: str, menu: MakeMenu) -> None:
    space = menu()
    other = Architecture({**space.decode(space.original).choices, "3": {"op": "low_rank", "ratio": 0.5}})
    with pytest.raises(ArchitectureError, match=r"'3' .*has candidates original, .*says 'low_rank_0.5'"):
        PROPOSERS[name](space).tell(other, 0.5, 1.0)


OTHERWISE = ("random", "nsga2", "evolve_space")  # what these are for shows in tests of their own


@pytest.mark.parametrize("name", [name for name in PROPOSERS if name not in OTHERWISE])
def test_it_finds_better_architectures_than_random_search(name: str, menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu(sites=10, budget=0.5)
    found: dict[str, float] = {}
    for which in (name, "random"):
        scores = []
        for seed in range(3):
            proposer = PROPOSERS[which](space, seed=seed)
            run(proposer, truth(space, seed), 8)
            scores.append(proposer.history.best()[0].score)
        found[which] = sum(scores) / len(scores)
    assert found[name] > found["random"]
