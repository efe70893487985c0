"""Compression by operators and by bits together: a run's network before and after, each in float32 and in int8.

    python compose.py RUN [RUN ...]     # folders of finished runs of `lwdc compress` on the same network and data
    python compose.py --table           # a markdown table of what is recorded

All files are ONNX, in ONNX Runtime on the CPU, on as many threads as the runs had; those of a run are timed in turns.
``results.jsonl`` has a line a network.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lwdc.configuring import make_settings
from lwdc.export import Deployment, load, to_onnx
from lwdc.pipeline.measures import environment
from lwdc.pipeline.packages import settings_of
from lwdc.pipeline.quantising import FLOAT_FILE, quantise
from lwdc.pipeline.settings import Settings
from lwdc.records import Int8Result

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
_PLACES = ("data.root=", "backbone.weights=", "hydra.")  # of this machine


def measured(network: torch.nn.Module, settings: Settings) -> Int8Result:
    data = settings.data
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(data.input_size, data.preprocessing, tuple(data.class_names))
        to_onnx(network.eval(), Path(folder) / FLOAT_FILE, data.input_size, deployment=deployment)
        return quantise(Path(folder), data, settings.train.batch_size, settings.latency_batches, seed=settings.seed)


def original(run: Path, settings: Settings) -> torch.nn.Module:
    network = settings.backbone.of(settings.data.num_classes, settings.data.input_size[0]).create()
    network.load_state_dict(load_file(run / "baseline.safetensors"))
    return network


def record(name: str, run: Path, found: Int8Result, macs_share: float) -> dict[str, Any]:
    return {
        "network": name,
        "macs_share": macs_share,
        "overrides": [o for o in settings_of(run)["overrides"] if not o.startswith(_PLACES)],
        "files": dataclasses.asdict(found),
        "environment": environment(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__},
    }


def table(records: list[dict[str, Any]]) -> str:
    batches = sorted(records[0]["files"]["float32"]["latency_ms"], key=int)
    lines = [
        "| network | MACs | numbers | bytes | test accuracy | " + " | ".join(f"ms, batch {b}" for b in batches) + " |",
        "|---" * (5 + len(batches)) + "|",
    ]
    for r in records:
        for numbers, of_file in r["files"].items():
            cells = [r["network"], f"{r['macs_share']:.0%}", numbers, f"{of_file['bytes']:,}", f"{of_file['test']:.2%}"]
            cells += [f"{of_file['latency_ms'][b]:.3g}" for b in batches]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for line in RESULTS.read_text().splitlines()]))
        return
    records = []
    for run in options.runs:
        # Runs may be older than these settings.
        config = OmegaConf.merge({"searched": None, "export": {"int8": False}}, settings_of(run))
        settings = make_settings(config)
        settings.compute.fabric()
        settings.data.prepare(torch.device("cpu"))
        if not records:
            records.append(record("original", run, measured(original(run, settings), settings), 1.0))
        summary = json.loads((run / "summary.json").read_text())
        share = summary["after"]["macs"] / summary["before"]["macs"]
        cost = summary["costs"][0]
        records.append(record(f"{cost['name']}, {cost['budget']}", run, measured(load(run), settings), share))
        RESULTS.write_text("".join(json.dumps(r) + "\n" for r in records))


if __name__ == "__main__":
    main()
