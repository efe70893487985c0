"""Compiled supernets: one graph without breaks, which computes what the supernet does."""

import copy
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, Softmax, TrainableGate
from lwdc.selection import advance, selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import wrap
from lwdc.training import CAN_COMPILE

pytestmark = pytest.mark.skipif(not CAN_COMPILE, reason="this PyTorch does not compile every network for itself")

GATES: dict[str, Callable[[int], Gate]] = {
    "softmax": Softmax,
    "gumbel": GumbelSoftmax,
    "gumbel_hard": functools.partial(GumbelSoftmax, hard=True),
    "one_hot": OneHot,
    "lwdc": TrainableGate,
    "reinmax": ReinMax,
    "independent": Independent,
}
SPACE = SearchSpace(
    [
        {"op": "original"},
        {"op": "grouped", "groups": 4},
        {"op": "low_rank", "ratio": 0.25},
        {"op": "skip"},
        {"op": "separable_norm"},
    ]
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


QUICK = [("softmax", "branches"), ("gumbel_hard", "auto")]
ALL = [(gate, mixing) for gate in GATES for mixing in ("auto", "branches")]


@pytest.mark.parametrize(
    ("gate", "mixing"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.long) for pair in ALL if pair not in QUICK)]
)
def test_a_supernet_is_one_graph_in_training_and_evaluation(gate: str, mixing: str) -> None:
    """Outputs, gradients and samples are those of the supernet; the gates' schedule compiles nothing anew."""
    backbone = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(),
        nn.Linear(512, 10),
    )  # fmt: skip
    plain = wrap(backbone, SPACE, GATES[gate], (1, 8, 8), mixing=mixing)  # type: ignore[arg-type]
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    images = torch.randn(16, 1, 8, 8)
    for training in (True, False):
        plain.train(training)
        twin.train(training)
        for step, progress in enumerate((0.0, 0.3, 0.6, 1.0)):
            found = []
            for supernet, call in ((plain, plain), (twin, compiled)):
                advance(supernet, progress)
                supernet.zero_grad()
                torch.manual_seed(step)
                outputs = call(images)
                outputs.square().mean().backward()
                sampled = [op.sampled for op in selection_ops(supernet).values()]
                found.append([outputs, *sampled, *(p.grad for p in supernet.parameters())])
            for ours, theirs in zip(*found, strict=True):
                assert (ours is None) == (theirs is None)
                assert ours is None or torch.equal(ours, theirs)
    assert all(op.mixture is None for op in selection_ops(twin).values())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
