"""The hub: the released files of a run as a repository on Hugging Face."""

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData

import lwdc
from lwdc.errors import ExportError
from lwdc.export.card import FILE as CARD
from lwdc.export.int8 import INT8_FILE
from lwdc.export.package import DESCRIPTION, WEIGHTS, imports_of, load, read_description
from lwdc.export.reason import reason_of
from lwdc.files import read_text, replacing
from lwdc.folders import typed

_PACKAGE = (WEIGHTS, DESCRIPTION, "architecture.json")
_EXPORTS = ("model.pt2", "model.onnx", INT8_FILE)  # each goes along if the model card names it
_FROM_HUB = """
## From the hub

```python
{imports}import lwdc
from huggingface_hub import snapshot_download

network = lwdc.load(snapshot_download("{repo}"))
```
"""


def push(folder: Path | str, repo: str, *, private: bool = True) -> str:
    """Put the released files of a run on the Hugging Face hub as ``repo``, ``user/name``; returns its address.

    A repository that is not there is made; ``private`` says nothing about one that is. Files of the same names
    are replaced, others stay. It needs an account, logged in by ``hf auth login``. Raises ``ExportError`` as
    ``gather`` does, before anything is sent, and where the hub refuses.
    """
    with tempfile.TemporaryDirectory() as stage:
        gather(folder, stage, repo=repo)
        try:
            hub = HfApi(library_name="lwdc", library_version=lwdc.__version__)
            made = hub.create_repo(repo, private=private, exist_ok=True)
            hub.upload_folder(repo_id=made.repo_id, folder_path=stage, commit_message="Add a network from lwdc")
        # Whatever the net and the hub may raise.
        except Exception as error:
            raise ExportError(
                f"the hub did not take {repo} ({reason_of(error)}): it needs the net and an account; log in with "
                "`hf auth login`, and name a repository that you may write to, like repo=user/name."
            ) from error
    return str(made)


def gather(folder: Path | str, out: Path | str, *, repo: str | None = None) -> list[Path]:
    """Write to ``out`` what ``push`` sends: the package, which ``lwdc.load(out)`` reads, and what goes with it.

    That is ``README.md``, the model card, with how to load from ``repo``, the ONNX and torch.export files that it
    names, and ``architecture.json``; nothing that names folders of this machine. Raises ``ExportError`` for a
    folder whose package does not load or that has no model card, and for an ``out`` that holds something else.
    """
    source, out = Path(folder), Path(out)
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise ExportError(f"{out} holds other things than a package: name a folder that is new, empty or such a one.")
    if lacking := [name for name in (WEIGHTS, DESCRIPTION) if not (source / name).is_file()]:
        raise ExportError(
            f"{source} lacks {' and '.join(lacking)}; a package is a folder with {DESCRIPTION} and {WEIGHTS}. Of a "
            f"finished run write it by lwdc export {typed('run', source)} {typed('export.formats', '[safetensors]')} "
            "export.int8=false."
        )
    load(source)
    try:
        if (source / CARD).is_symlink():
            raise OSError("a link")
        text = read_text(source / CARD)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{source} has no {CARD}: name the folder of a finished run, like outputs/compress/<run>."
        ) from error
    names = [*_PACKAGE, *(name for name in _EXPORTS if f"`{name}`" in text)]
    for name in names:
        if (source / name).is_symlink():  # in a run that somebody sent it may lead to any file of this machine
            raise ExportError(f"{source / name} is a link: put the file itself there, and only if it is meant to go.")
        if not (source / name).is_file():
            raise ExportError(
                f"{source / name} is missing: export the run again, by lwdc export {typed('run', source)}."
            )
        with replacing(out / name) as temporary:
            shutil.copyfile(source / name, temporary)
    with replacing(out / "README.md") as temporary:
        temporary.write_text(_readme(text, source, repo), encoding="utf-8")
    return [out / name for name in ("README.md", *names)]


def _readme(text: str, source: Path, repo: str | None) -> str:
    """The model card, with what the hub sorts it by."""
    card = ModelCard(text, ignore_metadata_errors=True)
    of_sound = len(read_description(source).deployment.input_size) == 2
    assert isinstance(card.data, ModelCardData)
    card.data.pipeline_tag = "audio-classification" if of_sound else "image-classification"
    return str(card).rstrip() + "\n" + ("" if repo is None else _FROM_HUB.format(repo=repo, imports=imports_of(source)))
