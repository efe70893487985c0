"""Networks that train with parallel branches, as they are deployed."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import lwdc
from lwdc.backbones import Backbone, create, note_on_branches
from lwdc.backbones.merging import merge
from lwdc.counting import count_macs
from lwdc.errors import BackboneError
from lwdc.space import make_plan

BRANCHED = Backbone("repghostnet_050", 10, 3)
MERGED = dataclasses.replace(BRANCHED, reparameterise=True)
SIZE = (3, 32, 32)


def trained(network: nn.Module) -> nn.Module:
    """With statistics of some images, in evaluation."""
    with torch.no_grad():
        network.train()(torch.randn(8, *SIZE))
    return network.eval()


@pytest.mark.parametrize(
    "name", ["repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "efficientvim_m1", "levit_128s"]
)
def test_a_merged_network_is_all_trained_and_compressed(name: str) -> None:
    if not timm.is_model(name):
        pytest.skip("timm has it since a later version")
    model = Backbone(name, 10, 3, reparameterise=True).create()
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    size = (3, 224, 224) if name == "levit_128s" else (3, 64, 64)
    reasons = [reason for _, reason in make_plan(model, lwdc.SearchSpace(), size).left_alone]
    assert [any(reason.startswith(f"the {layer} (") for reason in reasons) for layer in ("stem", "classifier")] == [
        True
    ] * 2
    assert note_on_branches(model, size) == []
    supernet = lwdc.wrap(model, input_size=size)
    table = lwdc.tabulate(supernet, lwdc.Macs())
    architecture = lwdc.choose(supernet, table, lwdc.parse_budget(0.7, table))
    network, _ = lwdc.discretise(supernet, architecture)
    assert count_macs(network, [size]) == table.of(architecture) < table.total == count_macs(model, [size])


@pytest.mark.parametrize("merged_before", [False, True])
def test_weights_from_before_or_after_merging_give_the_same_network(tmp_path: Path, merged_before: bool) -> None:
    original = trained(BRANCHED.create())
    images = torch.randn(2, *SIZE)
    expected = original(images)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(original.state_dict(), file)
    network, notes = create(MERGED, weights=file)
    if merged_before:
        safetensors.torch.save_file(network.state_dict(), file)
        network, notes = create(MERGED, weights=file)
    assert notes == [] and len(network.state_dict()) < len(original.state_dict())
    torch.testing.assert_close(network.eval()(images), expected, rtol=1e-4, atol=1e-5)


def test_weights_that_fit_neither_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(Backbone("cifar_resnet8", 10, 3).create().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match="does not fit this network"):
        create(MERGED, weights=tmp_path / "w.safetensors")


def test_what_has_no_branches_cannot_be_merged() -> None:
    with pytest.raises(BackboneError, match=r"no branches that are merged .* leave reparameterise out"):
        Backbone("cifar_resnet8", 10, 3, reparameterise=True).create()


@pytest.mark.parametrize("fuse", [nn.Conv2d(3, 4, 3), lambda one, other: one + other])
def test_other_things_of_the_same_name_are_left_alone(fuse: object) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    network[1].fuse = fuse
    assert note_on_branches(network, SIZE) == []
    with pytest.raises(BackboneError, match=r"no branches|cannot merge the branches"):
        merge(network)


def test_a_package_of_a_merged_network_loads(tmp_path: Path) -> None:
    network = trained(MERGED.create())
    lwdc.save(tmp_path / "small", network, lwdc.Architecture({}), backbone=MERGED, input_size=SIZE)
    images = torch.randn(2, *SIZE)
    torch.testing.assert_close(lwdc.load(tmp_path / "small")(images), network(images))


def test_what_merging_takes_is_told_of_a_branched_network_only() -> None:
    branched = Backbone("mobileone_s0", 1000, 3)
    (note,) = note_on_branches(branched.create(), (3, 224, 224))
    assert "leaves 275,110,400 of its" in note and "backbone.reparameterise=true" in note
    for name in ("cifar_resnet8", "shvit_s1"):  # of the latter norms alone are merged
        assert note_on_branches(Backbone(name, 10, 3).create(), (3, 64, 64)) == []
    assert note_on_branches(dataclasses.replace(branched, reparameterise=True).create(), (3, 64, 64)) == []
