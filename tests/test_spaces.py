"""The spaces of ``conf/space``: each composes, and the recipes among them give the networks they name."""

from pathlib import Path

import pytest
import timm
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from lwdc import configuring
from lwdc.architecture import Architecture
from lwdc.costs import Macs, tabulate
from lwdc.counting import count_macs, count_params
from lwdc.proposers import EvolveSpace, Menu
from lwdc.space import LEAN, SearchSpace, make_plan
from lwdc.surgery import rebuild, wrap

FOLDER = Path(__file__).parents[1] / "conf" / "space"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def named(name: str, *overrides: str) -> SearchSpace:
    """The space as a command would build it."""
    GlobalHydra.instance().clear()
    with initialize_config_module("lwdc.conf", version_base="1.3"):
        config = compose("config", [f"space={name}", *overrides])
    space = instantiate(config.space, _convert_="all")
    assert isinstance(space, SearchSpace)
    return space


def test_the_spaces_that_users_are_promised_are_there() -> None:
    promised = {
        "branched",
        "everything",
        "lean",
        "lwdc_cifar",
        "lwdc_imagenet",
        "nes",
        "nes_mobile",
        "nes_mobile_grouped",
        "transformer",
        "wsnet",
    }
    assert set(NAMES) >= promised
    assert tuple(named("lean").candidates) == LEAN == tuple(SearchSpace().candidates)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("nes_mobile")])
def test_a_space_offers_a_choice_on_an_ordinary_network(name: str) -> None:
    plan = make_plan(timm.create_model("test_resnet"), named(name), (3, 32, 32))
    assert max(len(choice.candidates) for choice in plan.choices) > 2


@pytest.mark.parametrize(
    ("name", "params", "macs", "tied"),
    [("nes_mobile", 3_920_292, 226.6e6, 31), ("nes_mobile_grouped", 3_106_212, 215.9e6, 31 + 32 + 1)],
)
def test_the_recipe_of_nes_gives_the_counts_of_its_networks(name: str, params: int, macs: float, tied: int) -> None:
    model = timm.create_model("efficientnet_b0", num_classes=1000)
    plan = make_plan(model, named(name), (3, 224, 224))
    assert all(len(choice.candidates) == 1 for choice in plan.choices)  # a recipe: nothing is left to choose
    architecture = Architecture({choice.site.name: choice.candidates[0] for choice in plan.choices})
    network = rebuild(model, architecture, (3, 224, 224))
    assert count_params(network) == params
    assert count_macs(network, [(3, 224, 224)]) == pytest.approx(macs, rel=0.01)

    around = [name for name in architecture.choices if name.endswith(("conv_pw", "conv_pwl"))]
    assert len(architecture.choices) == tied
    assert len(around) == sum(name.endswith(("conv_pw", "conv_pwl")) for name, _ in model.named_modules())
    for site in around:  # the one axis that is tied, and its norm is not
        dense, small = model.get_submodule(site).weight, network.get_submodule(site)[1].weight
        expands = dense.shape[0] > dense.shape[1]
        assert small.shape[0] == dense.shape[0] // (2 if expands else 1)
        assert small.shape[1] == dense.shape[1] // (1 if expands else 2)


@pytest.mark.parametrize(("name", "override"), [("branched", "space.branches=1"), ("lean", "space.branches=2")])
def test_an_evolving_space_takes_sums_as_it_takes_single_operators(name: str, override: str) -> None:
    model = timm.create_model("test_resnet")
    plan = make_plan(model, named(name, override), (3, 32, 32))
    table = tabulate(wrap(model, plan=plan, inherit=False), Macs())
    menu = Menu.of(plan, [table], [int(0.4 * table.total)])
    proposer = EvolveSpace(menu, sampled=6)
    taken = set()
    for _ in range(4):
        for architecture in proposer.ask(6):
            assert table.of(architecture) <= 0.4 * table.total
            assert menu.decode(menu.encode(architecture)) == architecture
            taken |= {candidate["op"] for candidate in architecture.choices.values()}
            proposer.tell(architecture, 0.5, table.of(architecture) / table.total)
    assert {"sum", "low_rank"} <= taken


@pytest.mark.parametrize("phase", ["strategy", "finetune"])
def test_the_learning_rate_of_starts_belongs_to_the_phase(phase: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("lwdc.conf", version_base="1.3"):
        config = compose("config", [f"{phase}.starts_optim.lr=0.5"])
    (group,) = configuring._recipe(config, phase).starts_optim([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0)
