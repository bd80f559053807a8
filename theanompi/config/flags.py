"""Settings as flags of a command line."""

import argparse
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

from theanompi.config.errors import closest, got, one_line
from theanompi.config.kinds import AUTO, DEVICES, EPOCHS, OWN, RESUME, SETTINGS, SWITCH, TEXT, Kind
from theanompi.config.run import FIELDS, RunConfig, over, read_field


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse ``--flag=--``, of which `argparse` makes an empty list, whatever the flag's type."""
        args = sys.argv[1:] if args is None else list(args)
        for word in args:
            if word.startswith("-") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: expected a value, got '--'")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse a flag that there is not, with the one that is probably meant."""
        args = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:
            self.refuse_unknown(args)
        found, rest = self.parse_known_args(args, namespace)
        for word in rest:
            if word.startswith("-"):
                self._refuse(word)
        if rest:
            self.error(f"expected flags only, got {got(rest[0])}")
        return found

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuse a flag that there is not before anything is said of another that is missing."""
        for word in takewhile(lambda word: word != "--", words):
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions:
                self._refuse(word)

    def _refuse(self, word: str) -> NoReturn:
        flag = word.partition("=")[0]
        self.error(f"{got(flag)[1:-1]}: unknown{self._meant(flag)}")

    def _meant(self, flag: str) -> str:
        """The flag that has this word in its name, or all these words in its help; else one that is spelt alike."""
        known = {
            option: action.help or ""
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--")
        }
        name = flag.lstrip("-").replace("_", "-").lower()
        words = name.replace("-", " ")
        found = [option for option in known if name in option[2:].split("-")]
        if not found and " " in words:
            found = [option for option, text in known.items() if words in text]
        if found:
            return f"; did you mean {found[0]!r}?"
        return closest(name, [option[2:] for option in known]).replace(" '", " '--")

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with status 2."""
        self.exit(2, f"{one_line(f'{self.prog}: error: {message}')}\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` a flag for each field that has one, in groups, and ``--plan``.

    The values stay text until `from_args` reads them, so that a flag and a line of a cfg file fail with the
    same words.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> from_args(parser.parse_args(["--epochs", "2", "--no-nesterov"])).nesterov
    False
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, item in FIELDS.items():
        kind, title = item.metadata["kind"], item.metadata["group"]
        if not title:
            continue
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        flags = item.metadata["flags"] or ("--" + name.replace("_", "-"),)
        text, default = item.metadata["help"], item.metadata["default"]
        if default is not None and default is not False and kind is not SETTINGS:
            shown = "yes" if default is True else default[0] if isinstance(default, tuple) else default
            text += f" (default: {shown})"
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if kind is SWITCH:
            options["action"] = argparse.BooleanOptionalAction if default else "store_true"
        elif kind is RESUME:
            options |= {"nargs": "?", "const": True, "metavar": AUTO}
        else:
            options["metavar"] = _metavar(kind)
        if kind is SETTINGS:
            options["action"] = "append"
        groups[title].add_argument(*flags, **options)
    groups["folder and log"].add_argument(
        "--quiet",
        dest="verbose",
        action="store_false",
        default=argparse.SUPPRESS,
        help="print nothing but what goes wrong; log and curves are the same",
    )
    groups["run"].add_argument("--plan", action="store_true", help="print the schedule as a table and exit")


def _metavar(kind: Kind) -> str:
    if OWN in kind.expected:
        return "NAME"
    if kind.expected.startswith("one of "):
        choices = "{" + kind.expected.removeprefix("one of ").replace(", ", ",") + "}"
        # Argparse does not break it; the help of longer ones has the names.
        return choices if len(choices) < 50 else "NAME"
    if kind.expected.startswith("a whole number"):
        return "N"
    return {EPOCHS: "E,E,...", DEVICES: "DEVICE", TEXT: "TEXT", SETTINGS: "NAME.KEY=VALUE"}.get(kind, "X")


def from_args(args: argparse.Namespace, **base: Any) -> RunConfig:
    """Make a `RunConfig` from what a parser with `add_arguments` read; flags that were given override `base`.

    Raises
    ------
    ConfigError
        When a flag has a value that its field may not have.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> from_args(parser.parse_args(["--epochs", "2"]), epochs=9, seed=5).to_dict()["epochs"]
    2
    """
    given = {name: value for name, value in vars(args).items() if name in FIELDS}
    # Read before they are laid over others: of two texts for one name, neither is the right one.
    read = {name: read_field(name, value) for name, value in given.items()}
    return RunConfig.from_dict(over(base, read))
