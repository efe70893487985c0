"""Activations: how many bytes of them are alive at once while a network runs, counted without computing anything."""

import dataclasses
import functools
import weakref
from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lwdc.tracing import WAYS, Shape, outline


@dataclasses.dataclass
class Alive:
    """Bytes alive while one image passes through, in evaluation mode."""

    given: int = 0  # by the image itself
    peak: int = 0  # at most, at any moment
    outside: int = 0  # at most, while none of the layers asked for runs
    uses: dict[str, list["Use"]] = dataclasses.field(default_factory=dict)  # of the layers asked for


class Use(NamedTuple):
    """One call of a layer."""

    alive: int  # bytes when it begins
    shape: Shape  # of its input, without the batch axis
    batch: int  # where heads or windows are folded into the batch, more than one for one image


def activations(network: nn.Module, input_size: Shape, layers: Collection[str] = ()) -> Alive:
    """What is alive as PyTorch runs it: a tensor lives until nothing refers to it; the input image lives throughout.

    Weights, and workspaces inside a kernel, are not counted. ``network`` is left as it was.
    """
    for way in WAYS:
        copied = outline(network)
        watch = _Watch()
        copied.register_forward_pre_hook(watch.begin)
        copied.register_forward_hook(watch.end, always_call=True)
        for name in layers:
            layer = copied.get_submodule(name)
            layer.register_forward_pre_hook(functools.partial(watch.enter, name))
            layer.register_forward_hook(watch.leave)
        try:
            way(copied, input_size)()
        except Exception as error:  # noqa: BLE001  the next may do
            failure = error
        else:
            return watch.found
    raise failure


class _Watch(TorchDispatchMode):
    """Follows storages from the operation that makes them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Alive()
        self._now = 0
        self._known: set[int] = set()
        self._inside = 0

    def begin(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        for leaf in tree_leaves(args):
            self._hold(leaf)
        self.found.given = self._now
        self.__enter__()

    def end(self, network: nn.Module, args: Any, output: Any) -> None:
        self.__exit__(None, None, None)

    def enter(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.found.uses.setdefault(name, []).append(Use(self._now, tuple(args[0].shape[1:]), args[0].shape[0]))
        self._inside += 1

    def leave(self, layer: nn.Module, args: Any, output: Any) -> None:
        self._inside -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            self._hold(leaf, counted=False)  # what no operation of the network made is a weight
        output = func(*args, **kwargs)
        for leaf in tree_leaves(output):
            self._hold(leaf)
        return output

    def _hold(self, leaf: Any, *, counted: bool = True) -> None:
        if not isinstance(leaf, Tensor):
            return
        storage = leaf.untyped_storage()
        if storage._cdata in self._known:
            return
        size = storage.nbytes() if counted else 0
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._free, storage._cdata, size)
        self._now += size
        self.found.peak = max(self.found.peak, self._now)
        if not self._inside:
            self.found.outside = max(self.found.outside, self._now)

    def _free(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self._now -= size
