import json

import numpy as np
import pytest
from embedded import weights
from PIL import Image

__all__ = ["weights"]


@pytest.fixture(scope="session")
def captioned(tmp_path_factory):
    """``captioned(n, texts=None, sizes=…)``: a folder of random pictures with ``metadata.jsonl``. By default picture i
    is called "picture i" or "number i", and wrongly so like the next."""

    def make(n: int, texts: list[list[str]] | None = None, sizes: tuple = ((16, 16), (24, 12), (12, 24))):
        folder = tmp_path_factory.mktemp("pictures")
        rng, rows = np.random.default_rng(0), []
        for i in range(n):
            width, height = sizes[i % len(sizes)]
            Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
            said = texts[i] if texts else [f"picture {i}", f"number {i}"]
            wrong = {} if texts else {"negative": f"picture {i + 1}"}
            rows.append({"file_name": f"{i}.png", "text": said, **wrong})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make
