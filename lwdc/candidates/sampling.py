"""Sampling from an epitome: where its windows begin, and the modules that compute with it and stay when released."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lwdc.candidates.base import with_settings
from lwdc.candidates.chain import Layer, convolution
from lwdc.geometry import convolve, own_support
from lwdc.sites import Site
from lwdc.tracing import replace

_FREEZE = 0.5  # share of a training at which starts become whole again

Sampling = Literal["learned", "fixed"]
Positions = tuple[Tensor, Tensor, Tensor | None]  # lower and upper entry, weight of the upper (None: all lower)
Windows = tuple[Tensor, Tensor | None]  # entries that each window reaches; how far it lies between (None: not)


class Starts(nn.Module):
    """Where the windows on one axis of an epitome begin.

    ``ceil(total / window)`` windows of ``window`` entries each, laid end to end and cut to ``total``, make
    up that axis of the kernel. A start is a share in [0, 1] of the range that keeps its window inside
    the ``extent``; with ``wrap`` of the whole extent, as windows go on at its other end. At first the windows
    are spread so that every entry of the axis is used. Fixed starts are whole and no parameters. With
    ``copies`` every window has so many starts, one for each block of another axis; with ``turn`` each copy
    begins with another window, because blocks that are twins cost a kernel its rank. ``begin`` says where they
    begin instead, in entries: ``(windows, [copies])``.

    All begin whole. Learned starts are trained off the integers, until ``advance`` rounds them for good.
    """

    share: nn.Parameter  # if learned
    frozen: Tensor
    settled: Tensor
    ranges: Tensor
    _reach: Tensor

    def __init__(
        self, total: int, extent: int, window: int, sampling: Sampling,
        *, wrap: bool = False, copies: int = 0, turn: bool = False, begin: Tensor | None = None,
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
        if begin is not None:
            starts, ranges = begin.float(), ranges.view(-1, *(1,) * (begin.dim() - 1)).expand_as(begin)
        starts = starts.round()
        share = starts / ranges.clamp_min(1)
        self.still = window == extent and begin is None  # every window is the whole, from its first entry on
        # Kept in full precision as shares are: a product with whole numbers would have to convert them every time.
        self.register_buffer("ranges", ranges.float().contiguous(), persistent=False)
        # Whole numbers are kept as such: a network in half precision still reads the same entries.
        self.register_buffer("_reach", torch.arange(window + 1), persistent=False)
        self.register_buffer("settled", starts.long(), persistent=self.learned)  # where fixed, or once frozen
        if self.learned:
            self.share = nn.Parameter(share)
            self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self.moves = self.learned  # until frozen; kept beside the buffer, which is slow to ask on a GPU

    def forward(self) -> Windows:
        """The entries that the windows reach, ``(count, [copies,] window)``.

        While starts move it is one more: a window lies between its entries and the next ones, as far as
        ``(count, [copies])`` says.
        """
        entries, weight = windows([self])
        return entries[0], None if weight is None else weight[0]

    def flat(self) -> Positions:
        """The same by entry, laid end to end and cut: shape ``(total,)``."""
        entries, weight = self()
        if weight is None:
            whole = entries.flatten()[: self.total]
            return whole, whole, None
        lower, upper = (part.flatten()[: self.total] for part in (entries[..., :-1], entries[..., 1:]))
        return lower, upper, weight.unsqueeze(-1).expand(*weight.shape, self.window).flatten()[: self.total]

    @property
    def tiles(self) -> bool:
        """Whether it repeats the whole epitome a whole number of times."""
        return not self.learned and self.still and self.total % self.extent == 0

    @property
    def alike(self) -> Hashable:
        """What starts share that differ in nothing but where they are."""
        return self.total, self.extent, self.window, self.wrap, self.still, self.moves, self.settled.shape

    def advance(self, progress: float) -> None:
        """Between steps, in place: keep learned starts inside; halfway through a training round them for good."""
        if not self.learned:
            return
        with torch.no_grad():
            self.share.clamp_(0, 1)
            if progress >= _FREEZE and self.moves:
                self.settled.copy_((self.share * self.ranges).round())
                self.share.copy_(self.settled / self.ranges.clamp_min(1))
                self.frozen.fill_(True)
                self.moves = False

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.moves = self.learned and not bool(self.frozen)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Starts":
        """Shares stay in full precision, as the positions that they stand for would move."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrow = moved.is_floating_point() and moved.element_size() < 4
            return tensor.to(moved.device) if narrow else moved

        super()._apply(kept, recurse)
        return self

    def _inside(self, entries: Tensor) -> Tensor:
        return entries % self.extent if self.wrap else entries.clamp(0, self.extent - 1)

    def extra_repr(self) -> str:
        kind = "learned" if self.learned else "fixed"
        return f"{self.total} from {self.extent}, windows of {self.window}, {kind}{', wrapped' if self.wrap else ''}"


