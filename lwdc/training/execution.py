"""Execution: how networks are run while they train, which changes what it takes and not what comes out."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.errors import TrainingError
from lwdc.selection import selection_ops
from lwdc.training.ranks import synced_norms

# Whether this PyTorch compiles every network for itself.
CAN_COMPILE = "isolate_recompiles" in inspect.signature(torch.compile).parameters


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a network is run; the default is as it stands.

    Of these only ``sync_norms`` changes results beyond rounding, and ``compile`` what is drawn inside of the network,
    as by dropout: compilers have generators of their own. The gates are drawn outside.
    """

    sync_norms: bool = False  # batch norms see the examples of all ranks; on GPUs
    channels_last: bool = False  # weights and images lie in memory by place, and not by channel
    compile: bool | str = False  # by torch.compile; a text is one of its backends
    checkpointing: bool = False  # of a supernet's branches only the input is kept for the backward pass

    def check(self, input_size: Sequence[int]) -> None:
        """Raise ``TrainingError`` if examples ``(channels, *sizes)`` cannot be laid out so."""
        if self.channels_last and len(input_size) != 3:
            raise TrainingError(
                f"channels_last is a layout of images (channels, height, width), and the examples are "
                f"{tuple(input_size)}: leave it out."
            )

    def laid_out(self, examples: Tensor) -> Tensor:
        """``(B, C, *sizes)`` as it is fed to a network that runs so."""
        return examples.contiguous(memory_format=torch.channels_last) if self.channels_last else examples

    @contextlib.contextmanager
    def of(self, *models: nn.Module) -> Iterator[None]:
        """While this lasts the models run so; in place, and put back.

        In place means that nothing is wrapped: names in ``state_dict()`` are what they were, and copies are not
        compiled. A model that is compiled here is compiled for itself: networks of one class would share a limit of
        8 variants (training, evaluation, sizes of batches), behind which PyTorch gives up compiling them.
        """
        with contextlib.ExitStack() as stack:
            for model in models:
                if self.sync_norms:
                    stack.enter_context(synced_norms(model))
                if self.channels_last:
                    model.to(memory_format=torch.channels_last)
                    stack.callback(model.to, memory_format=torch.contiguous_format)
                if self.checkpointing:
                    stack.enter_context(_checkpointing(model))
                if self.compile:
                    backend = "inductor" if self.compile is True else self.compile
                    options: dict[str, Any] = {"backend": backend, "isolate_recompiles": True}
                    model.compile(**options)
                    stack.callback(setattr, model, "_compiled_call_impl", None)
            yield


AS_IT_STANDS = Execution()


@contextlib.contextmanager
def _checkpointing(supernet: nn.Module) -> Iterator[None]:
    ops = selection_ops(supernet).values()
    for op in ops:
        op.checkpointing = True
    try:
        yield
    finally:
        for op in ops:
            op.checkpointing = False
