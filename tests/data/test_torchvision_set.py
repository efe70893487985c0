"""Sets read through torchvision: layouts, statistics, and what is said when files are missing or damaged."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as datasets

from lwdc.data import Cifar10, Cifar100, FashionMnist, Mnist, Svhn, TorchvisionSet
from lwdc.errors import DataError

CPU = torch.device("cpu")
REAL = {Cifar10: "cifar-10-batches-py", Mnist: "MNIST/raw", FashionMnist: "FashionMNIST/raw"}


def real(cls: type[TorchvisionSet]) -> Any:
    return pytest.param(cls, marks=pytest.mark.needs(REAL[cls]), id=cls.name)


@pytest.mark.parametrize("cls", [real(cls) for cls in REAL])
def test_real_sets_are_whole_and_normalised(cls: type[TorchvisionSet], data_root: Path) -> None:
    data = cls(data_root)
    data.prepare(CPU)
    assert len(data._splits["test"].labels) == 10_000
    assert len(data._splits["valid"].labels) == 5_000
    assert data.num_train() == (45_000 if cls is Cifar10 else 55_000)
    assert set(data._splits["valid"].labels.bincount().tolist()) <= set(range(440, 570))
    images = torch.cat([images for images, _ in data.batches("valid", 1000)])
    assert images.shape[1:] == data.input_size
    assert images.mean((0, 2, 3)).abs().max() < 0.03
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.03


@pytest.mark.needs("cifar-10-batches-py")
def test_class_names_are_those_of_the_files(data_root: Path) -> None:
    assert Cifar10.class_names == tuple(datasets.CIFAR10(data_root, train=False).classes)
    assert FashionMnist.class_names == tuple(datasets.FashionMNIST.classes)


def test_cifar100_has_a_hundred_names_in_their_alphabetical_order() -> None:
    assert len(set(Cifar100.class_names)) == 100
    assert list(Cifar100.class_names) == sorted(Cifar100.class_names)


def test_other_means_can_be_given() -> None:
    data = Mnist("nowhere", mean=[0.5], std=[0.25])
    assert data.preprocessing.mean == (0.5,) and data.preprocessing.std == (0.25,)


# Small files in the real layouts, for what no real copy is at hand of, and for damage.


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array([0x0800 + values.ndim, *values.shape], dtype=">i4")
    path.write_bytes(header.tobytes() + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, *, size: int = 28, labels: int = 40, highest: int = 9) -> None:
    for part in ("train", "t10k"):
        write_idx(root / f"MNIST/raw/{part}-images-idx3-ubyte", np.zeros((40, size, size)))
        write_idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte", np.arange(labels) % (highest + 1))


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    images = np.random.randint(0, 256, (200, 3072), dtype=np.uint8)
    batch = {"data": images, "fine_labels": [i % 100 for i in range(200)], "coarse_labels": [0] * 200}
    (root / "cifar-100-python").mkdir()
    for name, content in (("train", batch), ("test", batch), ("meta", {"fine_label_names": ["?"] * 100})):
        (root / "cifar-100-python" / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    return images


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    images = np.random.randint(0, 256, (32, 32, 3, 40), dtype=np.uint8)
    labels = np.arange(40).reshape(40, 1) % 10 + 1  # stored 1 to 10, where 10 is the digit 0
    for part in ("train", "test"):
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": images, "y": labels})
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5=None: True)
    return images


def test_cifar100_is_read_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_cifar100(tmp_path, monkeypatch)
    data = Cifar100(tmp_path, valid=100)
    data.prepare(CPU)
    assert torch.equal(data._splits["test"].inputs, torch.from_numpy(images).view(-1, 3, 32, 32))
    assert data._splits["valid"].labels.bincount().tolist() == [1] * 100


def test_svhn_is_read_channels_first_with_zero_as_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_svhn(tmp_path, monkeypatch)
    data = Svhn(tmp_path, valid=10)
    data.prepare(CPU)
    test = data._splits["test"]
    assert torch.equal(test.inputs, torch.from_numpy(images).permute(3, 2, 0, 1))
    assert test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 4


def refusal(data: TorchvisionSet) -> str:
    with pytest.raises(DataError) as raised:
        data.prepare(CPU)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("cls", [Cifar10, Cifar100, Mnist, FashionMnist, Svhn])
def test_missing_files_are_named_with_the_way_to_get_them(cls: type[TorchvisionSet], tmp_path: Path) -> None:
    message = refusal(cls(tmp_path))
    assert message.startswith(f"{cls.name} looked for {cls.files[0]}, ")
    assert f"below {tmp_path}, not found; set data.root" in message and "data.download=true" in message


def test_only_the_files_that_are_missing_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    assert refusal(Mnist(tmp_path)).startswith("mnist looked for MNIST/raw/t10k-labels-idx1-ubyte below")


@pytest.mark.parametrize("cls", [Cifar10, Cifar100, Mnist, FashionMnist, Svhn])
@pytest.mark.parametrize("content", [b"", b"damaged", b"\0" * 100])
def test_damaged_files_are_told_from_missing_ones(cls: type[TorchvisionSet], content: bytes, tmp_path: Path) -> None:
    for name in cls.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    message = refusal(cls(tmp_path))
    assert message.startswith(f"{cls.name} found its files below {tmp_path}, but one is truncated or damaged")
    assert "data.download=true" in message


@pytest.mark.parametrize("file", Mnist.files)
@pytest.mark.parametrize("kept", [2, 6, 20, -1])
def test_a_truncated_file_is_refused(file: str, kept: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:kept])
    assert "truncated or damaged" in refusal(Mnist(tmp_path, valid=10))


@pytest.mark.needs("cifar-10-batches-py")
def test_a_truncated_copy_of_a_real_file_is_refused(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in Cifar10.files:
        (tmp_path / name).symlink_to((data_root / name).resolve())
    (tmp_path / Cifar10.files[-2]).unlink()
    (tmp_path / Cifar10.files[-2]).write_bytes((data_root / Cifar10.files[-2]).read_bytes()[:-1])
    assert "truncated or damaged" in refusal(Cifar10(tmp_path))


def test_a_download_that_fails_says_where_to_put_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fail)
    message = refusal(Svhn(tmp_path, download=True))
    assert message.startswith(f"svhn could not be downloaded to {tmp_path}: no route to host;")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"size": 32}, "examples of (1, 32, 32), (1, 28, 28) were expected"),
        ({"labels": 39}, "40 examples and 39 labels"),
        ({"highest": 12}, "labels from 0 to 12, its classes are 0 to 9"),
    ],
)
def test_files_of_another_set_are_refused(written: dict[str, int], said: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, **written)
    assert said in refusal(Mnist(tmp_path, valid=10))


def test_more_validation_images_than_there_are_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert "5000 of 40 training examples were asked for validation" in refusal(Mnist(tmp_path))
