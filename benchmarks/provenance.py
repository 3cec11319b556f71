"""Where a number comes from."""

import functools
import hashlib
import subprocess
from pathlib import Path


def commit() -> str | None:
    """The commit of this checkout, marked ``-dirty`` where files differ from it; `None` outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        return subprocess.run(
            [*git, "describe", "--always", "--abbrev=12", "--dirty"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@functools.cache
def weights_digest(folder: Path) -> str:
    """Of a model's weights and configurations."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
