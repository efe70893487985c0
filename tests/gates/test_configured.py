"""Which gate a command takes: one for each kind of search, unless it names another."""

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from lwdc.gates import Gate, GumbelSoftmax, OneHot, SinglePath, Softmax


@pytest.mark.parametrize(
    ("overrides", "gate"),
    [
        ([], OneHot),
        (["strategy=joint_front"], Softmax),
        (["strategy=random"], SinglePath),
        (["strategy=joint_front", "gate=gumbel"], GumbelSoftmax),
        (["experiment=cifar10_resnet20"], OneHot),
    ],
)
def test_each_kind_of_search_has_its_gate(overrides: list[str], gate: type[Gate]) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("lwdc.conf", version_base="1.3"):
        config = compose("config", overrides)
    assert config.gate._target_ == f"lwdc.gates.{gate.__name__}"
