"""Every host that this diffusers has: importing this fills `host.HOSTS`."""

import importlib
from pathlib import Path

import diffusers
from host import HOSTS
from packaging.version import Version

for path in sorted(Path(__file__).parent.glob("hosts_*.py")):
    try:
        importlib.import_module(path.stem)
    except ImportError:
        if Version(diffusers.__version__) >= Version("0.42"):
            raise

__all__ = ["HOSTS"]
