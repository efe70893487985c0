"""Configuring: what is of the wrong kind, or read by nothing, is refused with the key and what would be right."""

import importlib.resources
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lwdc.configuring import build, make_settings
from lwdc.errors import LwdcError
from lwdc.help import config_groups
from lwdc.kinds import check_kind, check_kinds
from lwdc.pipeline import Settings


def composed(*overrides: str, config_dir: Path | None = None) -> Any:
    with initialize_config_module("lwdc.conf", version_base="1.3"):
        return compose("config", [*overrides, *([f"hydra.searchpath=[file://{config_dir}]"] if config_dir else [])])


def settings(*overrides: str) -> Settings:
    return make_settings(composed(*overrides))


def flags() -> Iterator[tuple[str, str]]:
    """A choice of a group and a flag of it, for every flag in lwdc's own yaml files."""
    root = importlib.resources.files("lwdc.conf")

    def within(node: Any, key: str) -> Iterator[str]:
        for name, value in node.items() if isinstance(node, dict) else ():
            if isinstance(value, bool) and not name.startswith("_"):
                yield f"{key}.{name}"
            yield from within(value, f"{key}.{name}")

    seen = set()
    for group in config_groups():
        if group in ("experiment", "tracking"):
            continue
        for choice in config_groups()[group]:
            node = OmegaConf.to_container(OmegaConf.create((root / group / f"{choice}.yaml").read_text()))
            assert isinstance(node, dict)
            for flag in within(node, group):
                if choice not in ("scores", "table", "timm") and (flag, node.get("_target_")) not in seen:
                    seen.add((flag, node.get("_target_")))  # of what is built alike one says it all
                    yield f"{group}={choice}", flag
    yield "seed=0", "deterministic"


@pytest.mark.parametrize(("choice", "flag"), [*flags()])
def test_no_flag_is_true_because_it_is_text(choice: str, flag: str) -> None:
    with pytest.raises(LwdcError) as refused:
        settings(choice, f"{flag}=no")
    assert flag.rpartition(".")[2] in str(refused.value) and "true" in str(refused.value), refused.value


def test_there_are_flags() -> None:
    found = {flag for _, flag in flags()}
    assert {"space.stem", "backbone.pretrained", "data.download", "finetune.from_scratch", "strategy.inherit"} <= found
    assert {"data.flip", "export.int8", "deterministic", "compute.channels_last", "gate.hard"} <= found


