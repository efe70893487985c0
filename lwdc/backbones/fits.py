"""Checking early that a network can take the inputs and tell the classes apart."""

import torch
from torch import nn

from lwdc.errors import BackboneError
from lwdc.tracing import evaluating


def check_fits(network: nn.Module, input_size: tuple[int, ...], num_classes: int) -> None:
    """Raises ``BackboneError`` unless an input of ``input_size`` gives ``num_classes`` logits.

    ``input_size`` has no batch axis. One blank input is run in evaluation mode; the network's modes, weights
    and statistics are left as they were.
    """
    parameter = next(network.parameters(), torch.empty(0))
    blank = torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device)
    try:
        with evaluating(network), torch.no_grad():
            logits = network(blank)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"the network cannot take inputs of {tuple(input_size)}: {reason}; "
            "choose another network, other options (timm's img_size, in_chans), or other data."
        ) from error
    if logits.shape != (1, num_classes):
        raise BackboneError(
            f"the network returns {tuple(logits.shape)} for one input instead of (1, {num_classes}) "
            "logits; set its num_classes to the data's."
        )
