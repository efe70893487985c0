"""Backbones: the networks that are compressed, all built through timm by name."""

# Imported for their names: each registers its networks with timm.
from lwdc.backbones import audio as _audio
from lwdc.backbones import cifar_resnet as _cifar_resnet
from lwdc.backbones import cifar_vgg as _cifar_vgg
from lwdc.backbones.backbone import Backbone
from lwdc.backbones.creation import create
from lwdc.backbones.fits import check_fits
from lwdc.backbones.merging import note_on_branches
from lwdc.backbones.weights import load_weights

del _audio, _cifar_resnet, _cifar_vgg

__all__ = ["Backbone", "check_fits", "create", "load_weights", "note_on_branches"]
