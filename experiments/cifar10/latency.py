"""Latency of every recorded network in ONNX Runtime on the CPU, in interleaved rounds."""

import functools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import NETWORK_FILE
from results import read_records
from setting import INPUT_SIZE

from lwdc.errors import LwdcError
from lwdc.pipeline.measures import environment

BATCHES = {1: 20, 64: 2}  # batch size -> passes a round
THREADS = 1


def measure_all(records: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds a batch: per network and batch size the median over rounds, and the rounds' quartiles.

    In each round every network has its turn, so that what else the machine does meets all of them alike.
    """
    import onnxruntime

    files = {record["folder"]: out / record["folder"] / NETWORK_FILE for record in read_records(records)}
    for name in [name for name, file in files.items() if not file.is_file()]:
        print(f"{files.pop(name)} is missing: not timed", file=sys.stderr)
    if not files:
        raise LwdcError(f"{out} holds no network that {records} names; run some, or give their folder by --out.")
    sessions = {name: _session(file) for name, file in files.items()}
    rng = np.random.default_rng(0)
    inputs = {batch: rng.standard_normal((batch, *INPUT_SIZE), dtype=np.float32) for batch in BATCHES}
    times: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in sessions for batch in BATCHES}
    for number in range(rounds + 1):  # the first one warms up
        for (name, batch), taken in times.items():
            passes = functools.partial(sessions[name].run, ["logits"], {"image": inputs[batch]})
            start = time.perf_counter()
            for _ in range(BATCHES[batch]):
                passes()
            if number:
                taken.append(1000 * (time.perf_counter() - start) / BATCHES[batch])
    networks: dict[str, dict[str, dict[str, float]]] = {name: {} for name in sessions}
    for (name, batch), taken in times.items():
        low, middle, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else taken * 3
        networks[name][str(batch)] = {"median": middle, "quartiles": [low, high]}  # type: ignore[dict-item]
    placed = environment(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__, "threads": THREADS}
    return {"rounds": rounds, "environment": placed, "networks": networks}


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
