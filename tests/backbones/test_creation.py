"""Building a backbone with the weights asked for."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from torch import nn

from lwdc.backbones import Backbone, create
from lwdc.errors import BackboneError

TINY = Backbone("cifar_resnet8", 10, 3, {"channels": (4, 8, 16)})


def test_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    trained, notes = create(TINY)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    network, more_notes = create(TINY, weights=tmp_path / "trained.safetensors")
    assert notes == more_notes == []
    assert torch.equal(network.conv1.weight, trained.conv1.weight)


def test_pretrained_and_a_file_together_are_refused() -> None:
    with pytest.raises(BackboneError, match="keep one of the two"):
        create(TINY, pretrained=True, weights="trained.safetensors")


def test_a_network_that_timm_has_no_weights_for_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"no pretrained weights for 'cifar_resnet8'.*weights=FILE"):
        create(TINY, pretrained=True)


def test_without_a_network_pretrained_says_how_to_give_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    backbone = Backbone("resnet18", 10, 3, {"cache_dir": str(tmp_path)})
    with pytest.raises(BackboneError, match=r"of 'resnet18' could not be had .*weights=FILE") as raised:
        create(backbone, pretrained=True)
    assert "\n" not in str(raised.value)


def test_an_unusable_option_is_not_blamed_on_the_network_connection() -> None:
    with pytest.raises(BackboneError, match=r"cannot be built .*wdith"):
        create(Backbone("resnet18", 10, 3, {"wdith": 2}), pretrained=True)


def test_pretrained_weights_adapted_to_the_data_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_download(name: str, *, pretrained: bool, **options: int) -> nn.Module:
        assert pretrained
        return build(name, **options)

    import timm

    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", without_download)
    _, notes = create(Backbone("resnet18", 10, 1), pretrained=True)
    assert [note.split(":")[0] for note in notes] == [
        "the pretrained weights have 1000 classes, the network 10",
        "the pretrained weights take 3 channels, the network 1",
    ]
    assert create(Backbone("resnet18", 1000, 3), pretrained=True)[1] == []
