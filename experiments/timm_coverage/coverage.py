"""Takes every network of timm through the whole line of lwdc and records what happens.

    python experiments/timm_coverage/coverage.py [--models GLOB ...] [--families] [--jobs 1] [--retry STATUS ...]
    python experiments/timm_coverage/coverage.py --export      # ONNX and torch.export, one network a family
    python experiments/timm_coverage/coverage.py --merged      # networks that train with branches, merged as deployed
    python experiments/timm_coverage/coverage.py --summary     # a markdown report of what is recorded

One json line a network. A run that is called again skips the networks that are recorded already.
"""

import argparse
import contextlib
import copy
import dataclasses
import fnmatch
import functools
import json
import math
import multiprocessing
import os
import platform
import random
import resource
import statistics
import subprocess
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import lwdc
from lwdc.backbones import Backbone
from lwdc.backbones.merging import merge
from lwdc.candidates.base import with_settings
from lwdc.counting import count_macs, count_params
from lwdc.errors import ExportError, LwdcError
from lwdc.export import export_all
from lwdc.gates import OneHot
from lwdc.sites import Site, find_sites
from lwdc.space import Plan, SearchSpace, make_plan, released_on_meta
from lwdc.strategies import weight_parameters
from lwdc.surgery import default_input_size, point_at, selection_ops
from lwdc.tracing import BY_SHAPES, Shape, outline
from lwdc.training import recalibrate

# 64 first: below it the last maps of most networks are one pixel, and most taps of a kernel are never read.
SIDES = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384)
CLASSES = 10
MERGED = ", merged"
MOST_PARAMS = 400_000_000  # beyond, only shapes and costs are checked
EXACT, ROUNDED = 1e-9, 1e-4  # relative differences accepted in float64 and float32
FORMATS = ("torch_export", "onnx")
STATUSES = ("works", "refused", "failed", "too large")
COMMIT = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
).stdout.strip()
VERSIONS = {
    "lwdc": lwdc.__version__,
    "commit": COMMIT,
    "torch": torch.__version__,
    "timm": timm.__version__,
    "python": platform.python_version(),
}

Record = dict[str, Any]
Say = Callable[[str], None]  # called with the name of the step that begins


class Wrong(Exception):
    """A promise of lwdc that does not hold."""


# ---- one network, in a process of its own ----------------------------------------------------------------


def check(name: str, record: Record, say: Say, folder: Path) -> None:
    """The whole line on one network. Raises what lwdc raises, or ``Wrong``."""
    backbone, size = prepare(name, record, say)
    network, architecture = compress(backbone, size, record, say)
    say("save")
    lwdc.save(folder, network, architecture, backbone=backbone, input_size=size)
    say("load")
    loaded = lwdc.load(folder)
    with torch.no_grad():
        images = torch.randn(2, *size)
        pairs = zip(outputs(loaded(images.clone())), outputs(network.eval()(images.clone())), strict=True)
    # Some networks overflow with fresh weights: so does their copy.
    if not all(torch.allclose(found, wanted, rtol=0, atol=0, equal_nan=True) for found, wanted in pairs):
        raise Wrong("the loaded package does not compute bitwise what was saved")


def check_shapes(name: str, record: Record, say: Say, folder: Path) -> None:
    """What can be known of a network without its weights: sites, and that their costs add up."""
    del folder
    backbone, size = prepare(name, record, say)
    say("costs by shapes")
    model = unfilled(backbone)
    plan = make_plan(model, SearchSpace(), size)
    modules = dict(model.named_modules(remove_duplicate=False))
    rest = [count_macs(model, [size]), count_params(model)]
    expected = list(rest)
    pick = random.Random(name)
    for choice in plan.choices:
        others = [i for i, candidate in enumerate(choice.candidates) if candidate["op"] != "original"]
        index = pick.choice(others)
        original = modules[choice.site.name]
        stand_in = with_settings(released_on_meta(choice.candidates[index], choice.site), original)
        for held_as in (choice.site.name, *choice.site.aliases):
            model.set_submodule(held_as, stand_in)
        expected[0] += choice.macs[index] - count_macs(original, [shape for shape, _ in choice.site.calls])
        expected[1] += choice.params[index] - count_params(original)
    found = [count_macs(model, [size]), count_params(model)]
    if found != expected:
        raise Wrong(f"costs of {expected[0]} MACs and {expected[1]} parameters, counted {found[0]} and {found[1]}")
    record |= {"changed": len(plan.choices), "cost_ratio": found[0] / rest[0]}


