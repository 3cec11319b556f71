"""What a visitor's inputs of the Playground send, by name."""

from dataclasses import replace

from demos.app.controls import values_of
from demos.app.playground import VIEW, Playground

PROMPT, SEED, STEPS = "two red circles above a blue square", 4, 3
SETTINGS = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "static": 3.0, "scales": (1.0, 4.0, 9.0), "every": 2}


def settings(host, **changed):
    """Small ones, for `host`; `draws` are 3."""
    return replace(host.settings, **SETTINGS | {"draws": 3} | changed)


def inputs(host, **changed):
    return values_of(host, settings(host, **changed))


def shown(update):
    """A `view` by name, without what stays."""
    return {name: value for name, value in zip(VIEW, update, strict=True) if not is_kept(value)}


def is_kept(value):
    return isinstance(value, dict) and value == {"__type__": "update"}


class Visitor:
    """One of `host`, in a browser of their own."""

    def __init__(self, host):
        self.does, self.secret, self.host = Playground(host), host.visits.enter(None), host

    def generate(self, stop=None, fresh=False, **changed):
        from demos.app.live import Stop

        for update in self.does.generate(stop or Stop(), self.secret, fresh, *inputs(self.host, **changed)):
            yield shown(update)

    def finish(self, **changed):
        """The last update and the run."""
        *_, last = self.generate(**changed)
        return last, self.host.visits.made(self.secret, "playground")[-1].what
