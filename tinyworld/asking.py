"""What to ask a vision-language model about a picture that should show a caption, and the answers that speak for it."""

from evaluators.pixel.vqa import VQAScore
from pipelines.prune import prune

from . import WEIGHTS
from .captions import NUMBERS, parse_caption
from .questions import PLURALS


def questions_about(prompt: str) -> list[tuple[str, str]]:
    """Questions in the words that the embedded model was taught, with their right answers; none about a prompt that is
    no caption of this world."""
    try:
        spec = parse_caption(prompt)
    except ValueError:
        return []
    if not spec.groups:
        return [("what does the sign say?", spec.text.lower())]
    nouns = [f"{g.color} {g.shape if g.count == 1 else PLURALS[g.shape]}" for g in spec.groups]
    asked = [(f"how many {g.color} {PLURALS[g.shape]} are there?", NUMBERS[g.count - 1]) for g in spec.groups]
    if (total := sum(g.count for g in spec.groups)) <= len(NUMBERS):
        asked.append(("how many objects are there?", NUMBERS[total - 1]))
    if spec.relation:
        verb = "is" if spec.groups[0].count == 1 else "are"
        asked.append((f"{verb} the {nouns[0]} {spec.relation} the {nouns[1]}?", "yes"))
    return asked


def embedded_judge() -> VQAScore:
    """The embedded vision-language model as a judge of pictures, which asks `questions_about` and sees a third of its
    visual tokens: it prefers the same of two pictures in 95 of 100 pairs, in half the time."""
    judge = VQAScore.from_pretrained(WEIGHTS / "lvlm", questions_about, read_once=True)
    prune(judge.model, "visionzip", keep=1 / 3)
    return judge