def check_exports(name: str, record: Record, say: Say, folder: Path) -> None:
    """Both exported files, each compared with the network by lwdc; outcomes stand in the record by format."""
    backbone, size = prepare(name, record, say)
    network, architecture = compress(backbone, size, record, say)
    record["formats"] = {}
    for attempt in (FORMATS, *((form,) for form in FORMATS)):  # at once, because they share a trace; else one by one
        if set(attempt) <= set(record["formats"]):
            break
        say(" and ".join(attempt))
        try:
            files = export_all(folder, network, architecture, formats=attempt, backbone=backbone, input_size=size)
        except LwdcError as error:
            if len(attempt) == 1:
                record["formats"][attempt[0]] = {"status": "refused", "reason": str(error)}
        else:
            for made in files:
                outcome = {"status": "works", "difference": made.max_difference, "bytes": made.bytes}
                record["formats"][made.format] = outcome
    failing = [form for form in FORMATS if record["formats"][form]["status"] != "works"]
    if failing:
        raise ExportError("; ".join(record["formats"][form]["reason"] for form in failing))


def prepare(name: str, record: Record, say: Say) -> tuple[Backbone, Shape]:
    """The network's name and options, and the image size to run it at; its own figures go to the record."""
    say("size")
    own = own_size(name)
    options, size = smallest_size(name, own)
    record |= {"size": list(size), "own_size": list(own)}
    say("figures")
    record |= figures(unfilled(backbone_of(name, own[0])), own)
    return backbone_of(name, own[0], options), size


def compress(backbone: Backbone, size: Shape, record: Record, say: Say) -> tuple[nn.Module, lwdc.Architecture]:
    """Wrap, one step, discretise, with every check between; a random candidate but the original at each site."""
    torch.manual_seed(0)
    say("build")
    model = dataclasses.replace(backbone, reparameterise=False).create()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # What starts at zero hides all that lies behind it.
                parameter.normal_(std=0.1)
    if backbone.reparameterise:
        images = torch.randn(16, *size)
        recalibrate(model, [(images, images)], 1)  # later there are no norms that would take the size out of outputs
        merge(model)
    say("wrap")
    supernet = lwdc.wrap(model, SearchSpace(), OneHot, size)
    del model
    architecture = lwdc.Architecture(random_choices(backbone.name, supernet))
    point_at(supernet, architecture)
    record["changed"] = sum(candidate["op"] != "original" for candidate in architecture.choices.values())
    say("step")
    step(supernet, torch.randn(2, *size))
    images = torch.randn(2, *size)
    with torch.no_grad():
        overflows = not all(leaf.isfinite().all() for leaf in outputs(supernet.eval()(images.clone())))
    if overflows:  # Fresh weights, and norms that have seen one batch: let them have this one's statistics.
        recalibrate(supernet, [(images, images)], 1)
    say("discretise")
    network, _ = lwdc.discretise(supernet, architecture)
    say("compare")
    record |= compare(supernet, network, images)
    say("costs")
    for cost, counted in ((lwdc.Macs(), count_macs(network, [size])), (lwdc.Params(), count_params(network))):
        table = lwdc.tabulate(supernet, cost)
        record[f"{cost.name}_ratio"] = counted / table.total
        if table.of(architecture) != counted:
            raise Wrong(f"the table says {table.of(architecture)} {cost.unit}, counted {counted}")
    return network, architecture


