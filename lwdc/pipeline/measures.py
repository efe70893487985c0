"""What a finished network is worth: size, speed, and what became of every site."""

import dataclasses
import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

import lwdc
from lwdc.architecture import Architecture
from lwdc.candidates import label
from lwdc.costs import measure_ms
from lwdc.costs.timing import Run, device_name, seconds_of, side_by_side, without_drift
from lwdc.counting import count_macs, count_params
from lwdc.errors import ExportError, LwdcError
from lwdc.export import run_onnx, to_onnx
from lwdc.export.staging import staging
from lwdc.records import Measures, SiteResult
from lwdc.space import Plan
from lwdc.tensors import untied
from lwdc.tracing import Shape


def measure_network(network: nn.Module, input_size: Shape, batches: Sequence[int]) -> Measures:
    """Counts, bytes of the weights and measured latency of ``network``, where it lies."""
    return Measures(
        macs=count_macs(network, [input_size]),
        params=count_params(network),
        bytes=len(to_bytes(untied(network.state_dict())[0])),
        latency_ms={str(batch): measure_ms(network, [input_size], batch=batch) for batch in batches},
    )


def measure_both(
    original: nn.Module, network: nn.Module, file: Path | None, input_size: Shape, batches: Sequence[int]
) -> tuple[Measures, Measures, str | None]:
    """Both networks, in ONNX Runtime too where ``network`` has a ``file`` for it; and a warning if that cannot be.

    For that ``original`` is exported as well, beside the file for as long as it takes.
    """
    before, after = (measure_network(model, input_size, batches) for model in (original, network))
    if file is None or not batches:
        return before, after, None
    try:
        with staging(file.parent) as stage:
            to_onnx(original, stage / file.name, input_size)
            old, new = measure_files([run_onnx(stage / file.name), run_onnx(file)], input_size, batches)
    except Exception as error:  # whatever ONNX Runtime raises: a run that is done but for this shall not fail
        if isinstance(error, LwdcError) and not isinstance(error, ExportError):
            raise  # a full disk, a signal
        reason = re.split("[.;] [Ll]eave ", str(error))[0]  # whose advice is on the network's own file
        return before, after, f"{_UNTIMED} {reason}"
    return dataclasses.replace(before, onnx_ms=old), dataclasses.replace(after, onnx_ms=new), None


_UNTIMED = "nothing was timed in ONNX Runtime, for which the baseline is exported too:"


def measure_files(
    runs: Sequence[Callable[[Tensor], Tensor]], input_size: Shape, batches: Sequence[int]
) -> list[dict[str, float]]:
    """Milliseconds of each of ``runs`` on the CPU by batch size, taken in turns."""

    def on(run: Callable[[Tensor], Tensor], inputs: Tensor) -> Run:
        return lambda times: seconds_of(lambda: run(inputs), times, inputs.device)

    found: list[dict[str, float]] = [{} for _ in runs]
    for batch in batches:
        inputs = torch.randn(batch, *input_size)
        seconds = without_drift(side_by_side([on(run, inputs) for run in runs], budget_s=_LONGEST))
        for of_run, taken in zip(found, seconds, strict=True):
            of_run[str(batch)] = float(taken) * 1000
    return found


_LONGEST = 5.0  # seconds, after which nothing more is timed at a batch size


def measure_sites(
    plan: Plan,
    original: nn.Module,
    network: nn.Module,
    architecture: Architecture,
    probabilities: dict[str, float],
    errors: dict[str, dict[str, float]],
) -> tuple[SiteResult, ...]:
    """Every site before and after; one that kept its original is timed once."""
    results = []
    device = next(original.parameters()).device
    for choice in plan.choices:
        name, shapes = choice.site.name, [shape for shape, _ in choice.site.calls]
        before, after = original.get_submodule(name), network.get_submodule(name)
        candidate = architecture.choices[name]
        same = candidate["op"] == "original"
        ms_before = _timed(before, shapes, device)
        results.append(
            SiteResult(
                site=name,
                operator=label(candidate),
                probability=probabilities[name],
                macs_before=count_macs(before, shapes),
                macs_after=count_macs(after, shapes),
                params_before=count_params(before),
                params_after=count_params(after),
                ms_before=ms_before,
                inheritance_error=errors[name].get(label(candidate)),
                ms_after=ms_before if same else _timed(after, shapes, device),
            )
        )
    return tuple(results)


def _timed(module: nn.Module, shapes: Sequence[Shape], device: torch.device) -> float:
    return measure_ms(module, shapes, repeats=9, budget_s=0.2, device=device)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, so that a figure can be placed."""
    return {
        "lwdc": lwdc.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "cpu": device_name(torch.device("cpu")),  # ONNX Runtime's
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # installed from a wheel
