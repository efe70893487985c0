"""A deployment tells all that is needed to prepare an image and to read the logits."""

import json

import pytest

import lwdc
from lwdc.data import Preprocessing
from lwdc.errors import ExportError
from lwdc.export import Deployment

PHOTO = Preprocessing(
    (3, 32, 32),
    "RGB",
    1 / 255,
    (0.5, 0.4, 0.3),
    (0.2, 0.25, 0.3),
    resize=36,
    crop=(32, 32),
    interpolation="bicubic",
)
SOUND = Preprocessing((1, 8000), "mono", 1 / 32768, (0.0,), (0.04,), sample_rate=8000, fit="centre")


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment((3, 32, 32), PHOTO, ("cat", "dog")),
        Deployment((3, 32, 32)),
        Deployment((2, 100)),
        Deployment((1, 8000), SOUND, ("yes", "no")),
    ],
)
def test_json_gives_the_same_deployment_again(deployment: Deployment) -> None:
    assert Deployment.from_dict(json.loads(json.dumps(deployment.to_dict()))) == deployment


def test_the_layout_names_the_axes_of_a_batch() -> None:
    assert Deployment((3, 8, 8)).layout == "NCHW"
    assert Deployment((3, 8)).layout == "NCL"


def test_text_holds_words_as_they_are_and_json_otherwise() -> None:
    text = Deployment((3, 32, 32), PHOTO, ("cat", "dog")).to_text()
    assert text["channel_order"] == "RGB" and text["interpolation"] == "bicubic"
    assert json.loads(text["scale"]) == 1 / 255
    assert json.loads(text["crop"]) == [32, 32]
    assert json.loads(text["class_names"]) == ["cat", "dog"]
    assert text["lwdc_version"] == lwdc.__version__


def test_text_says_that_nothing_is_resized_but_not_what_is_unknown() -> None:
    grey = Preprocessing((1, 8, 8), "L", 1 / 16, (0.3,), (0.4,))
    text = Deployment((1, 8, 8), grey).to_text()
    assert text["resize"] == text["crop"] == "null"
    assert "class_names" not in text
    assert "scale" not in Deployment((1, 8, 8)).to_text()


def test_text_says_of_sound_its_rate_and_fit_and_nothing_of_pixels() -> None:
    text = Deployment((1, 8000), SOUND).to_text()
    assert text["layout"] == "NCL" and json.loads(text["input_shape"]) == [1, 8000]
    assert text["channel_order"] == "mono" and text["sample_rate"] == "8000" and text["fit"] == "centre"
    assert not {"resize", "crop", "interpolation"} & text.keys()


def test_a_preprocessing_for_other_images_is_refused() -> None:
    with pytest.raises(ExportError, match=r"makes inputs of \(3, 32, 32\), but input_size is \(3, 64, 64\)"):
        Deployment((3, 64, 64), PHOTO)
