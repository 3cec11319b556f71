"""The votes of a study with the columns of Pick-a-Pic, for recipes that train on that data set."""

import hashlib
import io
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..manifest import inside, publish
from . import report

# Of huggingface.co/datasets/yuvalkirstain/pickapic_v1, in its order.
SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)
GROUP = 64  # rows that a reader has in memory at once
QUALITY = 95
LABELS = {"a": (1.0, 0.0), "tie": (0.5, 0.5), "b": (0.0, 1.0)}


def write(folder: Path, out: Path, question: str) -> list[Path]:
    """Writes ``train.parquet`` with a row for every vote on `question` that counts; returns its path.

    A picture's uid is made of its bytes, a rater is a number, a model is the method. Votes that both
    pictures are bad are left out: a pair of labels has no way to say so, and half for each would say that they are good
    alike.

    Raises:
        ValueError: as `report.read_votes`, or nobody has answered the question.
    """
    votes = report.read_votes(folder)
    asked = sorted(set(votes["question"]))
    votes = votes[votes["counts"] & (votes["question"] == question) & votes["preferred"].isin(LABELS)]
    votes = votes[(votes["file_a"] != "") & (votes["file_b"] != "")]
    if votes.empty:
        raise ValueError(f"no vote on {question!r} that counts; there are votes on {', '.join(asked) or 'nothing'}")
    users = {rater: number for number, rater in enumerate(dict.fromkeys(votes["rater"]))}
    examples = votes["prompt"].value_counts()
    out.mkdir(parents=True, exist_ok=True)
    path, partial = out / "train.parquet", out / ".train.parquet"
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(partial, SCHEMA) as writer:
        for number, vote in enumerate(votes.itertuples()):
            (uid_a, jpg_a), (uid_b, jpg_b) = (stored(inside(folder, file)) for file in (vote.file_a, vote.file_b))
            rows.append(
                {
                    "are_different": uid_a != uid_b,
                    "best_image_uid": {"a": uid_a, "b": uid_b, "tie": "tie"}[vote.preferred],
                    "caption": vote.prompt,
                    "created_at": vote.voted_at.tz_localize(None),
                    "has_label": True,
                    "image_0_uid": uid_a,
                    "image_0_url": "",
                    "image_1_uid": uid_b,
                    "image_1_url": "",
                    "jpg_0": jpg_a,
                    "jpg_1": jpg_b,
                    "label_0": LABELS[vote.preferred][0],
                    "label_1": LABELS[vote.preferred][1],
                    "model_0": vote.method_a,
                    "model_1": vote.method_b,
                    "ranking_id": number,
                    "user_id": users[vote.rater],
                    "num_example_per_prompt": int(examples[vote.prompt]),
                    "__index_level_0__": number,
                }
            )
            if len(rows) == GROUP:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    publish(partial, path)
    return [path]


@lru_cache(maxsize=256)
def stored(path: Path) -> tuple[str, bytes]:
    """A picture's uid, and its JPEG, without metadata."""
    raw, data = path.read_bytes(), io.BytesIO()
    with Image.open(io.BytesIO(raw)) as image:
        image.convert("RGB").save(data, "JPEG", quality=QUALITY, subsampling=0)
    return str(uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(raw).hexdigest())), data.getvalue()
