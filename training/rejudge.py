"""Trajectories scored by another judge, without sampling them again.

    online-guidance train rejudge --trajectories runs/trajectories --judge image_reward --out runs/by_reward
    online-guidance train rejudge --trajectories runs/trajectories --judge vqa=VLM --out runs/by_vlm

`train value --trajectories` learns from them. The finished latents are decoded by the autoencoder of the model that
made them. What was interrupted goes on with the same command; several processes share the work.
"""

from pathlib import Path

import torch
from tqdm.auto import tqdm

from commands.parser import Parser

from . import loop, vae
from .judges import load_judge
from .latents import DTYPES
from .shards import ShardFolder
from .trajectories import judged


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train rejudge", __doc__)
    parser.add_argument("--trajectories", type=Path, required=True, help="folder of `train trajectories`")
    parser.add_argument("--judge", metavar="NAME[=SOURCE]", required=True, help="a judge of pictures, docs/judges.md")
    parser.add_argument("--out", type=Path, required=True, help="folder of the same trajectories with its scores")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of the autoencoder")
    args = parser.parse_args(argv)
    try:
        made = ShardFolder.open(args.trajectories)
        if made.what.get("kind") != "trajectories":
            parser.error(f"argument --trajectories: {str(args.trajectories)!r} holds none")
        judge, autoencoder = load_judge(args.judge), vae.load(made.what["model"], DTYPES[args.dtype]).vae
        folder = ShardFolder(args.out, made.what | {"judge": args.judge})
    except (OSError, ValueError) as error:
        parser.error(str(error))
    state = loop.processes()
    autoencoder.to(state.device)
    if isinstance(judge, torch.nn.Module):
        judge.to(state.device)
    mine = made.shards()[state.process_index :: state.num_processes]
    for shard in tqdm(mine, "judged", unit="shards", disable=not state.is_main_process):
        number = int(shard.path.stem)
        if not folder.has(number):
            tensors = {name: shard.tensor(name) for name in shard.names}
            prompts = shard.about["captions"][:: made.what["images"]]
            tensors["scores"] = judged(judge, autoencoder, tensors["latents"][:, -1], prompts)
            folder.write(number, tensors, shard.about)


if __name__ == "__main__":
    main()
