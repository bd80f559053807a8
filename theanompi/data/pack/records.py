"""Packing of arrays and of texts, in this process and block by block."""

import os
from functools import partial
from pathlib import Path
from time import monotonic

from theanompi.config import counted
from theanompi.data.pack.packing import (
    Progress,
    about,
    print_left_out,
    say,
    say_bad,
    say_empty_classes,
    size_in_words,
)
from theanompi.data.sources.fields import FieldSource
from theanompi.data.sources.texts import LabelledTexts, TextStream, dtype_of
from theanompi.data.store.record_writer import RecordWriter
from theanompi.data.store.schema import SPLITS
from theanompi.record.metrics import as_number


class _Megabytes:
    """Counts bytes for a `Progress` of megabytes."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._n = progress, 0

    def add(self, n_bytes: int) -> None:
        before, self._n = self._n, self._n + n_bytes
        new = self._n // 10**6 - before // 10**6
        if new:
            self._progress.add(new)


def pack_arrays(
    source: FieldSource, output: str | os.PathLike[str], *, overwrite: bool = False, name: str | None = None
) -> bool:
    """Pack arrays into a file, and print what was written.

    Parameters
    ----------
    source : FieldSource
    output : path
        The file, which appears when it is whole.
    overwrite : bool
        Replace a file of that name.
    name : str, optional
        Otherwise the source's.

    Returns
    -------
    bool
        True.

    Raises
    ------
    ConfigError
        If `output` is there already, or cannot be written.
    ValueError, OSError
        If the arrays cannot be read, or the output not written.
    """
    start = monotonic()
    for note in source.notes:
        say(note)
    if source.labels is not None and source.class_names is not None:
        say_empty_classes(source.labels, source.class_names, "items")
    total = sum(source.counts.values())
    n_bytes = total * sum(field.nbytes for field in source.fields.values())
    with Progress(n_bytes // 10**6, noun="MB") as progress:
        with RecordWriter(output, overwrite, _Megabytes(progress).add) as writer:
            for split in SPLITS:
                writer.arrays(split, source.counts[split], source.fields, partial(source.blocks, split))
            writer.finish(**about(source, name))
    for note in source.not_finite():
        say(note)
    fields = counted(len(source.fields), "field")
    classes = (
        "" if source.class_names is None else f", {counted(len(source.class_names), 'class', 'classes')}"
    )
    print(
        f"{output}: {source.counts['train']:,} training and {counted(source.counts['val'], 'validation item')}, "
        f"{fields}{classes}, {size_in_words(Path(output).stat().st_size)}"
    )
    _print_rate(total, "items", monotonic() - start)
    return True


def pack_text(
    source: TextStream | LabelledTexts,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    name: str | None = None,
    skip_bad: bool = False,
) -> bool:
    """Pack texts into a file, and print what was written.

    Parameters
    ----------
    source : TextStream or LabelledTexts
    output, overwrite, name
        As in `pack_arrays`.
    skip_bad : bool
        Leave out files of a folder that are no text, and list them in the data set.

    Returns
    -------
    bool
        False, when files of a folder are no text and are not to be left out: they are listed on stderr, and there is
        no output.

    Raises
    ------
    ConfigError
        If `output` is there already, or cannot be written.
    ValueError, OSError
        If a text cannot be read or is none, or the output not written.
    """
    start = monotonic()
    for note in source.notes:
        say(note)
    texts = isinstance(source, LabelledTexts)
    total = source.count if isinstance(source, LabelledTexts) else source.nbytes // 10**6
    # Each text is read twice: for the vocabulary and the number of tokens, then to be written.
    with Progress(2 * total, noun="texts" if texts else "MB") as progress:
        with RecordWriter(output, overwrite) as writer:
            read = progress.add if texts else _Megabytes(progress).add
            source.survey(read)
            if source.left_out and not skip_bad:
                verb = "is" if len(source.left_out) == 1 else "are"
                say_bad(output, source.left_out, f"texts, got {{}} of {total:,} that {verb}")
                return False
            if isinstance(source, LabelledTexts):
                for split in SPLITS:
                    if not source.lengths[split]:
                        raise ValueError(f"{output}: expected at least one text in {split}, got none")
                say_empty_classes(source.labels, source.class_names, "texts")
            dtype = dtype_of(source.vocabulary)
            for split in SPLITS:
                blocks = source.blocks(split, read)
                if isinstance(source, LabelledTexts):
                    writer.texts(split, source.lengths[split], source.labels[split], dtype, blocks)
                else:
                    writer.stream(split, source.counts[split], dtype, blocks)
            writer.finish(
                **about(source, name),
                left_out=source.left_out,
                tokens=source.tokens,
                vocabulary=source.vocabulary,
            )
    tokens = source.counts if isinstance(source, TextStream) else {s: sum(source.lengths[s]) for s in SPLITS}
    for split in SPLITS:
        if source.unknown[split]:
            share = 100 * source.unknown[split] / tokens[split]
            say(
                f"{split}: {source.unknown[split]:,} of {tokens[split]:,} tokens ({as_number(share, 2)} %) are <unk>"
            )
    size = size_in_words(Path(output).stat().st_size)
    vocabulary = source.vocabulary
    of = "bytes" if vocabulary == "bytes" else f"{source.tokens}, a vocabulary of {len(vocabulary):,}"
    if isinstance(source, LabelledTexts):
        train, val = (len(source.lengths[split]) for split in SPLITS)
        print(
            f"{output}: {train:,} training and {counted(val, 'validation text')} in "
            f"{counted(len(source.class_names), 'class', 'classes')}, "
            f"{sum(tokens.values()):,} {of}, {size}"
        )
    else:
        print(
            f"{output}: {tokens['train']:,} training and {counted(tokens['val'], 'validation token')}: {of}, {size}"
        )
    print_left_out(source.left_out, "file that is no text", "files that are no text")
    _print_rate(sum(tokens.values()), "tokens", monotonic() - start)
    return True


def _print_rate(n: int, noun: str, seconds: float) -> None:
    print(f"packed {n:,} {noun} in {seconds:,.1f} s: {n / max(seconds, 1e-9):,.0f} {noun}/s")
