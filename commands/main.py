"""``online-guidance``: every command of this package under one name, loaded when it is called.

    online-guidance generate "two red circles above a blue square"
    online-guidance train reward --help

A sub-command is one row of `COMMANDS`: the module whose ``main(argv)`` it runs, which ``python -m`` runs as well.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from .parser import COMMAND, stop

COMMANDS = {
    "generate": ("demos.generate", "pictures, each with the guidance schedule that made it"),
    "app": ("demos.app.command", "the playground in the browser"),
    "batch": ("demos.batch", "many prompts by several methods from the same noise"),
    "study": ("demos.study.command", "a blind preference study on a batch, and its report"),
    "score": ("demos.score", "judges of pictures beside the people of a study"),
    "export": ("demos.export", "a study in the layouts of GenEval, T2I-CompBench++, DPG-Bench and Pick-a-Pic"),
    "ask": ("demos.ask", "a question about a picture, answered with pruned visual tokens"),
    "evaluate": ("training.evaluate", "how often judges of either kind agree with votes, or with another judge"),
    "calibrate": ("training.calibrate", "how loud each evaluator may speak, at each noise level"),
    "train latents": ("training.latents", "captioned pictures as a model's latents"),
    "train clip": ("training.clip", "latents against captions, from a teacher that sees pictures"),
    "train trajectories": ("training.trajectories", "what a model makes of prompts, kept at every step"),
    "train rejudge": ("training.rejudge", "trajectories scored by another judge"),
    "train value": ("training.value", "what a judge will say of the finished picture, from prompts alone"),
    "train discriminator": ("training.discriminator", "real latents against the model's own"),
    "train reward": ("training.reward", "a reward from votes"),
    "train specialist": ("training.specialist", "counting, or text rendering"),
    "benchmark quality": ("benchmarks.quality", "right pictures, against every rival"),
    "benchmark front": ("benchmarks.front", "right pictures against passes of the denoiser, 10 to 160"),
    "benchmark overhead": ("benchmarks.overhead", "FLOPs and time, against static guidance"),
    "benchmark pruning": ("benchmarks.pruning", "answers, FLOPs and time, against the whole model"),
    "benchmark launches": ("benchmarks.launches", "how many operations pruning starts, against the whole model"),
    "benchmark judges": ("benchmarks.judges", "judges of pictures on the embedded world"),
    "benchmark previews": ("benchmarks.previews", "FLOPs of previews and judges of pictures, at the real shapes"),
    "benchmark decodes": ("benchmarks.decodes", "three decoded candidates in the place of eight"),
    "benchmark hosts": ("benchmarks.hosts", "which pipelines can be guided, each one run"),
    "benchmark upstream": ("benchmarks.upstream", "diffusers' own pipeline tests, made guided and compared"),
    "benchmark vlm-hosts": ("benchmarks.vlm_hosts", "which vision-language models can be pruned, each one run"),
    "benchmark plots": ("benchmarks.plots", "pictures of what the others wrote"),
}
# Import names that other distributions of the package index have too: installed over ours, they take its place.
NAMES = ("commands", "demos", "evaluators", "guidance", "pipelines", "tinyworld", "training")


def overview(group: str = "") -> str:
    """The sub-commands, a line each; of one group where it is named."""
    rows = {name: about for name, (_, about) in COMMANDS.items() if f"{name} ".startswith(f"{group} " if group else "")}
    width = max(map(len, rows))
    lines = [f"  {name:<{width}}  {about}" for name, about in rows.items()]
    title = f"usage: {COMMAND} COMMAND [ARGUMENT …]   ({COMMAND} COMMAND --help tells of its arguments)"
    return "\n".join([title, "", *lines, "", f"{COMMAND} --version says the version."])


def collisions() -> list[str]:
    """A line for each other distribution that claims one of our import names."""
    lines = []
    for name in NAMES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        lines.append(
            f"warning: the distribution {name} {version} has an import name of {COMMAND}: `pip uninstall {name}`, then "
            f"`pip install --force-reinstall --no-deps {COMMAND}`"
        )
    return lines


def fail(message: str) -> None:
    """Ends with one line and the exit code of wrong arguments."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a sub-command; exits with code 2 and one line on stderr where there is none of this name."""
    words = list(sys.argv[1:] if argv is None else argv)
    for line in collisions():
        print(line, file=sys.stderr)
    if words == ["--version"]:
        print(f"{COMMAND} {metadata.version(COMMAND)}")
        return
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    for length in (1, 2):
        if (name := " ".join(words[:length])) in COMMANDS:
            run(name, words[length:])
            return
    if any(name.startswith(f"{words[0]} ") for name in COMMANDS) and words[1:2] in ([], ["-h"], ["--help"]):
        print(overview(words[0]))
        return
    tried = " ".join(words[:2]) if any(name.startswith(f"{words[0]} ") for name in COMMANDS) else words[0]
    close = difflib.get_close_matches(tried, COMMANDS, 1)
    fail(f"there is no command {tried!r}" + (f"; {close[0]!r}?" if close else f"; `{COMMAND} --help` lists them"))


def run(name: str, arguments: list[str]) -> None:
    """The ``main`` of a sub-command."""
    module = COMMANDS[name][0]
    sys.path.append(str(Path(__file__).parents[1]))  # a checkout has rooms that are not installed
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        fail(f"`{COMMAND} {name}` runs from a checkout: {error.name} is not installed with the package")
    try:
        command.main(arguments)
    except KeyboardInterrupt:
        stop("stopped")
