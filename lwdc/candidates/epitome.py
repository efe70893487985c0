"""Neural epitome search: a kernel sampled from a smaller tensor, the epitome, by starts that are learned.

Zhou et al., "Neural Epitome Search for Architecture-Agnostic Network Compression", ICLR 2020. The idea, a
learned index and a sampler that interpolates are the paper's. Two taps an entry, starts as plain parameters (its code
has a learner that looks at features), how they begin, and inheritance from a trained kernel are ours; its routing map,
of which we know no more than the name, is left out.
"""

import math
from collections.abc import Hashable, Sequence
from typing import cast

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, own_bias, restrict, scaled_like
from lwdc.candidates.chain import Layer, convolution
from lwdc.candidates.registry import register_candidate
from lwdc.candidates.sampling import Fold, Sampling, Starts, TiedConv, Unfold, form, sample
from lwdc.errors import SpaceError
from lwdc.geometry import own_support
from lwdc.sites import Site


class Sampled(Operator):
    """A kernel sampled from fewer weights: inheritance and fresh weights."""

    def epitome(self) -> nn.Parameter:
        """The weight that the kernel is sampled from."""
        raise NotImplementedError

    def starts(self) -> list[Starts]:
        """Where its windows begin, axis by axis."""
        return [m for m in self.modules() if isinstance(m, Starts)]

    def axes(self) -> list[Starts]:
        """Its starts as ``form`` takes them; none where it forms its kernel in another way."""
        return []

    def alike(self) -> Hashable:
        site, axes, epitome = self.site, self.axes(), self.epitome()
        if not axes:
            return None
        shapes = site.out_channels, site.in_channels, site.groups, epitome.shape
        return shapes, tuple(starts.alike for starts in axes), epitome.dtype, epitome.device

    def compact_kernels(self, others: Sequence[Operator]) -> Tensor:
        operators = [self, *cast(Sequence[Sampled], others)]
        epitomes = [op.epitome() for op in operators]
        return form(self.site, epitomes, list(zip(*(op.axes() for op in operators), strict=True))).flatten(0, 1)

    def solve(self, target: Tensor) -> None:
        """Set the epitome to the best one for the starts as they are, in place.

        Where every entry of the kernel is one of the epitome's, that is the mean of those that share it.
        """
        with torch.enable_grad():
            kernel = self.compact_kernel()
            shared = [
                torch.autograd.grad(kernel, self.epitome(), of.to(kernel), retain_graph=True)[0].double()
                for of in (target, torch.ones_like(target))
            ]
        with torch.no_grad():
            self.epitome().copy_(shared[0] / shared[1].clamp_min(1))

    def inherit(self, weight: Tensor) -> float:
        """Least squares for the epitome; starts that still move take turns with it while the error falls.

        They move by whole entries, because they begin whole. Never worse than where the turns begin: with fixed starts.
        """
        target = restrict(weight, self.site, own_support(self.site)).double()
        learned = self._moving()
        ranges = [starts.ranges.double() for starts in self.starts() if starts.moves]
        begin = [share.detach().clone() for share in learned]
        best = self._try(begin, target)
        if learned:
            step = 1.0  # entries of the epitome
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
        """The starts of ``at`` moved against the gradient of the error, by at most ``step`` entries, to whole ones."""
        self._set(at[1], at[2])
        learned = self._moving()
        with torch.enable_grad():
            loss = (target - self.compact_kernel().double()).square().sum()
            gradients = torch.autograd.grad(loss, learned)
        moved = []
        for share, gradient, span in zip(at[1], gradients, ranges, strict=True):
            in_entries = gradient.double() / span.clamp_min(1)
            shift = step * in_entries / in_entries.abs().max().clamp_min(1e-30)
            whole = ((share.double() * span).round() - shift + 0.5).floor()
            moved.append((whole / span.clamp_min(1)).clamp(0, 1).to(share))
        return moved

    def _set(self, shares: list[Tensor], epitome: Tensor | None = None) -> None:
        with torch.no_grad():
            for share, value in zip(self._moving(), shares, strict=True):
                share.copy_(value)
            if epitome is not None:
                self.epitome().copy_(epitome)

    def _moving(self) -> list[nn.Parameter]:
        return [starts.share for starts in self.starts() if starts.moves]

    def reset(self, norm: float) -> None:
        """Interpolation shrinks the variance: the norm is that of the sampled kernel."""
        nn.init.kaiming_normal_(self.epitome(), nonlinearity="linear")
        with torch.no_grad():
            self.epitome().mul_(scaled_like(self.compact_kernel(), norm))


_TURNS = 4  # of starts and epitome when a trained kernel is inherited
_ITERATIONS = 30  # of least squares where there is no closed form
_RTOL = 1e-2  # smaller singular values of the sampling count as zero: windows half-way between are nearly singular


