"""Seeds are functions of where a run stands."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lwdc.data.seeding import derive_seed, generator, seed_all, seeded

NUMBERS = st.integers(0, 2**32)


@given(NUMBERS, NUMBERS, st.integers(1, 100))
def test_a_seed_depends_on_every_number_and_their_order(a: int, b: int, more: int) -> None:
    assert derive_seed(a, b) == derive_seed(a, b)
    assert derive_seed(a, b) != derive_seed(a + more, b)
    assert derive_seed(a, b) != derive_seed(a, b + more)
    assert a == b or derive_seed(a, b) != derive_seed(b, a)


def test_seeds_stay_the_same_over_versions() -> None:
    assert [derive_seed(0), derive_seed(0, 1), derive_seed(1, 2, 3)] == [2968811710, 3964924996, 3822189696]


def test_generators_of_the_same_numbers_agree() -> None:
    assert torch.equal(torch.rand(5, generator=generator(3, 4)), torch.rand(5, generator=generator(3, 4)))


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_everything_that_draws_is_seeded() -> None:
    seed_all(2**63 + 5)
    first = draw()
    seed_all(2**63 + 5)
    assert draw() == first
    seed_all(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_seeded_repeats_and_leaves_no_trace() -> None:
    draw()
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with seeded(5):
        first = draw()
    with seeded(5):
        second = draw()
    with seeded(6):
        other = draw()
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