def random_choices(name: str, supernet: nn.Module) -> dict[str, Any]:
    """A candidate other than the original wherever one fits; drawn from the network's name."""
    pick = random.Random(name)
    chosen = {}
    for site, op in selection_ops(supernet).items():
        others = [candidate for candidate in op.candidates if candidate["op"] != "original"]
        chosen[site] = pick.choice(others or list(op.candidates))
    return chosen


def step(supernet: nn.Module, images: torch.Tensor) -> None:
    """One step of SGD on the weights, in place."""
    weights = weight_parameters(supernet)
    optimiser = torch.optim.SGD(weights, lr=1e-3, foreach=False)
    loss = sum(leaf.float().square().mean() for leaf in outputs(supernet.train()(images)))
    loss.backward()
    if not loss.isfinite() or not all(p.grad.isfinite().all() for p in supernet.parameters() if p.grad is not None):
        raise Wrong("the loss or a gradient is not finite")
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def compare(supernet: nn.Module, network: nn.Module, images: torch.Tensor) -> Record:
    """The discretised network against the supernet, in float64 where its code allows; casts both back."""
    for dtype, accepted in ((torch.float64, EXACT), (torch.float32, ROUNDED)):
        batch = images.to(dtype)
        with torch.no_grad():
            try:
                wanted = supernet.to(dtype).eval()(batch.clone())
            except RuntimeError as error:  # a table of the network's own, which no cast reaches
                if dtype == torch.float32 or "type" not in str(error):
                    raise
                continue
            found = network.to(dtype).eval()(batch.clone())
        supernet.float()
        network.float()
        return {"difference": apart(found, wanted, accepted, "the discretised network"), "in": str(dtype)[6:]}
    raise AssertionError


def apart(found: Any, wanted: Any, accepted: float, who: str) -> float:
    """The largest difference of two outputs, relative to the largest output. Raises ``Wrong``."""
    pairs = list(zip(outputs(found), outputs(wanted), strict=True))
    if not all(leaf.isfinite().all() for pair in pairs for leaf in pair):
        raise Wrong("an output is not finite")
    scale = max(float(wanted.abs().max()) for _, wanted in pairs)
    difference = max(float((found - wanted).abs().max()) for found, wanted in pairs) / max(scale, 1e-30)
    if difference > accepted:
        raise Wrong(f"{who} is {difference:.2g} off, relatively")
    return difference


