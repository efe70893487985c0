"""Classify one wav file: python classify_clip.py model.onnx clip.wav; needs onnxruntime and numpy."""

import json
import sys
import wave

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map  # all that lwdc wrote about the sound and classes
with wave.open(sys.argv[2], "rb") as file:
    if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, int(facts["sample_rate"])):
        sys.exit(f"{sys.argv[2]} is not 16-bit {facts['channel_order']} sound at {facts['sample_rate']} Hz: convert it")
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
_, length = json.loads(facts["input_shape"])
spare = length - len(samples)  # fit "centre": zeros at both ends, or the middle
samples = np.pad(samples, (spare // 2, spare - spare // 2)) if spare > 0 else samples[-spare // 2 :][:length]
scale, mean, std = (np.float32(json.loads(facts[k])).reshape(-1, 1) for k in ("scale", "mean", "std"))
logits = session.run(["logits"], {"signal": ((samples.astype(np.float32) * scale - mean) / std)[None]})[0][0]
print(json.loads(facts["class_names"])[logits.argmax()], logits.tolist())
