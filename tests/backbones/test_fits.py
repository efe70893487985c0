"""Networks that cannot take the data are refused before training."""

import pytest
import timm
import torch
from torch import nn

from lwdc.backbones import Backbone, check_fits
from lwdc.errors import BackboneError


def test_a_fitting_network_is_left_as_it_was() -> None:
    network = Backbone("cifar_resnet8", 10, 1).create().train()
    network.layer2.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    check_fits(network, (1, 8, 8), 10)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training and network.layer1.training and not network.layer2.training


@pytest.mark.parametrize("size", [(3, 8, 8), (1, 8)])
def test_images_of_another_channel_count_or_rank_are_refused(size: tuple[int, ...]) -> None:
    network = Backbone("cifar_resnet8", 10, 1).create()
    with pytest.raises(BackboneError, match="cannot take inputs of") as raised:
        check_fits(network, size, 10)
    assert str(size) in str(raised.value)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"cannot take inputs of \(3, 8, 8\)"):
        check_fits(Backbone("cifar_vgg16_bn", 10, 3).create(), (3, 8, 8), 10)


def test_images_of_another_size_than_a_fixed_one_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"\(3, 64, 64\).*img_size"):
        check_fits(timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=1), (3, 64, 64), 10)


def test_another_number_of_logits_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"returns \(1, 5\) .* instead of \(1, 10\)"):
        check_fits(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), (1, 8, 8), 10)
