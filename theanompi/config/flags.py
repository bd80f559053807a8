"""Settings as flags of a command line."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from theanompi.config.errors import closest, got, one_line
from theanompi.config.kinds import AUTO, DEVICES, EPOCHS, OWN, RESUME, SETTINGS, SWITCH, TEXT, Kind
from theanompi.config.lineage import ours
from theanompi.config.run import FIELDS, RunConfig, over, read_field


class Help(argparse.HelpFormatter):
    """Lays out the help of a parser, which has paragraphs and tables: a line's name and meaning, with a tab between."""

    def __init__(self, prog: str, columns: int | None = None):
        columns = shutil.get_terminal_size().columns if columns is None else columns
        super().__init__(prog, max_help_position=30, width=min(columns, 112) - 2)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        rows = [line.partition("\t") for line in text.split("\n")]
        most = max(len(name) for name, tab, _ in rows if tab) if "\t" in text else 0
        for name, tab, meaning in rows:
            first = f"  {name:<{most}}  " if tab else ""
            lines += textwrap.wrap(
                meaning if tab else name,
                width,
                initial_indent=first,
                subsequent_indent=" " * len(first),
                break_on_hyphens=False,
            ) or [""]
        return "\n".join(lines)


def commands(names: Mapping[str, str]) -> str:
    """Write the table of a program's commands for its description.

    >>> print(Help("prog", 80)._fill_text("Do it." + commands({"a FILE": "first", "b": "second"}), 60, ""))
    Do it.
    <BLANKLINE>
    commands, each with a --help of its own:
      a FILE  first
      b       second
    """
    rows = "\n".join(f"{name}\t{meaning}" for name, meaning in names.items())
    return f"\n\ncommands, each with a --help of its own:\n{rows}"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"formatter_class": Help, "allow_abbrev": False, **options})

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
        else:
            self._refuse_unknown_command(args)
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

    def _refuse_unknown_command(self, words: Sequence[str]) -> None:
        """Refuse a command that there is not before anything is said of its flags."""
        self.refuse_unknown([*takewhile(lambda word: word.startswith("-"), words)])
        known = next(action.choices for action in self._actions if action.nargs == argparse.PARSER)
        word = next((word for word in words if not word.startswith("-")), None)
        if known is not None and word is not None and word not in known:
            self.error(no_command(word, known))

    def _refuse(self, word: str) -> NoReturn:
        flag = word.partition("=")[0]
        self.error(f"{got(flag)[1:-1]}: unknown{self._meant(flag)}")

    def _meant(self, flag: str) -> str:
        """The flag of what others call so; or that has this word in its name, or all these words in its help.

        Else it is one that is spelt alike.
        """
        own = ours(flag.lstrip("-")) or ""
        of_field = {
            action.dest: action.option_strings[0] for action in self._actions if action.option_strings
        }
        if option := of_field.get("settings" if "." in own else own):
            return f"; did you mean {f'{option} {own}' if '.' in own else option!r}?"
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


def no_command(word: str, known: Iterable[str], what: str = "") -> str:
    """Say that a word is no command of a program, with the one that is probably meant.

    >>> no_command("evalute", ["doctor", "evaluate"], "flags or ")
    "expected flags or one of doctor, evaluate, got 'evalute'; did you mean 'evaluate'?"
    """
    return f"expected {what}one of {', '.join(known)}, got {got(word)}{closest(word, known)}"


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
            shown = f"{shown:g}" if isinstance(shown, float) else shown
            text += f" (default: {shown})"
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if kind is SWITCH:
            options["action"] = argparse.BooleanOptionalAction if default else "store_true"
        elif kind is RESUME:
            options |= {"nargs": "?", "const": True, "metavar": AUTO}
        else:
            options["metavar"] = _METAVARS.get(name) or _metavar(kind)
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


_METAVARS = {"data": "DATA", "init": "FILE", "out": "DIR"}
"""By the name of a field, what its value is called where its kind does not say it."""


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
