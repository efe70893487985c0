"""Measured latency as a cost."""

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwdc.architecture import Architecture
from lwdc.candidates.sampling import expand
from lwdc.costs.measurements import Measurements
from lwdc.costs.table import Agreement, CostTable, Entry, entries, laid_out
from lwdc.costs.timing import Run, device_name, inputs_like, onnx_run, side_by_side, torch_run, without_drift
from lwdc.errors import CostError, unknown_name
from lwdc.progress import tracked
from lwdc.selection import selection_ops
from lwdc.surgery import discretise, input_size_of, original_network
from lwdc.tracing import Shape

RUNTIMES = ("torch", "onnxruntime")
_OPERATORS = 1  # to be raised when what lwdc's operators compute with changes: then they are measured anew
_NS = 10**9  # costs are counted in nanoseconds and shown in milliseconds


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of ``batch`` images in evaluation mode, measured where the network lies.

    Every operator is timed at its site in turns with the others there, on as many threads as torch uses, and kept in
    the file ``cache`` by operator, shapes, device, threads and versions; ``strict`` refuses to measure what is not
    there. Then ``networks`` random architectures are timed as wholes, and one scale and offset are fitted to them,
    because an operator meets warmer caches alone than in a network; 0 leaves this out. With
    ``runtime="onnxruntime"`` all of it runs in ONNX Runtime on the CPU, each layer with the norm that follows it.
    """

    batch: int = 1
    runtime: str = "torch"
    cache: str | None = "~/.cache/lwdc/latency.jsonl"
    strict: bool = False
    networks: int = 20
    name: str = "latency"
    unit: str = "ms"

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise CostError(unknown_name("cost.runtime", self.runtime, RUNTIMES))
        if not isinstance(self.batch, int) or self.batch < 1:
            raise CostError(f"cost.batch is a number of images from 1 on, found {self.batch!r}.")
        if not isinstance(self.networks, int) or self.networks < 0 or 0 < self.networks < 3:
            raise CostError(f"cost.networks is how many architectures are timed, 3 or more, or 0: {self.networks!r}.")

    def tabulate(self, supernet: nn.Module) -> CostTable:
        """Measure what is not known yet. Raises ``CostError`` where that is not allowed, or an operator cannot run."""
        norms = _norms(supernet) if self.runtime == "onnxruntime" else {}
        kept = self._operators(supernet, norms)
        keys = {_key(entry, norms) for entry in entries(supernet)}
        seconds = kept.levelled(keys)
        laid = laid_out(supernet, lambda entry: max(1, round(seconds[_key(entry, norms)] * _NS)))
        alone = CostTable(self.name, self.unit, *laid, 0, per_unit=_NS // 1000)
        original, size = original_network(supernet), input_size_of(supernet)
        whole = self._run(original, [size], "the original network")
        now, took = without_drift(side_by_side([self._reference(supernet), whole]))
        total = took * kept.level(keys) / now
        if self.networks == 0:
            return dataclasses.replace(alone, rest=round(total * _NS) - alone.total)
        return self._fitted(supernet, whole, total, alone)

    def measure(self, network: nn.Module, original: nn.Module, input_size: Shape, table: CostTable) -> int:
        """What ``network`` takes, at the level of ``table``: by its share of what ``original`` takes, in turns."""
        runs = [self._run(module, [input_size], "the network") for module in (original, network)]
        before, after = without_drift(side_by_side(runs))
        return round(table.total * after / before)

    def _operators(self, supernet: nn.Module, norms: Mapping[str, nn.Module]) -> Measurements:
        """What every operator takes; measured where it is not known, site by site."""
        path = None if self.cache is None else Path(self.cache).expanduser()
        kept = Measurements(path, self._environment(supernet))
        missing: dict[str, Entry] = {}
        for entry in entries(supernet):
            key = _key(entry, norms)
            if key not in kept.found:
                missing.setdefault(key, entry)
        if missing and self.strict:
            others = kept.others()
            raise CostError(
                f"{len(missing)} operators have never been measured on this device with these versions"
                + (f" (the file has others: {others})" if others else "")
                + f", and cost.strict allows only what {self.cache} holds. Run once with cost.strict=false."
            )
        by_site: dict[str, list[str]] = {}
        for key, entry in missing.items():
            by_site.setdefault(entry.site, []).append(key)
        # What a call takes by itself, which a network pays once and not once an operator; 0 where Python pays it.
        call = onnx_run(nn.ReLU(), [torch.zeros(1, 1)]) if self.runtime == "onnxruntime" else lambda times: 0.0
        for site in tracked(list(by_site), f"timing {len(missing)} operators"):
            runs = [self._operator_run(missing[key], norms) for key in by_site[site]]
            level, *took = without_drift(side_by_side([self._reference(supernet), *runs]))
            kept.add(
                {key: max(t - call(1000) / 1000, t / 10) for key, t in zip(by_site[site], took, strict=True)}, level
            )
        return kept

    def _fitted(self, supernet: nn.Module, whole: Run, total: float, alone: CostTable) -> CostTable:
        """Scale and offset of the operators' sums for the networks' times, and how well they agree."""
        size = input_size_of(supernet)
        sums, shares = [], []
        for architecture in tracked(_spread(supernet, alone, self.networks), f"timing {self.networks} networks"):
            network = self._run(discretise(supernet, architecture)[0], [size], "a network of this space")
            rounds = side_by_side([whole, network], rounds=10)
            shares.append([_share(rounds), _share(rounds[::2]), _share(rounds[1::2])])
            sums.append(alone.of(architecture) / _NS)
        x, (y, once, again) = np.array(sums), total * np.array(shares).T
        scale, offset = _line(x, y)
        left_out = [np.arange(len(x)) != i for i in range(len(x))]
        predicted = np.array([np.dot(_line(x[mask], y[mask]), (x[i], 1)) for i, mask in enumerate(left_out)])
        agreement = Agreement(
            len(x), _rank(x, y), float(np.mean(np.abs(predicted / y - 1))),
            _rank(once, again), float(np.mean(np.abs(once - again) / y)),
        )  # fmt: skip

        def scaled(costs: dict[str, int]) -> dict[str, int]:
            return {name: max(1, round(scale * cost)) for name, cost in costs.items()}

        sites = {site: scaled(dict(costs)) for site, costs in alone.sites.items()}
        return dataclasses.replace(
            alone, sites=sites, original=scaled(dict(alone.original)), rest=round(offset * _NS), agreement=agreement
        )

    def _operator_run(self, entry: Entry, norms: Mapping[str, nn.Module]) -> Run:
        module = entry.module()
        if entry.site in norms:
            module = nn.Sequential(module, norms[entry.site])
        what = f"{entry.label} at {entry.site}"
        return self._run(module, [shape for shape, _ in entry.op.site.calls], what, _device(entry.op))

    def _run(
        self, module: nn.Module, shapes: Sequence[Shape], what: str, device: torch.device | None = None
    ) -> Run:  # fmt: skip
        """A layer or network on one batch; where it meets one shape several times, as often as that."""
        uses = Counter(shapes)
        inputs = inputs_like(module, list(uses), self.batch, device)
        try:
            if self.runtime == "torch":
                runs = [torch_run(module, [x]) for x in inputs]
            else:
                module = expand(copy.deepcopy(module))
                runs = [onnx_run(module, [x]) for x in inputs]
        except Exception as error:
            raise CostError(
                f"{what} cannot be timed in {self.runtime}: {str(error).splitlines()[0]}. "
                "Take another cost.runtime, or leave it out of the space."
            ) from error
        return lambda times: sum(count * run(times) for run, count in zip(runs, uses.values(), strict=True))

    def _reference(self, supernet: nn.Module) -> Run:
        """The same everywhere: what it takes tells how fast the machine is at the moment."""
        like = next(p for p in supernet.parameters() if p.is_floating_point())
        module = nn.Conv2d(64, 64, 3, padding=1).to(like)
        return torch_run(module, [torch.randn(1, 64, 16, 16).to(like)])

    def _environment(self, supernet: nn.Module) -> dict[str, Any]:
        device = _device(supernet)
        found: dict[str, Any] = {
            "device": device_name(device),
            "type": str(next(p.dtype for p in supernet.parameters() if p.is_floating_point())).removeprefix("torch."),
            "batch": self.batch,
            "runtime": self.runtime,
            "operators": _OPERATORS,
            "torch": torch.__version__,
        }
        if device.type == "cpu":
            found["threads"] = torch.get_num_threads()
        elif self.runtime == "onnxruntime":
            raise CostError("cost.runtime=onnxruntime is measured on the CPU: run with compute=cpu.")
        if self.runtime == "onnxruntime":
            import onnxruntime

            found["onnxruntime"] = onnxruntime.__version__
        return found


def _key(entry: Entry, norms: Mapping[str, nn.Module]) -> str:
    """An operator, its layer and its shapes as text: what its time depends on besides the machine."""
    site = dataclasses.replace(entry.op.site, name="", index=0, aliases=())
    named = dict(zip(entry.op.labels, entry.op.candidates, strict=True))
    candidate = dict(named.get(entry.label, {"op": entry.label}))
    behind = "norm" if entry.site in norms else None
    return json.dumps([candidate, type(entry.op.conv).__name__, behind, dataclasses.asdict(site)])


def _norms(supernet: nn.Module) -> dict[str, nn.Module]:
    """The batch norm right behind each site, which a runtime joins with a convolution and with nothing else."""
    found: dict[str, nn.Module] = {}
    network = original_network(supernet)
    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    followers = dict(zip((name for name, _ in leaves), (module for _, module in leaves[1:]), strict=False))
    for name, op in selection_ops(supernet).items():
        follower = followers.get(name)
        if isinstance(follower, _BatchNorm) and follower.num_features == op.site.out_channels and op.site.dims:
            found[name] = follower
    return found


def _spread(supernet: nn.Module, table: CostTable, count: int) -> list[Architecture]:
    """Random architectures from cheap to dear."""
    generator = np.random.default_rng(0)
    found = []
    for lean in np.linspace(-3, 3, count):
        picked = {}
        for group, costs in table.group_costs().items():
            own = np.array(costs, dtype=float)
            own = (own - own.mean()) / max(own.std(), 1e-9)
            picked[group] = int((lean * own + generator.gumbel(size=len(costs))).argmax())
        ops = selection_ops(supernet)
        found.append(Architecture({name: op.candidates[picked[table.groups[name]]] for name, op in ops.items()}))
    return found


def _share(rounds: np.ndarray) -> float:
    before, after = without_drift(rounds)
    return float(after / before)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Scale and offset, both at least 0, of the best line; relative errors count. Scale 1 where none is found."""
    (scale, offset), _ = scipy.optimize.nnls(np.stack([x / y, 1 / y], axis=1), np.ones_like(y))
    return (float(scale), float(offset)) if scale > 0 else (1.0, float(np.median(y - x)))


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    return float(scipy.stats.spearmanr(a, b).statistic)


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
