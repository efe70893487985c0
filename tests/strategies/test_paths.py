"""Path training: one path a step, and nothing else moves."""

import copy
import functools

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lwdc.backbones import Backbone
from lwdc.candidates.original import Original
from lwdc.data import Digits
from lwdc.gates import OneHot, SinglePath
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.strategies import PathLesson, search_fit
from lwdc.surgery import chosen_architecture, discretise, point_at, wrap
from lwdc.training import Recipe

SPACE = SearchSpace(
    [{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable"}, {"op": "pointwise"}], tie=["layer2*"]
)
RECIPE = Recipe(1, 64, functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=1e-2))


@pytest.fixture
def supernet() -> nn.Module:
    model = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    return wrap(model, SPACE, SinglePath, (1, 8, 8))


def test_a_step_moves_the_weights_of_its_path_alone(supernet: nn.Module) -> None:
    data = Digits(limit_train=128, valid=60)
    data.prepare(torch.device("cpu"))
    fit = search_fit(
        supernet, data, RECIPE, PathLesson(supernet), phase="paths", seed=0, fabric=Fabric(accelerator="cpu", devices=1)
    )
    seen: set[tuple[str, int]] = set()
    for _, _ in zip(range(2), fit.run(), strict=False):
        taken = {
            name: int(op.sampled.argmax()) for name, op in selection_ops(supernet).items() if op.sampled is not None
        }
        assert taken["layer2.0.conv1"] == taken["layer2.0.conv2"]  # tied
        seen |= set(taken.items())
        moved = {
            (name, index)
            for name, op in selection_ops(supernet).items()
            for index, operator in enumerate(op.operators)
            if any(
                p.grad is not None
                for p in ([op.conv.weight] if isinstance(operator, Original) else operator.parameters())
            )
        }
        assert moved == set(taken.items())
    assert len(seen) > len(taken)


def test_a_path_computes_what_mixing_with_its_one_hot_does(supernet: nn.Module) -> None:
    supernet.double().eval()
    mixing = wrap_alike(supernet)
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    for seed in range(5):
        torch.manual_seed(seed)
        choices = [int(torch.randint(4, ())) for _ in selection_ops(supernet)]
        for network in (supernet, mixing):
            for op, index in zip(selection_ops(network).values(), choices, strict=True):
                op.gate.point_at(index)
        torch.testing.assert_close(supernet(x), mixing(x), rtol=1e-12, atol=1e-12)
        path, mixed = (gradients(network, x) for network in (supernet, mixing))
        assert all(torch.allclose(path[name], mixed[name], atol=1e-10) for name in path)


def wrap_alike(supernet: nn.Module) -> nn.Module:
    """The same supernet, whose gates are such that every operator is formed and mixed."""
    mixing = copy.deepcopy(supernet)
    made: dict[nn.Module, nn.Module] = {}
    for op in selection_ops(mixing).values():
        op.gate = made.setdefault(op.gate, OneHot(len(op.operators)).double().eval())
    return mixing


def gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of what has any but zeros."""
    network.zero_grad()
    network(x).square().sum().backward()
    grads = {name: p.grad for name, p in network.named_parameters() if "gate" not in name}
    return {name: grad for name, grad in grads.items() if grad is not None and bool((grad != 0).any())}


def test_a_supernet_pointed_at_an_architecture_is_the_discretised_network(supernet: nn.Module) -> None:
    supernet.double().eval()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    for op in selection_ops(supernet).values():
        op.gate.point_at(int(torch.randint(4, ())))
    architecture = chosen_architecture(supernet)
    point_at(supernet, architecture)
    network, _ = discretise(supernet, architecture)
    torch.testing.assert_close(supernet(x), network(x), rtol=1e-10, atol=1e-10)
