"""The command line: what a person types, and what it answers."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lwdc import cli
from lwdc.folders import CHECKPOINT
from lwdc.training import load_checkpoint, save_checkpoint

Run = Callable[..., tuple[int, str, str]]  # of the fixture lwdc_in: (*arguments) -> exit code, stdout, stderr

TINY = [
    "backbone=cifar_resnet8",
    "+backbone.options.channels=[4,8,8]",
    "data.limit_train=128",
    "compute=cpu",
    "space.candidates=[{op: original}, {op: grouped, groups: 4}, {op: pointwise}]",
    "train.epochs=1",
    "strategy.epochs=1",
    "strategy.refit_images=0",
    "finetune.epochs=1",
    "export.formats=[safetensors]",
    "latency_batches=[]",
]


def refused(answer: tuple[int, str, str]) -> str:
    """The one line that an error is."""
    code, _, error = answer
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_settings_for_when_something_goes_wrong_are_checked(lwdc_in: Run) -> None:
    assert "resume=auto goes on with the run in hydra.run.dir" in refused(lwdc_in("compress", "resume=auto"))
    assert "deterministic is true or false, found 'yes, please'" in refused(
        lwdc_in("compress", *TINY, "deterministic='yes, please'")
    )
    assert "nonfinite is 'ignore'; at a loss that is not finite training can stop or skip the step" in refused(
        lwdc_in("compress", *TINY, "strategy.nonfinite=ignore")
    )


def test_help_names_commands_groups_and_choices(lwdc_in: Run) -> None:
    code, out, _ = lwdc_in("--help")
    assert code == 0
    for word in ("compress", "inspect", "finetune", "backbone", "cifar_resnet20", "gumbel_hard", "fashion_mnist"):
        assert word in out
    assert lwdc_in()[1] == out


def test_a_reader_who_has_enough_ends_a_command_without_a_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "lwdc.cli", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "")
    closed_at_once = ["sh", "-c", f"exec {sys.executable} -W ignore -m lwdc.cli --version >&-"]
    done = subprocess.run(closed_at_once, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("command", "usage"), [("report", "FOLDER"), ("push", "run=FOLDER repo=USER/NAME")])
def test_the_help_of_commands_on_finished_runs_names_no_groups(lwdc_in: Run, command: str, usage: str) -> None:
    code, out, _ = lwdc_in(command, "--help")
    assert code == 0
    assert f"usage: lwdc {command} {usage}" in out and "groups" not in out


@pytest.mark.parametrize("command", [command for command in cli.COMMANDS if command not in ("report", "push")])
def test_each_command_has_help_with_its_settings(lwdc_in: Run, command: str) -> None:
    code, out, _ = lwdc_in(command, "--help")
    assert code == 0
    assert f"lwdc {command}:" in out
    assert "latency_batches" in out
    assert "--config-dir=FOLDER" in out
    assert "groups and their choices" in out


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["comprss"], "compress"),
        (["compress", "gate=softmx"], "softmax"),
        (["compress", "data=cifar"], "cifar10"),
        (["inspect", "backbone=timm", "backbone.name=resnet5o"], "resnet50"),
        (["inspect", "space.candidates=[{op: original}, {op: groupd, groups: 2}]"], "grouped"),
        (["inspect", "space.candidates=[{op: original}, {op: sum, of: [{op: skip}, {op: pointwis}]}]"], "pointwise"),
    ],
)
def test_a_wrong_name_gets_the_nearest_ones(lwdc_in: Run, arguments: list[str], nearest: str) -> None:
    assert f"'{nearest}'" in refused(lwdc_in(*arguments))


def test_a_wrong_option_says_which_there_are(lwdc_in: Run) -> None:
    error = refused(lwdc_in("inspect", "space.candidates=[{op: original}, {op: grouped, group: 2}]"))
    assert "it takes groups" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+train.epoch=1"], "train.epoch: unknown setting 'epoch'. Did you mean 'epochs'"),
        (["+sed=1"], "unknown setting 'sed'. Did you mean 'seed'"),
        (["-m", "+train.epoch=1", "seed=0,1"], "train.epoch: unknown setting 'epoch'"),
        (["train=null"], "train=null leaves out what every run has"),
        (["tracking=null"], "choose tracking=none"),
        (["checkpoint=null"], "checkpoint is a group of settings"),
    ],
)
def test_what_nothing_reads_is_refused_before_there_is_a_folder(
    lwdc_in: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in refused(lwdc_in("compress", *arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_over_what_nothing_reads_has_a_row_that_says_so(lwdc_in: Run, tmp_path: Path) -> None:
    assert lwdc_in("train", "-m", *TINY, "+train.epoch=1,2", "hydra.sweep.dir=s")[0] == 2
    rows = list(csv.DictReader((tmp_path / "s" / "results.csv").read_text().splitlines()))
    assert [row["status"].split(".")[0] for row in rows] == ["failed: train"] * 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["inspect.input_size=224"], "inspect.input_size is a list of which each is a whole number or null, found 224"),
        (["inspect.input_size=[0,8,8]"], "from 1 on"),
        (["inspect.num_classes=10"], "inspect.num_classes says nothing without inspect.input_size"),
    ],
)
def test_sizes_to_inspect_are_checked(lwdc_in: Run, settings: list[str], said: str) -> None:
    assert said in refused(lwdc_in("inspect", *settings))


def test_nothing_where_something_is_built_is_refused(lwdc_in: Run) -> None:
    assert "cost.shape=None names nothing to build" in refused(lwdc_in("inspect", "cost.shape=null"))


def test_a_sum_is_written_on_the_command_line_as_in_yaml(lwdc_in: Run) -> None:
    candidates = "space.candidates=[{op:original},{op:sum,of:[{op:separable},{op:low_rank,ratio:0.125}]}]"
    code, out, _ = lwdc_in("inspect", "backbone=cifar_resnet8", candidates)
    assert code == 0
    assert "sum(separable+low_rank_0.125)" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cost.bugdet=0.5"], "cost.bugdet: unknown setting 'bugdet'. Did you mean 'budget'"),
        (["train.epoch=3"], "train.epoch: unknown setting 'epoch'. Did you mean 'epochs'? Known: accumulate, batch_"),
        (["train={epoch: 3}"], "train.epoch: unknown setting 'epoch'. Did you mean 'epochs'? Known: accumulate"),
        (["-m", "train.epoch=3,4"], "train.epoch: unknown setting 'epoch'"),
        (["data.limit_trian=3"], "data.limit_trian: unknown setting 'limit_trian'. Did you mean 'limit_train'"),
        (["train.epochs.x=3"], "train.epochs.x: train.epochs has no settings below it"),
        (["trian.epochs=3"], "error: unknown setting 'trian'. Did you mean 'train'"),
        (["experimnt=cifar10_resnet20"], "Did you mean 'experiment'"),
        (["hydra/launchr=joblib"], "hydra.launchr: unknown setting 'launchr'. Did you mean 'launcher'"),
        (["~train.lrr"], "train.lrr: unknown setting 'lrr'. Did you mean 'lr'"),
        (["optim.nesterov=true"], "If timm.optim.create_optimizer_v2 takes it as well: +optim.nesterov=..."),
        (["data.augment={re_prob: 0.25}"], "data.augment: unknown setting 'augment'"),  # of digits
        (["train.mixpu={mixup_alpha: 0.2}"], "train.mixpu: unknown setting 'mixpu'. Did you mean 'mixup'"),
        (['space.per_site={"layer1.*": [{op: original}]}'], "Keys within {} stand without quotes"),
    ],
)
def test_a_setting_that_there_is_not_is_one_line_without_a_plus(lwdc_in: Run, arguments: list[str], said: str) -> None:
    error = refused(lwdc_in("inspect", *arguments))
    assert said in error
    assert "append" not in error and "Hydra" not in error


def test_a_choice_that_no_folder_of_configs_has_gets_the_nearest(lwdc_in: Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "gate").mkdir(parents=True)
    (tmp_path / "mine" / "gate" / "powered.yaml").write_text("defaults: [softmax]\n")
    error = refused(lwdc_in("inspect", "--config-dir=mine", "gate=powred"))
    assert "unknown gate 'powred'. Did you mean 'powered'" in error


def test_mappings_that_are_open_take_any_key_without_a_plus(lwdc_in: Run) -> None:
    given = [
        "data=image_folder",
        "data.augment.re_prob=0.25",
        "backbone.options.drop_rate=0.1",
        "train.mixup={mixup_alpha: 0.2, cutmix_alpha: 1.0}",
        "+finetune.mixup={mixup_alpha: 0.3}",
        "strategy.mixup.mixup_alpha=0.4",
        "train.schedule={sched: cosine, decay_rate: .5}",
        "cost.also.size.budget=2MB",
        "+cost.also.params={budget: 50%}",
        "space.per_site={layer1.*: [{op: original}]}",
    ]
    code, out, error = lwdc_in("inspect", *given, "--cfg", "job")
    assert (code, error) == (0, "")
    for said in ("re_prob: 0.25", "drop_rate: 0.1", "cutmix_alpha: 1.0", "mixup_alpha: 0.3", "mixup_alpha: 0.4"):
        assert said in out
    for said in ("decay_rate: 0.5", "budget: 2MB", "budget: 50%", "layer1.*:"):
        assert said in out


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cost.factor=-1", "must not be negative"),
        ("cost.budget=2", "must lie in (0, 1]"),
        ("cost.budget=0.001", "cannot be reached: the smallest macs"),
        ("space.include=[nothing*]", "no site matches"),
        ("train.batch_size=5000", "training examples"),
        ("backbone.weights=absent.safetensors", "absent.safetensors"),
        ("baseline=absent", "baseline.safetensors"),
        ("resume=absent", "no checkpoint"),
        ("compute.accelerator=abacus", "abacus"),
        ("optim.opt=sdg", "sdg"),
        ("finetune.schedule={sched: cosin}", "cosin"),
        ("strategy.lr_scheduler={_target_: torch.optim.lr_scheduler.StepLR, _partial_: true}", "step_size"),
    ],
)
def test_bad_input_is_one_line_before_any_work(lwdc_in: Run, setting: str, said: str) -> None:
    assert said in refused(lwdc_in("compress", *TINY, setting))


def test_missing_data_say_where_they_were_looked_for(lwdc_in: Run) -> None:
    error = refused(lwdc_in("compress", "data=cifar10", "data.root=nowhere"))
    assert "nowhere" in error
    assert "download=true" in error


def test_debugging_shows_the_traceback(lwdc_in: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWDC_DEBUG", "1")
    with pytest.raises(Exception, match="unknown command"):
        lwdc_in("comprss")


def test_inspect_needs_neither_data_nor_training(lwdc_in: Run, tmp_path: Path) -> None:
    code, out, _ = lwdc_in("inspect", "backbone=resnet18", "data=image_folder", "inspect.input_size=[3,64,64]")
    assert code == 0
    assert "layer4.1.conv2" in out
    assert "low_rank_0.125 0.14" in out
    assert "the stem" in out
    assert "reachable" in out
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_what_later_commands_need(lwdc_in: Run, tmp_path: Path) -> None:
    code, _, error = lwdc_in("search", *TINY, "hydra.run.dir=a")
    assert code == 0, error
    assert {"architecture.json", "baseline.safetensors", "supernet.pt"} <= {f.name for f in (tmp_path / "a").iterdir()}

    code, out, error = lwdc_in("finetune", "run=a", "finetune.epochs=2")
    assert code == 0, error
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["after"]["macs"] <= 0.33 * summary["before"]["macs"]
    assert f"everything lies in {tmp_path / 'a'}" in out

    # As an earlier version would have left it.
    checkpoint = load_checkpoint(tmp_path / "a" / CHECKPOINT)
    config = json.loads(checkpoint["config"])
    config["cost"] |= {"stiffness": 20.0, "rate": 100.0}
    del config["strategy"]["rest_from"]
    checkpoint["config"] = json.dumps(config)
    save_checkpoint(tmp_path / "a" / CHECKPOINT, checkpoint)
    code, out, error = lwdc_in("evaluate", "run=a")
    assert code == 0, error
    figures = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert figures["test"] == pytest.approx(summary["test"]["finetuned"])
    assert "abacus" in refused(lwdc_in("evaluate", "run=a", "compute.accelerator=abacus"))  # what is given now counts

    code, out, error = lwdc_in("export", "run=a", "export.formats=[safetensors,onnx]")
    assert code == 0, error
    assert (tmp_path / "a" / "model.onnx").is_file()

    assert "holds a run already" in refused(lwdc_in("compress", *TINY, "hydra.run.dir=a"))


def test_a_sweep_leaves_one_row_a_run_also_for_those_that_fail(lwdc_in: Run, tmp_path: Path) -> None:
    code, _, error = lwdc_in("compress", "-m", *TINY, "cost.budget=0.001,0.5", "hydra.sweep.dir=sweep")
    assert code == 2
    assert "cannot be reached" in error
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").read_text().splitlines()))
    assert [row["status"].split(":")[0] for row in rows] == ["failed", "done"]
    assert 0 < int(rows[1]["macs_after"]) <= 0.5 * int(rows[1]["macs_before"])
    assert 0 <= float(rows[1]["test_finetuned"]) <= 1
    assert "cost.budget=0.5" in rows[1]["overrides"]


def test_the_same_command_goes_on_with_a_sweep(lwdc_in: Run, tmp_path: Path) -> None:
    command = ["search", "-m", *TINY, "cost.budget=0.5", "seed=0,1", "hydra.sweep.dir=sweep"]
    assert lwdc_in("train", *TINY, "cost.budget=0.5", "seed=0", "hydra.run.dir=sweep/0")[0] == 0
    for trained in (2, 0):
        code, out, error = lwdc_in(*command)
        assert (code, error) == (0, "")
        assert len(re.findall(r"^search +1/1 ", out, re.MULTILINE)) == trained
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").read_text().splitlines()))
    assert [(row["seed"], row["status"]) for row in rows] == [("0", "done"), ("1", "done")]
    for row in rows:
        assert 0 < int(row["cost_after"]) <= 0.5 * int(row["cost_before"])
        assert 0 <= float(row["valid_discretised"]) <= 1
        assert row["test_finetuned"] == ""


def test_a_sweep_trains_its_baseline_once_and_ends_as_if_it_had_not(lwdc_in: Run, tmp_path: Path) -> None:
    code, out, error = lwdc_in("search", "-m", *TINY, "cost.budget=0.5,0.7", "seed=0,1", "hydra.sweep.dir=sweep")
    assert code == 0, error
    assert len(re.findall(r"^baseline +1/1 ", out, re.MULTILINE)) == 2  # one a seed
    assert lwdc_in("search", *TINY, "cost.budget=0.7", "seed=1", "hydra.run.dir=alone")[0] == 0
    alone, shared = (load_file(tmp_path / run / "discretised.safetensors") for run in ("alone", "sweep/3"))
    assert alone.keys() == shared.keys()
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


def test_a_sweep_over_budgets_of_a_front_searches_once(lwdc_in: Run, tmp_path: Path) -> None:
    front = [*TINY, "strategy=joint_front", "strategy.front.budgets=[90%,40%]", "strategy.epochs=1"]
    code, out, error = lwdc_in("search", "-m", *front, "cost.budget=0.5,0.7", "hydra.sweep.dir=sweep")
    assert code == 0, error
    assert len(re.findall(r"^search +1/1 ", out, re.MULTILINE)) == 1
    assert len(re.findall(r"^the search is that of .*sweep/0$", out, re.MULTILINE)) == 1
    assert lwdc_in("search", *front, "cost.budget=0.7", "searched=sweep/0", "hydra.run.dir=read")[0] == 0
    read, shared = (load_file(tmp_path / run / "discretised.safetensors") for run in ("read", "sweep/1"))
    assert all(torch.equal(read[name], shared[name]) for name in read)

    code, _, error = lwdc_in("search", *front, "cost.budget=0.7", "strategy.prior=1", "searched=sweep/0")
    assert code == 2 and "strategy.prior: 4.0 then, 1 now" in error and "Only cost.budget" in error


def test_training_asks_nothing_of_space_and_budget(lwdc_in: Run, tmp_path: Path) -> None:
    code, _, error = lwdc_in("train", *TINY, "space.include=[nothing*]", "cost.budget=0.001", "hydra.run.dir=t")
    assert (code, error) == (0, "")
    assert (tmp_path / "t" / "baseline.safetensors").is_file()


def test_schedules_may_be_torchs(lwdc_in: Run, tmp_path: Path) -> None:
    schedule = "train.lr_scheduler={_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 1}"
    assert lwdc_in("train", *TINY, "train.epochs=2", "train.lr=0.5", schedule, "hydra.run.dir=t")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "t" / "records.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines if "learning_rate" in line] == pytest.approx([0.05, 0.005])


def test_a_factor_takes_the_place_of_the_default_budget(lwdc_in: Run, tmp_path: Path) -> None:
    code, _, error = lwdc_in("search", *TINY, "cost.factor=0.1", "hydra.run.dir=f")
    assert code == 0, error
    lines = [json.loads(line) for line in (tmp_path / "f" / "records.jsonl").read_text().splitlines()]
    searched = [line for line in lines if line.get("phase") == "search"]
    assert searched
    assert searched[0]["search"]["costs"][0]["bound"] is None


def test_a_run_under_a_measured_cost_and_beside_it_a_counted_one(
    lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWDC_CACHE", str(tmp_path / "cache"))
    beside = ["cost.factor=1", "cost.networks=3", "cost.batch=2", "+cost.also.params.budget=60%"]
    code, out, error = lwdc_in("compress", *TINY, "cost=latency", *beside, "hydra.run.dir=f")
    assert code == 0, error
    assert "latency, factor 1 and params, budget 60%" in out
    assert "of 3 random architectures the table ranks" in out and " ms predicted, " in out
    (latency, params) = json.loads((tmp_path / "f" / "summary.json").read_text())["costs"]
    assert (latency["name"], latency["unit"], params["name"]) == ("latency", "ms", "params")
    assert latency["measured"] > 0 and latency["agreement"]["networks"] == 3
    assert params["after"] <= 0.6 * params["before"]
    lines = (tmp_path / "cache" / "latency.jsonl").read_text().splitlines()
    assert all(json.loads(line)["environment"]["batch"] == 2 for line in lines)

    assert lwdc_in("compress", "resume=f", "cost.strict=true")[0] == 0
    for change in ("+cost.also.size.budget=0.5", "space.stem=true"):
        assert "started with another configuration" in refused(lwdc_in("compress", "resume=f", change))

    code, out, error = lwdc_in("inspect", *TINY, "cost=latency", "cost.strict=true", "cost.batch=2", "cost.networks=0")
    assert code == 0 and "of the latency; reachable: " in out, error
    said = refused(lwdc_in("inspect", *TINY, "cost=latency", "cost.strict=true", "cost.networks=0"))
    assert "have never been measured on this device" in said and "batch 2" in said


def test_costs_of_a_users_own(lwdc_in: Run, tmp_path: Path) -> None:
    assert "cost.file" in refused(lwdc_in("inspect", *TINY, "cost=table"))
    (tmp_path / "energy.csv").write_text("site,operator,cost\nlayer1.0.conv1,original,nan\n")
    said = refused(lwdc_in("inspect", *TINY, "cost=table", "cost.file=energy.csv", "cost.unit=mJ"))
    assert "the cost of 'original' at 'layer1.0.conv1' is nan; it must be finite" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["+cost.also.parms.budget=0.5"], "unknown cost 'parms'. Did you mean 'params'"),
        (["+cost.also.macs.budget=0.5"], "the cost 'macs' is asked for twice"),
        (["+cost.also.params.budget=5ms"], "has the unit 'ms', the cost is counted in params"),
        (["+cost.also.params=50%"], "takes the settings of one cost, like cost.also.params.budget=50%; found 50%"),
        (["+cost.also.params.also.size.budget=0.5"], "cost.also.params takes the settings of one cost"),
        (["+cost.also.params.bugdet=0.5"], "cost.also.params.bugdet: unknown setting"),
        (["cost=latency", "cost.runtime=onyx"], "unknown cost.runtime 'onyx'"),
        (["cost=memory", "cost.budget=1kB"], "cannot be reached: the smallest memory of this space"),
    ],
)
def test_costs_that_cannot_be_had_are_refused(lwdc_in: Run, settings: list[str], said: str) -> None:
    assert said in refused(lwdc_in("search", *TINY, *settings, "hydra.run.dir=f"))


def test_every_experiment_can_be_swept_over_the_factor(lwdc_in: Run) -> None:
    experiments = Path(cli.__file__).parents[1] / "conf" / "experiment"
    for file in sorted(experiments.glob("*.yaml")):
        code, out, error = lwdc_in("search", f"experiment={file.stem}", "cost.factor=1", "--cfg", "job", "--resolve")
        assert code == 0, error
        assert "budget: null" in out
