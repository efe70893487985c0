"""Idle operators: those that a step has left out, which neither momentum nor decay shall move."""

from torch import nn

from lwdc.candidates.original import Original
from lwdc.selection import SelectionOp, selection_ops


def spare_idle(supernet: nn.Module) -> None:
    """After a backward pass: no gradient, instead of a zero, for operators with a weight of zero, in place."""
    for op in selection_ops(supernet).values():
        if op.sampled is None:
            continue
        for operator, weight in zip(op.operators, op.sampled.tolist(), strict=True):
            if weight == 0:
                for parameter in _weights_of(operator, op):
                    parameter.grad = None


def _weights_of(operator: nn.Module, op: SelectionOp) -> list[nn.Parameter]:
    """The parameters of one operator alone; those of the original are the convolution's, but for the shared bias."""
    if isinstance(operator, Original):
        return [p for name, p in op.conv.named_parameters() if name != "bias"]
    return list(operator.parameters())
