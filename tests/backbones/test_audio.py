"""The 1-D networks have the papers' layers, take short clips, and offer sites like any other."""

import pytest
import timm
import torch
from torch import nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone, check_fits
from lwdc.errors import BackboneError
from lwdc.sites import find_sites
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import default_input_size, discretise, wrap

NAMES = ("soundnet8", "m5")


def convolutions(network: nn.Module) -> list[tuple[int, int, int]]:
    return [(m.out_channels, *m.kernel_size, *m.stride) for m in network.modules() if isinstance(m, nn.Conv1d)]


def test_layers_are_the_papers() -> None:
    soundnet8, m5 = (timm.create_model(name) for name in NAMES)
    assert convolutions(soundnet8) == [
        (16, 64, 2), (32, 32, 2), (64, 16, 2), (128, 8, 2), (256, 4, 2), (512, 4, 2), (1024, 4, 2)
    ]  # fmt: skip
    assert [m.kernel_size for m in soundnet8.modules() if isinstance(m, nn.MaxPool1d)] == [8, 8, 4]
    assert convolutions(m5) == [(128, 80, 4), (128, 3, 1), (256, 3, 1), (512, 3, 1)]
    assert [m.kernel_size for m in m5.modules() if isinstance(m, nn.MaxPool1d)] == [4] * 4


@pytest.mark.parametrize("name", NAMES)
def test_the_config_names_layers_that_there_are_and_the_usual_clip(name: str) -> None:
    network = timm.create_model(name).eval()
    config = network.pretrained_cfg
    modules = dict(network.named_modules())
    assert isinstance(modules[config["first_conv"]], nn.Conv1d) and modules[config["first_conv"]].in_channels == 1
    assert modules[config["classifier"]] is network.get_classifier()
    size = default_input_size(network)
    assert size == timm.models.get_pretrained_cfg(name).input_size and size[0] == 1 and len(size) == 2
    assert network(torch.zeros(2, *size)).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [80, 1148, 4000, 7999])
def test_clips_of_a_fraction_of_a_second_are_taken(name: str, length: int) -> None:
    network = timm.create_model(name, num_classes=7, in_chans=2, width=0.1)
    logits = network(torch.randn(2, 2, length))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("name", "least"), [("soundnet8", 64), ("m5", 80)])
def test_a_clip_shorter_than_the_first_kernel_is_refused(name: str, least: int) -> None:
    network = Backbone(name, 10, 1, {"width": 0.1}).create()
    check_fits(network, (1, least), 10)
    with pytest.raises(BackboneError, match=rf"a clip of {least - 1} samples is too short, {least} or more"):
        check_fits(network, (1, least - 1), 10)


def test_images_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"sound is \(batch, channels, length\), this is \(1, 3, 32, 32\)"):
        check_fits(Backbone("m5", 10, 3).create(), (3, 32, 32), 10)


@pytest.mark.parametrize("name", NAMES)
def test_a_width_multiplies_the_channels_of_every_layer(name: str) -> None:
    wide, narrow = (convolutions(timm.create_model(name, width=width)) for width in (1.0, 0.3))
    assert [round(0.3 * channels) for channels, *_ in wide] == [channels for channels, *_ in narrow]
    assert convolutions(timm.create_model(name, width=1e-6))[0][0] == 1
    with pytest.raises(BackboneError, match="width is 0"):
        Backbone(name, 10, 1, {"width": 0}).create()


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_can_be_replaced_or_left_out(name: str) -> None:
    network = timm.create_model(name, width=0.1).eval()
    x = torch.zeros(2, 1, 800)
    features = network.forward_head(network.forward_features(x), pre_logits=True)
    network.reset_classifier(3)
    assert network(x).shape == (2, 3)
    assert features.shape == (2, network.num_features)
    assert torch.equal(timm.create_model(name, width=0.1, num_classes=0).eval()(x), torch.zeros_like(features))


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_is_a_site_and_the_stem_is_left_alone(name: str) -> None:
    network = timm.create_model(name, width=0.25)
    layout = find_sites(network, (1, 4000))
    assert {name for name, _ in layout.left_alone} <= {f"features.pool{i}" for i in range(1, 9)}
    found = [site for site in layout.sites if site.kind == "convolution"]
    assert len(found) == len(convolutions(network)) and {site.dims for site in found} == {1}
    plan = make_plan(network, SearchSpace(), (1, 4000))
    assert [choice.site.name for choice in plan.choices] == [site.name for site in found[1:]]
    assert dict(plan.left_alone)["features.conv1"] == "the stem (stem=true includes it)"
    ops = {candidate["op"] for choice in plan.choices for candidate in choice.candidates}
    assert ops >= {"original", "low_rank", "separable", "pointwise"}  # there is nothing to factorise in one dimension


@pytest.mark.parametrize("name", NAMES)
def test_a_supernet_of_originals_computes_what_the_network_does(name: str) -> None:
    network = timm.create_model(name, width=0.25).eval()
    x = torch.randn(2, 1, 4000)
    supernet = wrap(network, input_size=(1, 4000))
    chosen, architecture = discretise(supernet)
    assert chosen(x).shape == (2, 10)
    originals = Architecture({name: {"op": "original"} for name in architecture.choices})
    with torch.no_grad():
        torch.testing.assert_close(discretise(supernet, originals)[0](x), network(x))
