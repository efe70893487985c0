"""Sites of several branches through the whole line: searched, forced, discretised, exported, loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.counting import count_macs, count_params
from lwdc.export import load, run_onnx, run_torch_export
from lwdc.gates import Independent
from lwdc.pipeline import Settings, compress
from lwdc.records import Result
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import discretise, point_at, wrap

LINEAR: dict[str, Any] = {"op": "sum", "of": [{"op": "separable"}, {"op": "low_rank", "ratio": 0.125}]}
TIED: dict[str, Any] = {"op": "sum", "of": [{"op": "epitome", "ratio": 6, "taps": 1.5}, {"op": "pointwise"}]}
MIXED: dict[str, Any] = {"op": "sum", "of": [{"op": "pointwise"}, {"op": "separable_norm"}]}
OTHERS: list[dict[str, Any]] = [{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "pointwise"}]
SPACE = SearchSpace(
    [*OTHERS, LINEAR],
    per_site={"layer2.0.conv2": [LINEAR], "layer3.0.conv1": [MIXED], "layer3.0.conv2": [TIED]},
    costlier=True,  # forming a kernel from an epitome saves weights, not products
)


@pytest.fixture(scope="module")
def run(settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings, Result]:
    """A joint search with independent gates over sums, three of which are forced."""
    folder = tmp_path_factory.mktemp("sums") / "run"
    given = settings(space=SPACE, gate=Independent, formats=("safetensors", "torch_export", "onnx"))
    result = compress(given, folder, {"seed": 0})
    assert result is not None
    return folder, given, result


def test_what_was_chosen_is_written_by_name_and_as_data(run: tuple[Path, Settings, Result]) -> None:
    folder, _, result = run
    architecture = Architecture.load(folder / "architecture.json")
    forced = ("layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2")
    assert [architecture.choices[site] for site in forced] == [LINEAR, MIXED, TIED]
    operators = {site.site: site.operator for site in result.sites}
    assert operators["layer2.0.conv2"] == "sum(separable+low_rank_0.125)"
    assert "sum(separable+low_rank_0.125)" in (folder / "model_card.md").read_text()
    named = json.loads((folder / "model.json").read_text())["operators"]
    assert {"sum", "separable", "low_rank", "epitome", "pointwise", "separable_norm"} <= set(named)


def test_costs_are_whole_numbers_of_the_network_that_is_exported(run: tuple[Path, Settings, Result]) -> None:
    folder, settings, result = run
    network, size = load(folder), settings.data.input_size
    assert result.after.macs == count_macs(network, [size]) and result.after.params == count_params(network)
    saved = sum(site.macs_before - site.macs_after for site in result.sites)
    assert result.before.macs - result.after.macs == saved > 0
    (cost,) = result.costs
    assert cost.after == result.after.macs <= cost.bound


def test_the_package_and_the_exported_files_compute_what_was_trained(run: tuple[Path, Settings, Result]) -> None:
    folder, settings, result = run
    network, trained = load(folder), load_file(folder / "finetuned.safetensors")
    assert network.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained.items())
    assert len(result.exports) == 3 and all(r.max_difference <= r.tolerance and r.top1_agrees for r in result.exports)
    images = next(settings.data.batches("test", 20))[0]
    with torch.no_grad():
        expected = network(images)
    for compute in (run_onnx(folder / "model.onnx"), run_torch_export(folder / "model.pt2")):
        torch.testing.assert_close(compute(images), expected, rtol=0, atol=1e-4)


def test_discretised_it_is_the_supernet_at_that_choice(run: tuple[Path, Settings, Result]) -> None:
    folder, settings, _ = run
    baseline = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    baseline.load_state_dict(load_file(folder / "baseline.safetensors"))
    images = next(settings.data.batches("test", 20))[0].double()
    space = SearchSpace([{"op": "original"}, LINEAR, MIXED, TIED], include=["layer[12].0.conv[12]"], costlier=True)
    supernet = wrap(baseline.double(), space, Independent, settings.data.input_size).eval()
    wanted = Architecture(dict(zip(selection_ops(supernet), (LINEAR, MIXED, TIED, LINEAR), strict=True)))
    point_at(supernet, wanted)
    network, architecture = discretise(supernet)
    assert architecture == wanted
    torch.testing.assert_close(network(images), supernet(images), rtol=1e-10, atol=1e-10)
