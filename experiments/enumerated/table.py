"""Trains every architecture of a small space by one short recipe, and writes what each of them reaches.

    python experiments/enumerated/table.py [--count 64]

A run that is called again goes on where the last one stopped.
"""

import argparse
import csv
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import batch_norm, conv2d, cross_entropy, pad

from lwdc.backbones import Backbone
from lwdc.costs import Macs, Params, tabulate
from lwdc.data import Digits
from lwdc.proposers import Code, Menu
from lwdc.selection import SelectionOp, selection_ops
from lwdc.space import Plan, SearchSpace, make_plan
from lwdc.surgery import discretise, wrap

BACKBONE = {"channels": (4, 8, 16)}  # of cifar_resnet8: six sites
SPACE = SearchSpace([{"op": "original"}, {"op": "factorised", "ratio": 0.25}, {"op": "separable"}, {"op": "pointwise"}])
SIZE = (1, 8, 8)
STEPS, BATCH, RATE, MOMENTUM, DECAY = 50, 64, 0.1, 0.9, 5e-4
VALID = 600  # images, so that two architectures are seldom equal
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and labels
COLUMNS = ("code", "valid", "test", "macs", "params")


def network() -> tuple[nn.Module, Plan]:
    """The network with fresh weights, the same every time, and the space laid on it."""
    torch.manual_seed(0)
    model = Backbone("cifar_resnet8", 10, 1, dict(BACKBONE)).create()
    return model, make_plan(model, SPACE, SIZE)


def menu(budget: float | None = None) -> Menu:
    """What searches choose from, within a share of the MACs."""
    model, plan = network()
    table = tabulate(wrap(model, plan=plan, inherit=False), Macs())
    return Menu.of(plan, [table], [None if budget is None else int(budget * table.total)])


def supernet() -> nn.Module:
    """All candidates with fresh weights, the same every time: an operator begins alike in every architecture."""
    model, plan = network()
    torch.manual_seed(0)
    return wrap(model, plan=plan, inherit=False)


class Trainer:
    """Trains architectures by the recipe, many side by side: SGD, a one-cycle rate, the same batches for all.

    Every operator of the space is linear, so an architecture is its kernels, and a step of so many networks is one of a
    single network with grouped convolutions. ``alone`` trains one network as anybody would, for comparison.
    """

    def __init__(self) -> None:
        torch.set_num_threads(1)
        data = Digits(valid=VALID)
        data.prepare(torch.device("cpu"))
        self.menu, self.supernet = menu(), supernet()
        batches = itertools.chain.from_iterable(
            data.train(seed=0, epoch=epoch, batch_size=BATCH) for epoch in itertools.count()
        )
        self.batches = list(itertools.islice(batches, STEPS))
        self.splits = {split: list(data.batches(split, 1000)) for split in ("valid", "test")}

    def __call__(self, codes: Sequence[Code]) -> list[dict[str, float]]:
        """Accuracies on the validation and the test images."""
        nets = Networks(self.supernet, codes)
        parameters = list(nets.parameters())
        for loss in self.losses(nets, parameters):
            loss(lambda logits, labels: cross_entropy(logits.flatten(0, 1), labels.repeat(len(codes))) * len(codes))
        with torch.no_grad():
            by_split = {split: self.right(nets, split) for split in self.splits}
        return [{split: float(found[i]) for split, found in by_split.items()} for i in range(len(codes))]

    def alone(self, code: Code) -> dict[str, float]:
        """The same for one architecture."""
        net, _ = discretise(self.supernet, self.menu.decode(code))
        for loss in self.losses(net.train(), list(net.parameters())):
            loss(cross_entropy)
        net.eval()
        with torch.no_grad():
            return {split: float(self.right(lambda x: net(x)[None], split)[0]) for split in self.splits}

    def losses(self, net: Any, parameters: list[nn.Parameter]) -> Iterator[Callable[[Loss], None]]:
        optimiser = torch.optim.SGD(parameters, RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
        for images, labels in self.batches:
            optimiser.zero_grad()
            yield lambda loss, images=images, labels=labels: loss(net(images), labels).backward()
            optimiser.step()
            schedule.step()

    def right(self, net: Callable[[Tensor], Tensor], split: str) -> Tensor:
        """Shares of right answers: ``(networks,)``."""
        found = [(net(images).argmax(2) == labels).float() for images, labels in self.splits[split]]
        return torch.cat(found, dim=1).mean(1)


class Networks(nn.Module):
    """Networks of several architectures side by side: ``(B, C, H, W) -> (networks, B, classes)``."""

    def __init__(self, supernet: nn.Module, codes: Sequence[Code]) -> None:
        super().__init__()
        self.count = len(codes)
        self.training = True
        self.blocks = [block for i in (1, 2, 3) for block in getattr(supernet, f"layer{i}")]
        # Every weight of every candidate, once for each network; what a network does not choose has no gradient.
        self.weights = nn.ParameterDict()
        self.kernels: dict[str, Callable[[], Tensor]] = {}
        self.norms = {name: self.norm(name, module) for name, module in norms_of(supernet)}
        self.stem = self.stacked("stem", supernet.conv1.weight)
        self.linear = [self.stacked(f"linear {n}", p) for n, p in supernet.linear.named_parameters()]
        for place, (name, op) in enumerate(selection_ops(supernet).items()):
            chosen = torch.tensor([code[place] for code in codes])
            self.kernels[name] = functools.partial(self.kernel, name, op, chosen)
            for i, operator in enumerate(op.operators):
                own = {"weight": op.conv.weight} if i == 0 else dict(operator.named_parameters())
                for key, parameter in own.items():
                    self.stacked(f"{name} {i} {key}", parameter)

    def stacked(self, name: str, parameter: Tensor) -> nn.Parameter:
        key = name.replace(".", "/")
        self.weights[key] = nn.Parameter(parameter.detach().expand(self.count, *parameter.shape).clone())
        return self.weights[key]

    def norm(self, name: str, module: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
        weight, bias = (self.stacked(f"{name} {n}", p) for n, p in module.named_parameters())
        mean, var = torch.zeros(weight.numel()), torch.ones(weight.numel())
        return lambda x: batch_norm(x, mean, var, weight.flatten(), bias.flatten(), self.training, module.momentum)

    def kernel(self, name: str, op: SelectionOp, chosen: Tensor) -> Tensor:
        """``(networks * C_out, C_in, 3, 3)``."""
        shape = op.conv.weight.shape
        found = torch.zeros(self.count, *shape)
        for i, operator in enumerate(op.operators):
            taken = (chosen == i).nonzero().flatten()
            if len(taken) == 0:
                continue
            key = f"{name} {i} ".replace(".", "/")
            own = {
                f"of.{k[len(key) :].replace('/', '.')}": w[taken] for k, w in self.weights.items() if k.startswith(key)
            }
            if i == 0:
                kernels = own["of.weight"]
            else:
                form = KernelOf(operator)
                kernels = vmap(lambda p, form=form: functional_call(form, p, strict=True))(own)
            found = found.index_copy(0, taken, kernels)
        return found.flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        conv = functools.partial(conv2d, padding=1, groups=self.count)
        x = conv(x.repeat(1, self.count, 1, 1), self.stem.flatten(0, 1))
        x = self.norms["bn1"](x).relu()
        sites = iter(self.kernels.values())
        for block, (first, second) in zip(self.blocks, batched(list(self.norms.values())[1:], 2), strict=True):
            y = first(conv(x, next(sites)(), stride=block.conv1.conv.stride)).relu()
            y = second(conv(y, next(sites)()))
            shortcut = block.downsample(x.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(0, 1))
            x = (y + shortcut.unflatten(0, (self.count, -1)).transpose(0, 1).flatten(1, 2)).relu()
        features = x.mean((2, 3)).unflatten(1, (self.count, -1)).transpose(0, 1)  # (networks, B, C)
        weight, bias = self.linear
        return torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))

    def __call__(self, x: Tensor) -> Tensor:
        self.training = torch.is_grad_enabled()
        return self.forward(x)