def windows(alike: Sequence[Starts]) -> Windows:
    """What each of ``alike`` says of its windows, stacked: ``(len(alike), count, [copies,] window)``."""
    first = alike[0]
    if not first.moves:
        settled = torch.stack([starts.settled for starts in alike])
        return first._inside(settled.unsqueeze(-1) + first._reach[: first.window]), None
    starts = torch.stack([starts.share for starts in alike]) * first.ranges
    with torch.no_grad():
        inside = torch.minimum(starts.clamp_min(0), first.ranges)
        lower = inside.floor()
        if not first.wrap:  # at the end it lies wholly on the next entries: its slope is that of the way back
            lower = torch.minimum(lower, (first.ranges - 1).clamp_min(0))
        offset = starts - inside + lower  # a constant, so that the gradient passes where a start is outside
        entries = first._inside(lower.long().unsqueeze(-1) + first._reach)
    return entries, starts - offset


def sample(source: Tensor, axis: int, starts: Starts) -> Tensor:
    """``source`` read along ``axis`` where the windows lie, end to end and cut: two taps to an entry."""
    entries, weight = starts()
    if weight is None:
        return source.index_select(axis, entries.flatten()[: starts.total])
    weight = weight.view(-1, *(1,) * (source.dim() - axis))
    found = source.index_select(axis, entries.flatten()).unflatten(axis, entries.shape)
    return blend(found, axis + 1, weight).flatten(axis, axis + 1).narrow(axis, 0, starts.total)


def blend(source: Tensor, axis: int, weight: Tensor) -> Tensor:
    """Every entry along ``axis`` blended with the next, one entry less; ``weight``, the next one's, broadcasts."""
    size = source.shape[axis] - 1
    return torch.lerp(source.narrow(axis, 0, size), source.narrow(axis, 1, size), weight.to(source.dtype))


