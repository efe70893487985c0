"""Compresses one network under counted and under measured cost, and times all outcomes in ONNX Runtime side by side.

    python front.py --data FOLDER --weights FILE --work FOLDER [--runs COST:SHARE ...] [-- OVERRIDES]
    python front.py --table      # a markdown table of what is recorded

ResNet-20 on CIFAR-10. Every run is one ``lwdc compress``; runs that are finished in the working folder are kept, and
interrupted ones go on. ``results.jsonl`` has a line a run: what was asked for, what the table said and what the whole
network was measured at, accuracies, and milliseconds of its ONNX file beside the original's.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from lwdc.backbones import Backbone, load_weights
from lwdc.costs.timing import Run, side_by_side, without_drift
from lwdc.export import to_onnx
from lwdc.pipeline.measures import environment

HERE = Path(__file__).parent
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # that the weights were trained with
SIZE = (3, 32, 32)
COSTS: dict[str, list[str]] = {
    "macs": ["cost=macs"],
    "latency": ["cost=latency", "cost.runtime=onnxruntime"],
}
RUNS = ["macs:0.75", "macs:0.5", "macs:0.25", "latency:0.75", "latency:0.5"]


def compressed(cost: str, share: float, options: argparse.Namespace) -> Path:
    """The folder of the finished run."""
    folder = options.work / f"{cost}-{share:g}"
    command = [sys.executable, "-m", "lwdc.cli", "compress"]
    if (folder / "summary.json").is_file():
        return folder
    if (folder / "checkpoint.pt").is_file():
        command.append(f"resume={folder}")
    else:
        command += [
            "experiment=cifar10_resnet20", f"backbone.weights={options.weights}", "train.epochs=0",
            f"data.root={options.data}", f"data.mean={MEAN}", f"data.std={STD}", *COSTS[cost], f"cost.budget={share}",
            f"compute.threads={options.threads}", *options.overrides, f"hydra.run.dir={folder}",
        ]  # fmt: skip
    subprocess.run(command, check=True)
    return folder


def onnx_file(path: Path, batch: int, threads: int) -> Run:
    """An ONNX file on the CPU."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    images = np.random.default_rng(0).standard_normal((batch, *SIZE), dtype=np.float32)
    binding.bind_cpu_input(session.get_inputs()[0].name, images)
    binding.bind_output(session.get_outputs()[0].name)

    def run(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            session.run_with_iobinding(binding)
        return time.perf_counter() - begin

    return run


def timed(files: list[Path], batch: int, threads: int) -> list[float]:
    """Milliseconds of each, in turns."""
    rounds = side_by_side([onnx_file(path, batch, threads) for path in files], rounds=25)
    return [float(seconds * 1000) for seconds in without_drift(rounds)]


def table(records: list[dict[str, Any]]) -> str:
    lines = [
        "| searched under | asked for | MACs | test accuracy | ms, batch 1 | share | ms, batch 64 | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in sorted(records, key=lambda r: (r["cost"] != "none", r["cost"], -r["share"])):
        cells = [record["cost"], f"{record['share']:.0%}", f"{record['macs_share']:.1%}", f"{record['test']:.2%}"]
        for batch in ("1", "64"):
            milliseconds, original = record["onnx_ms"][batch]
            cells += [
                f"{milliseconds:.3f}" if batch == "1" else f"{milliseconds:.1f}",
                f"{milliseconds / original:.0%}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the runs")
    parser.add_argument("--runs", nargs="*", default=RUNS, metavar="COST:SHARE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    path = HERE / "results.jsonl"
    if options.table:
        print(table([json.loads(line) for line in path.read_text().splitlines()]))
        return
    wanted = [(cost, float(share)) for cost, _, share in (run.partition(":") for run in options.runs)]
    folders = [compressed(cost, share, options) for cost, share in wanted]
    backbone = Backbone("cifar_resnet20", 10, 3)
    original = backbone.create()
    load_weights(original, options.weights)
    to_onnx(original.eval(), options.work / "original.onnx", SIZE)
    files = [options.work / "original.onnx", *(folder / "model.onnx" for folder in folders)]
    times = {str(batch): timed(files, batch, options.threads) for batch in (1, 64)}
    with path.open("w") as file:
        for index, (name, folder) in enumerate([(("none", 1.0), None), *zip(wanted, folders, strict=True)]):
            record: dict[str, Any] = {"cost": name[0], "share": name[1]}
            if folder is not None:
                summary = json.loads((folder / "summary.json").read_text())
                record |= {
                    "macs_share": summary["after"]["macs"] / summary["before"]["macs"],
                    "test": summary["test"]["finetuned"],
                    "valid": summary["valid"],
                    "costs": summary["costs"],
                    "operators": {site["site"]: site["operator"] for site in summary["sites"]},
                    "seconds": summary["seconds"],
                    "overrides": options.overrides,
                }
            else:
                summary = json.loads((folders[0] / "summary.json").read_text())
                record |= {"macs_share": 1.0, "test": summary["test"]["baseline"]}
            record["onnx_ms"] = {batch: [found[index], found[0]] for batch, found in times.items()}
            record["environment"] = environment(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__}
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
