"""Measured latency as a cost."""

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwdc.activations import Use, activations
from lwdc.architecture import Architecture
from lwdc.candidates.sampling import expand
from lwdc.costs.measurements import Measurements
from lwdc.costs.table import Agreement, CostTable, Entry, entries, laid_out
from lwdc.costs.timing import Run, device_name, onnx_run, side_by_side, torch_run, without_drift
from lwdc.errors import CostError, unknown_name
from lwdc.progress import tracked
from lwdc.selection import selection_ops
from lwdc.surgery import discretise, input_size_of, original_network
from lwdc.tracing import Shape, reference

RUNTIMES = ("torch", "onnxruntime")
_OPERATORS = 1  # to be raised when what lwdc's operators compute with changes: then they are measured anew
_NS = 10**9  # costs are counted in nanoseconds and shown in milliseconds


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of ``batch`` images in evaluation mode, measured where the network lies.

    Every operator is timed at its site in turns with the others there, on as many threads as torch uses, and kept in
    the file ``cache`` by operator, shapes, device, threads and versions; ``strict`` refuses to measure what is not
    there. Then ``networks`` random architectures are timed as wholes, and one scale is fitted to them, because an
    operator meets warmer caches alone than in a network; 0 leaves this out. The original network costs what it
    took. With ``runtime="onnxruntime"`` all of it runs in ONNX Runtime on the CPU, a convolution with the batch norm
    registered behind it.
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
        original, size = original_network(supernet), input_size_of(supernet)
        norms = _norms(original, supernet) if self.runtime == "onnxruntime" else {}
        uses = activations(original, size, list(selection_ops(supernet))).uses
        keys = {(entry.site, entry.label): _key(entry, norms, uses[entry.site]) for entry in entries(supernet)}
        kept = self._operators(supernet, norms, uses, keys)
        seconds = kept.levelled(set(keys.values()))
        laid = laid_out(supernet, lambda entry: max(1, round(seconds[keys[entry.site, entry.label]] * _NS)))
        alone = CostTable(self.name, self.unit, *laid, 0, per_unit=_NS // 1000)
        whole = self._run(original, [Use(0, size, 1)], reference(supernet), "the original network")
        now, took = without_drift(side_by_side([self._yardstick(supernet), whole]))
        total = took * kept.level(set(keys.values())) / now
        return self._fitted(supernet, whole, total, alone)

    def measure(self, network: nn.Module, original: nn.Module, input_size: Shape, table: CostTable) -> int:
        """What ``network`` takes, at the level of ``table``: by its share of what ``original`` takes, in turns."""
        use, like = Use(0, input_size, 1), reference(original)
        runs = [self._run(module, [use], like, "the network") for module in (original, network)]
        before, after = without_drift(side_by_side(runs))
        return round(table.total * after / before)

    def _operators(
        self,
        supernet: nn.Module,
        norms: Mapping[str, nn.Module],
        uses: Mapping[str, Sequence[Use]],
        keys: Mapping[tuple[str, str], str],
    ) -> Measurements:
        """What every operator takes; measured where it is not known, site by site."""
        path = None if self.cache is None else Path(self.cache).expanduser()
        kept = Measurements(path, self._environment(supernet))
        missing: dict[str, Entry] = {}
        for entry in entries(supernet):
            key = keys[entry.site, entry.label]
            if key not in kept.found:
                missing.setdefault(key, entry)
        if missing and self.strict:
            others = kept.others()
            raise CostError(
                f"{len(missing)} operators have never been measured on this device with these versions"
                + (f" (the file has others: {others})" if others else "")
                + f", and cost.strict allows only what cost.cache={self.cache} holds. Run once with cost.strict=false."
            )
        if missing:
            kept.check_writable()
        by_site: dict[str, list[str]] = {}
        for key, entry in missing.items():
            by_site.setdefault(entry.site, []).append(key)
        call = None
        if missing and self.runtime == "onnxruntime":  # what a network pays once, and not once an operator
            call = onnx_run(nn.ReLU(), [torch.zeros(1, 1)])
        for site in tracked(list(by_site), f"timing {len(missing)} operators"):
            runs = []
            for key in by_site[site]:
                module = missing[key].module()
                module = nn.Sequential(module, norms[site]) if site in norms else module
                runs.append(self._run(module, uses[site], reference(supernet), f"{missing[key].label} at {site}"))
            level, *took = without_drift(side_by_side([self._yardstick(supernet), *runs]))
            empty = 0.0 if call is None else call(1000) / 1000
            seconds = [max(own - empty, own / 10) for own in took]
            kept.add(dict(zip(by_site[site], seconds, strict=True)), level)
        return kept

    def _fitted(self, supernet: nn.Module, whole: Run, total: float, alone: CostTable) -> CostTable:
        """The operators' times scaled as random networks ask for; the original network keeps the time it took."""
        size, like = input_size_of(supernet), reference(supernet)
        sums, shares = [], []
        for architecture in tracked(_spread(supernet, alone, self.networks), f"timing {self.networks} networks"):
            network = discretise(supernet, architecture)[0]
            run = self._run(network, [Use(0, size, 1)], like, "a network of this space")
            rounds = side_by_side([whole, run], rounds=10)
            shares.append([_share(rounds), _share(rounds[::2]), _share(rounds[1::2])])
            sums.append(alone.of(architecture) / _NS)
        x, y = np.array(sums), total * np.array(shares).reshape(-1, 3)
        beside = alone.total / _NS, total
        agreement = None
        if len(x) > 2 and np.ptp(x) > 0:
            left_out = [np.arange(len(x)) != i for i in range(len(x))]
            scales = [_scale(x[mask], y[mask, 0], *beside) for mask in left_out]
            predicted = np.array([total + scale * (own - beside[0]) for scale, own in zip(scales, x, strict=True)])
            agreement = Agreement(
                len(x), _rank(x, y[:, 0]), float(np.mean(np.abs(predicted / y[:, 0] - 1))),
                _rank(y[:, 1], y[:, 2]), float(np.mean(np.abs(y[:, 1] - y[:, 2]) / y[:, 0])),
            )  # fmt: skip
        scale = _scale(x, y[:, 0], *beside)

        def scaled(costs: Mapping[str, int]) -> dict[str, int]:
            return {name: max(1, round(scale * cost)) for name, cost in costs.items()}

        sites, original = {site: scaled(costs) for site, costs in alone.sites.items()}, scaled(alone.original)
        rest = max(0, round(total * _NS) - sum(original.values()))
        return dataclasses.replace(alone, sites=sites, original=original, rest=rest, agreement=agreement)

    def _run(self, module: nn.Module, uses: Sequence[Use], like: torch.Tensor, what: str) -> Run:
        """A layer or network as it is used by one batch; the first execution, in which it may fail, is here."""
        counts = Counter((use.shape, use.batch) for use in uses)
        inputs = [torch.randn(self.batch * batch, *shape).to(like) for shape, batch in counts]
        try:
            if self.runtime == "torch":
                runs = [torch_run(module, [x]) for x in inputs]
            else:
                portable = expand(copy.deepcopy(module))
                runs = [onnx_run(portable, [x]) for x in inputs]
            for run in runs:
                run(1)
        except Exception as error:
            cause = next(iter(str(error).splitlines()), type(error).__name__)
            raise CostError(
                f"{what} cannot be timed in {self.runtime}: {cause}. "
                "Take another cost.runtime or a smaller cost.batch, or leave the operator out of the space."
            ) from error
        return lambda times: sum(count * run(times) for run, count in zip(runs, counts.values(), strict=True))

    def _yardstick(self, supernet: nn.Module) -> Run:
        """The same everywhere: what it takes tells how fast the machine is at the moment."""
        like = reference(supernet)
        module = nn.Conv2d(64, 64, 3, padding=1).to(like)
        return torch_run(module, [torch.randn(1, 64, 16, 16).to(like)])

    def _environment(self, supernet: nn.Module) -> dict[str, Any]:
        device = reference(supernet).device
        found: dict[str, Any] = {
            "device": device_name(device),
            "type": str(reference(supernet).dtype).removeprefix("torch."),
            "batch": self.batch,
            "runtime": self.runtime,
            "operators": _OPERATORS,
            "torch": torch.__version__,
        }
        if device.type not in ("cpu", "cuda"):
            raise CostError(
                f"latency is measured on CPUs and CUDA devices, not on {device.type}: run with compute=cpu."
            )
        if device.type == "cpu":
            found["threads"] = torch.get_num_threads()
        elif self.runtime == "onnxruntime":
            raise CostError("cost.runtime=onnxruntime is measured on the CPU: run with compute=cpu.")
        if self.runtime == "onnxruntime":
            import onnxruntime

            found["onnxruntime"] = onnxruntime.__version__
        return found


def _key(entry: Entry, norms: Mapping[str, nn.Module], uses: Sequence[Use]) -> str:
    """An operator, its layer and its shapes as text: what its time depends on besides the machine."""
    site = dataclasses.replace(entry.op.site, name="", index=0, aliases=())
    named = dict(zip(entry.op.labels, entry.op.candidates, strict=True))
    candidate = dict(named.get(entry.label, {"op": entry.label}))
    behind = type(norms[entry.site]).__name__ if entry.site in norms else None
    met = sorted(Counter((use.shape, use.batch) for use in uses).items())
    return json.dumps([candidate, type(entry.op.conv).__name__, behind, dataclasses.asdict(site), met])


def _norms(network: nn.Module, supernet: nn.Module) -> dict[str, nn.Module]:
    """The batch norm registered right behind each convolution, which a runtime joins with it."""
    found: dict[str, nn.Module] = {}
    ops = selection_ops(supernet)
    last: str | None = None
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            if last is not None and ops[last].site.dims and module.num_features == ops[last].site.out_channels:
                found[last] = module
            last = None
        elif name in ops:
            last = name
        elif not any(module.children()):
            last = None
    return found


def _spread(supernet: nn.Module, table: CostTable, count: int) -> list[Architecture]:
    """Random architectures from cheap to dear, each once; fewer where there are not so many."""
    generator = np.random.default_rng(0)
    found: dict[str, Architecture] = {}
    for lean in np.linspace(-3, 3, count):
        picked = {}
        for group, costs in table.group_costs().items():
            own = np.array(costs, dtype=float)
            own = (own - own.mean()) / max(own.std(), 1e-9)
            picked[group] = int((lean * own + generator.gumbel(size=len(costs))).argmax())
        ops = selection_ops(supernet)
        architecture = Architecture({name: op.candidates[picked[table.groups[name]]] for name, op in ops.items()})
        found[architecture.pretty()] = architecture
    return list(found.values())


def _share(rounds: np.ndarray) -> float:
    before, after = without_drift(rounds)
    return float(after / before)


def _scale(x: np.ndarray, y: np.ndarray, x_original: float, y_original: float) -> float:
    """The slope of the best line through the original's point, relative errors counting; one that leaves a rest >= 0.

    Without networks, or where none is found, that is at most 1, or what makes the operators' sum the whole.
    """
    most = y_original / x_original
    dx, dy = (x - x_original) / y, (y - y_original) / y
    slope = float(dx @ dy / (dx @ dx)) if len(x) and dx.any() else 1.0
    return min(slope if slope > 0 else 1.0, most)


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    import scipy.stats  # slow to import, and seldom needed

    return float(scipy.stats.spearmanr(a, b).statistic)
