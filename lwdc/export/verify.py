"""Verifying: an exported file against the network it was made from, on fresh inputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lwdc.errors import ExportError
from lwdc.export.reason import reason_of
from lwdc.tracing import Shape

Run = Callable[[Tensor], Tensor]  # inputs (B, *input_size) -> logits (B, num_classes)

RELATIVE_TOLERANCE = 1e-4  # of the largest output, or of 1 where outputs are smaller


class Comparison(NamedTuple):
    """How far outputs lie apart, over all batches; top-1 counts where the margin exceeds the tolerance."""

    max_difference: float
    tolerance: float
    top1_agrees: bool


def verify(
    module: nn.Module,
    run: Run,
    input_size: Shape,
    *,
    batch_sizes: Sequence[int] = (1, 7),
    seed: int = 0,
    name: str = "the exported file",
    class_names: Sequence[str] | None = None,
) -> Comparison:
    """Compare ``run`` with ``module`` on normally distributed inputs, one batch of each size.

    ``module`` is on the CPU, in float32 and in evaluation mode. Raises ``ExportError``, with ``name`` and
    the figure, for outputs that lie further apart than the tolerance, are not finite or rank other
    classes first, and where ``class_names`` are not as many as logits.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, *input_size, generator=generator)
        with torch.no_grad():
            expected = module(images.clone())  # clones: a first layer may work in place
        if class_names is not None and len(class_names) != expected.shape[-1]:
            raise ExportError(
                f"there are {len(class_names)} class names, and the network gives {expected.shape[-1]} logits; "
                "give one a class."
            )
        pairs.append((expected, _run(run, images, expected, name)))
    comparison = _compare(pairs)
    if not comparison.max_difference <= comparison.tolerance:
        raise ExportError(
            f"{name} does not compute what the network does: outputs differ by up to "
            f"{comparison.max_difference:.3g}, at most {comparison.tolerance:.3g} is accepted. It must "
            "not be used; leave its format out of export.formats."
        )
    if not comparison.top1_agrees:
        raise ExportError(
            f"{name} ranks other classes first than the network does, although outputs differ by at most "
            f"{comparison.max_difference:.3g}. It must not be used; leave its format out of export.formats."
        )
    return comparison


def _run(run: Run, images: Tensor, expected: Tensor, name: str) -> Tensor:
    try:
        with torch.no_grad():
            found = run(images.clone())
    # Whatever a runtime may raise; that it raises is the finding.
    except Exception as error:
        raise ExportError(
            f"{name} cannot run a batch of {len(images)}: {reason_of(error)}. It must not be used; "
            "leave its format out of export.formats."
        ) from error
    if found.shape != expected.shape:
        raise ExportError(f"{name} returns {tuple(found.shape)}, the network {tuple(expected.shape)}.")
    for who, outputs in (("the network", expected), (name, found)):
        if not outputs.isfinite().all():
            raise ExportError(
                f"{who} returns values that are not finite for a batch of {len(images)}; check the weights."
            )
    return found


def _compare(pairs: Sequence[tuple[Tensor, Tensor]]) -> Comparison:
    difference = max(float((expected - found).abs().max()) for expected, found in pairs)
    tolerance = RELATIVE_TOLERANCE * max(1.0, *(float(expected.abs().max()) for expected, _ in pairs))
    agrees = all(_top1_agrees(expected, found, tolerance) for expected, found in pairs)
    return Comparison(difference, tolerance, agrees)


def _top1_agrees(expected: Tensor, found: Tensor, tolerance: float) -> bool:
    if expected.shape[-1] < 2:
        return True
    best, second = expected.topk(2, dim=-1).values.unbind(-1)
    clear = best - second > tolerance
    return bool((expected.argmax(-1) == found.argmax(-1))[clear].all())
