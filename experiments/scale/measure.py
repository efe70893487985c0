"""Measures peak memory and seconds of a training step of one network, plain, mixing kernels and running branches.

    python experiments/scale/measure.py --model resnet50 --size 224 --batches 8 16 32 --out experiments/scale/cpu.jsonl
    python experiments/scale/measure.py --malloc glibc --batches 8 16 --out experiments/scale/cpu.jsonl

Every mode at every batch lives in a process of its own, one after the other. On the CPU the peak is that of resident
memory above what imports and the idle network's process took (kibibytes that the kernel counts); on CUDA that of
PyTorch's allocator. Two steps are run and the second is timed: the optimisers' state is there by then. One line of
json a measurement is appended to the file.

Tensors lie in pages of their own ("mapped"), which go back to the system when the tensor is freed, so that what is
resident is what is alive. Left to itself ("glibc") malloc soon takes tensors of up to 32 MiB from one heap, where those
that stay keep the room between them from being given back, or from being used by larger ones.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

SPACES = {
    "four": [
        {"op": "original"},
        {"op": "separable"},
        {"op": "grouped", "groups": 4},
        {"op": "pointwise"},
    ],
    "lean": None,  # the default space
}
MALLOCS = {"mapped": {"MALLOC_MMAP_THRESHOLD_": "65536"}, "glibc": {}}
MODES = ("plain", "kernels", "branches", "checkpointing")


def worker(options: argparse.Namespace) -> dict:
    """One measurement, in this process."""
    import timm
    import torch

    import lwdc
    import lwdc.backbones  # registers the CIFAR networks
    from lwdc.candidates.sampling import starts_of
    from lwdc.costs import Macs, penalty, tabulate
    from lwdc.selection import advance, gates
    from lwdc.space import SearchSpace
    from lwdc.strategies import weight_parameters
    from lwdc.training import Execution

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    before = _resident()
    (batch,) = options.batches
    size = (3, options.size, options.size)
    model = timm.create_model(options.model, num_classes=1000)
    optimisers, table = [], None
    if options.mode != "plain":
        space = SearchSpace(SPACES[options.space]) if SPACES[options.space] else SearchSpace()
        mixing = "auto" if options.mode == "kernels" else "branches"
        # Fresh weights: the closed-form starts would take minutes and, for a moment, memory of their own.
        model = lwdc.wrap(model, space, input_size=size, inherit=False, mixing=mixing)
        table = tabulate(model, Macs())
        advance(model, 0.4)  # after the warm-up, while starts of epitomes still move
    model.to(options.device)
    if options.mode != "plain":
        optimisers.append(torch.optim.Adam([gate.logits for gate in gates(model)], lr=0.03))
        if starts := starts_of(model):
            optimisers.append(torch.optim.Adam(starts, lr=1e-3))
    optimisers.append(torch.optim.SGD(weight_parameters(model), lr=0.01, momentum=0.9, weight_decay=5e-4))
    images = torch.randn(batch, *size, device=options.device)
    labels = torch.randint(1000, (batch,), device=options.device)
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16-mixed")

    def step() -> None:
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        with autocast:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        if table is not None:
            loss = loss + 0.5 * penalty(model, table)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        if options.device == "cuda":
            torch.cuda.synchronize()

    with Execution(checkpointing=options.mode == "checkpointing").of(model):
        step()
        start, cpu = time.perf_counter(), time.process_time()
        step()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else _peak() - before
    return {
        "model": options.model,
        "size": options.size,
        "space": options.space,
        "mode": options.mode,
        "batch": batch,
        "precision": options.precision,
        "malloc": options.malloc,
        "peak_mib": round(peak, 1),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {options.threads} thread(s)",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": options.commit,
    }


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--space", default="four", choices=list(SPACES))
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--malloc", default="mapped", choices=list(MALLOCS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    parser.add_argument("--commit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(worker(options)))
        return
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    for batch in options.batches:
        for mode in options.modes:
            command = [sys.executable, __file__, "--mode", mode, "--batches", str(batch)]
            for name in ("model", "size", "space", "threads", "device", "precision", "malloc"):
                command += [f"--{name}", str(getattr(options, name))]
            command += ["--commit", found.stdout.strip()]
            environment = os.environ | MALLOCS[options.malloc]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            line = ran.stdout.splitlines()[-1]
            print(line, flush=True)
            if options.out:
                with options.out.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
