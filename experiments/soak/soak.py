"""Search, discretise and export again and again in one process: do memory and open files stay flat?"""

import argparse
import functools
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

import lwdc
from lwdc.data import Digits
from lwdc.export import FORMATS, export_all
from lwdc.strategies import JointLesson, search_fit
from lwdc.strategies.pressure import Pressure
from lwdc.training import Recipe

EXAMPLES, MOST_GROWTH = 20, 0.02  # of the last cycles' memory beyond that of as many before half-time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = Digits(crop_padding=1, limit_train=192, valid=100)
    data.prepare(torch.device("cpu"))
    began = time.monotonic()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for cycle in range(1, given.cycles + 1):
            search_discretise_export(data, Path(folder), seed=cycle)
            gc.collect()
            lines.append({"cycle": cycle, "rss_mib": round(resident() / 2**20, 1), "files": open_files()})
            if cycle % 10 == 0:
                print(lines[-1], f"{time.monotonic() - began:.0f} s", flush=True)
    half, end = lines[given.cycles // 2 - EXAMPLES : given.cycles // 2], lines[-EXAMPLES:]
    before, after = (statistics.median(line["rss_mib"] for line in part) for part in (half, end))
    files = [max(line["files"] for line in part) for part in (half, end)]
    summary = {
        "cycles": given.cycles, "rss_mib_half_time": before, "rss_mib_end": after,
        "growth": round(after / before - 1, 4), "files_half_time": files[0], "files_end": files[1],
        "minutes": round((time.monotonic() - began) / 60, 1), "torch": torch.__version__, "lwdc": lwdc.__version__,
    }  # fmt: skip
    given.out.write_text("".join(json.dumps(line) + "\n" for line in [*lines, summary]))
    print(json.dumps(summary, indent=2))
    sys.exit(0 if after <= before * (1 + MOST_GROWTH) and files[1] <= files[0] else 1)


def search_discretise_export(data: Digits, folder: Path, seed: int) -> None:
    """Three steps of a search under half of the MACs, and what it chose in one of the formats, in turns."""
    torch.manual_seed(seed)
    model = tiny()
    supernet = lwdc.wrap(model, input_size=data.input_size)
    table = lwdc.tabulate(supernet, lwdc.Macs())
    recipe = Recipe(1, 64, functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9))
    lesson = JointLesson(supernet, [Pressure(table, 0.5)], functools.partial(torch.optim.Adam, lr=0.03))
    for _ in search_fit(supernet, data, recipe, lesson, seed=seed, fabric=Fabric(accelerator="cpu", devices=1)).run():
        pass
    network, architecture = lwdc.discretise(supernet, lwdc.choose(supernet, table, lwdc.parse_budget(0.5, table)))
    formats = [list(FORMATS)[seed % len(FORMATS)]]
    export_all(folder, network, architecture, formats=formats, model=model, preprocessing=data.preprocessing)


def tiny() -> nn.Module:
    """Three convolutions, two of them sites."""
    blocks = [nn.Sequential(nn.Conv2d(i, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for i in (1, 8, 8)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    main()
