"""The command line of the judge."""

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from .trial import self_test
from .verdict import judge


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tinyworld.judge", description="Judges a picture by its caption.")
    parser.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="a picture; resized to 64×64")
    parser.add_argument("caption", nargs="?", help="what should be in it")
    parser.add_argument("--self-test", type=int, metavar="N", help="judge N renders of each category and split")
    parser.add_argument("--vae", type=Path, metavar="FOLDER", help="self-test also after this AutoencoderKL")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    try:
        if args.self_test is not None:
            if args.self_test < 1:
                raise ValueError(f"--self-test must be at least 1, got {args.self_test}")
            if args.vae is not None and not (args.vae / "config.json").is_file():
                raise ValueError(f"--vae '{args.vae}' holds no config.json")
            result = self_test(args.self_test, args.vae)
        elif args.image is None or args.caption is None:
            raise ValueError("IMAGE and CAPTION are required without --self-test")
        elif not args.image.is_file():
            raise ValueError(f"IMAGE '{args.image}' does not exist")
        else:
            try:
                image = Image.open(args.image).convert("RGB")
            except OSError:
                raise ValueError(f"IMAGE '{args.image}' is not a readable picture") from None
            result = judge(image, args.caption).to_dict()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in result.items():
            print(f"{key}: {json.dumps(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