def test_text_that_means_a_flag_is_told_to_be_text() -> None:
    with pytest.raises(LwdcError, match=r"space\.stem is true or false, found 'no', which is text"):
        settings("space.stem=no")
    with pytest.raises(LwdcError, match=r"space\.stem is true or false, found 'false', which is text"):
        settings("space.stem='false'")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+cost.latency_batches=3", "cost.latency_batches: unknown setting 'latency_batches'"),
        ("latency_batches=3", "latency_batches is a list of which each is a whole number, found 3: write latency_batc"),
        ("latency_batches=[1.5]", "each is a whole number, found [1.5]"),
        ("seed=-1", "seed is a whole number from 0"),
        ("seed=a", "seed is a whole number, found 'a'"),
        ("compute.threads=0", "compute.threads is a number from 1 on"),
        ("data.valid=0.1", "data.valid is a whole number, found 0.1"),
        ("data.limit_train=1.5", "data.limit_train is a whole number or null, found 1.5"),
        ("data.crop_padding=1.5", "data.crop_padding is a whole number"),
        ("train.epochs=1.5", "train.epochs is a whole number, found 1.5"),
        ("train.lr=abc", "train.lr is a number, found 'abc'"),
        ("train.mixup=3", "train.mixup is a mapping"),
        ("train.schedule=null", "train.schedule is a mapping"),
        ("train.lr_scheduler=abc", "train.lr_scheduler='abc' names nothing to build"),
        ("finetune.clip_norm=-1", "clip_norm is a norm above 0"),
        ("finetune.clip_norm=abc", "finetune.clip_norm is a number or null, found 'abc'"),
        ("+strategy.front=3", "strategy.front is a mapping"),
        ("+strategy.evaluations=3", "strategy.evaluations is a setting of searches by scores"),
        ("cost.also=3", "cost.also is a mapping"),
        ("cost.model=3", "cost.model=3 names nothing to build"),
        ("cost.factor=abc", "cost.factor is a number or null, found 'abc'"),
        ("cost.factor=nan", "cost.factor is a number or null, found nan"),
        ("cost.ramp=abc", "cost.ramp is a number"),
        ("cost.ramp=2", "cost.ramp is a share"),
        ("cost.begin=2", "0 <= begin <= end <= 1; found 2 and 0.6"),
        ("space.exclude=null", "space.exclude is a list"),
        ("space.candidates=null", "space.candidates is a list"),
        ("space.include=conv1", "each is text, found 'conv1': write space.include=[conv1]"),
        ("backbone.options=null", "backbone.options is a mapping"),
        ("backbone.weights=3", "backbone.weights is text or null, found 3: put quotes"),
        ("backbone=timm", "backbone.name has to be given"),
        ("cost=table", "cost.file has to be given"),
        ("checkpoint.every_minutes=null", "checkpoint.every_minutes is a number, found None"),
        ("checkpoint.every_minutes=abc", "checkpoint.every_minutes is a number, found 'abc'"),
        ("checkpoint.every_minutes=-1", "checkpoint.every_minutes is a number from 0 on"),
        ("checkpoint=null", "checkpoint is a group of settings, like checkpoint.every_minutes=..., found None"),
        ("export.licence=[a]", "export.licence is text or null"),
        ("export.formats=onnx", "write export.formats=[onnx]"),
    ],
)  # fmt: skip
def test_what_is_of_the_wrong_kind_is_refused_by_its_key(override: str, said: str) -> None:
    with pytest.raises(LwdcError) as refused:
        settings(override)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("strategy.evaluators=3", "strategy.evaluators is a mapping"),
        ("strategy.evaluations=1.5", "strategy.evaluations is a whole number"),
        ("strategy.proposer.population=x", "strategy.proposer.population is a whole number"),
        ("+strategy.prior=2", "strategy.prior is a setting of searches by gradients"),
    ],
)
def test_so_it_is_of_a_search_by_scores(override: str, said: str) -> None:
    with pytest.raises(LwdcError) as refused:
        settings("strategy=evolution", override)
    assert said in str(refused.value)


def test_text_stands_for_a_number_as_from_a_variable() -> None:
    assert settings("seed='7'", "train.lr='0.5'").seed == 7