class AxisEpitome(Sampled):
    """Starts per axis: fold the input, run one small convolution, read the filters. Saves MACs too."""

    def __init__(self, site: Site, into: Starts, out: Starts) -> None:
        support, g = own_support(site), site.groups
        super().__init__(site, support, g)
        small = convolution(site, support, Layer(g * into.extent, g * out.extent, g, (True,) * site.dims))
        self.layers = nn.Sequential(Fold(into, g, site.dims), *small, Unfold(out, g, site.dims))

    def epitome(self) -> nn.Parameter:
        return cast(nn.Parameter, self.layers[-2].weight)

    def axes(self) -> list[Starts]:
        into, out = self.starts()
        return [out, into]

    def compact_kernel(self) -> Tensor:
        into, out = self.starts()
        epitome = self.epitome().reshape(self.site.groups, out.extent, into.extent, *self.site.kernel_size)
        return sample(sample(epitome, 2, into), 1, out).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def solve(self, target: Tensor) -> None:
        into, out = (_matrix(starts) for starts in self.starts())
        wide = target.reshape(self.site.groups, out.shape[0], into.shape[0], -1)
        back, front = (_inverse(m.to(wide)) for m in (out, into))
        best = torch.einsum("eo,goit,fi->geft", back, wide, front)
        with torch.no_grad():
            self.epitome().copy_(best.reshape(self.epitome().shape))

    def release(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            self.layers[-1].bias = own_bias(bias)
        return self.layers


def _inverse(sampling: Tensor) -> Tensor:
    """The pseudoinverse of ``(total, extent)``, by eigenvectors of the Gram matrix: far cheaper than an SVD."""
    values, vectors = torch.linalg.eigh(sampling.T @ sampling)
    kept = values > _RTOL**2 * values[-1]
    return (vectors * torch.where(kept, 1 / values, 0)) @ (sampling @ vectors).T


def _matrix(starts: Starts) -> Tensor:
    """The sampling along one axis as a matrix ``(total, extent)``, in float64."""
    with torch.no_grad():
        return sample(torch.eye(starts.extent, dtype=torch.float64, device=starts.settled.device), 0, starts)


class BlockEpitome(Sampled):
    """Starts per block of filters and channels, or windows on the taps: the kernel keeps its rank, MACs stay."""

    def __init__(self, site: Site, shape: Sequence[int], rows: Starts, columns: Starts, taps: Sequence[Starts]) -> None:
        super().__init__(site, own_support(site), site.groups)
        epitome = torch.zeros(site.groups * shape[0], *shape[1:])
        self.conv = TiedConv(site, epitome, rows, columns, taps)

    def epitome(self) -> nn.Parameter:
        return self.conv.weight

    def axes(self) -> list[Starts]:
        return self.conv.axes

    def compact_kernel(self) -> Tensor:
        return self.conv.kernel()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def solve(self, target: Tensor) -> None:
        if not any(starts.learned for starts in self.starts()):
            return super().solve(target)
        epitome = self.epitome()
        with torch.enable_grad():
            entries = torch.zeros_like(epitome, dtype=torch.float64, requires_grad=True)
            kernel = self.conv.kernel(entries)

        def sampled(flat: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return self.conv.kernel(torch.as_tensor(flat).to(entries).view_as(entries)).flatten().cpu().numpy()

        def collected(flat: np.ndarray) -> np.ndarray:  # the transpose
            back = torch.as_tensor(flat).to(kernel).view_as(kernel)
            return torch.autograd.grad(kernel, entries, back, retain_graph=True)[0].flatten().cpu().numpy()

        sampling = scipy.sparse.linalg.LinearOperator(
            (kernel.numel(), entries.numel()), matvec=sampled, rmatvec=collected, dtype=np.float64
        )
        wanted = target.flatten().cpu().numpy()
        best = scipy.sparse.linalg.lsqr(sampling, wanted, atol=1e-12, btol=1e-12, iter_lim=_ITERATIONS)[0]
        with torch.no_grad():
            epitome.copy_(torch.as_tensor(best).view_as(epitome))

    def release(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            self.conv.bias = own_bias(bias)
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

    ``taps`` times as long on the kernel's axes, on both of which windows begin further along from row to row of
    blocks: above 1 they leave a good part of the epitome unread at first, for good where they are fixed. A ``window``
    is a share of the epitome's channels. Groups of the site have an epitome each and share the starts.
    """
    _check_options(ratio, out, into, taps, window, indexing, sampling, wrap)
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
        _starts(k * blocks_out, e, k, sampling, wrap=False, copies=blocks_in if per_block else 1)
        for k, e in zip(site.kernel_size, longer, strict=True)
    ]
    if not any(starts.learned for starts in (rows, columns, *on_taps)) and sampling == "learned":
        raise DoesNotFit("no window can move: nothing to learn (sampling=fixed ties without learning)")
    if per_block or longer != list(site.kernel_size):
        return BlockEpitome(site, (small_out, small_in, *longer), rows, columns, on_taps)
    return AxisEpitome(site, columns, rows)


def _check_options(
    ratio: float | None,
    out: float | None,
    into: float | None,
    taps: float,
    window: float,
    indexing: str,
    sampling: str,
    wrap: bool,
) -> None:
    if (ratio is None) == (out is None and into is None):
        raise SpaceError("an epitome takes either ratio, or out and into: how much smaller it is than the kernel.")
    for name, value in (("ratio", ratio), ("out", out), ("into", into), ("taps", taps)):
        if value is not None and not 1 <= value < math.inf:
            raise SpaceError(f"an epitome's {name} must be a number of at least 1, found {value}.")
    if not 0 < window <= 1:
        raise SpaceError(f"an epitome's window is a share of its channels in (0, 1], found {window}.")
    if not isinstance(wrap, bool):
        raise SpaceError(f"an epitome's wrap is true or false, found {wrap!r}.")
    if sampling == "wsnet":
        raise SpaceError("WSNet's sampling is an operator of its own: {op: wsnet, ratio: ...}.")
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
