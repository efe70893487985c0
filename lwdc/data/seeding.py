"""Seeds that are functions of where a run stands, so that it can begin again anywhere."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """A 32-bit seed for these non-negative numbers in this order; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def generator(*parts: int) -> torch.Generator:
    """A CPU generator for these numbers: on the CPU, so that every device sees the same data."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def seed_all(seed: int) -> None:
    """Python's, numpy's and torch's global generators, of every device, start from ``seed``, from 0 to below 2**64."""
    random.seed(seed)
    np.random.seed(derive_seed(seed))
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's global CPU generators start from ``seed`` and are put back after."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed, which would reach into the accelerators' generators as well.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
