"""The network as files hold it: on the CPU, in float32, in evaluation mode."""

import copy

from torch import nn

from lwdc.errors import ExportError
from lwdc.selection import selection_ops
from lwdc.tracing import uncompiled


def portable(network: nn.Module) -> nn.Module:
    """A copy on the CPU in float32 and evaluation mode, without gradients; ``network`` is not changed."""
    refuse_supernet(network)
    return copy.deepcopy(uncompiled(network)).cpu().float().eval().requires_grad_(False)


def refuse_supernet(network: nn.Module) -> None:
    """Raise ``ExportError`` if sites still hold all their candidates."""
    if sites := selection_ops(network):
        raise ExportError(
            f"this is a supernet, with every candidate at {len(sites)} site(s); export what "
            "lwdc.discretise(supernet) returns."
        )
