"""Classify one image file: python classify.py model.onnx image.png; needs onnxruntime, numpy and pillow."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map  # all that lwdc wrote about the images and classes
image = Image.open(sys.argv[2]).convert(facts["channel_order"])
if resize := json.loads(facts["resize"]):  # of the shorter side
    width, height = (int(resize * side / min(image.size)) for side in image.size)
    image = image.resize((width, height), Image.Resampling[facts["interpolation"].upper()])
if crop := json.loads(facts["crop"]):  # (height, width), from the centre
    left, top = (round((side - kept) / 2) for side, kept in zip(image.size, reversed(crop), strict=True))
    image = image.crop((left, top, left + crop[1], top + crop[0]))
pixels = np.asarray(image, np.float32).reshape(image.height, image.width, -1).transpose(2, 0, 1)
scale, mean, std = (np.float32(json.loads(facts[k])).reshape(-1, 1, 1) for k in ("scale", "mean", "std"))
logits = session.run(["logits"], {"image": ((pixels * scale - mean) / std)[None]})[0][0]
print(json.loads(facts["class_names"])[logits.argmax()], logits.tolist())
