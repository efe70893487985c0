"""The command line. It answers what needs no network before PyTorch is loaded, which takes seconds."""

import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

import lwdc
from lwdc.composing import checked
from lwdc.errors import LwdcError, Refused, unknown_name
from lwdc.help import COMMANDS, help_of, overview
from lwdc.overrides import check_extras, check_groups, in_folder, key_of, with_paths, with_resumed, without_trust
from lwdc.sweepers import register
from lwdc.telling import tell


def main() -> None:
    """Entry point of the command ``lwdc``."""
    try:
        code = _answer(sys.argv[1:])
        if sys.stdout is not None:  # closed, as by >&-
            sys.stdout.flush()
        sys.exit(code)
    except LwdcError as error:
        sys.exit(tell(error))
    except Refused as refused:
        sys.exit(tell(refused.error))
    except BrokenPipeError:  # whoever reads has enough, as `head` does; what is buffered must not fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped at once; what the last checkpoint holds is safe", file=sys.stderr)
        sys.exit(130)


def _answer(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"lwdc {lwdc.__version__}")
        return 0
    return _run(arguments[0], arguments[1:])


def _run(command: str, overrides: list[str]) -> int:
    if command not in COMMANDS:
        raise LwdcError(unknown_name("command", command, COMMANDS))
    if "-h" in overrides or "--help" in overrides:
        print(help_of(command))
        return 0
    if command in ("report", "push"):
        _with_finished(command, overrides)
        return 0
    check_groups(overrides)
    check_extras(overrides)
    if {"-m", "--multirun"} & set(overrides):
        _check_alone()
    trusted, typed = without_trust(with_paths(overrides))
    overrides = in_folder(command, with_resumed(command, typed))
    register()
    # argparse takes positional arguments in one run only, so flags go last.
    settings = [o for o in overrides if o.startswith("~") or ("=" in o and not o.startswith("-"))]
    flags = [o for o in overrides if o not in settings]
    sys.argv = ["lwdc", *settings, f"hydra.job.name={command}", *flags]
    # A process of its own needs what the overrides that Hydra keeps do not say.
    elsewhere = [o for o in flags if o not in ("-m", "--multirun")]
    elsewhere += [o for o in settings if key_of(o) == "hydra.searchpath"]
    elsewhere += [f"trust={name}" for name in trusted]
    task = functools.partial(_task, command, trusted, elsewhere)
    with checked(typed, trusted):
        hydra.main(version_base="1.3", config_path="pkg://lwdc.conf", config_name="config")(task)()
    return 0


def _with_finished(command: str, arguments: list[str]) -> None:
    from lwdc.finished import push_run, write_page

    {"report": write_page, "push": push_run}[command](arguments)


def _check_alone() -> None:
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        raise LwdcError("a sweep starts the processes of its runs itself: call lwdc without torchrun.")


def _task(command: str, trusted: Sequence[str], elsewhere: Sequence[str], config: DictConfig) -> dict[str, Any] | None:
    """What Hydra calls with a composed configuration, in whatever process."""
    from lwdc.commands import perform

    try:
        return perform(command, trusted, elsewhere, config)
    except LwdcError as error:
        raise Refused(error) from error


if __name__ == "__main__":
    from lwdc import cli

    cli.main()  # by the name that a launcher's processes import
