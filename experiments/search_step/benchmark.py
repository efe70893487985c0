"""Times one search step against one plain training step, side by side.

    python experiments/search_step/benchmark.py [--rounds 7] [--threads 2] [--only NAME ...] [--modes MODE ...]
    python experiments/search_step/benchmark.py --only resnet56_four --batch 512 --device cuda \
        --precision bf16-mixed --channels-last --compile inductor

Every mode (plain training, lwdc mixing kernels under a factor, the same with the cost held at a bound, by soft gates or
by one-hot ones, lwdc running branches, lwdc training one path drawn a step) lives in a process of its own. The rounds
are interleaved: each process in turn times a few steps while the others wait, so that a drift of the machine meets all
of them. A step is everything: forward, loss, the cost's part, backward, both optimisers. Reported are ratios of medians
to plain training, CPU seconds, images a second, and peak memory above what the imports alone take. A compiled network
is compiled in the three steps before the first round.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

FOUR = [
    {"op": "original"},
    {"op": "separable"},
    {"op": "grouped", "groups": 4},
    {"op": "pointwise"},
]
EIGHT = [
    *FOUR,
    {"op": "grouped", "groups": 2},
    {"op": "grouped", "groups": 8},
    {"op": "low_rank", "ratio": 0.25},
    {"op": "skip"},
]
EPITOMES = [
    *FOUR,
    {"op": "epitome", "ratio": 4},
    {"op": "epitome", "ratio": 4, "indexing": "per_block"},
]
SETTINGS = {
    "resnet20_four": {
        "model": "cifar_resnet20",
        "size": 32,
        "batch": 64,
        "ops": FOUR,
        "time": 1.15,
        "memory": 1.15,
    },
    "resnet20_eight": {
        "model": "cifar_resnet20",
        "size": 32,
        "batch": 64,
        "ops": EIGHT,
        "time": 1.25,
        "memory": 1.15,
    },
    "resnet20_epitomes": {
        "model": "cifar_resnet20",
        "size": 32,
        "batch": 64,
        "ops": EPITOMES,
        "time": 1.25,
        "memory": 1.15,
    },
    "efficientnet_b0_four": {"model": "efficientnet_b0", "size": 64, "batch": 16, "ops": FOUR, "time": 1.3},
    "resnet56_four": {"model": "cifar_resnet56", "size": 32, "batch": 64, "ops": FOUR, "time": 1.15, "memory": 1.15},
    "resnet50_four": {"model": "resnet50", "size": 64, "batch": 16, "ops": FOUR, "time": 1.4},
}
MODES = ("plain", "kernels", "held", "held_one_hot", "branches", "paths")
STEPS = 3  # timed together, in one round of one process


def worker(options: argparse.Namespace) -> None:
    """Time steps whenever a line comes in; say what memory it took when the input ends."""
    import contextlib

    import timm
    import torch

    import lwdc
    import lwdc.backbones  # registers the CIFAR networks
    from lwdc.candidates.sampling import starts_of
    from lwdc.costs import Macs, penalty, tabulate
    from lwdc.gates import OneHot, SinglePath, Softmax
    from lwdc.selection import advance, draw, gates
    from lwdc.space import SearchSpace
    from lwdc.strategies import Held, Holding, PathLesson, weight_parameters
    from lwdc.strategies.idle import spare_idle
    from lwdc.training import Execution

    name, mode, device = options.worker, options.mode, options.device
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    imports = _resident()
    setting = SETTINGS[name]
    size = (3, setting["size"], setting["size"])
    model = timm.create_model(setting["model"], num_classes=10).to(device)
    execution = Execution(channels_last=options.channels_last, compile=options.compile or False)
    images = execution.laid_out(torch.randn(batch_of(name, options), *size, device=device))
    labels = torch.randint(10, (len(images),), device=device)
    optimisers = []
    table = holding = None
    if mode == "paths":
        model = lwdc.wrap(model, SearchSpace(setting["ops"]), SinglePath, size)
    elif mode != "plain":
        mixing = "branches" if mode == "branches" else "auto"
        gate = OneHot if mode == "held_one_hot" else Softmax
        model = lwdc.wrap(model, SearchSpace(setting["ops"]), gate, size, mixing=mixing)
        table = tabulate(model, Macs())
        advance(model, 0.4)  # after the warm-up, while starts of epitomes still move
        if mode in ("held", "held_one_hot"):
            holding = Holding(model, [held := Held(table, table.total // 2)])
            held.begin(1.0)
        optimisers.append(torch.optim.Adam([gate.logits for gate in gates(model)], lr=0.03))
        if starts := starts_of(model):
            optimisers.append(torch.optim.Adam(starts, lr=1e-3, foreach=True))
    optimisers.append(
        torch.optim.SGD(weight_parameters(model), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    )

    lesson = PathLesson(model)
    stack = contextlib.ExitStack()
    stack.enter_context(execution.of(model))
    autocast = torch.autocast(device, torch.bfloat16, enabled=options.precision == "bf16-mixed")

    def step() -> None:
        if holding is not None:
            holding.hold()
        draw(model)
        with autocast:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        if table is not None and holding is None:
            loss = loss + 0.5 * penalty(model, table)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if mode == "paths":
            lesson.after_backward()
        if holding is not None:
            holding.project()
        if mode == "held_one_hot":
            spare_idle(model)
        for optimiser in optimisers:
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            step()
        print(
            json.dumps([(time.perf_counter() - wall) / STEPS, (time.process_time() - cpu) / STEPS]),
            flush=True,
        )
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _peak() - imports
    print(json.dumps(peak), flush=True)


def batch_of(name: str, options: argparse.Namespace) -> int:
    """Images of a step."""
    return options.batch or SETTINGS[name]["batch"]


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def compare(name: str, options: argparse.Namespace) -> dict:
    """The modes of one setting, interleaved."""
    modes = (MODES[0], *options.modes)
    command = [sys.executable, __file__, "--worker", name, *sys.argv[1:], "--mode"]
    processes = {
        mode: subprocess.Popen([*command, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for mode in modes
    }
    times: dict[str, list] = {mode: [] for mode in modes}
    for process in processes.values():
        assert process.stdout.readline().strip() == "ready"
    for _ in range(options.rounds):
        for mode, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            times[mode].append(json.loads(process.stdout.readline()))
    result = {}
    for mode, process in processes.items():
        process.stdin.close()
        peak = json.loads(process.stdout.readline())
        process.wait()
        walls, cpus = zip(*times[mode], strict=True)
        result[mode] = {"wall_s": walls, "cpu_s": cpus, "peak_mib": peak}
    plain = result["plain"]
    for mode in modes:
        result[mode]["images_per_s"] = batch_of(name, options) / statistics.median(result[mode]["wall_s"])
        result[mode]["wall_ratio"] = statistics.median(result[mode]["wall_s"]) / statistics.median(plain["wall_s"])
        result[mode]["cpu_ratio"] = statistics.median(result[mode]["cpu_s"]) / statistics.median(plain["cpu_s"])
        result[mode]["memory_ratio"] = result[mode]["peak_mib"] / plain["peak_mib"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", choices=["inductor", "aot_eager", "eager"])
    parser.add_argument("--batch", type=int, help="images of a step, instead of each setting's own")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--modes", nargs="*", default=MODES[1:], choices=MODES[1:], help="beside plain training")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker")
    parser.add_argument("--mode")
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    import torch

    results = {}
    columns = f"{'ms/step':>9}{'images/s':>10}{'ratio':>8}{'cpu':>7}{'peak MiB':>10}{'ratio':>8}"
    print(f"{'setting':<22}{'mode':<10}{columns}   bars")
    for name in options.only:
        results[name] = compare(name, options)
        for mode in (MODES[0], *options.modes):
            row = results[name][mode]
            bars = (
                f"time {SETTINGS[name]['time']}, memory {SETTINGS[name].get('memory', '-')}"
                if mode == "kernels"
                else ""
            )
            print(
                f"{name:<22}{mode:<12}{statistics.median(row['wall_s']) * 1000:>9.1f}{row['images_per_s']:>10.0f}"
                f"{row['wall_ratio']:>8.2f}"
                f"{row['cpu_ratio']:>7.2f}{row['peak_mib']:>10.0f}{row['memory_ratio']:>8.2f}   {bars}",
                flush=True,
            )
    if options.out:
        machine = {"torch": torch.__version__, "threads": options.threads, "device": options.device}
        machine |= {"precision": options.precision, "channels_last": options.channels_last, "compile": options.compile}
        machine |= {"batch": options.batch}
        machine |= {"processor": platform.processor(), "python": platform.python_version()}
        options.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
