"""What every test gets: fixed seeds, repeatable examples, and the folder of real data."""

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# Examples are drawn from the test itself, not from the clock or a database of earlier failures.
hypothesis.settings.register_profile("lwdc", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("lwdc")

# Warnings are errors here. PyTorch gives some only once a process, which would fail whichever test ran first.
torch.set_warn_always(True)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> Path:
    """The folder of real data sets; the test is skipped without it.

    ``@pytest.mark.needs("cifar-10-batches-py")`` names what the test reads there.
    """
    needs = [name for mark in request.node.iter_markers("needs") for name in mark.args]
    wanted = ", ".join(needs) or "real data"
    if not os.environ.get("LWDC_DATA"):
        pytest.skip(f"LWDC_DATA is not set; this test needs {wanted}")
    root = Path(os.environ["LWDC_DATA"])
    missing = [name for name in needs if not (root / name).exists()]
    if missing:
        pytest.skip(f"LWDC_DATA lacks {', '.join(missing)}; this test needs {wanted}")
    return root
