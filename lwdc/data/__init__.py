"""Data: labelled images and clips of sound, split, augmented and batched as a function of (seed, epoch, step)."""

from lwdc.data.augmentation import Augmentation, CropAndFlip, ShiftAndGain
from lwdc.data.base import Batch, DataModule
from lwdc.data.cifar import Cifar10, Cifar100
from lwdc.data.clips import Clips
from lwdc.data.digits import Digits
from lwdc.data.esc import Esc10, Esc50
from lwdc.data.fsdd import Fsdd
from lwdc.data.hf_dataset import HfDataset
from lwdc.data.image_folder import ImageFolder
from lwdc.data.image_tar import ImageTar
from lwdc.data.images import Images, ImageSource
from lwdc.data.in_memory import InMemory, Labelled
from lwdc.data.mnist import FashionMnist, Mnist
from lwdc.data.preprocessing import Preprocessing
from lwdc.data.shard import WHOLE, Shard
from lwdc.data.svhn import Svhn
from lwdc.data.torchvision_set import TorchvisionSet
from lwdc.data.web_dataset import WebDataset

__all__ = [
    "WHOLE",
    "Augmentation",
    "Batch",
    "Cifar10",
    "Cifar100",
    "Clips",
    "CropAndFlip",
    "DataModule",
    "Digits",
    "Esc10",
    "Esc50",
    "FashionMnist",
    "Fsdd",
    "HfDataset",
    "ImageFolder",
    "ImageSource",
    "ImageTar",
    "Images",
    "InMemory",
    "Labelled",
    "Mnist",
    "Preprocessing",
    "Shard",
    "ShiftAndGain",
    "Svhn",
    "TorchvisionSet",
    "WebDataset",
]
