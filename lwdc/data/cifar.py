"""CIFAR-10 and CIFAR-100."""

import torch
import torchvision

from lwdc.data.in_memory import Labelled
from lwdc.data.torchvision_set import TorchvisionSet

# fmt: off
_CIFAR100_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on


class Cifar10(TorchvisionSet):
    """50,000 + 10,000 colour images of 32x32 pixels, in 10 classes."""

    name = "cifar10"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    size = (3, 32, 32)
    usual_mean = (0.4914, 0.4822, 0.4465)
    usual_std = (0.2470, 0.2435, 0.2616)
    files = tuple(
        f"cifar-10-batches-py/{name}"
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
    )

    def load(self, train: bool) -> Labelled:
        return _colour(torchvision.datasets.CIFAR10(self.root, train=train, download=self.download))


class Cifar100(TorchvisionSet):
    """50,000 + 10,000 colour images of 32x32 pixels, in 100 classes."""

    name = "cifar100"
    class_names = _CIFAR100_NAMES
    size = (3, 32, 32)
    usual_mean = (0.5071, 0.4865, 0.4409)
    usual_std = (0.2673, 0.2564, 0.2762)
    files = tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))

    def load(self, train: bool) -> Labelled:
        return _colour(torchvision.datasets.CIFAR100(self.root, train=train, download=self.download))


def _colour(dataset: torchvision.datasets.CIFAR10) -> Labelled:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # stored (N, H, W, C)
    return Labelled(images, torch.tensor(dataset.targets))
