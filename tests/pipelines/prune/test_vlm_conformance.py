"""Each class of `vlm_hosts` that is supported passes every check; each that is refused says why."""

import pytest
import vlm_checks as checks
from vlm_hosts import HOSTS

QUICK = (
    "LlavaOnevision",
    "Qwen3VL",
    "GlmOcr",
    "Ernie4_5_VLMoe",
    "Gemma3",
)  # norms, rows added between layers, experts twice, windows
SUPPORTED = [name for name, host in HOSTS.items() if not host.refused]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SUPPORTED])
def test_supported(name):
    checks.is_supported(name)


@pytest.mark.parametrize("name", [name for name, host in HOSTS.items() if host.refused])
def test_refused(name):
    checks.is_refused(name)
