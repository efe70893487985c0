"""Records: what is kept of a finished run, one json line each."""

import contextlib
import json
import platform
import resource
from pathlib import Path
from typing import Any

import torch
from contenders import Job, Outcome
from pruning import version
from safetensors.torch import save as to_bytes
from setting import INPUT_SIZE
from torch import nn

from lwdc.counting import count_macs, count_params
from lwdc.export import Deployment, run_onnx, to_onnx, verify
from lwdc.export.portable import portable
from lwdc.pipeline.measures import environment
from lwdc.training import accuracy

NETWORK_FILE = "model.onnx"


class Memory:
    """The most memory in use, above what was in use when this was made: of the process, and of the GPU."""

    def __init__(self) -> None:
        self._before = _resident()
        with contextlib.suppress(OSError):  # where it can be had: the peak without that of reading files
            Path("/proc/self/clear_refs").write_text("5")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, int]:
        """Bytes."""
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {"process": max(0, _peak() - self._before), "gpu": gpu}


def _resident() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else _peak()


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        found = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(found["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def measure(job: Job, outcome: Outcome, memory: dict[str, int]) -> dict[str, Any]:
    """The record of a finished run; writes its ONNX file. The test examples are read here, once."""
    settings = job.settings
    network = portable(outcome.network)
    onnx = job.folder / NETWORK_FILE
    onnx.parent.mkdir(parents=True, exist_ok=True)
    data = settings.data
    to_onnx(network, onnx, INPUT_SIZE, deployment=Deployment(INPUT_SIZE, data.preprocessing, data.class_names))
    verify(network, run_onnx(onnx), INPUT_SIZE, name=str(onnx))
    fabric = settings.compute.fabric()
    network.to(fabric.device)
    split = {name: accuracy(network, data.batches(name, 250), fabric) for name in ("valid", "test")}
    network.cpu()
    seconds = {part: round(figures["seconds"], 1) for part, figures in outcome.parts.items()}
    return {
        "contender": job.entry.contender,
        "network": job.entry.setting.network,
        "point": job.entry.point,
        "seed": job.entry.seed,
        "test_accuracy": split["test"],
        "valid_accuracy": split["valid"],
        "macs": count_macs(network, [INPUT_SIZE]),
        "bound": job.entry.bound(),
        "params": count_params(network),
        "bytes": {"onnx": onnx.stat().st_size, "safetensors": len(to_bytes(network.state_dict()))},
        "seconds": seconds | {"all": round(sum(seconds.values()), 1)},
        "steps": {part: int(figures["steps"]) for part, figures in outcome.parts.items()},
        "peak_bytes": memory,
        "structure": _structure(job, network),
        "setting": job.entry.setting.facts(),
        "folder": job.entry.name,
        "config": _without_places(job.config),
        "environment": environment(fabric.device) | {"torch_pruning": version()},
    }


def _structure(job: Job, network: nn.Module) -> dict[str, Any]:
    """The operator of each site where there are sites, else the width of each convolution."""
    architecture = job.folder / "architecture.json"
    if architecture.is_file():
        return json.loads(architecture.read_text())["choices"]
    return {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the folders of the machine it ran on."""
    kept = json.loads(json.dumps(config))
    kept["data"].pop("root", None)
    kept["backbone"]["weights"] = Path(kept["backbone"]["weights"]).name
    return kept
