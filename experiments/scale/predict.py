"""Predicts what a training step takes, from shapes alone, and prints it beside what was measured.

    python experiments/scale/predict.py experiments/scale/cpu.jsonl

Everything is counted on PyTorch's meta device, which holds shapes and no numbers: a whole step is run on it, and every
storage followed from the operation that makes it until it is freed; parameters, FLOPs and operations likewise. Of what
was measured one number a network enters: what a process takes beside tensors (libraries that are loaded late, buffers
inside of operations), so that the smallest plain batch comes out as measured. What the allocator holds on to is not
predicted: it is the column beside.
"""

import argparse
import contextlib
import functools
import json
import weakref
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from measure import SPACES
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import lwdc
import lwdc.backbones  # registers the CIFAR networks
from lwdc import selection
from lwdc.selection import advance
from lwdc.space import SearchSpace
from lwdc.strategies import weight_parameters
from lwdc.training import Execution

MIB = 2**20

selection._full_precision = lambda device: contextlib.nullcontext()  # autocast does not know the meta device


class Counts(NamedTuple):
    """Of one training step in single precision."""

    weights: int  # bytes of all parameters and buffers
    trained: int  # bytes of the parameters that are trained by momentum, which is as large, and so are gradients
    alive: int  # bytes of all other tensors when they are most: maps, kernels and gradients, forward or backward
    flops: int  # of forward and backward pass
    operations: int  # of both, as PyTorch counts them

    @property
    def peak(self) -> int:
        """Weights, momentum and what is alive beside them at most."""
        return self.weights + self.trained + self.alive


class _Watch(TorchDispatchMode):
    """Counts operations, and follows the storages that they make until they are freed."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.operations = self.peak = 0
        self._now = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self._known:
                self._hold(leaf.untyped_storage())
        return output

    def _hold(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self._now += storage.nbytes()
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self._now)

    def _free(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self._now -= size


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
    images = torch.empty(batch, 3, size, size, device="meta")
    labels = torch.empty(batch, dtype=torch.long, device="meta")
    watch = _Watch(*net.parameters(), *net.buffers(), images, labels)
    with Execution(checkpointing=mode == "checkpointing").of(net), FlopCounterMode(display=False) as flops, watch:
        torch.nn.functional.cross_entropy(net(images), labels).backward()
    net.zero_grad()
    return Counts(
        weights=sum(t.nbytes for t in (*net.parameters(), *net.buffers())),
        trained=sum(p.nbytes for p in weight_parameters(net) if p.requires_grad),
        alive=watch.peak + images.nbytes, flops=flops.get_total_flops(), operations=watch.operations,
    )  # fmt: skip


def beside(records: list[dict]) -> None:
    """Print predicted and measured memory; the last column is what malloc, left to itself, makes of it."""
    print("| network | space | mode | batch | predicted MiB | measured MiB | error | to plain | left to glibc MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    held = {_key(r): r["peak_mib"] for r in records if r["malloc"] == "glibc"}
    mapped = [r for r in records if r["malloc"] == "mapped"]
    plain = {(r["model"], r["batch"]): r["peak_mib"] for r in mapped if r["mode"] == "plain"}
    process = {}
    for model in dict.fromkeys(r["model"] for r in mapped):
        first = min((r for r in mapped if r["model"] == model and r["mode"] == "plain"), key=lambda r: r["batch"])
        process[model] = first["peak_mib"] - counts(*_key(first)).peak / MIB
    for r in mapped:
        predicted = process[r["model"]] + counts(*_key(r)).peak / MIB
        left = f"{held[_key(r)]:,.0f}" if _key(r) in held else ""
        print(
            f"| {r['model']} | {r['space']} | {r['mode']} | {r['batch']} | {predicted:,.0f} | {r['peak_mib']:,.0f} "
            f"| {predicted / r['peak_mib'] - 1:+.1%} | {r['peak_mib'] / plain[r['model'], r['batch']]:.2f} | {left} |"
        )
    print("\nbeside tensors, from the smallest plain batch:", {m: f"{v:.0f} MiB" for m, v in process.items()})


def _key(record: dict) -> tuple[str, int, str, str, int]:
    return record["model"], record["size"], record["space"], record["mode"], record["batch"]


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
