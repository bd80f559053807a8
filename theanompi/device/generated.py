"""Functions whose source is written by this package: a traceback shows their lines, as it does of any other."""

import itertools
import linecache
import traceback
import weakref
from collections.abc import Callable
from typing import Any

_numbers = itertools.count()


def define(source: str, name: str, scope: dict[str, Any]) -> Callable[..., Any]:
    r"""Run the source of one function.

    Parameters
    ----------
    source : str
        Which defines `name`.
    name : str
    scope : dict
        The function's globals.

    Examples
    --------
    >>> double = define("def double(x):\n    return 2 * x\n", "double", {})
    >>> double(3), linecache.getline(double.__code__.co_filename, 2)
    (6, '    return 2 * x\n')
    """
    file = f"<theanompi {name} {next(_numbers)}>"
    exec(compile(source, file, "exec"), scope)
    function = scope[name]
    # Without a time of its own, an entry stays when the cache looks for files that have changed.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    weakref.finalize(function, linecache.cache.pop, file, None)
    return function


def origin(error: BaseException) -> str:
    r"""What was computed when an error was raised: the comment at the innermost line of source that has one.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    str
        Shortened to 80 characters; empty if there is no such line.

    Examples
    --------
    >>> halve = define("def halve(x):\n    return 1 / x  # Reciprocal\n", "halve", {})
    >>> try:
    ...     halve(0)
    ... except ZeroDivisionError as error:
    ...     print(origin(error))
    Reciprocal
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith("<theanompi ")]
    comments = [comment for f in frames if (comment := (f.line or "").partition("  # ")[2])]
    return comments[-1][:80] if comments else ""
