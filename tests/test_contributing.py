"""CONTRIBUTING.md: its examples work as they stand, from outside the package."""

import importlib
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from lwdc.backbones import Backbone
from lwdc.candidates import check_operator, label, registry
from lwdc.costs import CostModel, Macs, tabulate
from lwdc.data import DataModule
from lwdc.errors import DataError
from lwdc.gates import Gate
from lwdc.proposers import Menu
from lwdc.sites import find_sites
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import discretise, wrap

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def example(subject: str, folder: Path, monkeypatch: pytest.MonkeyPatch, block: int = 0) -> types.ModuleType:
    """A Python block, the first one, below the heading "... ``subject``", imported as a module of its own."""
    section = PAGE.partition(f"### ... {subject}\n")[2].partition("\n### ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert blocks, f"no example of {subject}"
    name = f"example_{subject.split()[-1]}_{block}"
    (folder / f"{name}.py").write_text(blocks[block])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.fixture
def operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples' operators, registered for one test."""
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    for block in range(3):
        example("an operator", tmp_path, monkeypatch, block)


@pytest.mark.parametrize(
    "candidate", [{"op": "narrow", "ratio": 0.5}, {"op": "one_filter"}, {"op": "rectified"}], ids=label
)
def test_the_operators_keep_their_promises(candidate: dict[str, Any], operators: None) -> None:
    for layer, sizes in ((nn.Conv2d(8, 6, 3, stride=2, padding=1), (9, 9)), (nn.Conv1d(8, 8, 3, padding=1), (9,))):
        check_operator(candidate, find_sites(nn.Sequential(layer), (8, *sizes)).sites[0])


def test_a_space_can_name_the_operators(operators: None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    named: list[dict[str, Any]] = [{"op": "narrow", "ratio": 0.25}, {"op": "one_filter"}, {"op": "rectified"}]
    space = SearchSpace(candidates=[{"op": "original"}, *named])
    _, architecture = discretise(wrap(model, space, input_size=(3, 8, 8)))
    assert set(architecture.choices) == {"2"}


def test_the_gate_gives_a_distribution_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate: Gate = example("a gate", tmp_path, monkeypatch).Powered(3, power=3.0, warmup=0.0)
    weights = gate()
    assert float(weights.detach().sum()) == pytest.approx(1.0)
    weights[0].backward()
    assert gate.logits.grad is not None and gate.logits.grad.abs().min() > 0


def test_the_cost_is_that_of_the_discretised_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost: CostModel = example("a cost", tmp_path, monkeypatch).Bytes()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1))
    supernet = wrap(model, input_size=(3, 8, 8))
    network, architecture = discretise(supernet)
    assert tabulate(supernet, cost).of(architecture) == cost(network, [(3, 8, 8)])


def test_the_backbone_can_be_created_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example("a backbone", tmp_path, monkeypatch)
    network = Backbone("cifar_plain", num_classes=7, in_chans=1, options={"width": 8}).create()
    assert timm.is_model("cifar_plain")
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_the_search_climbs_within_the_budget_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = example("a search by scores", tmp_path, monkeypatch).Climbing
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
    plan = make_plan(model, SearchSpace(), (8, 8, 8))
    table = tabulate(wrap(model, plan=plan), Macs())
    menu = Menu.of(plan, [table], [table.total // 2])
    proposers = [factory(menu), factory(menu, seed=1)]
    for _ in range(5):
        for architecture in proposers[0].ask(2):
            assert table.of(architecture) <= table.total // 2
            proposers[0].tell(architecture, table.of(architecture) / table.total, 0.5)
    proposers[1].load_state_dict(proposers[0].state_dict())
    assert proposers[0].ask(2) == proposers[1].ask(2) != []


@pytest.mark.needs("usps")
def test_the_data_set_is_read_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    data: DataModule = example("a data set", tmp_path, monkeypatch).Usps(data_root)
    data.prepare(torch.device("cpu"))
    images, labels = next(data.batches("test", 100))
    assert data.num_train() == 7291 - 1000
    assert images.shape == (100, 1, 16, 16) and labels.dtype == torch.int64


def test_the_data_set_says_what_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: DataModule = example("a data set", tmp_path, monkeypatch).Usps(tmp_path)
    with pytest.raises(DataError, match=r"usps\.npz cannot be read .* set data\.root"):
        data.prepare(torch.device("cpu"))
