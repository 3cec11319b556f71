"""Every host of `hosts`, a tiny random pipeline of the genuine class: guided it is the stock pipeline at the scale that
was chosen; the most used in the default run, all of them with ``-m slow``."""

import pytest
from checks import CHECKS, is_refused
from hosts import HOSTS

CASES = [
    pytest.param(host, check, id=f"{host.name}-{check.__name__}", marks=() if host.common else pytest.mark.slow)
    for host in HOSTS.values()
    for check in ((is_refused,) if host.refused else CHECKS)
]


@pytest.mark.parametrize("host, check", CASES)
def test_host(host, check):
    check(host)


def test_what_is_promised():
    """The numbers of docs/hosts.md."""
    assert sum(host.exact and not host.refused for host in HOSTS.values()) >= 75
