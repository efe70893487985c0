"""Optuna as sweeper: what it proposes, is told, keeps and shows. Most runs here train nothing."""

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lwdc import commands, overrides
from lwdc.errors import CostError
from lwdc.files import locked
from lwdc.pipeline import Interrupted

Run = Callable[..., tuple[int, str, str]]  # of the fixture lwdc_in: (*arguments) -> exit code, stdout, stderr

OPEN = ["cost.factor=tag(log, interval(0.03,3))", "strategy.lr=choice(0.005,0.02)"]
SEARCH = ["compress", "-m", "hydra/sweeper=optuna", *OPEN, "hydra.sweep.dir=s"]
Seen = list[tuple[float, float]]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Factor and learning rate of every run that begins. A run's accuracy falls with its factor, its cost too."""
    seen: Seen = []

    def run(command: str, config: DictConfig) -> None:
        seen.append((config.cost.factor, config.strategy.lr))

    def row(bare: dict[str, Any], status: str, result: object = None, *, own: bool = True) -> dict[str, Any]:
        factor, lr = seen[-1]
        figures = {"valid_finetuned": 1 - factor / 4 - lr, "cost_before": 100, "cost_after": 100 / (1 + factor)}
        return {**bare, **figures, "status": status}

    monkeypatch.setitem(commands._ACTIONS, "compress", run)
    monkeypatch.setattr(commands, "filled_row", row)
    return seen


def study(folder: str = "s") -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(Path(folder) / "optuna.journal")))
    return optuna.load_study(study_name="sweep", storage=storage)


def states(folder: str = "s") -> list[str]:
    return [trial.state.name for trial in study(folder).trials]


