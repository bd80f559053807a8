"""What is said of something that a user typed wrong: one line, and how a value is shown in it."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

V = TypeVar("V")

MOST_MESSAGE = 300
"""Characters of a message about something that is refused."""
_MOST_GOT = 80


class ConfigError(ValueError):
    """Something that a user typed is wrong; the message is one line: what, where, expected, got."""


def shortened(text: str, most: int) -> str:
    """Cut a text in its middle.

    >>> shortened("abcdefghijklmnopqrstuvwxyz", 12), shortened("abcdefghijkl", 12)
    ('abcd … wxyz', 'abcdefghijkl')
    """
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]} … {text[len(text) - half :]}"


def got(value: Any, most: int = _MOST_GOT) -> str:
    """Show a value in a message: its `repr`, cut in the middle when it is long.

    >>> got("x"), got("x" * 1000, 20)
    ("'x'", "'xxxxxxx … xxxxxxx'")
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 4,300 digits, or lists nested too deeply
        text = f"a very large {type(value).__name__}"
    return shortened(text, most)


def listed(names: Iterable[str], most: int = 100) -> str:
    """Write names one after another, without those in the middle when they are many.

    >>> listed(["a", "b"]), listed(map(str, range(1000)), 20)
    ('a, b', '0, 1, 2, … 998, 999')
    """
    return shortened(", ".join(names), most)


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number and the noun that belongs to it.

    >>> counted(1, "rank"), counted(1437, "image"), counted(1, "class", "classes"), counted(0, "class", "classes")
    ('1 rank', '1,437 images', '1 class', '0 classes')
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def escaped(text: str) -> str:
    r"""Spell a text so that it is one line on any terminal: what cannot be printed is escaped.

    >>> escaped("a\nb \udcff")
    'a\\nb \\udcff'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(text: object) -> str:
    r"""Make a message fit one line of any terminal: what cannot be printed is escaped, what is too long is cut.

    Every message about something refused goes through here just before it is printed.

    >>> one_line("a\nb \udcff")
    'a\\nb \\udcff'
    """
    return shortened(escaped(str(text)), MOST_MESSAGE)


def is_text(value: Any) -> bool:
    r"""Whether something is a text that can be written to a file: halves of characters cannot.

    >>> is_text("a"), is_text("\ud800"), is_text(3)
    (True, False, False)
    """
    return isinstance(value, str) and re.search("[\ud800-\udfff]", value) is None


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name most like `name`, or nothing when none is like it.

    >>> closest("epoch", ["epochs", "seed"])
    "; did you mean 'epochs'?"
    >>> closest("zzz", ["epochs", "seed"])
    ''
    >>> closest("RESNET50", ["ResNet50", "VGG16"])
    "; did you mean 'ResNet50'?"
    """
    of = {word.lower(): word for word in known}
    # Comparing takes time that grows with the square of the length.
    match = difflib.get_close_matches(name.lower(), list(of), n=1) if len(name) <= 100 else []
    return f"; did you mean {of[match[0]]!r}?" if match else ""


class NotThere(KeyError):
    """A `KeyError` whose message is printed as it is."""

    def __str__(self) -> str:
        return str(self.args[0])


class Named(dict[str, V]):
    """A dictionary for code of a user's own, which says what there is where something else is asked for.

    Parameters
    ----------
    what : str
        What it has, for the message.
    values : mapping

    Examples
    --------
    >>> Named("a batch", {"x": 1, "labels": 2})["label"]
    Traceback (most recent call last):
        ...
    theanompi.config.errors.NotThere: a batch: expected one of x, labels, got 'label'; did you mean 'labels'?
    """

    def __init__(self, what: str, values: Mapping[str, V]) -> None:
        super().__init__(values)
        self._what = what

    def __missing__(self, name: object) -> V:
        raise NotThere(
            f"{self._what}: expected one of {listed(self)}, got {got(name)}{closest(str(name), self)}"
        )
