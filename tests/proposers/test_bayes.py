"""Bayesian search: what its processes are fitted to, and what they say."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lwdc.errors import SpaceError
from lwdc.proposers import Bayes, Code, Menu, compression

MakeMenu = Callable[..., Menu]
MakeTruth = Callable[..., Callable[[Code], float]]
SMALL: dict[str, Any] = {"begin": 10, "kernels": 3, "candidates": 20, "hidden": 4, "steps": 3}


def told(menu: Menu, truth: Callable[[Code], float], **options: Any) -> Bayes:
    """One that knows the original and ten others."""
    proposer = Bayes(menu, **{**SMALL, **options})
    proposer.tell(menu.decode(menu.original), 0.95, 1.0)
    for architecture in proposer.ask(10):
        code = menu.encode(architecture)
        proposer.tell(architecture, truth(code), menu.share(code))
    return proposer


def test_every_half_holds_the_original(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    proposer = told(space, truth(space))
    halves = [{trial.code for trial in proposer.half()} for _ in range(40)]
    assert all(space.original in half for half in halves)
    assert {len(half) for half in halves} > {5, 6, 7}
    assert set.union(*halves) == {trial.code for trial in proposer.history.trials}


def test_a_half_of_fewer_than_two_is_everything(menu: MakeMenu) -> None:
    space = menu()
    proposer = Bayes(space)
    for architecture in proposer.ask(2):
        proposer.tell(architecture, 0.5, 0.4)
    assert {len(proposer.half()) for _ in range(20)} == {2}


def test_the_embedding_is_drawn_as_a_plane_once_there_is_one(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    proposer = told(space, truth(space))
    assert proposer.picture() is None
    proposer.ask(3)
    picture = proposer.picture()
    assert picture is not None
    assert len(picture.points) == len(picture.accuracies) == len(picture.shares) == 11
    assert (picture.accuracies[0], picture.shares[0]) == (0.95, 1.0)
    assert picture.path == ()
    assert 0 < picture.explained <= 1


def test_it_predicts_accuracies_whatever_the_score(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu(budget=None)
    proposer = told(space, truth(space), score=compression, hidden=8, steps=40, lr=0.02, seed=1)
    architecture = space.decode(space.original)
    assert proposer.predict(architecture) is None
    proposer.ask(3)
    predicted = proposer.predict(architecture)
    assert predicted is not None
    assert abs(predicted - 0.95) < 0.15  # its score would be 0


def test_a_saved_state_predicts_and_draws_the_same(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    proposer, resumed = told(space, truth(space)), Bayes(space, **SMALL)
    asked = proposer.ask(4)
    file = io.BytesIO()
    torch.save(proposer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [resumed.predict(a) for a in asked] == [proposer.predict(a) for a in asked]
    assert resumed.picture() == proposer.picture()


def test_the_global_generator_is_left_alone(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    state = torch.get_rng_state()
    told(space, truth(space)).ask(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_learns_where_gradients_are_off(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    expected = told(space, truth(space)).ask(3)
    with torch.no_grad():
        assert told(space, truth(space)).ask(3) == expected


def test_options_without_sense_are_refused(menu: MakeMenu) -> None:
    with pytest.raises(SpaceError, match="kernels, candidates, hidden and layers from 1 on"):
        Bayes(menu(), kernels=0)
    with pytest.raises(SpaceError, match="alpha, beta and lr above 0"):
        Bayes(menu(), alpha=0.0)
