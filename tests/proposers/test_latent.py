"""Search in a latent: descents raise what is predicted, its picture and predictions survive, both variants run."""

import io
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lwdc.errors import SpaceError
from lwdc.proposers import Code, Latent, Menu, RandomSearch, compression, kept
from lwdc.proposers.latent import descend

MakeMenu = Callable[..., Menu]
MakeTruth = Callable[..., Callable[[Code], float]]

QUICK: dict[str, Any] = {"begin": 20, "unlabelled": 100, "training_steps": 50, "descent_steps": 20, "drawn": 10}
ONCE: dict[str, Any] = {"once": True, "best": 0, "drawn": 0, "explore": 0, "descent_steps": 100}
PLAIN: dict[str, Any] = {**QUICK, **ONCE, "flat": 16, "cost": "head", "training_steps": 200}


def run(proposer: Latent | RandomSearch, truth: Callable[[Code], float], rounds: int) -> list[list[Code]]:
    """Ask for 20, evaluate and tell, so many times; what was asked for."""
    menu, asked = proposer.history.menu, []
    for _ in range(rounds):
        codes = [menu.encode(architecture) for architecture in proposer.ask(20)]
        asked.append(codes)
        for code in codes:
            proposer.tell(menu.decode(code), truth(code), menu.share(code))
    return asked


def begun(menu: Menu, truth: Callable[[Code], float], **options: Any) -> Latent:
    """Told of the original, and after its first round."""
    proposer = Latent(menu, seed=1, reference=0.95, **{**QUICK, **options})
    proposer.tell(menu.decode(menu.original), 0.95, 1.0)
    run(proposer, truth, 2)
    return proposer


@pytest.mark.parametrize(
    ("score", "budget", "options"),
    [(kept, 0.4, {}), (compression, None, {"cost": "head"})],
)
def test_descents_lower_the_loss_of_most_starts(
    score: Any, budget: float | None, options: dict[str, Any], menu: MakeMenu, truth: MakeTruth
) -> None:
    space = menu(budget=budget)
    proposer = begun(space, truth(space), score=score, **options)
    assert proposer.model is not None
    rng = random.Random(0)
    codes = [space.original, *(code for code in (space.draw(rng) for _ in range(20)) if code is not None)]
    with torch.no_grad():
        start = proposer.model.encode(codes)
        visited = descend(start, proposer.loss, steps=20)  # with gradients of its own
        before, after = proposer.loss(visited[0]), proposer.loss(visited[-1])
    assert torch.equal(visited[0], start)
    assert (after < before).float().mean() > 0.9
    assert set(proposer.model.decode(visited[-1])) - set(codes)


def test_the_loss_of_an_architecture_beyond_the_bound_is_its_excess_dearer(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu(budget=0.5)
    proposer = begun(space, truth(space), penalty=3.0)
    assert proposer.model is not None
    with torch.no_grad():
        latent = proposer.model.encode([space.original])
        (share,) = proposer.model.expected_shares(proposer.model.logits(latent))
        accuracy = proposer.model.accuracy(latent)
    bound = space.bounds[0]
    assert bound is not None
    excess = share * space.tables[0].total / bound - 1
    assert excess > 0.5
    assert torch.allclose(proposer.loss(latent), -accuracy / 0.95 + 3.0 * excess)


def test_the_plain_variant_descends_once_from_the_original_and_then_asks_for_nothing(
    menu: MakeMenu, truth: MakeTruth
) -> None:
    space = menu(budget=None)
    proposer = Latent(space, score=compression, reference=0.95, **PLAIN)
    proposer.tell(space.decode(space.original), 0.95, 1.0)
    drawn, proposed, *others = run(proposer, truth(space), 4)
    assert len(drawn) + 1 >= PLAIN["begin"]
    assert 1 <= len(proposed) <= 16  # fewer than were asked for
    assert others == [[], []]


def test_a_saved_state_goes_on_alike_whatever_the_seed(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    proposer, resumed = begun(space, truth(space)), Latent(space, seed=5, reference=0.95, **QUICK)
    resumed._pool  # noqa: B018  drawn already
    resumed.load_state_dict(proposer.state_dict())
    assert resumed._pool == proposer._pool


def test_predictions_and_picture_are_the_same_after_a_resumption(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    proposer, resumed = begun(space, truth(space)), Latent(space, seed=5, reference=0.95, **QUICK)
    file = io.BytesIO()
    torch.save(proposer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    architecture = space.decode(space.original)
    assert proposer.predict(architecture) == resumed.predict(architecture) is not None
    assert proposer.picture() == resumed.picture() is not None


def test_a_picture_shows_what_was_told_and_the_path_to_a_proposal(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    assert Latent(space).picture() is None
    assert Latent(space).predict(space.decode(space.original)) is None
    proposer = begun(space, truth(space))
    picture = proposer.picture()
    assert picture is not None
    assert len(picture.points) == len(picture.accuracies) == len(picture.shares) == len(proposer.history.trials) == 41
    assert picture.accuracies[0] == 0.95
    assert len(picture.path) > 5
    assert 0 < picture.explained <= 1


def test_the_global_generators_are_left_alone(menu: MakeMenu, truth: MakeTruth) -> None:
    space = menu()
    before = torch.random.get_rng_state(), random.getstate()
    begun(space, truth(space), training_steps=2)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin": 1}, "begins with 2 or more architectures and proposes 1 or more a round; found begin=1"),
        ({"proposals": 0}, "proposals=0"),
        ({"cost": "exact"}, "cost of the 'decoder' or of the 'head', not 'exact'"),
        ({"flat": 0}, "flat latent has 2 or more numbers, .* found flat=0"),
        ({"descent_steps": 0}, "descent_steps=0"),
    ],
)
def test_settings_that_make_no_search_are_refused(options: dict[str, Any], message: str, menu: MakeMenu) -> None:
    with pytest.raises(SpaceError, match=message):
        Latent(menu(), **options)
