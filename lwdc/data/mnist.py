"""MNIST and the sets made in its format."""

import torchvision
from torchvision.datasets import VisionDataset

from lwdc.data.in_memory import Labelled
from lwdc.data.torchvision_set import TorchvisionSet

_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


class Mnist(TorchvisionSet):
    """60,000 + 10,000 handwritten digits of 28x28 grey pixels."""

    name = "mnist"
    class_names = tuple("0123456789")
    size = (1, 28, 28)
    usual_mean = (0.1307,)
    usual_std = (0.3081,)
    files = tuple(f"MNIST/raw/{name}" for name in _FILES)

    def load(self, train: bool) -> Labelled:
        return _grey(torchvision.datasets.MNIST(self.root, train=train, download=self.download))


class FashionMnist(TorchvisionSet):
    """60,000 + 10,000 pieces of clothing of 28x28 grey pixels."""

    name = "fashion_mnist"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    size = (1, 28, 28)
    usual_mean = (0.2860,)
    usual_std = (0.3530,)
    files = tuple(f"FashionMNIST/raw/{name}" for name in _FILES)

    def load(self, train: bool) -> Labelled:
        return _grey(torchvision.datasets.FashionMNIST(self.root, train=train, download=self.download))


def _grey(dataset: VisionDataset) -> Labelled:
    return Labelled(dataset.data[:, None], dataset.targets)
