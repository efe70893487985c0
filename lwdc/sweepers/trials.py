"""Trials: Optuna proposes what the runs of a sweep are given, and learns what came of it."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lwdc.errors import LwdcError, Refused
from lwdc.files import locked
from lwdc.sweepers.jobs import ONE_BY_ONE, WatchedLauncher, failed, launcher_of, refuse_failures
from lwdc.sweepers.objectives import Objective, check_reached, parse_objectives
from lwdc.targets import check_targets

if TYPE_CHECKING:
    import optuna

JOURNAL = "optuna.journal"
_ASKED = "asked"  # of a study: what its trials have in common


class OptunaSweeper(Sweeper):
    """``n_trials`` runs in all, those of earlier calls in the same folder included, whether they succeeded or failed.

    The folder of a trial is that of Hydra's job of its number. A trial that was interrupted is run again there, which
    goes on with it. The settings are those of ``conf/hydra/sweeper/optuna.yaml``.
    """

    def __init__(
        self,
        *,
        n_trials: int,
        n_jobs: int,
        objectives: Sequence[str],
        sampler: Mapping[str, Any],
        seed: int | None,
        storage: str | None,
        study_name: str | None,
    ) -> None:
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.objective_texts = objectives
        self.sampler, self.seed = dict(sampler), seed
        self.storage, self.study_name = storage, study_name

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config  # by which Hydra checks what jobs are given
        launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        self._launcher = WatchedLauncher(launcher, config)
        self._launcher_name = launcher_of(config)
        self._command = str(config.hydra.job.name)
        self._folder = Path(str(config.hydra.sweep.dir))
        self._parser = OverridesParser.create(config_loader=hydra_context.config_loader)

    def sweep(self, arguments: list[str]) -> None:
        try:
            self._check()
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._folder / JOURNAL, wait=False):
                self._sweep(arguments)
        except BlockingIOError as error:
            raise Refused(LwdcError(f"another command is at work in {self._folder}: wait until it ends.")) from error
        except LwdcError as error:
            raise Refused(error) from error

    def _sweep(self, arguments: list[str]) -> None:
        import optuna

        from lwdc.sweepers.proposals import open_settings

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        overrides = self._parser.parse_overrides(arguments)
        self._space = open_settings(overrides)
        self._fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        self._objectives = parse_objectives(self.objective_texts)
        check_reached(self._objectives, self._command)
        study = self._study(arguments)
        OmegaConf.save(self.config, self._folder / "multirun.yaml")
        self._failed: list[Mapping[str, Any]] = []
        self._broken: list[JobReturn] = []  # by an exception that lwdc does not know
        self._run(study, self._interrupted(study))
        while missing := self.n_trials - _ended(study):
            batch = [study.ask(self._space) for _ in range(min(self.n_jobs, missing))]
            self._run(study, [(t.number, t.params) for t in batch if not self._known(study, t.number, t.params)])
        for line in self._front(study):
            print(line)
        for job in self._broken:
            _ = job.return_value  # raises it
        refuse_failures(self._failed)

    def _check(self) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise LwdcError("hydra/sweeper=optuna needs optuna, which is not installed: pip install 'lwdc[sweeps]'.")
        for name, number in (("n_trials", self.n_trials), ("n_jobs", self.n_jobs)):
            if not isinstance(number, int) or number < 1:
                raise LwdcError(f"hydra.sweeper.{name} is {number}; it must be a whole number, 1 or more.")
        if self.n_jobs > 1 and self._launcher_name == ONE_BY_ONE:
            raise LwdcError(
                f"hydra.sweeper.n_jobs={self.n_jobs} needs a launcher that has runs side by side: "
                "hydra/launcher=joblib, submitit_local or submitit_slurm."
            )

    def _study(self, arguments: list[str]) -> "optuna.Study":
        """The folder's study, new or gone on with. Raises ``LwdcError`` if it was begun with other settings."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage: Any = self.storage
        if storage is None:
            storage = JournalStorage(JournalFileBackend(str(self._folder / JOURNAL)))
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=self.study_name or ("sweep" if self.storage is None else str(self._folder)),
                directions=["maximize" if objective.maximise else "minimize" for objective in self._objectives],
                load_if_exists=True,
            )
        except Exception as error:
            if not isinstance(error, ImportError) and not type(error).__module__.startswith("sqlalchemy."):
                raise
            raise LwdcError(f"hydra.sweeper.storage cannot be used: {error}") from error
        asked = [self._command, *sorted(arguments), *map(str, self._objectives)]
        before = study.user_attrs.get(_ASKED)
        if before is None:
            study.set_user_attr(_ASKED, asked)
        elif before != asked:
            then, now = ([x for x in a if x not in b] for a, b in ((before, asked), (asked, before)))
            raise LwdcError(
                f"the search in {self._folder} was begun with other settings: "
                f"{', '.join(then) or 'nothing more'} then, {', '.join(now) or 'nothing more'} now. "
                "Give the same ones, or another hydra.sweep.dir."
            )
        study.sampler = self._sampler(already=len(study.get_trials(deepcopy=False)))
        return study

    def _sampler(self, already: int) -> "optuna.samplers.BaseSampler":
        """The seed counts up with the trials there are, so that a search that goes on does not repeat itself."""
        given: dict[str, Any] = {} if self.seed is None else {"seed": self.seed + already}
        if self.n_jobs > 1 and self.sampler["_target_"] == "optuna.samplers.TPESampler":
            given["constant_liar"] = True  # runs at work count as bad ones, so that those beside them differ
        check_targets({"hydra.sweeper.sampler": self.sampler}, allowed=("optuna.samplers",))
        try:
            sampler: optuna.samplers.BaseSampler = instantiate({**given, **self.sampler})
        except InstantiationException as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise LwdcError(
                f"hydra.sweeper.sampler: {reason} (one that takes no seed needs hydra.sweeper.seed=null)"
            ) from error
        return sampler

    def _interrupted(self, study: "optuna.Study") -> list[tuple[int, Mapping[str, Any]]]:
        """Trials that were asked for and never told; one that was cut off before it had all its values has failed."""
        from optuna.trial import TrialState

        found: list[tuple[int, Mapping[str, Any]]] = []
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if trial.params.keys() == self._space.keys():
                found.append((trial.number, trial.params))
            else:
                study.tell(trial.number, state=TrialState.FAIL)
        return found

    def _known(self, study: "optuna.Study", number: int, params: Mapping[str, Any]) -> bool:
        """Whether a trial repeats one that is done: equal runs end alike, so it is told the same without a run."""
        from optuna.trial import TrialState

        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.params == params:
                study.set_user_attr(f"folder of {number}", study.user_attrs[f"folder of {trial.number}"])
                study.tell(number, trial.values)
                return True
        return False

    def _run(self, study: "optuna.Study", trials: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        from lwdc.sweepers.proposals import as_overrides

        for group in _consecutive(trials):
            overrides = [[*self._fixed, *as_overrides(self._space, params)] for _, params in group]
            self.validate_batch_is_legal(overrides)
            jobs = self._launcher.launch(overrides, initial_job_idx=group[0][0])
            for (number, _), job in zip(group, jobs, strict=True):
                self._tell(study, number, job)

    def _tell(self, study: "optuna.Study", number: int, job: JobReturn) -> None:
        from optuna.trial import TrialState

        if job.status != JobStatus.COMPLETED:
            self._broken.append(job)
            study.tell(number, state=TrialState.FAIL)
            return
        row = job.return_value
        if failed([row]):
            self._failed.append(row)
            study.tell(number, state=TrialState.FAIL)
            return
        try:
            values = [objective.value(row) for objective in self._objectives]
        except LwdcError:
            study.tell(number, state=TrialState.FAIL)
            raise
        study.set_user_attr(f"folder of {number}", row["folder"])
        study.tell(number, values)

    def _front(self, study: "optuna.Study") -> Iterator[str]:
        """Lines about the trials that no other one beats in every objective."""
        from optuna.trial import TrialState

        from lwdc.sweepers.proposals import as_overrides

        done = study.get_trials(states=(TrialState.COMPLETE,))
        if not done:
            yield "no trial has succeeded"
            return
        best = sorted(study.best_trials, key=lambda trial: trial.values)
        yield f"{len(best)} of {len(done)} trials are Pareto-optimal: {', '.join(map(str, self._objectives))}"
        for trial in best:
            figures = " ".join(f"{_short(o, v):>9}" for o, v in zip(self._objectives, trial.values, strict=True))
            folder = study.user_attrs.get(f"folder of {trial.number}", "")
            yield f"{figures}  {' '.join(as_overrides(self._space, trial.params))}  {folder}"


def _ended(study: "optuna.Study") -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)))


def _consecutive(trials: Sequence[tuple[int, Mapping[str, Any]]]) -> list[list[tuple[int, Mapping[str, Any]]]]:
    """The trials in groups of numbers that follow on one another, as launchers number their jobs."""
    groups: list[list[tuple[int, Mapping[str, Any]]]] = []
    for trial in trials:
        if groups and groups[-1][-1][0] + 1 == trial[0]:
            groups[-1].append(trial)
        else:
            groups.append([trial])
    return groups


def _short(objective: Objective, value: float) -> str:
    percent = objective.name.startswith("valid_") or objective.name.endswith("_share")
    return f"{value:.1%}" if percent else f"{value:,.6g}"