class KernelOf(nn.Module):
    """An operator, called for its kernel."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.of = operator

    def forward(self) -> Tensor:
        kernel: Tensor = self.of.compact_kernel()
        # A pointwise kernel is the middle of the site's.
        return pad(kernel, (1, 1, 1, 1)) if kernel.shape[-1] == 1 else kernel


def norms_of(supernet: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    return [(name, m) for name, m in supernet.named_modules() if isinstance(m, nn.BatchNorm2d)]


def batched(things: list[Any], count: int) -> list[list[Any]]:
    return [things[i : i + count] for i in range(0, len(things), count)]


def read(path: Path) -> dict[Code, dict[str, float]]:
    """The table: by code, accuracies in [0, 1], MACs and parameters."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["params"]]  # a half-written last line has none
    return {tuple(map(int, row.pop("code"))): {k: float(v) for k, v in row.items()} for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64, help="networks side by side")
    parser.add_argument("--alone", type=int, default=0, help="compare so many with networks trained alone, and stop")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("table.csv"))
    options = parser.parse_args()
    trainer, known = Trainer(), read(options.out)
    space = trainer.menu
    codes = list(itertools.product(*map(range, space.counts)))
    if options.alone:
        some = random.Random(0).sample(codes, options.alone)
        for code, found in zip(some, trainer(some), strict=True):
            print("".join(map(str, code)), found, "alone", trainer.alone(code))
        return
    model, plan = network()
    params = tabulate(wrap(model, plan=plan, inherit=False), Params())
    wanted = batched([code for code in codes if code not in known], options.count)
    clock = time.time()
    with options.out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(COLUMNS)
        for done, some in enumerate(wanted, start=1):
            for code, found in zip(some, trainer(some), strict=True):
                costs = space.cost(code), params.of(space.decode(code))
                writer.writerow(["".join(map(str, code)), f"{found['valid']:.6f}", f"{found['test']:.6f}", *costs])
            file.flush()
            print(f"{done} of {len(wanted)}, {(time.time() - clock) / done:.2f} s each", flush=True)


if __name__ == "__main__":
    main()
