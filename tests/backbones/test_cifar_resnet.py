"""The CIFAR ResNets are the paper's, and behave like timm's models."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from lwdc.backbones import Backbone, create
from lwdc.backbones.cifar_resnet import PadShortcut
from lwdc.data import Cifar10

PAPER = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}  # millions of parameters (He et al. 2015, table 6)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("depth", "millions"), PAPER.items())
def test_parameter_counts_are_the_papers(depth: int, millions: float) -> None:
    digits = len(str(millions).partition(".")[2])
    assert round(count(timm.create_model(f"cifar_resnet{depth}")) / 1e6, digits) == millions


@pytest.mark.parametrize("depth", PAPER)
def test_depth_counts_convolutions_and_the_classifier(depth: int) -> None:
    network = timm.create_model(f"cifar_resnet{depth}")
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == depth


@pytest.mark.parametrize(("depth", "params"), [(18, 11_220_132), (34, 21_328_292)])
def test_wide_ones_have_the_stages_of_the_imagenet_networks(depth: int, params: int) -> None:
    """Those of torchvision and timm with another stem, and 100 classes."""
    network = timm.create_model(f"cifar_resnet{depth}", num_classes=100)
    assert count(network) == params
    imagenet = timm.create_model(f"resnet{depth}", num_classes=100)
    assert count(imagenet) - count(network) == 64 * 3 * (7 * 7 - 3 * 3)
    assert network.eval().forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 512, 4, 4)


def test_blocks_are_given_for_every_stage() -> None:
    with pytest.raises(ValueError, match="not of as many stages"):
        timm.create_model("cifar_resnet20", blocks=(1, 2))


def test_option_b_adds_two_1x1_convolutions_with_batch_norm() -> None:
    extra = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    a, b = timm.create_model("cifar_resnet20"), timm.create_model("cifar_resnet20b")
    assert count(b) - count(a) == extra


def test_option_a_subsamples_and_pads_with_zero_channels_on_both_sides() -> None:
    x = torch.randn(2, 16, 8, 8)
    y = PadShortcut(16, 32, 2)(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet8b"])
@pytest.mark.parametrize("size", [8, 15, 32])
def test_any_image_size_will_do(name: str, size: int) -> None:
    network = timm.create_model(name, in_chans=1, num_classes=4).eval()
    x = torch.randn(2, 1, size, size)
    assert network.forward_features(x).shape[:2] == (2, 64)
    assert network(x).shape == (2, 4)


def test_width_and_depth_can_be_configured() -> None:
    network = timm.create_model("cifar_resnet20", channels=(4, 8), blocks=2)
    assert network.num_features == 8
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 1 + 2 * 2 * 2


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet20b", "cifar_vgg16_bn"])
def test_the_head_is_timms(name: str) -> None:
    network = timm.create_model(name, num_classes=10, drop_rate=0.1).eval()
    x = torch.randn(2, 3, 32, 32)
    features = network.forward_features(x)
    assert torch.equal(network.forward_head(features), network(x))
    assert network.forward_head(features, pre_logits=True).shape == (2, network.num_features)
    network.reset_classifier(3)
    assert network(x).shape == (2, 3) and network.num_classes == 3
    network.reset_classifier(0)
    assert network(x).shape == (2, network.num_features)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet20b", "cifar_vgg16_bn"])
def test_the_configuration_names_stem_and_classifier(name: str) -> None:
    network = timm.create_model(name)
    config = network.pretrained_cfg
    assert config == network.default_cfg and config["input_size"] == (3, 32, 32)
    assert isinstance(network.get_submodule(config["first_conv"]), nn.Conv2d)
    assert network.get_submodule(config["classifier"]) is network.get_classifier()


def test_stages_can_be_had_as_features() -> None:
    network = timm.create_model("cifar_resnet8", features_only=True)
    assert [tuple(map_.shape[1:]) for map_ in network(torch.zeros(1, 3, 32, 32))] == [
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
    ]


def test_the_network_can_be_exported() -> None:
    network = timm.create_model("cifar_resnet8").eval()
    x = torch.randn(2, 3, 32, 32)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), network(x))


def error_in_percent(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    wrong = images = 0
    with torch.inference_mode():
        for x, labels in batches:
            wrong += int((network(x).argmax(1) != labels).sum())
            images += len(labels)
    return 100 * wrong / images


def published_error(depth: int, root: Path, batches: int | None = None) -> float:
    """Of the first batches of 250 test images, or of all; in percent."""
    # The mean and deviation that these weights were trained with.
    data = Cifar10(root, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    data.prepare(torch.device("cpu"))
    network, notes = create(
        Backbone(f"cifar_resnet{depth}", 10, 3),
        weights=root / "weights" / f"cifar10_resnet{depth}.safetensors",
    )
    assert notes == []
    network.eval().to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    return error_in_percent(network, itertools.islice(data.batches("test", 250), batches))


@pytest.mark.needs("cifar-10-batches-py", "weights/cifar10_resnet20.safetensors")
def test_published_weights_come_near_their_error_on_a_fifth_of_the_test_set(data_root: Path) -> None:
    """To three standard deviations of a proportion."""
    assert published_error(20, data_root, 8) == pytest.approx(8.27, abs=3 * 100 * (0.0827 * 0.9173 / 2000) ** 0.5)


@pytest.mark.long
@pytest.mark.needs("cifar-10-batches-py", "weights")
@pytest.mark.parametrize(("depth", "error"), [(20, 8.27), (56, 6.61)])
def test_published_weights_reach_their_error(depth: int, error: float, data_root: Path) -> None:
    assert published_error(depth, data_root) == pytest.approx(error, abs=0.02)
