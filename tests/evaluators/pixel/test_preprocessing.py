"""Pictures as the judges' models take them, against PIL and against the libraries' own transforms."""

import pytest
import references
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import functional

from evaluators.pixel.base import Encodings, centre_crop, resize
from evaluators.pixel.open_clip import OpenCLIPTower

SIZES = [(32, 32), (48, 40), (40, 51), (97, 33), (20, 30)]


@pytest.mark.parametrize("height, width", SIZES)
def test_resize_is_pil(pictures, height, width):
    picture = pictures(1, height, width)
    for size in ((32, 32), (20, 37), (64, 50)):
        torch.testing.assert_close(resize(picture, size)[0], references.resized(picture[0], size), atol=2e-6, rtol=0)
    assert torch.equal(resize(picture, (height, width)), picture)


@pytest.mark.parametrize("height, width", SIZES)
def test_the_shorter_side_and_the_middle_are_those_of_torchvision(pictures, height, width):
    picture = pictures(1, height, width)
    assert resize(picture, 32).shape == functional.resize(picture, 32).shape
    for size in (7, 8, (10, 31), 64, (50, 21)):
        wanted = functional.center_crop(picture, size)
        assert torch.equal(centre_crop(picture, size), wanted), size


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [32, (24, 40)])
def test_preprocessing_is_that_of_open_clip(pictures, size, resize_mode, interpolation):
    given = {"size": size, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    given |= {"interpolation": interpolation, "resize_mode": resize_mode}
    cfg = PreprocessCfg(**given, fill_color=51)
    tower = OpenCLIPTower(WithConfig(cfg), tokenizer=None)
    *transforms, _, _, normalize = image_transform_v2(PreprocessCfg(**given, fill_color=0.2), is_train=False).transforms
    for height, width in SIZES:
        picture = pictures(1, height, width)
        found = tower.preprocess(picture)[0]
        channels = [Image.fromarray(channel.numpy()) for channel in picture[0]]  # of floats
        for transform in transforms:
            channels = [transform(channel) for channel in channels]
        wanted = normalize(torch.cat([functional.to_tensor(channel) for channel in channels]).clamp(0, 1))
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
        by_pil = image_transform_v2(cfg, is_train=False)(references.eight_bits(picture[0]))
        assert (found - by_pil).abs().max() < 2 / 255 / 0.2  # 8 bits after each of two passes


class WithConfig(torch.nn.Module):
    """Nothing but a preprocessing."""

    def __init__(self, cfg):
        super().__init__()
        self.visual = torch.nn.Linear(1, 1)
        self.visual.preprocess_cfg = vars(cfg) | {"mode": "RGB"}


def test_each_text_is_encoded_once_and_the_oldest_are_forgotten():
    asked = []

    def encode(texts):
        asked.append(texts)
        return [text.upper() for text in texts]

    encodings = Encodings(size=2)
    assert encodings(encode, ["a", "b", "a"]) == ["A", "B", "A"] and asked == [["a", "b"]]
    assert encodings(encode, ["b", "a"]) == ["B", "A"] and len(asked) == 1
    assert encodings(encode, ["c", "a"]) == ["C", "A"] and asked[1:] == [["c"]]
    assert encodings(encode, ["b"]) == ["B"] and asked[2:] == [["b"]]
    assert encodings(encode, ["b"], torch.float16) == ["B"] and len(asked) == 4
    assert encodings(encode, list("pqrs")) == list("PQRS")
