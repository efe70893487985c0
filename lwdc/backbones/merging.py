"""Merging: networks that train with parallel branches, such as RepVGG, as they are deployed."""

import copy

import torch
from timm.utils import reparameterize_model
from torch import nn

from lwdc.counting import count_macs
from lwdc.errors import BackboneError
from lwdc.tracing import Shape


def merge(network: nn.Module) -> None:
    """Merge the branches, and norms with the layers before them, in place, as timm does for inference.

    What the network computes in evaluation stays the same but for rounding. ``BackboneError`` if there are none, or
    timm cannot merge them.
    """
    if not _merges(network):
        raise BackboneError("the network has no branches that are merged for inference: leave reparameterise out.")
    frozen = {p for p in network.parameters() if not p.requires_grad}
    training = network.training
    network.eval()  # some refuse otherwise
    try:
        with torch.no_grad():
            reparameterize_model(network, inplace=True)
    except Exception as error:  # whatever the network's own code raises
        raise BackboneError(f"timm cannot merge the branches of this network: {error!r}.") from error
    network.train(training)
    for parameter in network.parameters():  # some of which timm freezes, since it is for inference there
        parameter.requires_grad_(parameter not in frozen)


def _merges(network: nn.Module) -> bool:
    """Whether there is anything in the network to merge."""
    within = [module for module in network.modules() if module is not network]
    ways = [getattr(module, way, None) for module in within for way in _WAYS]
    return any(callable(way) and not isinstance(way, nn.Module) for way in ways)


_WAYS = ("fuse", "reparameterize", "switch_to_deploy")  # that timm looks for


def note_on_branches(network: nn.Module, input_size: Shape) -> list[str]:
    """A word, for a network whose branches were not merged, on what merging them takes."""
    if not _merges(network):
        return []
    merged = copy.deepcopy(network)
    try:
        merge(merged)
        after = count_macs(merged, [input_size])
    except Exception:  # noqa: BLE001  it was merged before, or means another thing by these names
        return []
    before = count_macs(network, [input_size])
    if after >= before:
        return []
    return [
        f"the network trains with branches that are merged before use, which leaves {after:,} of its {before:,} MACs, "
        "and what replaces their layers cannot be merged: from trained weights backbone.reparameterise=true compresses "
        "the merged network."
    ]
