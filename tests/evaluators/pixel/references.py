"""The published formulas once more, in a few lines each and by other means: pictures by PIL in floating point, networks
from the files alone."""

import json

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def resized(image, size):
    """A picture ``(3, H, W)`` to ``size = (height, width)``, each channel by PIL, without rounding to 8 bits."""
    channels = [Image.fromarray(c.numpy()).resize(size[::-1], Image.Resampling.BICUBIC) for c in image.float()]
    return torch.from_numpy(np.stack([np.asarray(c) for c in channels])).clamp(0, 1)


def shortest(image, side):
    """The shorter side to `side`, then the middle, as CLIP has it."""
    height, width = image.shape[1:]
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    top, left = (round((x - side) / 2) for x in size)
    return resized(image, size)[:, top : top + side, left : left + side]


def longest(image, side):
    """The longer side to `side`, then black around it, as HPSv2 has it."""
    share = side / max(image.shape[1:])
    small = resized(image, tuple(round(x * share) for x in image.shape[1:]))
    padded = torch.zeros(3, side, side)
    top, left = ((side - x) // 2 for x in small.shape[1:])
    padded[:, top : top + small.shape[1], left : left + small.shape[2]] = small
    return padded


def squashed(image, side):
    return resized(image, (side, side))


def standardised(image, mean=MEAN, std=STD):
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def eight_bits(image):
    """A picture ``(3, H, W)`` for PIL."""
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def head(x, file):
    """LAION's v1 or v2 on embeddings ``(n, width)``."""
    state, x = torch.load(file, map_location="cpu"), F.normalize(x, dim=-1)
    for place in ("layers.0.", "layers.2.", "layers.4.", "layers.6.", "layers.7.") if "weight" not in state else ("",):
        x = x @ state[f"{place}weight"].T + state[f"{place}bias"]
    return x[:, 0]


def word_pieces(text, vocabulary, length):
    """BERT's ids and mask ``(length,)`` of words in lower case, each cut into the longest pieces."""
    known = vocabulary.read_text().split("\n")
    ids = [known.index("[CLS]")]
    for word in text.split():
        mark = ""
        while word:
            end = next(n for n in range(len(word), 0, -1) if mark + word[:n] in known)
            ids.append(known.index(mark + word[:end]))
            word, mark = word[end:], "##"
    ids.append(known.index("[SEP]"))
    missing = length - len(ids)
    return torch.tensor(ids + [0] * missing), torch.tensor([1] * len(ids) + [0] * missing)


def image_reward(image, ids, mask, folder):
    """ImageReward of a standardised picture ``(3, side, side)``, ids and mask ``(length,)``: the vision transformer and
    the BERT with cross attention of BLIP's paper, from the published names."""
    w, config = torch.load(folder / "ImageReward.pt"), json.loads((folder / "med_config.json").read_text())

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name, eps):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def attend(q, k, v, heads, allowed=None):
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)

    v = "blip.visual_encoder."
    patches = F.conv2d(image[None], w[f"{v}patch_embed.proj.weight"], w[f"{v}patch_embed.proj.bias"], stride=16)
    x = torch.cat([w[f"{v}cls_token"][0], patches[0].flatten(1).T]) + w[f"{v}pos_embed"][0]
    for i in range(2):
        b = f"{v}blocks.{i}."
        q, k, value = linear(norm(x, f"{b}norm1", 1e-6), f"{b}attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, value, x.shape[-1] // 64), f"{b}attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{b}norm2", 1e-6), f"{b}mlp.fc1")), f"{b}mlp.fc2")
    seen = norm(x, f"{v}norm", 1e-6)

    t, heads, eps = "blip.text_encoder.", config["num_attention_heads"], config["layer_norm_eps"]
    e = f"{t}embeddings."
    y = w[f"{e}word_embeddings.weight"][ids] + w[f"{e}position_embeddings.weight"][: len(ids)]
    y = norm(y, f"{e}LayerNorm", eps)
    for i in range(config["num_hidden_layers"]):
        for part, keys, allowed in (("attention", None, mask.bool()), ("crossattention", seen, None)):
            a = f"{t}encoder.layer.{i}.{part}."
            source = y if keys is None else keys
            states = linear(y, f"{a}self.query"), linear(source, f"{a}self.key"), linear(source, f"{a}self.value")
            y = norm(y + linear(attend(*states, heads, allowed), f"{a}output.dense"), f"{a}output.LayerNorm", eps)
        b = f"{t}encoder.layer.{i}."
        wide = F.gelu(linear(y, f"{b}intermediate.dense"))
        y = norm(y + linear(wide, f"{b}output.dense"), f"{b}output.LayerNorm", eps)
    z = y[0]
    for place in (0, 2, 4, 6, 7):
        z = linear(z, f"mlp.layers.{place}")
    return (z[0] - 0.16717362830052426) / 1.0333394966054072
