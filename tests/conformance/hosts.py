"""Every host: importing this fills `host.HOSTS`."""

import importlib
from pathlib import Path

from host import HOSTS

for path in sorted(Path(__file__).parent.glob("hosts_*.py")):
    importlib.import_module(path.stem)

__all__ = ["HOSTS"]