def form(site: Site, epitomes: Sequence[Tensor], axes: Sequence[Sequence[Starts]]) -> Tensor:
    """The kernels of sites alike, ``(len(epitomes), C_out, C_in / groups, *k)``, each sampled from its epitome.

    ``axes`` holds, for filters, channels and taps, the starts of each: by block or for a whole row or column of them;
    without those of taps blocks read these as they lie.
    """
    if all(starts[0].still for starts in axes[2:]):
        axes = axes[:2]
    n, g, tail = len(epitomes), site.groups, epitomes[0].shape[len(axes) :]
    entries: Any = 0
    blends = []
    for axis, starts in enumerate(axes):
        reached, weight = windows(starts)
        entries = entries * starts[0].extent + _by_block(reached, axis, len(axes))
        if weight is not None:
            blends.append((4 + axis, _by_block(weight.unsqueeze(-1), axis, 2 + site.dims).unsqueeze(1)))
    entries = entries.unsqueeze(1)
    if n * g > 1:  # the epitomes lie one after the other, groups within each
        size = math.prod(starts[0].extent for starts in axes)
        first = torch.arange(0, n * g * size, size, device=entries.device)
        entries = entries + first.view(n, g, *(1,) * (entries.dim() - 2))
    # Every block is read once, one entry wider than it is where it lies between: (n, g, R_out, R_in, b_out, b_in, *k)
    source = torch.stack(list(epitomes)) if n > 1 else epitomes[0]
    blocks = source.reshape(-1, *tail).index_select(0, entries.flatten()).unflatten(0, entries.shape)
    for axis, weight in blends:
        blocks = blend(blocks, axis, weight)
    dense = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return dense[:, :, : site.out_channels // g, : site.in_channels // g].flatten(1, 2)


def _by_block(part: Tensor, axis: int, axes: int) -> Tensor:
    """What the ``Starts`` of an axis say by window, as ``(n, R_out, R_in, ...)`` with one more for each of ``axes``.

    1 where it does not vary.
    """
    if part.dim() == 3:  # one start for a whole row or column of blocks
        part = part.unsqueeze(1 if axis == 1 else 2)
    elif axis == 1:  # those of the columns count the columns first
        part = part.transpose(1, 2)
    return part.reshape(*part.shape[:3], *(1,) * axis, part.shape[3], *(1,) * (axes - 1 - axis))


class Fold(nn.Module):
    """Sums the input channels that meet the same channel of the epitome: the transpose of sampling."""

    def __init__(self, starts: Starts, groups: int, dims: int) -> None:
        super().__init__()
        self.starts, self.groups, self.dims = starts, groups, dims

    def forward(self, x: Tensor) -> Tensor:
        """``(..., groups * total, *sizes)`` to ``(..., groups * extent, *sizes)``, with ``dims`` sizes."""
        lower, upper, weight = self.starts.flat()
        axis = x.dim() - self.dims  # of the channels within a group
        split = x.unflatten(axis - 1, (self.groups, self.starts.total))
        if self.starts.tiles:
            return split.unflatten(axis, (-1, self.starts.extent)).sum(axis).flatten(axis - 1, axis)
        shape = list(split.shape)
        shape[axis] = self.starts.extent
        folded = x.new_zeros(shape)
        if weight is None:
            return folded.index_add(axis, lower, split).flatten(axis - 1, axis)
        weight = weight.to(x.dtype).view(-1, *(1,) * self.dims)
        folded = folded.index_add(axis, lower, split * (1 - weight)).index_add(axis, upper, split * weight)
        return folded.flatten(axis - 1, axis)


class Unfold(nn.Module):
    """Reads the output channels from the few that were computed, and adds the site's bias."""

    bias: nn.Parameter | None

    def __init__(self, starts: Starts, groups: int, dims: int) -> None:
        super().__init__()
        self.starts, self.groups, self.dims = starts, groups, dims
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., groups * extent, *sizes)`` to ``(..., groups * total, *sizes)``, with ``dims`` sizes."""
        axis = x.dim() - self.dims
        split = x.unflatten(axis - 1, (self.groups, self.starts.extent))
        if self.starts.tiles:
            copies = [1] * split.dim()
            copies[axis] = self.starts.total // self.starts.extent
            y = split.repeat(copies).flatten(axis - 1, axis)
        else:
            y = sample(split, axis, self.starts).flatten(axis - 1, axis)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, *(1,) * self.dims)


class TiedConv(nn.Module):
    """A convolution whose kernel is formed from an epitome: parameters are saved, MACs are not.

    ``rows`` and ``columns`` say where each block of filters and input channels is read, ``taps`` where its
    window on the epitome's taps begins, per axis. In evaluation the kernel is kept until one of these changes; a
    change through ``.data`` goes unnoticed.
    """

    bias: nn.Parameter | None
    reuses = False  # whether running it needs no kernel

    def __init__(self, site: Site, epitome: Tensor, rows: Starts, columns: Starts, taps: Sequence[Starts]) -> None:
        super().__init__()
        self.site = site
        self.weight = nn.Parameter(epitome)  # (groups * E_out, E_in, *E_taps)
        self.rows, self.columns, self.tap_starts = rows, columns, nn.ModuleList(taps)
        self.register_parameter("bias", None)
        self._kept: tuple[Any, Tensor] | None = None  # in evaluation: what it was formed from, and the kernel

    def kernel(self, epitome: Tensor | None = None) -> Tensor:
        """``(C_out, C_in / groups, *k)``, sampled from the weight, or from another ``epitome`` of its shape."""
        return form(self.site, [self.weight if epitome is None else epitome], [[starts] for starts in self.axes])[0]

    @property
    def axes(self) -> list[Starts]:
        """The starts of filters, channels and taps."""
        return [self.rows, self.columns, *cast(list[Starts], list(self.tap_starts))]

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
        return with_settings(plain[0] if len(plain) == 1 else plain, self).train(self.training)

    def _formed(self) -> Tensor:
        state = [*self.parameters(), *self.buffers()]
        if self.training or torch.is_grad_enabled() or any(t.is_inference() for t in state):
            self._kept = None
            return self.kernel()
        # The tensors themselves: the identity of one that is gone may be another's.
        if self._kept is None or not _unchanged(state, self._kept[0]):
            self._kept = [(t, t._version, t.device, t.dtype) for t in state], self.kernel()
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def _unchanged(state: Sequence[Tensor], before: Sequence[tuple[Tensor, int, torch.device, torch.dtype]]) -> bool:
    return len(state) == len(before) and all(
        now is then and (now._version, now.device, now.dtype) == (version, device, dtype)
        for now, (then, version, device, dtype) in zip(state, before, strict=True)
    )


def expand(network: nn.Module) -> nn.Module:
    """Put a plain convolution, in place, for every kernel that is formed from an epitome: what other runtimes need."""
    plain: dict[nn.Module, nn.Module] = {
        module: module.expanded() for module in network.modules() if isinstance(module, TiedConv) and not module.reuses
    }
    replace(network, plain)
    return plain.get(network, network)


def starts_of(model: nn.Module) -> list[nn.Parameter]:
    """The learned starts of all epitomes in ``model``: trained with an own learning rate and without weight decay."""
    return [m.share for m in model.modules() if isinstance(m, Starts) and m.learned]


def advance_starts(model: nn.Module, progress: float) -> None:
    """``Starts.advance`` for all epitomes in ``model``; to be called before every step of a training."""
    for module in model.modules():
        if isinstance(module, Starts):
            module.advance(progress)
