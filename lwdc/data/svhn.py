"""SVHN: house numbers from street views."""

import torch
import torchvision

from lwdc.data.in_memory import Labelled
from lwdc.data.torchvision_set import TorchvisionSet


class Svhn(TorchvisionSet):
    """73,257 + 26,032 digits of 32x32 colour pixels; the 531,131 extra ones are not used."""

    name = "svhn"
    class_names = tuple("0123456789")
    size = (3, 32, 32)
    usual_mean = (0.4377, 0.4438, 0.4728)
    usual_std = (0.1980, 0.2010, 0.1970)
    files = ("train_32x32.mat", "test_32x32.mat")

    def load(self, train: bool) -> Labelled:
        part = "train" if train else "test"
        dataset = torchvision.datasets.SVHN(str(self.root), split=part, download=self.download)
        return Labelled(torch.from_numpy(dataset.data).contiguous(), torch.from_numpy(dataset.labels))