def outputs(output: Any) -> list[torch.Tensor]:
    """The floating-point tensors that a network returned; some return several."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


# ---- sizes and figures, from shapes alone ----------------------------------------------------------------


def on_meta(backbone: Backbone) -> nn.Module:
    """The network without storage."""
    with torch.device("meta"):
        return backbone.create()


def unfilled(backbone: Backbone) -> nn.Module:
    """The network with storage that nothing was written to, so that the system need not provide it."""
    network = on_meta(backbone)
    memo: dict[int, Any] = {}
    for held in (*network.parameters(), *network.buffers()):
        own = torch.empty_like(held, device="cpu", requires_grad=held.requires_grad)
        memo[id(held)] = nn.Parameter(own, held.requires_grad) if isinstance(held, nn.Parameter) else own
    return copy.deepcopy(network, memo)


def backbone_of(name: str, channels: int = 3, options: dict[str, Any] | None = None) -> Backbone:
    """The network of that name, which says whether it is merged."""
    return Backbone(name.removesuffix(MERGED), CLASSES, channels, options or {}, reparameterise=name.endswith(MERGED))


def own_size(name: str) -> Shape:
    """The image shape that the network was made for."""
    return default_input_size(on_meta(backbone_of(name)))


def smallest_size(name: str, own: Shape) -> tuple[dict[str, Any], Shape]:
    """Options and image shape of the smallest of ``SIDES`` that the network runs at, else its own."""
    for side in SIDES:
        size = (own[0], side, side)
        if math.prod(size) >= math.prod(own):
            break
        for options in ({"img_size": side}, {}):
            try:
                model = on_meta(backbone_of(name, own[0], options))
                found = outputs(model.train()(torch.empty(2, *size, device="meta")))
            except Exception:  # noqa: BLE001  it asks for another size in a way of its own
                continue
            if found and all(leaf.numel() for leaf in found):
                return options, size
    return {}, own


def figures(model: nn.Module, size: Shape) -> Record:
    """Counts of a network at its own size: parameters, MACs, sites, and where the MACs outside them are."""
    layout = find_sites(model, size)
    spent = own_macs(model, size)
    total = sum(spent.values())
    inside = _macs(layout.sites, model)
    found: Record = {
        "params": count_params(model),
        "macs": total,
        "sites": len(layout.sites),
        "share_of_sites": sum(inside.values()) / total,
    }
    try:
        plan = make_plan(model, SearchSpace(), size)
    except LwdcError:  # The real network will be refused for the same reason.
        plan = Plan((), layout.left_alone, size)
    chosen = {choice.site.name for choice in plan.choices}
    found |= {"choices": len(chosen), "share": sum(inside[name] for name in chosen) / total}
    modules = dict(model.named_modules())
    outside: Counter[str] = Counter()
    for name, macs in spent.items():
        if name not in chosen:
            outside[type(modules[name]).__name__] += macs / total
    found["outside"] = dict(outside.most_common(4))
    found["left_alone"] = {}
    for name, reason in plan.left_alone:
        layers, share = found["left_alone"].get(reason, (0, 0.0))
        found["left_alone"][reason] = (layers + 1, share + inside.get(name, 0) / total)
    return found


def _macs(sites: Sequence[Site], model: nn.Module) -> dict[str, int]:
    modules = dict(model.named_modules(remove_duplicate=False))
    return {site.name: count_macs(modules[site.name], [shape for shape, _ in site.calls]) for site in sites}


def own_macs(model: nn.Module, size: Shape) -> dict[str, int]:
    """MACs of one image by the module whose own code spends them."""
    for run in BY_SHAPES:
        copied = outline(model)
        spending = _Spending(copied)
        with contextlib.suppress(Exception), spending.counter:
            run(copied, size)
            return dict(spending.own)
    raise RuntimeError("the network cannot be counted without numbers")


class _Spending:
    """Hooks that part what a counter counts among the modules of ``model``."""

    def __init__(self, model: nn.Module) -> None:
        self.counter = FlopCounterMode(display=False)
        self.own: Counter[str] = Counter()
        self._before: list[int] = []  # what was counted before each of the modules now running
        self._within: list[int] = [0]  # and what the modules within each spent
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(functools.partial(self._leave, name))

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._before.append(self.counter.get_total_flops() // 2)
        self._within.append(0)

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        whole = self.counter.get_total_flops() // 2 - self._before.pop()
        self.own[name] += whole - self._within.pop()
        self._within[-1] += whole


# ---- many networks, a process each -----------------------------------------------------------------------


class Job:
    """One network in a forked process, under limits of time and memory that are watched from outside."""

    def __init__(self, name: str, work: Callable[..., None], options: argparse.Namespace, reason: str = "") -> None:
        self.name, self.work, self.options = name, work, options
        self.reason = reason  # why only shapes are checked
        self.folder = tempfile.TemporaryDirectory()
        self.record: Record = {"name": name, "family": family(name)}
        self.step = "start"
        self.cpu = 0.0
        self.began = time.monotonic()
        self.reader, writer = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_child, args=(name, work, Path(self.folder.name), writer), daemon=True)
        self.process.start()
        writer.close()

    def poll(self) -> Record | None:
        """The record once the network is done or was stopped, else None."""
        with contextlib.suppress(EOFError):
            while self.reader.poll():
                self.step, known = self.reader.recv()
                self.record |= known
        seconds = time.monotonic() - self.began
        cpu, gigabytes = self._usage()
        if "status" not in self.record:
            if max(cpu, seconds / 5) > self.options.time:
                self._stop("too large", f"over {self.options.time:.0f} s")
            elif gigabytes > self.options.memory:
                self._stop("too large", f"over {self.options.memory:g} GB")
            elif not self.process.is_alive():
                self._stop("failed", f"the process ended with code {self.process.exitcode}")
            else:
                return None
        self.process.join()
        self.folder.cleanup()
        self.record.setdefault("cpu_seconds", round(cpu, 1))
        self.record |= {"seconds": round(seconds, 1), "versions": VERSIONS}
        return self.record

    def _stop(self, status: str, reason: str) -> None:
        self.process.kill()
        self.record |= {"status": status, "reason": reason, "where": self.step}

    def _usage(self) -> tuple[float, float]:
        """Seconds of CPU and resident gigabytes so far, as Linux tells them."""
        try:
            process = Path(f"/proc/{self.process.pid}")
            times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
            pages = int((process / "statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return self.cpu, 0.0
        self.cpu = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        return self.cpu, pages * resource.getpagesize() / 1e9


def _child(name: str, work: Callable[..., None], folder: Path, writer: Any) -> None:
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    record: Record = {}
    at = "start"

    def say(step: str) -> None:
        nonlocal at
        at = step
        writer.send((step, record))

    try:
        work(name, record, say, folder)
        record["status"] = "works"
    except LwdcError as error:
        # What was saved must load again: there a refusal is a failure.
        status = "failed" if at in ("load", "discretise", "costs") else "refused"
        record |= {"status": status, "reason": str(error), "where": at}
    except Exception as error:  # noqa: BLE001  every kind is a finding
        frames = traceback.extract_tb(error.__traceback__)
        inner = [f for f in frames if "lwdc" in Path(f.filename).parts or "timm" in Path(f.filename).parts] or frames
        place = f"{Path(inner[-1].filename).name}:{inner[-1].lineno} {inner[-1].name}"
        reason = f"{type(error).__name__}: {str(error).strip()[:400]}"
        record |= {"status": "failed", "reason": reason, "where": f"{at}, {place}"}
    used = resource.getrusage(resource.RUSAGE_SELF)
    record["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 1)
    record["peak_gb"] = round(used.ru_maxrss * 1024 / 1e9, 2)
    writer.send((at, record))


def sweep(names: Sequence[str], options: argparse.Namespace, sizes: dict[str, int | None]) -> Iterator[Record]:
    """Records of the networks as they come in; what proves too large is checked again by shapes alone."""
    waiting, running = list(names), []
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop(0)
            large = (sizes.get(name) or 0) > MOST_PARAMS
            work = check_exports if options.export else check_shapes if large else check
            running.append(Job(name, work, options, f"over {MOST_PARAMS / 1e6:.0f} M parameters"))
        time.sleep(0.05)
        for job in list(running):
            record = job.poll()
            if record is None:
                continue
            running.remove(job)
            if record["status"] == "too large" and job.work is check:
                running.append(Job(job.name, check_shapes, options, f"{record['reason']} at {record['where']!r}"))
                continue
            if job.work is check_shapes and record["status"] == "works":
                record |= {"status": "too large", "reason": job.reason, "shapes": "work"}
            yield record


def family(name: str) -> str:
    """The module of timm that defines the network."""
    return timm.models.model_entrypoint(name.removesuffix(MERGED)).__module__.rpartition(".")[2]


def parameter_counts(path: Path) -> dict[str, int | None]:
    """Parameters by name, from networks without storage; kept in a file, because it takes minutes."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    if stored.get("timm") != timm.__version__:
        stored = {"timm": timm.__version__, "params": {}}
    counts = stored["params"]
    names = [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")]
    missing = [name for name in names if name not in counts]
    path.parent.mkdir(parents=True, exist_ok=True)
    for done, name in enumerate(missing, 1):
        try:
            counts[name] = count_params(on_meta(Backbone(name, CLASSES, 3)))
        except Exception:  # noqa: BLE001  it needs numbers to be built; it comes last
            counts[name] = None
        if done % 100 == 0 or done == len(missing):
            print(f"counted the parameters of {done}/{len(missing)} networks", flush=True)
            path.write_text(json.dumps(stored, indent=0) + "\n")
    return counts


def merged(names: Sequence[str]) -> list[str]:
    """Those of the networks that have branches to merge, under the name that says that they are."""
    found = []
    for name in names:
        with contextlib.suppress(Exception):  # most have none, and some need numbers to be built
            on_meta(backbone_of(name + MERGED))
            found.append(name + MERGED)
    return found


def in_order(counts: dict[str, int | None]) -> tuple[list[str], int]:
    """The smallest network of every family, then the rest, each by size; and how many families there are."""
    rising = sorted(counts, key=lambda name: (counts[name] is None, counts[name] or 0, name))
    first: dict[str, str] = {}
    for name in rising:
        first.setdefault(family(name), name)
    return [*first.values(), *(name for name in rising if name not in first.values())], len(first)


def read(path: Path) -> dict[str, Record]:
    """Records by name; a line that a killed run left unfinished is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            found[record["name"]] = record
    return found


# ---- report ----------------------------------------------------------------------------------------------


def summary(records: Sequence[Record]) -> str:
    """A markdown report: families, totals, and every network that does not go through or has little inside sites."""
    lines = ["| family | networks | " + " | ".join(STATUSES) + " | median share |", "|---" * 7 + "|"]
    families: dict[str, list[Record]] = {}
    for record in records:
        families.setdefault(record["family"], []).append(record)
    for kind, members in [*sorted(families.items()), ("**all**", list(records))]:
        statuses = Counter(record["status"] for record in members)
        counts = " | ".join(str(statuses[status] or "") for status in STATUSES)
        lines.append(f"| {kind} | {len(members)} | {counts} | {_median(members, 'share')} |")
    times = [record["cpu_seconds"] for record in records]
    lines += [
        "",
        f"Median share of a network's MACs at sites with a choice: {_median(records, 'share')}; "
        f"at all that could be sites: {_median(records, 'share_of_sites')}. Networks that are refused count.",
        f"CPU seconds a network: mean {statistics.mean(times):.1f}, median {statistics.median(times):.1f}, "
        f"sum {sum(times) / 3600:.1f} h.",
    ]
    worst = max((r for r in records if "difference" in r), key=lambda r: (r["in"] == "float32", r["difference"]))
    exact = [r["difference"] for r in records if r.get("in") == "float64"]
    lines.append(
        f"Largest relative difference of the discretised network: {max(exact, default=0):.1g} in float64 "
        f"({len(exact)} networks); {worst['difference']:.1g} in {worst['in']} ({worst['name']})."
    )
    for status in STATUSES[1:]:
        lines += _listing(status, [r for r in records if r["status"] == status], lambda r: _reason(r))
    low = sorted((r for r in records if r.get("share", 0) < 0.3), key=lambda r: r.get("share", 0))
    lines += _listing("share under 30 %", low, _where_the_macs_are)
    return "\n".join(lines)


def export_summary(records: Sequence[Record]) -> str:
    """A markdown table of exported files."""
    lines = ["| network | " + " | ".join(FORMATS) + " |", "|---|" + "---|" * len(FORMATS)]
    for record in sorted(records, key=lambda r: r["name"]):
        cells = []
        for form in FORMATS:
            made = record.get("formats", {}).get(form)
            if made is None:
                cells.append(f"{record['status']}: {_reason(record)}")
            else:
                cells.append(f"{made['difference']:.1g}" if made["status"] == "works" else made["reason"])
        lines.append(f"| {record['name']} | " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    for form in FORMATS:
        works = sum(r.get("formats", {}).get(form, {}).get("status") == "works" for r in records)
        lines.append(f"\n{form}: {works} of {len(records)} work.")
    return "\n".join(lines)


def _median(records: Sequence[Record], key: str) -> str:
    shares = [record.get(key, 0.0) for record in records]
    return f"{statistics.median(shares):.0%}" if shares else "-"


def _reason(record: Record) -> str:
    shown = " ".join(record.get("reason", "").split())[:220]
    return f"{shown} ({record['where']})" if "where" in record else shown


def _where_the_macs_are(record: Record) -> str:
    spent = ", ".join(f"{kind} {share:.0%}" for kind, share in record.get("outside", {}).items() if share > 0.01)
    left = sorted(record.get("left_alone", {}).items(), key=lambda item: -item[1][1])
    why = "; ".join(f"{share:.0%} in {layers}: {reason}" for reason, (layers, share) in left[:3] if share > 0.01)
    return f"{record.get('share', 0):.0%}; outside: {spent or 'unknown'}" + (f" ({why})" if why else "")


def _listing(title: str, records: Sequence[Record], describe: Callable[[Record], str]) -> list[str]:
    """Networks of one family with the same remark share a line."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for record in records:
        grouped.setdefault((record["family"], describe(record)), []).append(record["name"])
    lines = ["", f"### {title.capitalize()} ({len(records)})", ""]
    for (_, remark), names in grouped.items():
        lines.append(f"- {', '.join(f'`{name}`' for name in names)}: {remark}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the records")
    parser.add_argument("--models", nargs="*", default=["*"], metavar="GLOB")
    parser.add_argument("--families", action="store_true", help="only the smallest network of every family")
    parser.add_argument("--export", action="store_true", help="exported files, of one network a family")
    parser.add_argument("--merged", action="store_true", help="networks that train with branches, merged")
    parser.add_argument("--retry", nargs="*", default=[], choices=STATUSES, help="do these again")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--time", type=float, default=120.0, help="CPU seconds a network (of the clock: 5 times that)")
    parser.add_argument("--memory", type=float, default=6.0, help="gigabytes a network")
    parser.add_argument("--summary", action="store_true", help="print a report and do nothing")
    options = parser.parse_args()
    path = options.out / ("exports.jsonl" if options.export else "merged.jsonl" if options.merged else "results.jsonl")
    records = read(path)
    if options.summary:
        print(export_summary(list(records.values())) if options.export else summary(list(records.values())))
        return
    torch.set_num_threads(1)  # before anything is forked: threads do not survive it
    counts = parameter_counts(options.out / "parameters.json")
    names, families = in_order(counts)
    names = names[:families] if options.families or options.export else names
    wanted = [name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in options.models)]
    wanted = merged(wanted) if options.merged else wanted
    kept = {n: r for n, r in records.items() if n not in wanted or r["status"] not in options.retry}
    path.write_text("".join(json.dumps(record) + "\n" for record in kept.values()))
    wanted = [name for name in wanted if name not in kept]
    # Parts of torch are imported only when they are used, which takes seconds: once, here.
    make_plan(unfilled(Backbone("test_resnet", CLASSES, 3)), SearchSpace(), (3, 64, 64))
    with path.open("a") as file:
        for done, record in enumerate(sweep(wanted, options, counts), 1):
            file.write(json.dumps(record) + "\n")
            file.flush()
            remark = _reason(record) if record["status"] != "works" else f"share {record['share']:.0%}"
            outcome = f"{record['status']}, {record['cpu_seconds']} s, {remark}"
            print(f"{done}/{len(wanted)} {record['name']}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
