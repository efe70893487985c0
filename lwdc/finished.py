"""Commands on finished runs that need no configuration: ``lwdc report`` and ``lwdc push``."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lwdc.errors import LwdcError, unknown_name
from lwdc.export import gather, push
from lwdc.folders import at_home
from lwdc.overrides import given_in, key_of, without_trust
from lwdc.targets import import_trusted


def write_page(arguments: list[str]) -> None:
    """``lwdc report``: folders, and where the page goes; without that into the folder, if it is one."""
    from lwdc.report import read_runs, write_images, write_report  # plotly is slow to import

    folders = [at_home(a) for a in arguments if not a.startswith("out=") and a != "--figures"]
    if not folders:
        raise LwdcError("name the folders of runs or sweeps: lwdc report outputs/compress/<run> ...")
    given = given_in("out", arguments)
    out = at_home(given) if given else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    out = out / "report.html" if out.is_dir() else out
    runs = read_runs(folders)
    with _told_where_to_write(out):
        write_report(runs, out)
    print(f"{len(runs)} run(s): {out}")
    if "--figures" in arguments:
        with _told_where_to_write(out):
            images = write_images(runs, out.with_name(f"{out.stem}_figures"))
        print("\n".join(map(str, images)))


@contextlib.contextmanager
def _told_where_to_write(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LwdcError(
            f"no report can be written to {out}: {error.strerror}. Name another place by out=FILE."
        ) from error


def push_run(arguments: list[str]) -> None:
    """``lwdc push``: the files of a run to a repository of the hub, or with ``out`` to a folder."""
    trusted, arguments = without_trust(arguments)
    known = ("run", "repo", "private", "out")
    for argument in arguments:
        if "=" not in argument or key_of(argument) not in known:
            raise LwdcError(unknown_name("setting of push", key_of(argument), (*known, "trust")))
    run, repo, private, out = (given_in(key, arguments) for key in known)
    if run is None or (repo is None and out is None):
        raise LwdcError("name the run's folder and the repository: lwdc push run=outputs/compress/<run> repo=user/name")
    if private not in (None, "true", "false"):
        raise LwdcError(f"private is {private!r}; it can be true or false.")
    import_trusted(trusted)
    if out is not None:
        if private is not None:
            raise LwdcError("private= is for the hub: leave it out where out= names a folder.")
        for file in gather(at_home(run), at_home(out), repo=repo):
            print(file)
    elif repo is not None:
        print(push(at_home(run), repo, private=private != "false"))
