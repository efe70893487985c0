"""Predicts what a training step takes, from shapes alone, and prints it beside what was measured.

    python experiments/scale/predict.py experiments/scale/cpu.jsonl

Everything is counted on PyTorch's meta device, which holds shapes and no numbers: bytes that autograd keeps,
parameters, FLOPs, operations. Of what was measured one number enters: what a process takes beside tensors (PyTorch's
own buffers, libraries that are loaded late), so that the smallest plain batch of every network comes out as measured.
"""

import argparse
import contextlib
import functools
import json
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from measure import SPACES
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import lwdc
import lwdc.backbones  # registers the CIFAR networks
from lwdc import selection
from lwdc.selection import advance, selection_ops
from lwdc.space import SearchSpace
from lwdc.strategies import weight_parameters
from lwdc.training import Execution

MIB = 2**20

selection._full_precision = lambda device: contextlib.nullcontext()  # autocast does not know the meta device


class Counts(NamedTuple):
    """Of one training step in single precision."""

    weights: int  # bytes of all parameters and buffers
    trained: int  # bytes of the parameters that are trained by momentum, which is as large, and so are gradients
    kept: int  # bytes that autograd keeps at the end of the forward pass, beside parameters
    mixed: int  # of these, kernels
    largest: int  # bytes of the largest tensor kept
    flops: int  # of forward and backward pass
    operations: int  # of both, as PyTorch counts them

    @property
    def peak(self) -> int:
        """Weights, momentum, what is kept, and the gradient of the largest map, in and out, as it is gone back."""
        return self.weights + self.trained + self.kept + 2 * self.largest


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@functools.cache
def network(model: str, size: int, space: str, mode: str) -> torch.nn.Module:
    made = timm.create_model(model, num_classes=1000)
    if mode != "plain":
        candidates = SPACES[space]
        mixing = "auto" if mode == "kernels" else "branches"
        laid = SearchSpace(candidates) if candidates else SearchSpace()
        made = lwdc.wrap(made, laid, input_size=(3, size, size), inherit=False, mixing=mixing)
        advance(made, 0.4)
    return made.to("meta").train()


@functools.cache
def counts(model: str, size: int, space: str, mode: str, batch: int) -> Counts:
    net = network(model, size, space, mode)
    given = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers())}
    held: dict[int, torch.Tensor] = {}  # the tensors themselves, lest an address be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in given:
            held[tensor.untyped_storage()._cdata] = tensor.detach()
        return tensor

    images = torch.empty(batch, 3, size, size, device="meta")
    labels = torch.empty(batch, dtype=torch.long, device="meta")
    with Execution(checkpointing=mode == "checkpointing").of(net):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            torch.nn.functional.cross_entropy(net(images), labels)
        with FlopCounterMode(display=False) as flops, _Operations() as operations:
            torch.nn.functional.cross_entropy(net(images), labels).backward()
    net.zero_grad()
    sizes = [tensor.untyped_storage().nbytes() for tensor in held.values()]
    shapes = {tuple(op.original_weight().shape) for op in selection_ops(net).values()}
    mixed = sum(t.untyped_storage().nbytes() for t in held.values() if tuple(t.shape) in shapes)
    return Counts(
        weights=sum(t.nbytes for t in (*net.parameters(), *net.buffers())),
        trained=sum(p.nbytes for p in weight_parameters(net) if p.requires_grad),
        kept=sum(sizes), mixed=mixed, largest=max(sizes), flops=flops.get_total_flops(), operations=operations.count,
    )  # fmt: skip


def beside(records: list[dict]) -> None:
    """Print predicted and measured memory."""
    print("| network | space | mode | batch | predicted MiB | measured MiB | error | to plain, measured |")
    print("|---|---|---|---|---|---|---|---|")
    plain = {(r["model"], r["batch"]): r["peak_mib"] for r in records if r["mode"] == "plain"}
    process = {}
    for model in dict.fromkeys(r["model"] for r in records):
        first = min((r for r in records if r["model"] == model and r["mode"] == "plain"), key=lambda r: r["batch"])
        process[model] = first["peak_mib"] - _counts(first).peak / MIB
    for r in records:
        predicted = process[r["model"]] + _counts(r).peak / MIB
        ratio = r["peak_mib"] / plain[r["model"], r["batch"]] if (r["model"], r["batch"]) in plain else float("nan")
        print(
            f"| {r['model']} | {r['space']} | {r['mode']} | {r['batch']} | {predicted:,.0f} | {r['peak_mib']:,.0f} "
            f"| {predicted / r['peak_mib'] - 1:+.1%} | {ratio:.2f} |"
        )
    print("\nbeside tensors, from the smallest plain batch:", {m: f"{v:.0f} MiB" for m, v in process.items()})


def _counts(record: dict) -> Counts:
    return counts(*(record[key] for key in ("model", "size", "space", "mode", "batch")))


def ahead(models: list[str], space: str, batches: list[int]) -> None:
    """Print what is counted for batches that a GPU would see; all of it an estimate."""
    print("\n| network | mode | batch of a GPU | GiB | to plain | TFLOP | to plain | operations | gradients MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in models:
        for batch in batches:
            base = counts(model, 224, space, "plain", batch)
            for mode in ("plain", "kernels", "branches", "checkpointing"):
                found = counts(model, 224, space, mode, batch)
                print(
                    f"| {model} | {mode} | {batch} | {found.peak / 2**30:.1f} | {found.peak / base.peak:.2f} "
                    f"| {found.flops / 1e12:.2f} | {found.flops / base.flops:.2f} | {found.operations:,} "
                    f"| {found.trained / 1e6:.0f} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--ahead", nargs="*", default=["resnet50", "convnext_tiny"])
    parser.add_argument("--batches", nargs="*", type=int, default=[64, 128])
    options = parser.parse_args()
    beside([json.loads(line) for line in options.records.read_text().splitlines()])
    ahead(options.ahead, "four", options.batches)


if __name__ == "__main__":
    main()