def rows(folder: str = "s") -> list[dict[str, str]]:
    with (Path(folder) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def failing(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let the run of this number, among those that begin from now on, end with an error."""
    usual, count = commands._ACTIONS["compress"], iter(range(1000))

    def run(command: str, config: DictConfig) -> None:
        usual(command, config)
        if next(count) == number:
            raise error

    monkeypatch.setitem(commands._ACTIONS, "compress", run)


def test_runs_get_what_was_proposed_inside_the_space(lwdc_in: Run, begun: Seen) -> None:
    code, _, error = lwdc_in(*SEARCH, "hydra.sweeper.n_trials=4")
    assert (code, error) == (0, "")
    assert len(set(begun)) == 4
    assert all(0.03 <= factor <= 3 and lr in (0.005, 0.02) for factor, lr in begun)
    told = [(trial.params["cost.factor"], float(trial.params["strategy.lr"])) for trial in study().trials]
    assert told == begun
    assert [Path(row["folder"]).name for row in rows()] == [str(number) for number in range(4)]


def test_the_front_that_is_shown_is_optunas(lwdc_in: Run, begun: Seen) -> None:
    code, out, _ = lwdc_in(*SEARCH, "hydra.sweeper.n_trials=8")
    first, *front = out.splitlines()
    best = study().best_trials
    assert code == 0 and 1 < len(best) < 8  # of two of like factor the one of the lower rate is better
    assert first.startswith(f"{len(best)} of 8 trials are Pareto-optimal: maximise valid_finetuned, minimise cost_")
    assert {Path(line.split()[-1]).name for line in front} == {str(trial.number) for trial in best}
    for line in front:
        trial = study().trials[int(Path(line.split()[-1]).name)]
        assert line.split()[0] == f"{trial.values[0]:.1%}" and f"cost.factor={trial.params['cost.factor']}" in line


def test_the_seed_decides_what_is_proposed(lwdc_in: Run, begun: Seen) -> None:
    for seed, folder in ((0, "a"), (0, "b"), (1, "c")):
        lwdc_in(*SEARCH[:-1], f"hydra.sweep.dir={folder}", "hydra.sweeper.n_trials=2", f"hydra.sweeper.seed={seed}")
    assert begun[:2] == begun[2:4] != begun[4:]


def test_a_search_that_is_given_again_runs_only_what_is_missing(lwdc_in: Run, begun: Seen) -> None:
    for trials, new in ((2, 2), (2, 0), (4, 2)):
        before = len(begun)
        assert lwdc_in(*SEARCH, f"hydra.sweeper.n_trials={trials}")[0] == 0
        assert len(begun) - before == new
    assert len(set(begun)) == 4  # the sampler does not begin anew
    assert len(rows()) == 4


def test_an_interrupted_trial_goes_on_in_its_folder_with_its_values(
    lwdc_in: Run, begun: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, 1, Interrupted("stopped in search after step 2 of 3. Go on with: resume=here", signal.SIGTERM))
        code, _, error = lwdc_in(*SEARCH, "hydra.sweeper.n_trials=3")
    assert code == 143 and "hydra.sweep.dir=s" in error
    assert states() == ["COMPLETE", "RUNNING"]
    assert lwdc_in(*SEARCH, "hydra.sweeper.n_trials=3")[0] == 0
    assert states() == ["COMPLETE"] * 3
    assert begun[1] == begun[2] and len(set(begun)) == 3
    assert [(Path(row["folder"]).name, row["status"]) for row in rows()] == [(n, "done") for n in "012"]


def test_a_trial_that_was_cut_off_in_its_proposal_has_failed(lwdc_in: Run, begun: Seen) -> None:
    lwdc_in(*SEARCH, "hydra.sweeper.n_trials=1")
    study().ask({})
    assert lwdc_in(*SEARCH, "hydra.sweeper.n_trials=3")[0] == 0
    assert states() == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize("error", [CostError("the budget cannot be reached"), RuntimeError("out of memory")])
def test_a_failed_run_is_told_and_the_search_goes_on(
    lwdc_in: Run, begun: Seen, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, 1, error)
    code, out, said = lwdc_in(*SEARCH, "hydra.sweeper.n_trials=3")
    assert code == (2 if isinstance(error, CostError) else 1)
    assert str(error) in said
    assert states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [row["status"].split(":")[0] for row in rows()] == ["done", "failed", "done"]
    assert "of 2 trials are Pareto-optimal" in out


def test_settings_that_come_again_are_told_the_same_without_a_run(lwdc_in: Run, begun: Seen) -> None:
    few = ["compress", "-m", "hydra/sweeper=optuna", "cost.factor=0.1,1", "hydra.sweep.dir=s"]
    code, out, error = lwdc_in(*few, "hydra.sweeper.n_trials=6")
    assert (code, error) == (0, "")
    assert sorted(factor for factor, _ in begun) == [0.1, 1]
    assert states() == ["COMPLETE"] * 6 and len(rows()) == 2
    by_factor = {(trial.params["cost.factor"], *trial.values) for trial in study().trials}
    assert len(by_factor) == 2
    assert {Path(line.split()[-1]).name for line in out.splitlines() if "cost.factor" in line} <= {"0", "1"}


def test_one_command_at_a_time_searches_in_a_folder(lwdc_in: Run, begun: Seen) -> None:
    with locked(Path("s") / "optuna.journal"):
        code, _, error = lwdc_in(*SEARCH, "hydra.sweeper.n_trials=2")
    assert code == 2 and "another command is at work in s" in error
    assert not begun


def test_what_a_command_does_not_find_is_no_objective_of_it(lwdc_in: Run) -> None:
    for command, objective in (("train", "valid_finetuned"), ("search", "valid_finetuned"), ("train", "cost_share")):
        code, _, error = lwdc_in(
            command, "-m", "hydra/sweeper=optuna", *OPEN, f"hydra.sweeper.objectives=[minimise {objective}]"
        )
        assert code == 2 and f"lwdc {command} finds no {objective}; it finds valid_baseline" in error
    assert not list(Path().rglob("records.jsonl"))


def test_other_settings_are_refused_in_the_folder_of_a_search(lwdc_in: Run, begun: Seen) -> None:
    lwdc_in(*SEARCH, "hydra.sweeper.n_trials=1")
    code, _, error = lwdc_in(*SEARCH, "hydra.sweeper.n_trials=2", "seed=3")
    assert code == 2 and "nothing more then, seed=3 now" in error
    code, _, error = lwdc_in(*SEARCH, "hydra.sweeper.n_trials=2", "hydra.sweeper.objectives=[minimise cost_after]")
    assert code == 2 and "minimise cost_share then, minimise cost_after now" in error
    assert len(begun) == 1


def test_any_of_optunas_samplers_can_be_named(lwdc_in: Run, begun: Seen) -> None:
    sampler = [
        "hydra.sweeper.sampler._target_=optuna.samplers.NSGAIISampler",
        "+hydra.sweeper.sampler.population_size=2",
    ]
    assert lwdc_in(*SEARCH, *sampler, "hydra.sweeper.n_trials=4")[0] == 0
    assert any("NSGAII" in key for trial in study().trials for key in trial.system_attrs)


def test_a_database_keeps_the_search_as_well(lwdc_in: Run, begun: Seen) -> None:
    for _ in range(2):
        assert lwdc_in(*SEARCH, "hydra.sweeper.storage='sqlite:///s.db'", "hydra.sweeper.n_trials=2")[0] == 0
    assert len(begun) == 2
    assert len(optuna.load_study(study_name="s", storage="sqlite:///s.db").trials) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["hydra.sweeper.objectives=[maximise test_finetuned]"], "what is chosen by the test set"),
        (["hydra.sweeper.objectives=[maximise accuracy]"], "unknown objective 'accuracy'"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials is 0; it must be a whole number, 1 or more"),
        (["hydra.sweeper.n_jobs=2"], "hydra.sweeper.n_jobs=2 needs a launcher that has runs side by side"),
        (
            ["hydra.sweeper.sampler._target_=optuna.samplers.Tpe"],
            "hydra.sweeper.sampler._target_: 'optuna.samplers.Tpe' cannot be found",
        ),
        (["hydra.sweeper.storage=nonsense"], "hydra.sweeper.storage cannot be used"),
        (["cost.factor=3"], "there is nothing to search"),
        (["cost.factor=interval(3,1)"], "an interval goes from a smaller number to a larger one"),
    ],
)
def test_a_search_that_makes_no_sense_is_one_line_before_any_run(
    lwdc_in: Run, begun: Seen, settings: list[str], said: str
) -> None:
    search = SEARCH if settings[0].startswith("hydra.") else [s for s in SEARCH if s not in OPEN]
    code, _, error = lwdc_in(*search, *settings)
    assert (code, error.count("\n"), begun) == (2, 1, [])
    assert error.startswith("error: ") and said in error


def test_without_optuna_the_error_says_what_to_install(lwdc_in: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "_installed", lambda module: module != "optuna")
    code, _, error = lwdc_in(*SEARCH)
    assert code == 2 and "pip install 'lwdc[sweeps]'" in error


def test_a_real_search_over_real_runs(lwdc_in: Run) -> None:
    tiny = [
        "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "data.limit_train=128", "compute=cpu",
        "train.epochs=1", "strategy.epochs=1", "finetune.epochs=1", "export.formats=[]", "latency_batches=[]",
        "space.candidates=[{op: original}, {op: grouped, groups: 4}, {op: pointwise}]", "strategy.refit_images=0",
    ]  # fmt: skip
    budget = ["cost.budget=choice(0.3,0.6)", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=s"]
    code, out, error = lwdc_in("compress", "-m", "hydra/sweeper=optuna", *tiny, *budget)
    assert code == 0, error
    assert "of 2 trials are Pareto-optimal" in out.splitlines()[-2] + out.splitlines()[-3]
    for trial in study().trials:
        summary = json.loads(Path(f"s/{trial.number}/summary.json").read_text())
        share = summary["after"]["macs"] / summary["before"]["macs"]
        assert trial.values == pytest.approx([summary["valid"]["finetuned"], share])
        assert share <= float(trial.params["cost.budget"])
