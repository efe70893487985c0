"""Overrides: what the command line says, seen before Hydra sees it."""

import importlib.util
import re
from pathlib import Path

from lwdc.errors import CheckpointError, LwdcError, unknown_name
from lwdc.folders import CHECKPOINT, at_home, check_folder
from lwdc.help import config_groups
from lwdc.telling import rank_here

UNTIL = {"compress": "export", "train": "baseline", "search": "search", "finetune": "export"}


def without_trust(overrides: list[str]) -> tuple[list[str], list[str]]:
    """What ``trust=`` names, which counts nowhere else than on the command line, and the other overrides."""
    given = [o.partition("=")[2].strip("[]\"'").split(",") for o in overrides if key_of(o) == "trust"]
    names = [name.strip() for part in given for name in part]
    if wrong := [name for name in names if not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name)]:
        raise LwdcError(f"trust={wrong[0]} names no package, class or function; write trust=my_package.MyData.")
    return names, [o for o in overrides if key_of(o) != "trust"]


def with_resumed(command: str, overrides: list[str]) -> list[str]:
    """For resume=FOLDER: the overrides that the run was started with, then those given now, in its folder."""
    key = "run" if command == "finetune" else "resume"
    folder = given_in(key, overrides)
    if command == "finetune" and folder is None:
        raise LwdcError("name the run's folder: lwdc finetune run=outputs/search/...")
    if folder is None or command not in UNTIL:
        return overrides
    if command != "finetune" and folder == "auto":
        overrides = [o for o in overrides if key_of(o) != key]
        folder = given_in("hydra.run.dir", overrides)
        if folder is None:
            raise LwdcError(
                "resume=auto goes on with the run in hydra.run.dir, if there is one: name that folder, too."
            )
        if not (Path(folder) / CHECKPOINT).exists():
            return overrides
        overrides = [*overrides, f"resume={quoted(folder)}"]
    from lwdc.pipeline.packages import settings_of  # loads PyTorch

    now = {key_of(o) for o in overrides}
    # From the checkpoint: `.hydra` is written anew before a resumed run can be refused.
    kept = settings_of(Path(folder)).get("overrides", [])
    for override in kept if isinstance(kept, list) else [kept]:
        sound = isinstance(override, str) and _KEPT.fullmatch(override)
        if not sound or key_of(override).startswith(("hydra", "trust")):
            raise CheckpointError(
                f"the run in {folder} says that it was started with {override!r:.200}, which lwdc never keeps: "
                "do not trust it."
            )
    before = [o for o in kept if key_of(o) not in now]
    if foreign := [] if _has_folders(overrides) else _not_ours(before):
        raise LwdcError(
            f"the run in {folder} was started with {' '.join(foreign)}, from a folder of configs that was given by "
            "--config-dir: give it again, as --config-dir=FOLDER."
        )
    return [*before, *overrides, f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]


_PATHS = (
    "resume", "run", "baseline", "searched", "data.root", "backbone.weights", "cost.file", "cost.cache",
    "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
_PLAIN = re.compile(r"([A-Za-z_./][\w./-]*)?", re.ASCII)  # what Hydra's grammar takes as the text that it is


def with_paths(overrides: list[str]) -> list[str]:
    """The overrides, those of folders and files as Hydra takes them: a leading ``~`` is home, signs are themselves.

    Values with quotes or interpolations of their own stay, and in a sweep those with commas, which separate values.
    """
    sweep = bool({"-m", "--multirun"} & set(overrides))

    def written(override: str) -> str:
        start, equals, value = override.partition("=")
        if key_of(override) not in _PATHS or not equals or value[:1] in ("'", '"') or "${" in value:
            return override
        value = str(at_home(value)) if value.startswith("~") else value
        if (_PLAIN.fullmatch(value) and not _means_else(value)) or (sweep and re.search(r",|^\w+\(", value)):
            return f"{start}={value}"
        return f"{start}={quoted(value)}"

    return [written(override) for override in overrides]


def _means_else(value: str) -> bool:
    """Whether Hydra reads it as a number or a flag."""
    try:
        float(value)
    except ValueError:
        return value.lower() in ("true", "false")
    return True


def quoted(path: Path | str) -> str:
    """As Hydra's grammar reads back the same: of backslashes only those before a quote are its own."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(path))
    return f"'{escaped}'"


def _unquoted(value: str) -> str:
    """What was ``quoted``, or as a person writes it."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        mark = value[0]
        return re.sub(rf"(\\+)({mark}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], value[1:-1])
    return value


_KEPT = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*(=.*)?", re.DOTALL)  # an override; not a flag


def in_folder(command: str, overrides: list[str]) -> list[str]:
    """The overrides, once the folder to write to is checked: Hydra would make it without a word of ours."""
    if command not in UNTIL or rank_here():  # writes nothing, or not first
        own = [o for o in overrides if key_of(o) not in ("hydra.run.dir", "hydra.output_subdir")]
        return [*own, "hydra.run.dir=.", "hydra.output_subdir=null"]
    folder = given_in("hydra.run.dir", overrides) or given_in("hydra.sweep.dir", overrides) or "outputs"
    check_folder(Path(folder), resume="hydra.output_subdir=null" in overrides)
    return overrides


def given_in(key: str, overrides: list[str]) -> str | None:
    """The last value of ``key=value``, without quotes; None if it is not there."""
    values = [_unquoted(o.partition("=")[2]) for o in overrides if key_of(o) == key]
    return values[-1] if values and values[-1] not in ("", "null") else None


def key_of(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


_EXTRAS = {  # choices of Hydra that need more packages -> module, name and extra of ours
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher", "launchers"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher", "launchers"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher", "launchers"),
    "hydra/sweeper=optuna": ("optuna", "optuna", "sweeps"),
}


def check_extras(overrides: list[str]) -> None:
    for choice in set(overrides) & set(_EXTRAS):
        module, name, extra = _EXTRAS[choice]
        if not _installed(module):
            raise LwdcError(f"{choice} needs {name}, which is not installed: pip install 'lwdc[{extra}]'.")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False


def check_groups(overrides: list[str]) -> None:
    """A misspelt choice gets the nearest ones before Hydra sees it."""
    if _has_folders(overrides):
        return  # there may be others
    groups = config_groups()
    for override in overrides:
        match = re.fullmatch(r"\+?(\w+)=([\w,.-]+)", override)
        if match and match[1] in groups:
            for choice in match[2].split(","):
                if choice == "null" and match[1] != "experiment":
                    nothing = "choose tracking=none" if match[1] == "tracking" else "leave it as it is, or choose one"
                    raise LwdcError(f"{match[1]}=null leaves out what every run has: {nothing}.")
                if choice not in groups[match[1]] and choice != "null":
                    raise LwdcError(unknown_name(match[1], choice, groups[match[1]]))


def _has_folders(overrides: list[str]) -> bool:
    """Whether they name further folders of configs."""
    return any(o.startswith(("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath=")) for o in overrides)


def _not_ours(overrides: list[str]) -> list[str]:
    """Those that choose what no group of lwdc's own has."""
    groups = config_groups()
    found = [(o, re.fullmatch(r"\+?(\w+)=([\w./-]+)", o)) for o in overrides]
    return [o for o, match in found if match and match[1] in groups and match[2] not in ("null", *groups[match[1]])]
