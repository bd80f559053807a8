"""Theano-MPI's cfg files: ``KEY=value`` as a shell would read it, but read only, never executed.

A value is a word, in single or double quotes if it holds spaces, or an array of words in parentheses that may
span lines. A ``#`` at the start of a word begins a comment. What a shell would run or replace (``$``,
backticks, ``;``, ``|``, …) is an error.
"""

import re
from collections.abc import Container, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from theanompi.config.errors import ConfigError, closest, got, shortened
from theanompi.config.files import read_text
from theanompi.config.kinds import PLUGINS, RANKS, TEXT
from theanompi.config.lineage import ours
from theanompi.config.run import ASYNCHRONOUS, FIELDS, read_as, read_field

KEYS = {name.upper(): name for name in FIELDS if name != "settings"} | {
    "BSP_SYNC_TYPE": "sync_type",
    "BSP_EXCH_STRATEGY": "exchange",
    "HOSTFILE": "hostfile",
    "SIZE": "size",
}
_KINDS = {"hostfile": TEXT, "size": RANKS}
_SEVERAL = ("devices", "decay_epochs")

_PIECE = r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\()$`;&|<>]"""
_TOKEN = re.compile(
    r"(?P<space>(?:[ \t\r]|\\\n)+)|(?P<end>\n)|(?P<comment>\#[^\n]*)|(?P<open>\()|(?P<close>\))"
    rf"|(?P<word>(?:{_PIECE})+)",
    re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def read_cfg(path: str | Path, overridden: Container[str] = (), *, rule: str | None = None) -> dict[str, Any]:
    r"""Read a cfg file.

    Parameters
    ----------
    path
        A file in UTF-8 with keys ``RULE``, ``MODELFILE``, ``MODELCLASS``, ``DEVICES``, ``BSP_SYNC_TYPE``,
        ``BSP_EXCH_STRATEGY``, ``HOSTFILE``, ``SIZE`` or any field of `theanompi.config.RunConfig` in upper case. A key
        that begins with ``OPTIMIZER_``, ``SCHEDULE_``, ``RULE_`` or ``MODEL_`` and is no field is one of its
        `settings`: ``OPTIMIZER_BETA2=0.98`` is that of ``--set optimizer.beta2=0.98``.
    overridden
        Names of what is set elsewhere: values that it may not have are left out.
    rule
        The rule that is set elsewhere. Under an asynchronous one, that or the file's, the keys that begin with ``BSP_``
        mean nothing.

    Returns
    -------
    dict
        Checked values by field name, and ``hostfile`` (a path) and ``size`` (a number of workers) where they are given.

    Raises
    ------
    theanompi.config.ConfigError
        With file and line, for anything that cannot be read, an unknown key (with the closest known one), a
        key set twice, or a value that the field may not have.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".cfg") as file:
    ...     _ = file.write("DEVICES=(cpu0 cpu1)  # two workers\nEPOCHS=3\n")
    ...     file.flush()
    ...     read_cfg(file.name)
    {'devices': ('cpu', 'cpu'), 'epochs': 3}
    """
    text = read_text(path, "cfg file")
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    of_bsp: set[str] = set()
    for line, key, value in _assignments(text, str(path)):
        where = f"{path}, line {line}"
        name = KEYS.get(key) or _setting(key)
        if name is None:
            own = (ours(key) or "").upper().replace(".", "_")
            hint = f"; did you mean {own!r}?" if own else closest(key, [*KEYS, *_alike(key)])
            raise ConfigError(f"{where}: unknown key {got(key)}{hint}")
        if name in lines:
            raise ConfigError(f"{where}: expected {key} once, got it in line {lines[name]} too")
        lines[name] = line
        try:
            if isinstance(value, list) and name not in _SEVERAL:
                raise ConfigError(f"{key}: expected one value, got an array of {len(value)}")
            if name in FIELDS:
                values[name] = read_field(name, value)
            elif key in KEYS:
                values[name] = read_as(_KINDS[name], name, value)
            else:
                values.setdefault("settings", {}).update(read_field("settings", [f"{name}={value}"]))
        except ConfigError as error:
            if name not in overridden:
                raise ConfigError(f"{where}: {error}") from None
        if key.startswith("BSP_"):
            of_bsp.add(name)
    if (rule or values.get("rule")) in ASYNCHRONOUS:
        values = {name: value for name, value in values.items() if name not in of_bsp}
    return values


def _setting(key: str) -> str | None:
    """The name of the plug-in's setting that a key stands for."""
    plugin, _, rest = key.lower().partition("_")
    return f"{plugin}.{rest}" if key.isupper() and plugin in PLUGINS and rest else None


def _alike(key: str) -> list[str]:
    """Keys with the right beginnings for a wrong one."""
    word, _, rest = key.partition("_")
    return [
        f"{plugin.upper()}_{rest.upper()}" for plugin in PLUGINS if rest and closest(word, [plugin.upper()])
    ]


def _tokens(text: str, path: str) -> list[_Token]:
    tokens, position, line = [], 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            bad = text[position]
            what = "a quote that is not closed" if bad in "'\"" else repr(bad)
            raise ConfigError(
                f"{path}, line {line}: expected plain text, because the file is read and not run, got {what}"
            )
        kind = match.lastgroup or ""
        if kind not in ("space", "comment"):
            tokens.append(_Token(kind, match[0], line))
        line += match[0].count("\n")
        position = match.end()
    return tokens


def _assignments(text: str, path: str) -> Iterator[tuple[int, str, str | list[str]]]:
    """Yield line, key and value (an array as a list) of each assignment."""
    tokens = iter([*_tokens(text, path), _Token("end", "the end of the file", 0)])
    for first in tokens:
        if first.kind == "end":
            continue
        where = f"{path}, line {first.line}"
        key, equals, rest = first.text.partition("=")
        if first.kind != "word" or not equals or not key.isidentifier():
            raise ConfigError(f"{where}: expected KEY=value without spaces around '=', got {got(first.text)}")
        value: str | list[str] = _plain(rest, where)
        token = next(tokens)
        if not rest and token.kind == "open":
            words = list(takewhile(lambda token: token.kind != "close", tokens))
            if words and words[-1].line == 0:
                raise ConfigError(
                    f"{where}: {key}: expected ')' at the end of the array, got {words[-1].text}"
                )
            value = [_plain(word.text, f"{path}, line {word.line}") for word in words if word.kind != "end"]
            token = next(tokens)
        if token.kind != "end":
            raise ConfigError(
                f"{where}: {key}: expected the end of the line after the value, got {got(token.text)} "
                "(a value with spaces needs quotes)"
            )
        yield first.line, key, value


def _plain(word: str, where: str) -> str:
    """Take the quotes off a word."""
    plain = ""
    for piece in re.findall(_PIECE, word, re.DOTALL):
        if piece[0] == "'":
            plain += piece[1:-1]
        elif piece[0] == '"':
            if re.search(r"(?<!\\)(?:\\\\)*[$`]", piece):
                raise ConfigError(
                    f"{where}: expected plain text, because the file is read and not run, got {shortened(piece, 80)} "
                    "(single quotes take it as it is)"
                )
            plain += re.sub(r'\\([\\"$`\n])', lambda match: match[1].strip("\n"), piece[1:-1])
        else:
            plain += "" if piece == "\\\n" else piece[-1]
    return plain
