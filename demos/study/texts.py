"""What the page of a study says: in English, or in the languages of a YAML file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

QUESTIONS = {
    "overall": "Which picture do you prefer?",
    "alignment": "Which picture shows more exactly what the text says?",
    "quality": "Which picture is better made, whatever the text says?",
    "text": "In which picture are the written words more correct?",
}
ENGLISH = {
    "title": "Which picture is better?",
    "purpose": "You will see pairs of pictures that a computer made from a text, and say which one is better. Your "
    "answers tell how such pictures should be made.",
    "time": "Up to {pairs} pairs, about {minutes} min. You can stop whenever you like, and go on in the same browser.",
    "consent": "Taking part is voluntary. Your answers and their times are kept, without your name or address, and may "
    "be published.",
    "consent_named": "Taking part is voluntary. Your answers and their times are kept, with the name that you were "
    "invited by. They may be published without it.",
    "start": "I agree and start",
    "left": "Left",
    "tie": "Tie",
    "bad": "Both bad",
    "right": "Right",
    "back": "Back",
    "keys": "Keys: ← left, T tie, B both bad, → right, Backspace back",
    "zoom": "Tap a picture to enlarge it",
    "enlarge_left": "Enlarge the left picture",
    "enlarge_right": "Enlarge the right picture",
    "close": "Close",
    "progress": "{done} of {pairs} pairs",
    "end_title": "Thank you",
    "end": "There is no other pair for you. Your answers are kept.",
    "invited_title": "By invitation",
    "invited": "Please open the link that you were sent.",
    "full_title": "Not today",
    "full": "Many people have begun from your network today, and there is a limit. Please come back tomorrow.",
    "failed": "This did not reach the server. Your answers so far are kept.",
    "again": "Try again",
}
PLACES = {"time": {"pairs", "minutes"}, "progress": {"done", "pairs"}}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The texts of a YAML file: languages, each with some of `ENGLISH`'s keys and ``questions``, names to texts.

    English may leave out what it has built in; another language says everything, and all have the same questions.

    Raises:
        ValueError: it cannot be read, or is not as said here; says where.
    """
    import yaml

    try:
        # The base loader makes strings of all values: the standard one reads the language `no` as false.
        found = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as YAML: {error}") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{str(path)!r} must map languages, as en or de, to their texts")
    for language, own in found.items():
        _check(f"{str(path)!r}, {language}", language, own)
    first, *others = found
    asked = list(found[first].get("questions", ()))
    for language in others:
        if set(found[language].get("questions", ())) != set(asked):
            raise ValueError(f"{str(path)!r}: questions must be the same in {first} and {language}")
    return found


def _check(where: str, language: str, own: Any) -> None:
    if not LANGUAGE.fullmatch(language):
        raise ValueError(f"{where} must be a language, as en, de or pt-BR")
    if not isinstance(own, dict):
        raise ValueError(f"{where} must map names to texts")
    if unknown := [str(key) for key in own if key not in ENGLISH and key != "questions"]:
        raise ValueError(f"{where} has no text {', '.join(unknown)}: there are questions, {', '.join(ENGLISH)}")
    if not _english(language) and (missing := [key for key in (*ENGLISH, "questions") if key not in own]):
        raise ValueError(f"{where} lacks {', '.join(missing)}: half of the page would be in English")
    questions = own.get("questions", {})
    if not isinstance(questions, dict) or ("questions" in own and not questions):
        raise ValueError(f"{where}, questions must map names to texts")
    if wrong := [str(name) for name in questions if not NAME.fullmatch(name)]:
        raise ValueError(f"{where}, questions: a name is of lower-case letters, digits and _, got {', '.join(wrong)}")
    for key, text in (own | questions).items():
        if key == "questions":
            continue
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}, {key} must be a text")
        if key in PLACES:
            _check_places(f"{where}, {key}", text, PLACES[key])


def _check_places(where: str, text: str, allowed: set[str]) -> None:
    try:
        used = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if used - allowed:
        names = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        raise ValueError(f"{where} may hold {names}, got {text!r}")


def _english(language: str) -> bool:
    return language.split("-")[0] == "en"


def whole(own: Mapping[str, Any], questions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """All texts of a page that asks `questions`, by language: `own`, as `read` returns them, over what is built in.

    Raises:
        ValueError: a question has no text in a language.
    """
    found = {}
    for language, texts in (own or {"en": {}}).items():
        known = (QUESTIONS if _english(language) else {}) | dict(texts.get("questions", {}))
        if missing := [question for question in questions if question not in known]:
            there = f"there are {', '.join(known)}"
            raise ValueError(f"`questions`: {', '.join(missing)} has no text in {language}; {there}.")
        found[language] = ENGLISH | texts | {"questions": {question: known[question] for question in questions}}
    return found
