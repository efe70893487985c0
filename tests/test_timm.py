"""The whole line on timm's networks: wrap, step, discretise, count."""

import copy
import random

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lwdc import Architecture, discretise, wrap
from lwdc.counting import count_params
from lwdc.gates import OneHot
from lwdc.selection import SelectionOp, selection_ops
from lwdc.space import SearchSpace, make_plan

NETWORKS = {  # what keeps a test small, and the share of the MACs that lies inside sites
    "resnet18": ({}, 0.75),
    "resnet50": ({}, 0.75),
    "mobilenetv2_100": ({}, 0.8),
    "efficientnet_b0": ({}, 0.8),
    "convnext_atto": ({}, 0.9),  # its blocks hold their matrix products in Linear layers
    "test_vit": ({"img_size": 64}, 0.8),
    "regnety_002": ({}, 0.8),
    "vgg11_bn": ({"mlp_ratio": 1 / 64}, 0.8),
    "densenet121": ({}, 0.8),
    "test_resnet": ({}, 0.4),
    "test_efficientnet": ({}, 0.6),
    # Networks that read settings or weights of their layers.
    "xcit_nano_12_p8_224": ({"img_size": 64, "depth": 1}, 0.9),
    "davit_tiny": ({"depths": (1,) * 4, "embed_dims": (16, 32, 32, 32), "num_heads": (1,) * 4, "window_size": 2}, 0.8),
    "swinv2_tiny_window8_256": ({"img_size": 64, "embed_dim": 24, "depths": (1,) * 4, "num_heads": (1, 2, 2, 4)}, 0.6),
}
LONG = ("resnet18", "densenet121")  # one like resnet50 and test_resnet, and one that takes minutes
SPACE = SearchSpace(
    [
        {"op": "original"},
        {"op": "grouped", "groups": 2},
        {"op": "grouped", "groups": 4},
        {"op": "separable"},
        {"op": "pointwise"},
        {"op": "low_rank", "ratio": 0.25},
        {"op": "skip"},
        {"op": "avg_pool"},
        {"op": "max_pool"},
    ]
)
SIZE = (3, 64, 64)


def counted_macs(network: nn.Module) -> int:
    """From a real forward pass, which is faster than one of shapes alone at this size."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy.deepcopy(network).eval()(torch.zeros(1, *SIZE))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in NETWORKS]
)
def test_a_timm_network_goes_through_the_whole_line(name: str) -> None:
    options, share = NETWORKS[name]
    model = timm.create_model(name, num_classes=10, **options)
    plan = make_plan(model, SPACE, SIZE)
    macs, params = counted_macs(model), count_params(model)
    inside = sum(choice.macs[0] for choice in plan.choices)
    assert inside / macs >= share

    supernet = wrap(model, gate=OneHot, plan=plan).train()
    optimiser = torch.optim.SGD(supernet.parameters(), lr=1e-3)
    images = torch.randn(2, *SIZE)
    nn.functional.cross_entropy(supernet(images), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for p in supernet.parameters() if p.requires_grad)
    optimiser.step()

    pick = random.Random(0)
    rest_macs, rest_params = macs - inside, params - sum(choice.params[0] for choice in plan.choices)
    for _ in range(2):
        index = {choice.site.name: pick.randrange(len(choice.candidates)) for choice in plan.choices}
        chosen = {choice.site.name: choice.candidates[index[choice.site.name]] for choice in plan.choices}
        network, _ = discretise(supernet, Architecture(chosen))
        assert counted_macs(network) == rest_macs + sum(c.macs[index[c.site.name]] for c in plan.choices)
        assert count_params(network) == rest_params + sum(c.params[index[c.site.name]] for c in plan.choices)

    assert not any(isinstance(module, SelectionOp) for module in network.modules())
    for op in selection_ops(supernet).values():
        op.gate.point_at(index[op.site.name])
    with torch.no_grad():
        wanted = supernet.double().eval()(images.double())
        torch.testing.assert_close(network.double().eval()(images.double()), wanted, rtol=1e-10, atol=1e-10)