def test_a_number_may_be_whole_and_nothing_may_be_null() -> None:
    found = settings("train.lr=1", "cost.begin=0", "train.clip_norm=2", "data.limit_train=null", "train.mixup=null")
    assert (found.cost.begin, found.train.clip_norm, found.train.mixup) == (0, 2, {})


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("train: {epoch: 1}", "'epochs'"),
        ("strategy: {evalutions: 1}", "'evaluations'"),
        ("finetune: {clip_nrom: 1}", "'clip_norm'"),
        ("export: {format: [onnx]}", "'formats'"),
        ("checkpoint: {every_minute: 1}", "'every_minutes'"),
        ("inspect: {inputsize: [1, 8, 8]}", "'input_size'"),
        ("backbone: {nam: resnet18}", "'name'"),
        ("cost: {bugdet: 0.5}", "'budget'"),
        ("compute: {device: 2}", "'devices'"),
        ("latency_batch: [1]", "'latency_batches'"),
        ("trian: {epochs: 1}", "'train'"),
    ],
)
def test_a_misspelt_key_of_an_experiment_gets_the_nearest(tmp_path: Path, text: str, nearest: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(LwdcError, match=f"Did you mean .*{nearest}"):
        make_settings(composed("experiment=mine", config_dir=tmp_path))


def test_a_helper_that_settings_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\npeak: 0.3\ntrain: {lr: '${peak}'}\nfinetune: {lr: '${peak}'}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert make_settings(composed("experiment=mine", config_dir=tmp_path)).train.optim.keywords["lr"] == 0.3


def test_what_is_deleted_is_missed_by_its_key() -> None:
    for deleted in ("train.lr", "latency_batches", "strategy.inherit", "finetune.from_scratch", "space"):
        with pytest.raises(LwdcError, match=f"lacks a setting that has to be there: .*{deleted.rpartition('.')[2]}"):
            settings(f"~{deleted}")


def test_what_a_costs_model_takes_may_stand_beside_it() -> None:
    assert settings("cost=latency", "cost.runtime=torch").cost.model.runtime == "torch"
    with pytest.raises(LwdcError, match=r"cost\.runtime: unknown setting 'runtime'"):
        settings("+cost.runtime=onnx")


def test_kinds_are_those_that_a_class_takes() -> None:
    def taking(a: list[int] = None, b: int = 0.5, c: tuple[float, float] = (0, 0)) -> None:  # type: ignore[assignment]  # noqa: RUF013
        """Annotated as others do it."""

    assert check_kinds(taking, {"a": None, "b": 0.7}, str) == {"a": None, "b": 0.7}
    with pytest.raises(LwdcError, match="c is a list"):
        check_kinds(taking, {"c": [1, 2, 3]}, str)
    assert check_kind(1e3, int, "epochs") == 1000 and check_kind(float("inf"), float, "clip_norm") > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=image_folder", "+data.limit_trian=3"], "data.limit_trian: unknown setting 'limit_trian'. Did you mean"),
        (["+data.limit_trian=3"], "Did you mean 'limit_train'"),
        (["+space.exlude=[a]"], "space.exlude: unknown setting 'exlude'. Did you mean 'exclude' or 'include'"),
        (["+gate.temprature=3"], "gate.temprature: unknown setting 'temprature'. Did you mean 'temperature"),
        (["cost=latency", "+cost.model.runtim=x"], "cost.model.runtim: unknown setting 'runtim'. Did you mean"),
        (["+cost.shape.x=3"], "cost.shape.x: unknown setting 'x'"),
        (["+train.objective.smoothing=1"], "train.objective.smoothing: unknown setting 'smoothing'. Did you"),
        (["+strategy.logits_optim.lrr=3"], "strategy.logits_optim.lrr: unknown setting 'lrr'. Did you mean 'lr'"),
        (["strategy=evolution", "+strategy.proposer.populaton=3"], "Did you mean 'population'"),
    ],
)  # fmt: skip
def test_an_argument_that_a_target_does_not_take_gets_the_nearest(overrides: list[str], said: str) -> None:
    with pytest.raises(LwdcError) as refused:
        settings(*overrides)
    assert said in str(refused.value) and "Known: " in str(refused.value)


def test_what_a_target_raises_is_said() -> None:
    norm = {"_target_": "torch.nn.LayerNorm"}
    with pytest.raises(LwdcError, match=r"^data: .*missing 1 required .*'normalized_shape'$"):
        build(OmegaConf.create(norm), "data")
    with pytest.raises(LwdcError, match=r"^data\.modules\[1\]: .*missing 1 required .*'normalized_shape'$"):
        build(
            OmegaConf.create({"_target_": "torch.nn.ModuleList", "modules": [{**norm, "normalized_shape": 3}, norm]}),
            "data",
        )


def test_what_users_extend_stays_open() -> None:
    assert settings("+backbone.options.drop_rate=0.1").backbone.options == {"drop_rate": 0.1}
    assert settings("+train.schedule.decay_rate=0.1", "+train.mixup.mixup_alpha=0.2").train.mixup
    found = settings("+space.per_site.conv1=[{op: original}]", "+optim.nesterov=true", "+cost.also.params.budget=50%")
    assert found.space.per_site and found.cost.also
