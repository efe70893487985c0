"""The autoencoder: it gives back what it was never shown, decodes to candidates only, and tells exact costs."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lwdc.costs import Macs, Memory, Params, tabulate
from lwdc.proposers import Code, Menu, Trial
from lwdc.proposers.autoencoder import Autoencoder, train, untrained
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import wrap

MakeMenu = Callable[..., Menu]
both = pytest.mark.parametrize("flat", [None, 16])


def drawn(menu: Menu, count: int, seed: int) -> list[Code]:
    rng = random.Random(seed)
    found = [menu.draw(rng) for _ in range(count)]
    return [code for code in found if code is not None]


def labelled(menu: Menu, accuracy: Callable[[Code], float], seed: int, count: int = 40) -> list[Trial]:
    return [Trial(code, accuracy(code), menu.share(code), 0.0) for code in drawn(menu, count, seed)]


def fitted(menu: Menu, accuracy: Callable[[Code], float], *, flat: int | None = None, steps: int = 300) -> Autoencoder:
    model = untrained(menu, 1, flat=flat)
    train(model, labelled(menu, accuracy, 0), drawn(menu, 200, 1), seed=2, steps=steps)
    return model


def ragged() -> Menu:
    """Decisions with different numbers of candidates, and three costs of which one is a peak."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 3)]
    model = nn.Sequential(*layers, nn.Conv2d(6, 8, 3, padding=1))
    candidates = [{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "pointwise"}, {"op": "separable"}]
    plan = make_plan(model, SearchSpace(candidates), (3, 8, 8))
    supernet = wrap(model, plan=plan)
    tables = [tabulate(supernet, cost) for cost in (Macs(), Params(), Memory())]
    return Menu.of(plan, tables, [None, None, None])


@pytest.mark.parametrize(("flat", "least"), [(None, 0.99), (16, 0.75)])
def test_architectures_it_never_saw_are_given_back_and_their_figures_told(
    flat: int | None, least: float, menu: MakeMenu, truth: Callable[..., Callable[[Code], float]]
) -> None:
    space = menu(sites=5, budget=None)
    model, unseen = fitted(space, truth(space), flat=flat), drawn(space, 200, 3)
    with torch.no_grad():
        latent = model.encode(unseen)
        found = model.decode(latent)
        told = torch.stack([model.share(latent), model.accuracy(latent)])
    assert latent.shape == ((200, 16) if flat else (200, 4, 5))
    right = [a == b for code, other in zip(unseen, found, strict=True) for a, b in zip(code, other, strict=True)]
    assert sum(right) / len(right) > least
    exact = torch.tensor([[space.share(code) for code in unseen], [truth(space)(code) for code in unseen]])
    for one, other in zip(told, exact, strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.7


@both
def test_nothing_decodes_to_a_candidate_that_is_not_there(flat: int | None) -> None:
    space = ragged()
    assert len(set(space.counts)) > 1
    model = untrained(space, 0, flat=flat)
    shape = (500, flat) if flat else (500, 4, len(space.counts))
    latent = 10 * torch.randn(shape)
    codes = model.decode(latent)
    assert all(index < count for code in codes for index, count in zip(code, space.counts, strict=True))
    assert len(set(codes)) > 1
    logits = model.logits(latent.requires_grad_())
    model.expected_shares(logits).sum().backward()
    assert latent.grad is not None
    assert latent.grad.isfinite().all()


def test_the_expected_cost_is_the_exact_one_where_the_decoder_is_certain() -> None:
    space = ragged()
    model, codes = untrained(space, 0), drawn(space, 50, 0)
    logits = torch.full((50, len(space.counts), max(space.counts)), -100.0).masked_fill(~model.mask, -torch.inf)
    logits.scatter_(2, torch.tensor(codes)[..., None], 100.0)
    exact = [[space.cost(code, which) / table.total for code in codes] for which, table in enumerate(space.tables)]
    assert torch.allclose(model.expected_shares(logits), torch.tensor(exact), rtol=0, atol=1e-6)


def test_the_same_seed_trains_the_same_and_leaves_the_global_generator_alone(
    menu: MakeMenu, truth: Callable[..., Callable[[Code], float]]
) -> None:
    space = menu()
    before = torch.random.get_rng_state()
    first, second = (fitted(space, truth(space), steps=3).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


@both
def test_defaults_of_the_process_change_nothing(
    flat: int | None, menu: MakeMenu, truth: Callable[..., Callable[[Code], float]]
) -> None:
    space = menu()
    usual = fitted(space, truth(space), flat=flat, steps=3).state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        other = fitted(space, truth(space), flat=flat, steps=3).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(usual[name], other[name]) for name in usual)
