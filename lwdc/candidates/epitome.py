"""Neural epitome search: a kernel sampled from a smaller tensor, the epitome, by starts that are learned.

Zhou et al., "Neural Epitome Search for Architecture-Agnostic Network Compression", ICLR 2020. The idea and the
sampling by two-tap interpolation are the paper's. Starts as plain parameters (the paper learns them from the
features), how they begin, and inheritance from a trained kernel are ours.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, restrict, scaled_like
from lwdc.candidates.chain import Layer, convolution
from lwdc.candidates.registry import register_candidate
from lwdc.errors import SpaceError
from lwdc.geometry import convolve, own_support
from lwdc.sites import Site

_FREEZE = 0.8  # share of a training at which starts become whole

Sampling = Literal["learned", "fixed"]
Positions = tuple[Tensor, Tensor, Tensor | None]  # lower and upper entry, weight of the upper (None: all lower)


class Starts(nn.Module):
    """Where the windows on one axis of an epitome begin.

    ``ceil(total / window)`` windows of ``window`` entries each, laid end to end and cut to ``total``, make
    up that axis of the kernel. A start is a share in [0, 1] of the range that keeps its window inside
    the ``extent``; with ``wrap`` of the whole extent, as windows go on at its other end. At first the windows
    are spread so that every entry of the epitome is used. Fixed starts are whole and no parameters. With
    ``copies`` every window has so many starts, one for each block of another axis; with ``turn`` each copy
    begins with another window, because blocks that are twins cost a kernel its rank.

    Learned starts are trained off the integers, until ``advance`` rounds them for good.
    """

    share: Tensor
    frozen: Tensor
    settled: Tensor
    ranges: Tensor
    _offsets: Tensor

    def __init__(
        self, total: int, extent: int, window: int, sampling: Sampling,
        *, wrap: bool = False, copies: int = 0, turn: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.total, self.extent, self.window, self.wrap = total, extent, window, wrap
        self.learned = sampling == "learned"
        count = math.ceil(total / window)
        tail = total - window * (count - 1)  # entries of the last window
        lengths = torch.tensor([window] * (count - 1) + [tail])
        ranges = torch.full((count,), extent) if wrap else extent - lengths
        starts = torch.arange(count) * (extent - tail) / max(count - 1, 1)
        starts = torch.minimum(starts, (extent - lengths).float())
        if copies:
            order = torch.arange(count)[:, None].repeat(1, copies)
            if turn:
                whole = count if tail == window else count - 1
                order[:whole] = (order[:whole] + torch.arange(copies)) % max(whole, 1)
            starts, ranges = starts[order], ranges[:, None].expand(-1, copies)
        starts = starts if self.learned else starts.round()
        share = starts / ranges.clamp_min(1)
        self.register_buffer("ranges", ranges.float(), persistent=False)
        self.register_buffer("_offsets", torch.arange(window), persistent=False)
        if self.learned:
            self.share = nn.Parameter(share)
            self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
            self.register_buffer("settled", torch.zeros_like(share))  # starts once frozen: momentum moves shares on
        else:
            self.register_buffer("share", share, persistent=False)

    def forward(self) -> Positions:
        """The entries that the windows read: shape ``(count, [copies,] window)``."""
        if not self.learned:
            entries = (self.share * self.ranges).round().long().unsqueeze(-1) + self._offsets
            return self._inside(entries), self._inside(entries), None
        share = self.share + (self.share.clamp(0, 1) - self.share).detach()  # the gradient passes: it may lead back
        starts = torch.where(self.frozen, self.settled, share * self.ranges)
        entries = starts.unsqueeze(-1) + self._offsets
        lower = entries.detach().floor()
        return self._inside(lower.long()), self._inside(lower.long() + 1), entries - lower

    def flat(self) -> Positions:
        """The same, laid end to end and cut: shape ``(total,)``."""
        lower, upper, weight = self()
        return (
            lower.flatten()[: self.total],
            upper.flatten()[: self.total],
            None if weight is None else weight.flatten()[: self.total],
        )

    def advance(self, progress: float) -> None:
        """Between steps, in place: keep learned starts inside; from the share 0.8 of a training round them for good."""
        if not self.learned:
            return
        with torch.no_grad():
            self.share.clamp_(0, 1)
            if progress >= _FREEZE and not self.frozen:
                self.settled.copy_((self.share * self.ranges).round())
                self.share.copy_(self.settled / self.ranges.clamp_min(1))
                self.frozen.fill_(True)

    def _inside(self, entries: Tensor) -> Tensor:
        return entries % self.extent if self.wrap else entries.clamp(0, self.extent - 1)

    def extra_repr(self) -> str:
        kind = "learned" if self.learned else "fixed"
        return f"{self.total} from {self.extent}, windows of {self.window}, {kind}{', wrapped' if self.wrap else ''}"


def sample(source: Tensor, axis: int, positions: Positions) -> Tensor:
    """``source`` read at ``positions`` along ``axis``, two taps to an entry."""
    lower, upper, weight = positions
    found = source.index_select(axis, lower)
    if weight is None:
        return found
    weight = weight.to(source.dtype).view(-1, *(1,) * (source.dim() - axis - 1))
    return torch.lerp(found, source.index_select(axis, upper), weight)


class Fold(nn.Module):
    """Sums the input channels that meet the same channel of the epitome: the transpose of sampling."""

    def __init__(self, starts: Starts, groups: int) -> None:
        super().__init__()
        self.starts, self.groups = starts, groups

    def forward(self, x: Tensor) -> Tensor:
        """``(B, groups * total, *sizes)`` to ``(B, groups * extent, *sizes)``."""
        lower, upper, weight = self.starts.flat()
        split = x.unflatten(1, (self.groups, self.starts.total))
        folded = x.new_zeros(x.shape[0], self.groups, self.starts.extent, *x.shape[2:])
        if weight is None:
            return folded.index_add(2, lower, split).flatten(1, 2)
        weight = weight.to(x.dtype).view(-1, *(1,) * (x.dim() - 2))
        return folded.index_add(2, lower, split * (1 - weight)).index_add(2, upper, split * weight).flatten(1, 2)


class Unfold(nn.Module):
    """Reads the output channels from the few that were computed, and adds the site's bias."""

    bias: nn.Parameter | None

    def __init__(self, starts: Starts, groups: int) -> None:
        super().__init__()
        self.starts, self.groups = starts, groups
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, groups * extent, *sizes)`` to ``(B, groups * total, *sizes)``."""
        split = x.unflatten(1, (self.groups, self.starts.extent))
        y = sample(split, 2, self.starts.flat()).flatten(1, 2)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, *(1,) * (y.dim() - 2))


class TiedConv(nn.Module):
    """A convolution whose kernel is formed from an epitome: parameters are saved, MACs are not.

    ``rows`` and ``columns`` say where each block of filters and input channels is read, ``taps`` where its
    window on the epitome's taps begins, per axis.
    """

    bias: nn.Parameter | None

    def __init__(self, site: Site, epitome: Tensor, rows: Starts, columns: Starts, taps: Sequence[Starts]) -> None:
        super().__init__()
        self.site = site
        self.weight = nn.Parameter(epitome)  # (groups * E_out, E_in, *E_taps)
        self.rows, self.columns, self.tap_starts = rows, columns, nn.ModuleList(taps)
        self.register_parameter("bias", None)
        self._kept: tuple[Any, Tensor] | None = None  # in evaluation: what it was formed from, and the kernel

    def taps(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """What makes up the kernel of one group, ``(C_out / groups, C_in / groups, *k)``.

        Entries of the flat epitome, and their weights (None: all 1); all of them are to be added.
        """
        dims, extents = self.site.dims, (self.weight.shape[0] // self.site.groups, *self.weight.shape[1:])
        positions = [
            self.rows(),
            tuple(_swap(part) for part in self.columns()),
            *(starts() for starts in self.tap_starts),
        ]
        axes = [_along(found, axis, dims) for axis, found in enumerate(positions)]
        for corner in itertools.product(*([0] if axis[2] is None else [0, 1] for axis in axes)):
            entries: Any = 0
            weight: Tensor | None = None
            for extent, axis, side in zip(extents, axes, corner, strict=True):
                entries = entries * extent + axis[side]
                if axis[2] is not None:
                    factor = axis[2] if side else 1 - axis[2]
                    weight = factor if weight is None else weight * factor
            yield self._laid_out(entries), None if weight is None else self._laid_out(weight.expand(entries.shape))

    def _laid_out(self, blocks: Tensor) -> Tensor:
        """``(R_out, R_in, b_out, b_in, *k)`` as one kernel, cut to the site's channels."""
        dense = blocks.transpose(1, 2).flatten(2, 3).flatten(0, 1)
        return dense[: self.site.out_channels // self.site.groups, : self.site.in_channels // self.site.groups]

    def kernel(self) -> Tensor:
        """``(C_out, C_in / groups, *k)``."""
        epitome = self.weight.reshape(self.site.groups, -1)
        whole: Tensor | None = None
        for entries, weight in self.taps():
            part = epitome.index_select(1, entries.flatten()).unflatten(1, entries.shape)
            part = part if weight is None else part * weight.to(part.dtype)
            whole = part if whole is None else whole + part
        assert whole is not None
        return whole.flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, *sizes)`` to ``(B, C_out, *sizes)``."""
        return convolve(x, self._formed().to(x.dtype), self.bias, self.site, own_support(self.site), self.site.groups)

    def expanded(self) -> nn.Module:
        """A plain convolution with the kernel as it stands."""
        site = self.site
        layer = Layer(site.in_channels, site.out_channels, site.groups, (True,) * site.dims)
        plain = nn.Sequential(*convolution(site, own_support(site), layer))
        with torch.no_grad():
            plain[-1].weight = nn.Parameter(self.kernel().detach())
        plain[-1].bias = self.bias  # type: ignore[assignment]
        return plain.train(self.training)

    def _formed(self) -> Tensor:
        if self.training or torch.is_grad_enabled():
            self._kept = None
            return self.kernel()
        state = [*self.parameters(), *self.buffers()]
        versions = [(id(t), t._version, t.device, t.dtype) for t in state]
        if self._kept is None or self._kept[0] != versions:
            self._kept = (versions, self.kernel())
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def _swap(part: Tensor | None) -> Tensor | None:
    """Starts of the columns are kept as ``(R_in, [R_out,] b)``; blocks are counted rows first."""
    return part if part is None or part.dim() == 2 else part.transpose(0, 1)


def _along(positions: Any, axis: int, dims: int) -> Any:
    """Positions in the shape ``(R_out, R_in, b_out, b_in, *k)``, 1 where they do not vary."""

    def shaped(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        if part.dim() == 2:  # one start for a whole row or column of blocks
            part = part.unsqueeze(0 if axis == 1 else 1)
        return part.view(*part.shape[:2], *(1,) * axis, part.shape[2], *(1,) * (1 + dims - axis))

    return tuple(shaped(part) for part in positions)


class _Sampled(Operator):
    """What both forms of an epitome share: inheritance and fresh weights."""

    def epitome(self) -> nn.Parameter:
        """The weight that the kernel is sampled from."""
        raise NotImplementedError

    def starts(self) -> list[Starts]:
        """Where its windows begin, axis by axis."""
        return [m for m in self.modules() if isinstance(m, Starts)]

    def solve(self, target: Tensor) -> None:
        """Set the epitome to the best one for the starts as they are, in place."""
        raise NotImplementedError

    def inherit(self, weight: Tensor) -> float:
        """Least squares for the epitome; learned starts and epitome take turns while the error falls.

        Never worse than the same epitome with fixed starts, which is where the turns may begin.
        """
        target = restrict(weight, self.site, own_support(self.site)).double()
        learned = [starts.share for starts in self.starts() if starts.learned]
        ranges = [starts.ranges.double() for starts in self.starts() if starts.learned]
        begin = [share.detach().clone() for share in learned]
        whole = [((s * r).round() / r.clamp_min(1)).to(s) for s, r in zip(begin, ranges, strict=True)]
        best = self._try(begin, target)
        if learned:
            best = min(best, self._try(whole, target), key=lambda found: found[0])
            step = 0.5  # entries of the epitome
            for _ in range(_TURNS):
                moved = self._moved(best, ranges, target, step)
                found = self._try(moved, target)
                best, step = (found, step) if found[0] < best[0] else (best, step / 2)
        self._set(best[1], best[2])
        return self._error(weight)

    def _try(self, shares: list[Tensor], target: Tensor) -> tuple[float, list[Tensor], Tensor]:
        self._set(shares)
        self.solve(target)
        error = float((target - self.compact_kernel().detach().double()).norm())
        return error, shares, self.epitome().detach().clone()

    def _moved(
        self, at: tuple[float, list[Tensor], Tensor], ranges: list[Tensor], target: Tensor, step: float
    ) -> list[Tensor]:
        """The starts of ``at`` moved against the gradient of the error, by at most ``step`` entries."""
        self._set(at[1], at[2])
        learned = [starts.share for starts in self.starts() if starts.learned]
        with torch.enable_grad():
            loss = (target - self.compact_kernel().double()).square().sum()
            gradients = torch.autograd.grad(loss, learned)
        moved = []
        for share, gradient, span in zip(at[1], gradients, ranges, strict=True):
            in_entries = gradient.double() / span.clamp_min(1)
            shift = step * in_entries / in_entries.abs().max().clamp_min(1e-30) / span.clamp_min(1)
            moved.append((share - shift).clamp(0, 1).to(share))
        return moved

    def _set(self, shares: list[Tensor], epitome: Tensor | None = None) -> None:
        with torch.no_grad():
            learned = [starts.share for starts in self.starts() if starts.learned]
            for share, value in zip(learned, shares, strict=True):
                share.copy_(value)
            if epitome is not None:
                self.epitome().copy_(epitome)

    def reset(self, norm: float) -> None:
        """Interpolation shrinks the variance: the norm is that of the sampled kernel."""
        nn.init.kaiming_normal_(self.epitome(), nonlinearity="linear")
        with torch.no_grad():
            self.epitome().mul_(scaled_like(self.compact_kernel(), norm))


_TURNS = 4  # of starts and epitome when a trained kernel is inherited
_ITERATIONS = 30  # of least squares where there is no closed form
_RTOL = 1e-2  # smaller singular values of the sampling count as zero: windows half-way between are nearly singular


class AxisEpitome(_Sampled):
    """Starts per axis: fold the input, run one small convolution, read the filters. Saves MACs too."""

    def __init__(self, site: Site, into: Starts, out: Starts) -> None:
        support, g = own_support(site), site.groups
        super().__init__(site, support, g)
        small = convolution(site, support, Layer(g * into.extent, g * out.extent, g, (True,) * site.dims))
        self.layers = nn.Sequential(Fold(into, g), *small, Unfold(out, g))

    def epitome(self) -> nn.Parameter:
        return cast(nn.Parameter, self.layers[-2].weight)

    def compact_kernel(self) -> Tensor:
        into, out = self.starts()
        epitome = self.epitome().reshape(self.site.groups, out.extent, into.extent, *self.site.kernel_size)
        return sample(sample(epitome, 2, into.flat()), 1, out.flat()).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def solve(self, target: Tensor) -> None:
        into, out = (_matrix(starts) for starts in self.starts())
        wide = target.reshape(self.site.groups, out.shape[0], into.shape[0], -1)
        back, front = (torch.linalg.pinv(m.to(wide), rtol=_RTOL) for m in (out, into))
        best = torch.einsum("eo,goit,fi->geft", back, wide, front)
        with torch.no_grad():
            self.epitome().copy_(best.reshape(self.epitome().shape))

    def release(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            self.layers[-1].bias = nn.Parameter(bias.detach().clone())
        return self.layers


def _matrix(starts: Starts) -> Tensor:
    """The sampling along one axis as a matrix ``(total, extent)``, in float64."""
    with torch.no_grad():
        return sample(torch.eye(starts.extent, dtype=torch.float64, device=starts.share.device), 0, starts.flat())


class BlockEpitome(_Sampled):
    """Starts per block of filters and channels, or windows on the taps: the kernel keeps its rank, MACs stay."""

    def __init__(
        self, site: Site, shape: Sequence[int], rows: Starts, columns: Starts, taps: Sequence[Starts] = ()
    ) -> None:
        super().__init__(site, own_support(site), site.groups)
        if not taps:
            taps = [Starts(k, k, k, "fixed") for k in site.kernel_size]
        epitome = torch.zeros(site.groups * shape[0], *shape[1:])
        self.conv = TiedConv(site, epitome, rows, columns, taps)

    def epitome(self) -> nn.Parameter:
        return self.conv.weight

    def compact_kernel(self) -> Tensor:
        return self.conv.kernel()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def solve(self, target: Tensor) -> None:
        groups = self.site.groups
        wanted = target.reshape(groups, -1).cpu().numpy()
        with torch.no_grad():
            read = [
                (e.flatten().cpu().numpy(), w.flatten().cpu().numpy() if w is not None else None)
                for e, w in self.conv.taps()
            ]
            size = self.epitome().numel() // groups
            rows = np.arange(wanted.shape[1])
            sampling: Any = 0
            for entries, weight in read:
                data = np.ones(len(rows)) if weight is None else weight.astype(np.float64)
                sampling = sampling + scipy.sparse.csr_array((data, (rows, entries)), shape=(len(rows), size))
            best = [
                scipy.sparse.linalg.lsqr(sampling, y, atol=1e-12, btol=1e-12, iter_lim=_ITERATIONS)[0] for y in wanted
            ]
            epitome = self.epitome()
            epitome.copy_(torch.as_tensor(np.stack(best)).view(epitome.shape))

    def release(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            self.conv.bias = nn.Parameter(bias.detach().clone())
        return self.conv


@register_candidate("epitome")
def epitome(
    site: Site,
    *,
    ratio: float | None = None,
    out: float | None = None,
    into: float | None = None,
    taps: float = 1.0,
    window: float = 0.5,
    indexing: str = "per_axis",
    sampling: str = "learned",
    wrap: bool = False,
) -> Operator:
    """A kernel sampled from an epitome that is ``ratio`` times smaller, or by ``out`` and ``into`` per channel axis.

    ``taps`` times as long on the kernel's axes. A ``window`` is a share of the epitome's channels. Groups of the
    site have an epitome each and share the starts.
    """
    _check_options(ratio, out, into, taps, window, indexing, sampling)
    g = site.groups
    full_out, full_in = site.out_channels // g, site.in_channels // g
    if ratio is not None:
        small_out, small_in = _split(ratio, full_out, full_in)
    else:
        small_out, small_in = math.ceil(full_out / (out or 1)), math.ceil(full_in / (into or 1))
    longer = [math.ceil(k * taps) if k > 1 else 1 for k in site.kernel_size]
    if small_out * small_in * math.prod(longer) >= full_out * full_in * math.prod(site.kernel_size):
        raise DoesNotFit(
            f"an epitome of {small_out} x {small_in} x {longer} is no smaller than the kernel of "
            f"{full_out} x {full_in} x {list(site.kernel_size)}"
        )
    check_padding(site, own_support(site))
    b_out, b_in = (_window(e, t, window) for e, t in ((small_out, full_out), (small_in, full_in)))
    for axis, extent, total in (("filters", small_out, full_out), ("channels", small_in, full_in)):
        if wrap and extent == 1 and total > 1:
            raise DoesNotFit(f"an epitome with 1 of {total} {axis} cannot wrap: both taps would meet the same entry")
    blocks_out, blocks_in = math.ceil(full_out / b_out), math.ceil(full_in / b_in)
    per_block = indexing == "per_block"
    rows = _starts(full_out, small_out, b_out, sampling, wrap, blocks_in if per_block else 0, turn=True)
    columns = _starts(full_in, small_in, b_in, sampling, wrap, blocks_out if per_block else 0)
    on_taps = [
        _tap_starts(k, e, blocks_out, blocks_in if per_block else 1, sampling)
        for k, e in zip(site.kernel_size, longer, strict=True)
    ]
    windows = longer != list(site.kernel_size)
    if not any(s.learned for s in (rows, columns, *(on_taps if windows else ()))) and sampling == "learned":
        raise DoesNotFit("no window can move: nothing to learn (sampling=fixed ties without learning)")
    if per_block or windows:
        return BlockEpitome(site, (small_out, small_in, *longer), rows, columns, on_taps if windows else ())
    return AxisEpitome(site, columns, rows)


def _check_options(
    ratio: float | None,
    out: float | None,
    into: float | None,
    taps: float,
    window: float,
    indexing: str,
    sampling: str,
) -> None:
    if (ratio is None) == (out is None and into is None):
        raise SpaceError("an epitome takes either ratio, or out and into: how much smaller it is than the kernel.")
    for name, value in (("ratio", ratio), ("out", out), ("into", into), ("taps", taps)):
        if value is not None and not value >= 1:
            raise SpaceError(f"an epitome's {name} must be at least 1, found {value}.")
    if not 0 < window <= 1:
        raise SpaceError(f"an epitome's window is a share of its channels in (0, 1], found {window}.")
    for option, given, known in (
        ("indexing", indexing, ("per_axis", "per_block")),
        ("sampling", sampling, ("learned", "fixed")),
    ):
        if given not in known:
            raise SpaceError(f"an epitome's {option} is {' or '.join(known)}, found {given!r}.")


def _split(ratio: float, out: int, into: int) -> tuple[int, int]:
    """Both channel axes by the root of ``ratio``, or the one that has room by all of it."""
    root = math.sqrt(ratio)
    small_in = math.ceil(into / min(root, into))
    small_out = math.ceil(out / min(ratio * small_in / into, out))
    return small_out, math.ceil(into / min(ratio * small_out / out, into))


def _window(extent: int, total: int, share: float) -> int:
    """Entries of a window: all where nothing is saved on this axis."""
    return extent if extent == total else max(1, math.ceil(extent * share))


def _starts(
    total: int, extent: int, window: int, sampling: str, wrap: bool, copies: int = 0, turn: bool = False
) -> Starts:
    still = total == extent or (window == extent and not wrap)
    kind: Sampling = "fixed" if still or sampling == "fixed" else "learned"
    return Starts(total, extent, window, kind, wrap=wrap and not still, copies=copies, turn=turn)


def _tap_starts(size: int, extent: int, rows: int, columns: int, sampling: str) -> Starts:
    kind: Sampling = "fixed" if size == extent or sampling == "fixed" else "learned"
    starts = Starts(size * rows, extent, size, kind, copies=columns)
    return starts


def expand(network: nn.Module) -> nn.Module:
    """Put a plain convolution, in place, for every kernel that is formed from an epitome: what other runtimes need."""
    tied = {name: module for name, module in network.named_modules() if isinstance(module, TiedConv)}
    for name, module in tied.items():
        if name == "":
            return module.expanded()
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, module.expanded())
    return network


def starts_of(model: nn.Module) -> list[nn.Parameter]:
    """The learned starts of all epitomes in ``model``: trained with an own learning rate and without weight decay."""
    return [m.share for m in model.modules() if isinstance(m, Starts) and isinstance(m.share, nn.Parameter)]


def advance_starts(model: nn.Module, progress: float) -> None:
    """``Starts.advance`` for all epitomes in ``model``; to be called before every step of a training."""
    for module in model.modules():
        if isinstance(module, Starts):
            module.advance(progress)
