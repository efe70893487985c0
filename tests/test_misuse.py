"""What is easily given by mistake is refused, with what is accepted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel

import lwdc
from lwdc.errors import ArchitectureError, CostError, SpaceError
from lwdc.export.portable import portable
from lwdc.gates import OneHot
from lwdc.space import make_plan
from lwdc.strategies import Held, Holding

SPACE = lwdc.SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 2}], stem=True)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3))


@pytest.fixture
def supernet() -> nn.Module:
    return lwdc.wrap(network(), SPACE, input_size=(2, 8, 8))


TABLE = lwdc.tabulate(lwdc.wrap(network(), SPACE, input_size=(2, 8, 8)), lwdc.Macs())
USES: list[Callable[[Any], object]] = [
    lwdc.discretise,
    lambda given: lwdc.tabulate(given, lwdc.Macs()),
    lambda given: lwdc.tabulate(given, lwdc.Memory()),
    lambda given: lwdc.choose(given, TABLE),
    lambda given: lwdc.penalty(given, TABLE),
    lambda given: lwdc.advance(given, 0.5),
    lambda given: Holding(given, [Held(TABLE, TABLE.smallest)]),
    lambda given: lwdc.surgery.begin_with_prior(given, 4.0),
]


@pytest.mark.parametrize("use", USES)
def test_a_network_that_was_never_wrapped_is_no_supernet(use: Callable[[Any], object]) -> None:
    with pytest.raises(SpaceError, match=r"this Sequential is no supernet: give what lwdc\.wrap returned"):
        use(network())


@pytest.mark.parametrize(
    ("hold", "path"),
    [
        (nn.DataParallel, r"\.module"),
        (AveragedModel, r"\.module"),
        (lambda supernet: Fabric(accelerator="cpu").setup(supernet), r"\.module"),
        (lambda supernet: AveragedModel(nn.DataParallel(supernet)), r"\.module\.module"),
        (lambda supernet: nn.ModuleDict({"backbone": supernet}), r"\.backbone"),
        (lambda supernet: nn.Sequential(nn.Identity(), supernet), r"\.get_submodule\('1'\)"),
    ],
)
def test_what_holds_a_supernet_names_the_one_it_holds(
    hold: Callable[[nn.Module], nn.Module], path: str, supernet: nn.Module
) -> None:
    holder = hold(supernet)
    for use in USES[:3]:
        with pytest.raises(SpaceError, match=rf"this {type(holder).__name__} is no supernet .*: give its {path}\.$"):
            use(holder)
    for use in USES[3:]:  # these ask for the gates alone
        use(holder)


def test_a_part_of_a_supernet_is_none(supernet: nn.Module) -> None:
    with pytest.raises(SpaceError, match="but a part of a supernet"):
        lwdc.discretise(supernet.get_submodule("0"))


def test_the_table_of_another_supernet_is_refused(supernet: nn.Module) -> None:
    other = lwdc.wrap(nn.Sequential(network()), SPACE, input_size=(2, 8, 8))
    table = lwdc.tabulate(other, lwdc.Macs())
    for use in (lambda: lwdc.penalty(supernet, table), lambda: lwdc.choose(supernet, table, table.smallest)):
        with pytest.raises(CostError, match=r"of another supernet, with 4 candidates at 2 site\(s\), 0\.0, 0\.1, "):
            use()
    with pytest.raises(CostError, match=r"table is what lwdc\.tabulate"):
        lwdc.penalty(supernet, "macs")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gate": "one_hot"}, r"the class lwdc\.gates\.OneHot .*; found 'one_hot'"),
        ({"gate": OneHot(9)}, r"the class lwdc\.gates\.OneHot .*; found one OneHot, which is for one site"),
        ({"space": "lean"}, r"space is a lwdc\.SearchSpace.* found 'lean'"),
        ({"space": {"stem": True}}, r"space is a lwdc\.SearchSpace.* found \{'stem': True\}"),
        ({"space": (2, 8, 8)}, r"space is a lwdc\.SearchSpace.* found \(2, 8, 8\)\. .* is given as input_size="),
    ],
)
def test_a_space_or_gate_of_a_wrong_kind_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        lwdc.wrap(network(), **{"space": SPACE, "input_size": (2, 8, 8), **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(
            ({name: "a.*"}, rf"{name} is a list of patterns: write \['a\.\*'\]")
            for name in ("include", "exclude", "tie")
        ),
        ({"candidates": "original"}, "candidates are listed, .* found 'original'"),
        ({"candidates": {"op": "original"}}, "candidates are listed, .* found {'op': 'original'}"),
        ({"per_site": {"a.*": {"op": "skip"}}}, "candidates are listed, .* found {'op': 'skip'}"),
        ({"per_site": ["a.*"]}, r"per_site maps patterns to lists of candidates.* found \['a\.\*'\]"),
    ],
)
def test_what_belongs_into_a_list_is_refused_alone(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        lwdc.SearchSpace(**given)


@pytest.mark.parametrize("cost", ["macs", lwdc.Macs, lwdc.Latency, 1])
def test_a_cost_is_a_model_of_one(supernet: nn.Module, cost: Any) -> None:
    with pytest.raises(CostError, match=r"cost is a cost model, such as lwdc\.Macs\(\)"):
        lwdc.tabulate(supernet, cost)


@pytest.mark.parametrize("bound", [0.5, "50%", True])
def test_a_bound_is_what_a_budget_is_parsed_to(supernet: nn.Module, bound: Any) -> None:
    with pytest.raises(CostError, match=rf"give lwdc\.parse_budget\({bound!r}, table\)"):
        lwdc.choose(supernet, TABLE, bound)


@pytest.mark.parametrize("given", ["arch.json", {"0": {"op": "original"}}, {}])
def test_an_architecture_is_one(supernet: nn.Module, given: Any, tmp_path: Path) -> None:
    small, _ = lwdc.discretise(supernet)
    for use in (
        lambda: lwdc.discretise(supernet, given),
        lambda: lwdc.rebuild(network(), given, (2, 8, 8)),
        lambda: lwdc.save(tmp_path, small, given, input_size=(2, 8, 8)),
    ):
        with pytest.raises(ArchitectureError, match=r"where an architecture belongs: .*lwdc\.Architecture\.load"):
            use()


@pytest.mark.parametrize("choices", [{"0": "original"}, {"0": {"ratio": 2}}, {"0": None}, "arch.json", [("0", {})]])
def test_the_choices_of_an_architecture_are_candidates(choices: Any) -> None:
    with pytest.raises(ArchitectureError, match=r"candidate.*found"):
        lwdc.Architecture(choices)


def test_an_architecture_is_not_saved_beside_a_network_that_lacks_its_sites(
    supernet: nn.Module, tmp_path: Path
) -> None:
    small, architecture = lwdc.discretise(supernet)
    with pytest.raises(ArchitectureError, match=r"replaces \['0', '1'\], which this network lacks; .*'module\.0'"):
        lwdc.save(tmp_path, nn.DataParallel(small), architecture, input_size=(2, 8, 8))
    assert not list(tmp_path.iterdir())


def test_what_was_compiled_is_taken_as_what_it_was_made_of(supernet: nn.Module, tmp_path: Path) -> None:
    compiled, images = torch.compile(supernet, backend="eager"), torch.randn(16, 2, 8, 8)
    assert lwdc.tabulate(compiled, lwdc.Macs()) == TABLE
    lwdc.advance(compiled, 0.9)
    small, architecture = lwdc.discretise(compiled, lwdc.choose(compiled, TABLE, TABLE.smallest))
    torch.testing.assert_close(small(images), lwdc.discretise(supernet, architecture)[0](images))
    original, fast = (torch.compile(part, backend="eager") for part in (network(), small))
    assert list(lwdc.refit(fast, original, architecture, images)) == ["0", "1"]
    lwdc.save(tmp_path, fast, architecture, input_size=(2, 8, 8))
    torch.testing.assert_close(lwdc.load(tmp_path, original)(images), small(images))
    again = lwdc.wrap(original, SPACE, input_size=(2, 8, 8))
    assert type(again) is nn.Sequential and list(lwdc.choose(again, TABLE).choices) == ["0", "1"]
    assert make_plan(original, SPACE, (2, 8, 8)).choices[0].site.name == "0"
    assert type(portable(fast)) is nn.Sequential
