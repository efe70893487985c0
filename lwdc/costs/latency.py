"""Latency of a module, measured on this machine."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

from lwdc.tracing import Shape, evaluating


def measure_ms(
    module: nn.Module,
    input_shapes: Sequence[Shape],
    *,
    batch: int = 1,
    repeats: int = 15,
    budget_s: float = 1.0,
    device: torch.device | None = None,
) -> float:
    """Median milliseconds of a forward pass in evaluation mode, summed over the inputs given.

    After a warm-up, at most ``repeats`` rounds or ``budget_s`` seconds. The module runs where its
    parameters lie, without any on ``device``; on a GPU, events are timed. Its mode is restored.
    """
    reference = next(module.parameters(), torch.zeros((), device=device))
    device, dtype = reference.device, reference.dtype
    inputs = [torch.randn(batch, *shape, device=device, dtype=dtype) for shape in input_shapes]
    with evaluating(module), torch.inference_mode():
        return _median(module, inputs, device, repeats, budget_s)


def _median(
    module: nn.Module, inputs: Sequence[torch.Tensor], device: torch.device, repeats: int, budget_s: float
) -> float:
    rounds: list[float] = []
    deadline = time.perf_counter() + budget_s
    for index in range(repeats + _WARMUP):
        start = time.perf_counter()
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        for x in inputs:
            module(x)
        if device.type == "cuda":
            end.record()
            end.synchronize()
            elapsed = begin.elapsed_time(end)
        else:
            elapsed = (time.perf_counter() - start) * 1000
        if index >= _WARMUP:
            rounds.append(elapsed)
            if time.perf_counter() > deadline:
                break
    return statistics.median(rounds)


_WARMUP = 3
