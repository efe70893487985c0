"""Budgets from 0.9 to 0.1 of the original, on two networks: the network released keeps every one, exactly."""

import functools

import pytest
import timm
import torch
from torch import nn

from lwdc.backbones import Backbone
from lwdc.costs import CostModel, Macs, Params, choose, parse_budget, tabulate
from lwdc.counting import count_macs, count_params
from lwdc.space import SearchSpace
from lwdc.surgery import begin_with_prior, discretise, wrap

SPACE = SearchSpace(
    [{"op": "original"}, {"op": "low_rank", "ratio": 0.25}, {"op": "low_rank", "ratio": 0.03}, {"op": "skip"}],
    stem=True, shortcuts=True,
)  # fmt: skip
NETWORKS = {"cifar_resnet8": (1, 8, 8), "test_resnet": (3, 64, 64)}


@functools.cache
def supernet(name: str) -> nn.Module:
    """Its gates prefer what keeps most of the layer, as at the beginning of a search."""
    torch.manual_seed(0)
    if name == "cifar_resnet8":
        model = Backbone(name, 10, 1, {"channels": (8, 16, 32)}).create()
    else:
        model = timm.create_model(name, num_classes=10)
    found = wrap(model, SPACE, input_size=NETWORKS[name])
    begin_with_prior(found, 4.0)
    return found


@pytest.mark.parametrize("cost", [Macs(), Params()])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_released_keeps_its_budget(name: str, cost: CostModel) -> None:
    net, size = supernet(name), NETWORKS[name]
    table = tabulate(net, cost)
    found = []
    for budget in (0.9, 0.7, 0.5, 0.3, 0.2, 0.1):
        bound = parse_budget(budget, table)
        network, architecture = discretise(net, choose(net, table, bound))
        counted = count_macs(network, [size]) if cost.name == "macs" else count_params(network)
        assert counted == table.of(architecture) <= bound
        found.append(counted)
    assert found == sorted(found, reverse=True) and found[-1] < found[0]
