"""Peak activation memory as a cost."""

import dataclasses

import torch
from torch import nn

from lwdc.activations import activations
from lwdc.costs.table import CostTable, Entry, laid_out
from lwdc.selection import selection_ops
from lwdc.surgery import input_size_of, original_network
from lwdc.tracing import reference


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of activations alive at once, at most, for one image (``lwdc.activations``).

    Every stand-in gives an output of the original's shape, so each site is a moment of its own, and the peak is
    the largest of all moments. A stand-in that hands its input on instead of making an output (``skip``) may leave less
    alive than the table says, one that hands on a part of a larger tensor (``ghost`` with odd channels) a little more.
    """

    name: str = "memory"
    unit: str = "B"

    def tabulate(self, supernet: nn.Module) -> CostTable:
        """What is alive before a site runs in the original network, and what each candidate adds to it."""
        alive = activations(original_network(supernet), input_size_of(supernet), list(selection_ops(supernet)))
        like = reference(supernet)
        added: dict[object, int] = {}

        def cost(entry: Entry) -> int:
            found = []
            for use in alive.uses[entry.site]:
                key = entry.key, use.shape
                if key not in added:
                    alone = activations(_typed(entry.module(), like), use.shape)
                    added[key] = alone.peak - alone.given
                found.append(use.alive + use.batch * added[key])
            return max(found)

        return CostTable(self.name, self.unit, *laid_out(supernet, cost), alive.outside, peak=True)


def _typed(module: nn.Module, like: torch.Tensor) -> nn.Module:
    """The module in a shell that has a type also where it has no parameters: inputs are made of it."""
    shell = nn.Sequential(module)
    shell.register_parameter("like", nn.Parameter(like.detach().new_empty(0), requires_grad=False))
    return shell
