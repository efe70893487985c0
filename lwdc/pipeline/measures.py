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
from lwdc.costs.timing import Run, device_name, seconds_of, side_by_side, torch_run, without_drift
from lwdc.counting import count_macs, count_params
from lwdc.errors import ExportError, LwdcError
from lwdc.export import run_onnx, to_onnx
from lwdc.export.staging import staging
from lwdc.records import Measures, SiteResult
from lwdc.space import Plan
from lwdc.tensors import untied
from lwdc.tracing import Shape


def measure_networks(networks: Sequence[nn.Module], input_size: Shape, batches: Sequence[int]) -> list[Measures]:
    """Counts, bytes of the weights and latency of each network, measured in turns where they lie."""

    def on(network: nn.Module) -> Callable[[Tensor], Run]:
        return lambda inputs: torch_run(network, [inputs.to(_like(network))])

    return [
        Measures(
            macs=count_macs(network, [input_size]),
            params=count_params(network),
            bytes=len(to_bytes(untied(network.state_dict())[0])),
            latency_ms=taken,
        )
        for network, taken in zip(networks, _in_turns([*map(on, networks)], input_size, batches), strict=True)
    ]


def measure_both(
    original: nn.Module, network: nn.Module, file: Path | None, input_size: Shape, batches: Sequence[int]
) -> tuple[Measures, Measures, str | None]:
    """Both networks, in ONNX Runtime too where ``network`` has a ``file`` for it; and a warning if that cannot be."""
    before, after = measure_networks([original, network], input_size, batches)
    return add_onnx_times(before, after, original, file, input_size, batches)


def add_onnx_times(
    before: Measures, after: Measures, original: nn.Module, file: Path | None, input_size: Shape, batches: Sequence[int]
) -> tuple[Measures, Measures, str | None]:
    """Measures of the original and of what ``file`` holds, with milliseconds in ONNX Runtime; a warning if they cannot.

    For that ``original`` is exported as well, beside the file for as long as it takes.
    """
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
        return before, after, f"{UNTIMED} {reason}"
    return dataclasses.replace(before, onnx_ms=old), dataclasses.replace(after, onnx_ms=new), None


UNTIMED = "nothing was timed in ONNX Runtime, for which the baseline is exported too:"


def measure_files(
    runs: Sequence[Callable[[Tensor], Tensor]], input_size: Shape, batches: Sequence[int]
) -> list[dict[str, float]]:
    """Milliseconds of each of ``runs`` on the CPU by batch size, taken in turns."""

    def on(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Run]:
        return lambda inputs: lambda times: seconds_of(lambda: run(inputs), times, inputs.device)

    return _in_turns([*map(on, runs)], input_size, batches)


def _in_turns(
    makers: Sequence[Callable[[Tensor], Run]], input_size: Shape, batches: Sequence[int]
) -> list[dict[str, float]]:
    """Milliseconds by batch size of what each of ``makers`` makes of an input, so that the ratios bear a drift."""
    found: list[dict[str, float]] = [{} for _ in makers]
    for batch in batches:
        inputs = torch.randn(batch, *input_size)
        seconds = without_drift(side_by_side([make(inputs) for make in makers], budget_s=_LONGEST))
        for by_batch, taken in zip(found, seconds, strict=True):
            by_batch[str(batch)] = float(taken) * 1000
    return found


_LONGEST = 5.0  # seconds, after which nothing more is timed at a batch size


def _like(module: nn.Module, device: torch.device | None = None) -> Tensor:
    """A tensor of the kind that ``module`` takes, on its device or, without parameters, on ``device``."""
    return next((p for p in module.parameters() if p.is_floating_point()), torch.zeros((), device=device))


def measure_sites(
    plan: Plan,
    original: nn.Module,
    network: nn.Module,
    architecture: Architecture,
    probabilities: dict[str, float],
    errors: dict[str, dict[str, float]],
) -> tuple[SiteResult, ...]:
    """Every site before and after, timed in turns; one that kept its original once."""
    results = []
    device = next(original.parameters()).device
    for choice in plan.choices:
        name, shapes = choice.site.name, [shape for shape, _ in choice.site.calls]
        before, after = original.get_submodule(name), network.get_submodule(name)
        candidate = architecture.choices[name]
        modules = [before] if candidate["op"] == "original" else [before, after]
        inputs = [torch.randn(1, *shape).to(_like(before, device)) for shape in shapes]
        runs = [torch_run(module, inputs) for module in modules]
        taken = without_drift(side_by_side(runs, budget_s=_LONGEST_AT_SITE * len(runs)))
        results.append(
            SiteResult(
                site=name,
                operator=label(candidate),
                probability=probabilities[name],
                macs_before=count_macs(before, shapes),
                macs_after=count_macs(after, shapes),
                params_before=count_params(before),
                params_after=count_params(after),
                ms_before=float(taken[0]) * 1000,
                inheritance_error=errors[name].get(label(candidate)),
                ms_after=float(taken[-1]) * 1000,
            )
        )
    return tuple(results)


_LONGEST_AT_SITE = 0.2  # seconds a layer


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
