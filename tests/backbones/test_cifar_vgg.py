"""The CIFAR VGGs have the layers and the size that papers report."""

import pytest
import timm
import torch
from torch import nn


@pytest.mark.parametrize(
    ("name", "convolutions", "millions"), [("cifar_vgg16_bn", 13, 14.7), ("cifar_vgg19_bn", 16, 20.0)]
)
def test_layers_and_parameters_are_the_papers(name: str, convolutions: int, millions: float) -> None:
    network = timm.create_model(name)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == convolutions
    assert [module.in_features for module in network.modules() if isinstance(module, nn.Linear)] == [512]
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions


def test_fewer_stages_take_smaller_images() -> None:
    network = timm.create_model("cifar_vgg16_bn", in_chans=1, blocks=(1, 1, 2), channels=(8, 16, 32)).eval()
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert network.forward_features(torch.zeros(2, 1, 16, 16)).shape == (2, 32, 2, 2)


def test_stages_without_a_width_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        timm.create_model("cifar_vgg16_bn", channels=(8, 16))
