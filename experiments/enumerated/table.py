"""Trains every architecture of a small space by one short recipe, and writes what each of them reaches.

    python experiments/enumerated/table.py [--jobs 2] [--out experiments/enumerated/table.csv]

A run that is called again goes on where the last one stopped.
"""

import argparse
import csv
import itertools
import multiprocessing
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lwdc.backbones import Backbone
from lwdc.costs import Macs, Params, tabulate
from lwdc.data import Digits
from lwdc.proposers import Code, Menu
from lwdc.space import Plan, SearchSpace, make_plan
from lwdc.surgery import discretise, wrap

BACKBONE = {"channels": (8, 16, 32)}  # of cifar_resnet8: six sites
SPACE = SearchSpace(
    [{"op": "original"}, {"op": "factorised", "ratio": 0.25}, {"op": "separable"}, {"op": "pointwise"}]
)
SIZE = (1, 8, 8)
STEPS, BATCH, RATE, MOMENTUM, DECAY = 50, 64, 0.1, 0.9, 5e-4
VALID = 600  # images, so that two architectures are seldom equal
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
    """Trains architectures by the recipe: SGD, one-cycle rate, the same batches for all."""

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

    def __call__(self, code: Code) -> dict[str, float]:
        """Accuracies on the validation and the test images."""
        net, _ = discretise(self.supernet, self.menu.decode(code))
        net.train()
        optimiser = torch.optim.SGD(net.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
        for images, labels in self.batches:
            optimiser.zero_grad()
            cross_entropy(net(images), labels).backward()
            optimiser.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            return {name: self.accuracy(net, name) for name in self.splits}

    def accuracy(self, net: nn.Module, split: str) -> float:
        right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in self.splits[split])
        return right / sum(len(labels) for _, labels in self.splits[split])


def read(path: Path) -> dict[Code, dict[str, float]]:
    """The table: by code, accuracies in [0, 1], MACs and parameters."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["params"]]  # a half-written last line has none
    return {tuple(map(int, row.pop("code"))): {k: float(v) for k, v in row.items()} for row in rows}


def _train(code: Code) -> tuple[Code, dict[str, float]]:
    return code, _trainer(code)


def _begin() -> None:
    global _trainer
    _trainer = Trainer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("table.csv"))
    options = parser.parse_args()
    space, known = menu(), read(options.out)
    model, plan = network()
    params = tabulate(wrap(model, plan=plan, inherit=False), Params())
    wanted = [code for code in itertools.product(*map(range, space.counts)) if code not in known]
    clock = time.time()
    with multiprocessing.Pool(options.jobs, _begin) as pool, options.out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(COLUMNS)
        for done, (code, found) in enumerate(pool.imap(_train, wanted), start=1):
            costs = space.cost(code), params.of(space.decode(code))
            writer.writerow(["".join(map(str, code)), f"{found['valid']:.6f}", f"{found['test']:.6f}", *costs])
            file.flush()
            if done % 100 == 0:
                print(f"{done} of {len(wanted)}, {(time.time() - clock) / done:.2f} s each", flush=True)


if __name__ == "__main__":
    main()
