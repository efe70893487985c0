"""Hugging Face data sets: rows of arrow tables give what files would; what is refused, also without the library."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lwdc.data import DataModule, HfDataset, ImageFolder, Shard
from lwdc.errors import DataError

# Python 3.12 warns of forking while torch's threads run; the workers only read files.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def prepared(kind: type[DataModule], root: Path, **options: Any) -> Any:
    data = kind(root, **{"image_size": 16, "workers": 0} | options)
    data.prepare(torch.device("cpu"))
    return data


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library, with its cache in the test's folder."""
    found = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'lwdc[huggingface]'")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found.disable_progress_bars()
    yield found
    found.enable_progress_bars()


def packed(
    datasets: Any,
    tree: Path,
    root: Path,
    *,
    embedded: bool = True,
    labels: Any = None,
    written: Callable[[int], Any] = int,
) -> Path:
    """The tree as parquet files, with the images' bytes or their paths; each label is ``written`` so."""
    (root / "data").mkdir(parents=True)
    names = ["cat", "dog", "emu"]
    features = datasets.Features({"image": datasets.Image(), "label": labels or datasets.ClassLabel(names=names)})
    for split in ("train", "val"):
        source = ImageFolder(tree).source(split)
        images = [
            {"bytes": file.read_bytes() if embedded else None, "path": str(file)} for file in map(Path, source.files)
        ]
        rows = {"image": images, "label": [written(label) for label in source.labels.tolist()]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            root / "data" / f"{split}-00000-of-00001.parquet"
        )
    return root


@pytest.mark.parametrize("embedded", [True, False])
def test_rows_give_the_batches_of_their_folder_bit_for_bit(
    datasets: Any, image_tree: Path, tmp_path: Path, embedded: bool
) -> None:
    root = packed(datasets, image_tree, tmp_path / "set", embedded=embedded)
    folder = prepared(ImageFolder, image_tree)
    rows = prepared(HfDataset, root, test="val", workers=2 if embedded else 0)
    assert rows.class_names == folder.class_names == ("cat", "dog", "emu")
    there = {"seed": 1, "epoch": 2, "batch_size": 8, "start": 1, "shard": Shard(1, 2)}
    first, second = (
        [*data.train(**there), *data.batches("valid", 4), *data.batches("test", 4)] for data in (folder, rows)
    )  # fmt: skip
    for (pixels, labels), (others, their_labels) in zip(first, second, strict=True):
        assert torch.equal(pixels, others) and torch.equal(labels, their_labels)


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        prepared(HfDataset, root, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_missing_is_named(datasets: Any, image_tree: Path, tmp_path: Path) -> None:
    assert "no folder imagenet-1k; set data.root to that of a data set, which is not downloaded" in refusal(
        Path("imagenet-1k")
    )
    root = packed(datasets, image_tree, tmp_path / "set")
    assert "set (nowhere) cannot be read" in refusal(root, train="nowhere")
    assert "set (train) cannot be read" in refusal(root, label_key="class")
    assert "set (train) has no column 'picture' of images; set data.image_key" in refusal(root, image_key="picture")
    (tmp_path / "empty").mkdir()
    assert "cannot be read" in refusal(tmp_path / "empty")


def test_numbers_are_no_class_labels(datasets: Any, image_tree: Path, tmp_path: Path) -> None:
    root = packed(datasets, image_tree, tmp_path / "set", labels=datasets.Value("int64"))
    assert "the column 'label' of" in (said := refusal(root)) and "holds no class labels; make it one by" in said


@pytest.mark.parametrize(
    ("several", "written"),
    [
        (False, lambda label: label or None),
        (True, lambda label: [label]),
        (True, lambda label: [0, 1][:label]),
    ],
)
def test_an_image_has_one_class(
    datasets: Any, image_tree: Path, tmp_path: Path, several: bool, written: Callable[[int], Any]
) -> None:
    label = datasets.ClassLabel(names=["cat", "dog", "emu"])
    kind = datasets.List(label) if several else label
    root = packed(datasets, image_tree, tmp_path / "set", labels=kind, written=written)
    assert "have no class, or several, in 'label', and one an image is learned" in refusal(root)


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "datasets" else real(name))
    assert refusal(tmp_path) == "data=hf_dataset needs datasets: pip install 'lwdc[huggingface]'."
