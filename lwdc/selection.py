"""The selection operator: every candidate of one site, mixed by a gate."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lwdc.candidates import Candidate, Operator, label
from lwdc.candidates.base import kernel_shape
from lwdc.candidates.original import Original
from lwdc.candidates.sampling import Starts
from lwdc.errors import LwdcError, SpaceError
from lwdc.gates import Gate
from lwdc.geometry import convolve, own_support, union
from lwdc.mixing import mix, place
from lwdc.sites import Site

Mixing = Literal["auto", "branches"]


class SelectionOp(nn.Module):
    """Stands at ``site`` in place of ``conv`` and mixes ``operators`` by ``gate``.

    Linear operators are mixed as kernels: one convolution, whatever their number. The others, and
    matrix-product kernels where forming them costs more than running them, run as branches and are
    added. With ``mixing="branches"`` every operator runs as a branch, for comparison.

    Attributes of the convolution can be read through this module, because networks do so; ``weight`` is
    the mixed kernel. It is laid out in memory as the layer's own weight is, or as what flows through: ``channels_last``
    stays so.

    With ``checkpointing`` what a branch computes is not kept for the backward pass but computed again there, one branch
    at a time (``torch.utils.checkpoint``): of all branches together only the input stays. Here, and not around whole
    stages of the backbone, because branches are what a supernet keeps beyond its backbone, because any backbone can
    have it so, and because here the weights drawn for this step are at hand as an argument: the supernet has forgotten
    them by the time of the backward pass. What is random in a branch is the same again, and batch norms learn from the
    first time only.
    """

    def __init__(
        self,
        site: Site,
        conv: nn.Module,
        candidates: tuple[Candidate, ...],
        operators: tuple[Operator, ...],
        gate: Gate,
        *,
        mixing: Mixing = "auto",
        errors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.site = site
        self.candidates = candidates
        self.conv = conv
        self.operators = nn.ModuleList(operators)
        self.gate = gate
        self.mixing = mixing
        self.checkpointing = False
        self.errors = dict(errors or {})  # relative inheritance error by label
        self.mixture: Tensor | None = None  # weights of the forward pass now running, else None
        self.sampled: Tensor | None = None  # those of the last one, without gradient
        self.taken: int | None = None  # where the gate takes one operator: which, in the forward pass now running
        self.together: Together | None = None  # sites alike, this one among them, in the forward pass now running
        supports = [op.support for op in operators if op.support is not None]
        self._linear = [i for i, op in enumerate(operators) if op.support is not None]
        self._support = union(supports) if any(all(s.count) for s in supports) else None
        self.alike = self._alike()  # to other sites, whose kernels can be mixed with this one's; None: to none
        self._placements = {  # by whether the layout is channels_last: a layout cannot be pickled
            layout == torch.channels_last: {
                i: place(site, self._support, operators[i], layout) for i in self._linear if self._support
            }
            for layout in (_LAYOUTS if site.dims == 2 else _LAYOUTS[:1])
        }
        for operator in operators:
            if isinstance(operator, Original):
                operator.own(conv)
        lends = not site.pools and not any(isinstance(op, Original) for op in operators)  # only its bias
        self.froze = lends and self.original_weight().requires_grad  # what it does to the weight
        if self.froze:
            self.original_weight().requires_grad_(False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Short names of the candidates, in gate order."""
        return tuple(label(c) for c in self.candidates)

    @property
    def chosen(self) -> int:
        """Index of the candidate with the largest final score."""
        return int(self.gate.scores().argmax())

    @property
    def may_branch(self) -> bool:
        """Whether an operator runs as a branch, on some inputs at least."""
        operators: list[Any] = list(self.operators)
        return self.mixing == "branches" or any(op.support is None or op.product_rank for op in operators)

    def original_weight(self) -> Tensor:
        """The weight of the convolution that stood here: a parameter, but where a functional call stands another in."""
        weight = self.conv._parameters["weight"]
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The site's bias, shared by its linear operators."""
        return self.conv._parameters.get("bias")

    @property
    def weight(self) -> Tensor:
        """The mixed kernel of all linear operators, ``(C_out, C_in / groups, *support.count)``."""
        kernel = self.mixed_kernel(self.weights(), self._linear)
        assert kernel is not None
        return kernel

    def as_weight(self) -> Tensor | None:
        """The mixture as a weight of the layer that stood here, without gradient: in evaluation mode, never random.

        None where it is no such weight, as an operator is not linear or reaches further than the layer's taps.
        """
        own = own_support(self.site)
        if len(self._linear) < len(self.operators) or self._support is None or union([own, self._support]) != own:
            return None
        training = self.gate.training
        with torch.no_grad():
            kernel = self.mixed_kernel(self.gate.train(False)(), self._linear)
        self.gate.train(training)
        weight = kernel.new_zeros(kernel_shape(self.site, own))
        weight[(..., *own.slices_of(self._support))] = kernel
        return weight

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if name.startswith("_") or "conv" not in modules:
                raise
            return getattr(modules["conv"], name)

    def __getstate__(self) -> dict[str, Any]:
        # The mixture belongs to a running forward pass and hangs in its graph: no copy wants it.
        return {**self.__dict__, "mixture": None, "sampled": None, "taken": None, "together": None}

    def weights(self) -> Tensor:
        """Mixing weights of this step: those sampled at the supernet, or the gate's own outside of it."""
        return self.gate() if self.mixture is None else self.mixture

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, *sizes)`` to ``(B, C_out, *sizes)``, as the layer that stood here."""
        if self.mixture is None and not is_compiling() and torch._C._current_graph_task_id() != -1:
            raise LwdcError(_RUN_AGAIN.format(self.site))
        weights = self.weights()
        operators = list(self.operators)
        running = self._running(weights)
        in_kernel = [i for i in running if self._support and self._mixes_as_kernel(operators[i], x)]
        bias = self._bias(weights)
        total: Tensor | None = None
        if in_kernel:
            layout = self._layout(x)
            together = None if is_compiling() else self.together  # what is compiled mixes one site at a time
            kernel = None if together is None else together.kernel(self, in_kernel, layout)
            if kernel is None:
                kernel = self.mixed_kernel(weights, in_kernel, layout)
            assert self._support is not None
            total = convolve(x, kernel, bias, self.site, self._support, self.site.groups)
            bias = None
        for i in running:
            if i not in in_kernel:
                branch = self._branch(operators[i], x, weights[i])
                total = branch if total is None else total + branch
        assert total is not None
        return total if bias is None else total + bias.to(total.dtype).view(-1, *(1,) * self.site.dims)

    def mixed_kernel(
        self, weights: Tensor, chosen: list[int], layout: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """The weighted sum of the kernels of the operators at ``chosen``, on the joint support, in full precision."""
        return mixed_kernels([self], weights, chosen, layout)

    def _running(self, weights: Tensor) -> list[int]:
        """The operators that have a part in this pass: all of them, unless the gate takes one."""
        if not self.gate.takes_one:
            return list(range(len(self.operators)))
        return [int(weights.argmax()) if self.taken is None else self.taken]

    def _branch(self, operator: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
        if not self.checkpointing or not torch.is_grad_enabled():
            return _weighted(operator, x, weight)
        computed: Tensor = checkpoint(
            _weighted, operator, x, weight,
            use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _without_learning(operator)),
        )  # fmt: skip
        return computed

    def _layout(self, x: Tensor) -> torch.memory_format:
        # As a convolution decides: by the input or, where that is no answer (one channel), by the weight.
        weight = self.conv._parameters.get("weight")
        if self.site.dims == 2 and any(t is not None and _is_channels_last(t) for t in (x, weight)):
            return torch.channels_last
        return torch.contiguous_format

    def _mixes_as_kernel(self, operator: Any, x: Tensor) -> bool:
        if operator.support is None or self.mixing == "branches":
            return False
        if operator.product_rank == 0:
            return True
        # Forming a rank-r product costs r per weight, running it r per weight and output pixel shared by
        # C_out: kernel space wins where a batch has more output pixels than the site has filters.
        if self.site.dims == 0:
            return bool(x.shape[:-1].numel() > self.site.out_channels)
        pixels = x.shape[0]
        for size, stride in zip(x.shape[2:], self.site.stride, strict=True):
            pixels *= -(-size // stride)
        return bool(pixels > self.site.out_channels)

    def _bias(self, weights: Tensor) -> Tensor | None:
        bias = self.bias
        if bias is None or len(self._linear) == len(weights):
            return bias  # The weights of all sum to 1.
        return bias * weights[self._linear].sum() if self._linear else None

    def _alike(self) -> tuple[tuple[int, ...], Hashable] | None:
        """The shape of the kernel, and what else sites share whose kernels can be mixed together."""
        if self._support is None or self.mixing != "auto" or self.site.pools:
            return None
        shape = kernel_shape(self.site, self._support)
        if _FEWEST * math.prod(shape) > _MOST:
            return None
        operators: list[Any] = list(self.operators)
        return shape, (self._support, self.site.groups, *((op.support, op.groups) for op in operators))

    def extra_repr(self) -> str:
        return f"{', '.join(self.labels)}; mixing={self.mixing}"


_RUN_AGAIN = (
    "{} was run again in the backward pass, when the weights drawn for this step are gone: the network's own gradient "
    "checkpointing is on. Turn it off (timm: set_grad_checkpointing(False)); what a supernet keeps beyond its network "
    "its selection operators can compute again: their checkpointing, compute.checkpointing=true on the command line."
)
_LAYOUTS = (torch.contiguous_format, torch.channels_last)


def _is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _weighted(operator: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    branch: Tensor = operator(x)
    return branch * weight.to(branch.dtype)


@contextlib.contextmanager
def _without_learning(operator: nn.Module) -> Iterator[None]:
    """While this lasts batch norms learn nothing from their batches, which they keep for the backward pass as ever."""
    norms = [m for m in operator.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, counted in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, None if counted is None else counted.clone()
    try:
        yield
    finally:
        for norm, momentum, counted in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counted


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def selection_ops(supernet: nn.Module) -> dict[str, SelectionOp]:
    """The selection operators of a supernet by site name, in forward order."""
    found = {m.site.name: m for m in supernet.modules() if isinstance(m, SelectionOp)}
    return dict(sorted(found.items(), key=lambda item: item[1].site.index))


def supernet_ops(supernet: nn.Module) -> dict[str, SelectionOp]:
    """The same, of what has to have some. Raises ``SpaceError`` if it has none."""
    ops = selection_ops(supernet) if isinstance(supernet, nn.Module) else {}
    if not ops:
        raise SpaceError(_NO_SUPERNET.format(type(supernet).__name__))
    return ops


_NO_SUPERNET = "this {} is no supernet: give what lwdc.wrap returned, which has selection operators."


class Together:
    """Sites alike, whose kernels are mixed in one go in a forward pass, when the first of them asks for its own.

    One by one, bookkeeping would cost more than arithmetic: a site takes dozens of operations of some thousand numbers.
    They are one step of autograd's, which gives zeros to a site that no gradient reaches, and goes backward once.
    """

    def __init__(self, ops: Sequence[SelectionOp]) -> None:
        self.ops = ops
        self._mixed: dict[int | None, tuple[Hashable, dict[SelectionOp, Tensor]]] = {}  # by what gates have taken

    def kernel(self, op: SelectionOp, chosen: list[int], layout: torch.memory_format) -> Tensor | None:
        """What ``op.mixed_kernel`` would give; None where too few sites mix the same."""
        members = [other for other in self.ops if other.taken == op.taken]
        if len(members) < _FEWEST:
            return None
        asked = tuple(chosen), layout, torch.is_grad_enabled()
        if op.taken not in self._mixed:
            weights = torch.stack([member.weights() for member in members])
            found = mixed_kernels(members, weights, chosen, layout).split(op.site.out_channels)
            self._mixed[op.taken] = asked, dict(zip(members, found, strict=True))
        mixed, kernels = self._mixed[op.taken]
        return kernels[op] if mixed == asked else None


def mixed_kernels(
    ops: Sequence[SelectionOp], weights: Tensor, chosen: list[int], layout: torch.memory_format
) -> Tensor:
    """The weighted sums of the kernels at ``chosen``, in full precision, of sites alike, one after the other.

    ``weights`` are those of all operators, ``(len(ops), len(ops[0].operators))``, or ``(len(op.operators),)`` of one.
    """
    first = ops[0]
    assert first._support is not None
    with _full_precision(weights.device):
        kernels = [_compact_kernels([op.operators[i] for op in ops]) for i in chosen]
        picked = weights if len(chosen) == weights.shape[-1] else weights[..., chosen]
        return mix(
            picked.to(kernels[0].dtype), kernel_shape(first.site, first._support), kernels,
            [first._placements[layout == torch.channels_last][i] for i in chosen],
        )  # fmt: skip


def _compact_kernels(operators: Sequence[Any]) -> Tensor:
    """The compact kernels of equal shapes, one after the other."""
    first, *others = operators
    if not others:
        kernel: Tensor = first.compact_kernel()
        return kernel
    kinds = {(type(operator), operator.alike()) for operator in operators}
    if len(kinds) == 1 and first.alike() is not None:
        kernels: Tensor = first.compact_kernels(others)
        return kernels
    return torch.cat([operator.compact_kernel() for operator in operators])


_FEWEST = 3  # sites that gain from it
_MOST = 2**16  # entries of the kernels that are mixed together: beyond, arithmetic binds, and caches overflow


def gates(supernet: nn.Module) -> Iterator[Gate]:
    """Every gate once, also where sites share one."""
    return (m for m in supernet.modules() if isinstance(m, Gate))


def draw(supernet: nn.Module) -> None:
    """One sample per gate for all its sites, in place; the next forward pass mixes by it, in which nothing is drawn.

    Without this a supernet does so itself as its forward pass begins. Sites that have drawn already keep what they
    have. A network without gates is left as it is.
    """
    sampled: dict[Gate, Tensor] = {}
    taken: dict[Gate, int] = {}
    ops = [op for op in supernet.modules() if isinstance(op, SelectionOp) and op.mixture is None]
    for op in ops:
        if op.gate not in sampled:
            sampled[op.gate] = op.gate()
        op.mixture = sampled[op.gate]
        op.sampled = sampled[op.gate].detach()
        # Now and not between convolutions, where a GPU would be waited for at every site.
        if op.gate.takes_one:
            if op.gate not in taken:
                taken[op.gate] = int(op.sampled.argmax())
            op.taken = taken[op.gate]
    if not is_compiling() and supernet._compiled_call_impl is None:  # compilers do better with each in its place
        _put_together(ops)


def _put_together(ops: Iterable[SelectionOp]) -> None:
    """Tell sites alike of each other, in place, for the forward pass that begins."""
    alike: dict[tuple[Any, ...], list[SelectionOp]] = defaultdict(list)
    for op in ops:
        if op.alike is not None:
            weight = op.original_weight()
            alike[op.alike, weight.dtype, weight.device].append(op)
    for ((shape, _), *_), members in alike.items():
        most = _MOST // math.prod(shape)
        for begin in range(0, len(members), most):
            together = Together(members[begin : begin + most])
            for op in together.ops:
                op.together = together


def forget(supernet: nn.Module) -> None:
    """Forget what was drawn, in place: a sample must not outlive its forward pass, also a failed one."""
    for op in supernet.modules():
        if isinstance(op, SelectionOp):
            op.mixture = op.taken = op.together = None


def advance(supernet: nn.Module, progress: float) -> None:
    """Set every gate's schedule, in place, to the share ``progress`` in [0, 1] of the search.

    From half of it on the starts of epitomes are whole and stay where they are. Raises ``SpaceError`` where nothing has
    a schedule.
    """
    scheduled = [module for module in supernet.modules() if isinstance(module, (Gate, Starts))]
    if not scheduled:
        raise SpaceError(_NO_SUPERNET.format(type(supernet).__name__))
    for module in scheduled:
        module.advance(progress)
