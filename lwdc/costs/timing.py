"""Timing: networks and layers run side by side, so that a drift of the machine meets all of them alike."""

import math
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lwdc.tracing import evaluating
from lwdc.translating import translate

Run = Callable[[int], float]  # executes so many times; the seconds that it took

_SLICE = 0.004  # seconds of one round of one run, at least


def side_by_side(runs: Sequence[Run], *, rounds: int = 9, budget_s: float = math.inf) -> np.ndarray:
    """Seconds of one execution, by round and run: ``(rounds, len(runs))``; in every round each gets its turn.

    Once ``budget_s`` seconds are over no round is begun but the first, which two executions of every run precede.
    """
    deadline = time.perf_counter() + budget_s
    counts = []
    for run in runs:
        run(1)
        counts.append(max(1, round(_SLICE / max(run(1), 1e-9))))
    found: list[list[float]] = []
    while len(found) < rounds and (not found or time.perf_counter() < deadline):
        found.append([run(count) / count for run, count in zip(runs, counts, strict=True)])
    return np.array(found)


def without_drift(rounds: np.ndarray) -> np.ndarray:
    """The typical seconds of every run: medians over the rounds, each freed of what slowed all runs in it alike."""
    typical = np.median(rounds, axis=0)
    drift = np.median(rounds / typical, axis=1, keepdims=True)
    return np.asarray(np.median(rounds / drift, axis=0))


def torch_run(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
    """``module`` in evaluation mode on each of the inputs, where they lie; on a GPU, events are timed."""

    def run(times: int) -> float:
        with evaluating(module), torch.inference_mode():
            return seconds_of(lambda: [module(x) for x in inputs], times, inputs[0].device)

    return run


def seconds_of(once: Callable[[], object], times: int, device: torch.device) -> float:
    """What ``times`` executions take; on a GPU, events are timed."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(times):
            once()
        return time.perf_counter() - begin
    with torch.cuda.device(device):  # events are of the current device
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            once()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def onnx_run(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
    """``module`` in ONNX Runtime on the CPU, on as many threads as torch uses; a session for each of the inputs.

    Raises whatever torch's exporter or ONNX Runtime raise.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    bound = []
    with evaluating(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in inputs:
            program = translate(torch.export.export(module, (x,)))
            session = onnxruntime.InferenceSession(
                program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            binding = session.io_binding()
            binding.bind_cpu_input(session.get_inputs()[0].name, x.numpy())
            for output in session.get_outputs():
                binding.bind_output(output.name)
            bound.append((session, binding))

    def run(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            for session, binding in bound:
                session.run_with_iobinding(binding)
        return time.perf_counter() - begin

    return run


def device_name(device: torch.device) -> str:
    """What the device calls itself: of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
