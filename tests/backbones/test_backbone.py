"""Backbones by name: what is built, and what is said when it cannot be."""

import pytest
import torch

from lwdc.backbones import Backbone
from lwdc.errors import BackboneError


def test_a_backbone_has_the_classes_and_channels_of_the_data() -> None:
    network = Backbone("resnet18", num_classes=7, in_chans=1).create()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_options_reach_the_network() -> None:
    network = Backbone("cifar_resnet8", 10, 1, {"channels": [4, 8, 16]}).create()
    assert network.num_features == 16


def test_a_weight_tag_is_part_of_a_name() -> None:
    Backbone("resnet18.a1_in1k", 10, 3).create()


def test_unknown_backbone_suggests_the_nearest_name() -> None:
    with pytest.raises(BackboneError, match=r"unknown backbone 'cifar_resnet21'.*'cifar_resnet20'"):
        Backbone("cifar_resnet21", 10, 3).create()


def test_an_option_that_the_network_lacks_is_named() -> None:
    with pytest.raises(BackboneError, match=r"'cifar_resnet8' cannot be built .*wdith.* change or drop them"):
        Backbone("cifar_resnet8", 10, 3, {"wdith": 2}).create()
