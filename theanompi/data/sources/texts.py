"""Texts in UTF-8, as tokens: one stream for a language model, or one text after another with its class."""

import codecs
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, listed
from theanompi.config.files import reason
from theanompi.data.pictures.decode import BadImage
from theanompi.data.sources.base import Ignored, Labels, cause, printable, read_regular, stamp_of
from theanompi.data.sources.folders import (
    check_known,
    check_not_empty,
    class_files,
    class_folders,
    flattened,
    starting_folders,
)
from theanompi.data.store.records import token_dtype, vocabulary_size
from theanompi.data.store.schema import SPLITS, Split

UNKNOWN = "<unk>"
END = "<eos>"
TEXT_ENDINGS = (".txt",)
Vocabulary = Literal["bytes"] | list[str]
_BLOCK_BYTES = 4 * 2**20
_MOST_WORD = 2**16
_MARK = codecs.BOM_UTF8


class Piece(NamedTuple):
    """A file, or a part of one: bytes from `start` up to, not including, `stop`."""

    path: Path
    start: int
    stop: int


def dtype_of(vocabulary: Vocabulary) -> str:
    """Name the dtype of a vocabulary's ids."""
    return token_dtype(vocabulary_size(vocabulary))


class Coder(ABC):
    """Turns text into ids: first it counts the training text, then its vocabulary is made, then it encodes.

    Parameters
    ----------
    size : int, optional
        Take so many of the most frequent tokens into the vocabulary, and ``<unk>`` for the others; by default all.

    Attributes
    ----------
    vocabulary : "bytes" or list of str
        What the ids stand for; after `learn`.
    """

    vocabulary: Vocabulary

    def __init__(self, size: int | None = None) -> None:
        self._size = size

    @abstractmethod
    def count(self, text: str, training: bool) -> int:
        """Count the tokens of a text and, of a training text, how often each occurs."""

    @abstractmethod
    def learn(self) -> None:
        """Make the vocabulary of what was counted."""

    @abstractmethod
    def encode(self, text: str) -> NDArray[Any]:
        """Give the ids of a text, (m,)."""

    @property
    def dtype(self) -> str:
        """Name the dtype of the ids."""
        return dtype_of(self.vocabulary)


def _most_frequent(counts: dict[str, int], size: int | None) -> list[str]:
    """``<unk>``, then the tokens by falling frequency, then as texts."""
    counts.pop(UNKNOWN, None)
    return [UNKNOWN, *sorted(counts, key=lambda token: (-counts[token], token))[:size]]


class Bytes(Coder):
    r"""The bytes of UTF-8; all 256.

    Examples
    --------
    >>> Bytes().encode("a\u00e9").tolist()
    [97, 195, 169]
    """

    vocabulary = "bytes"

    def __init__(self, size: int | None = None) -> None:
        super().__init__(size)
        if size is not None:
            raise ConfigError(f"--vocabulary-size: expected it with --tokens characters or words, got {size}")

    def count(self, text: str, training: bool) -> int:
        return len(text.encode())

    def learn(self) -> None:
        pass

    def encode(self, text: str) -> NDArray[Any]:
        return np.frombuffer(text.encode(), np.uint8).astype(self.dtype)


class Characters(Coder):
    """Characters (code points) of the training text.

    Examples
    --------
    >>> coder = Characters(size=2)
    >>> coder.count("abba ab", training=True)
    7
    >>> coder.learn()
    >>> coder.vocabulary, coder.encode("ba!").tolist()
    (['<unk>', 'a', 'b'], [2, 1, 0])
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__(size)
        self._counts = np.zeros(0x110000, np.int64)
        self._ids = np.zeros(0, np.int32)

    def count(self, text: str, training: bool) -> int:
        if training:
            found = np.bincount(self._points(text))
            self._counts[: len(found)] += found
        return len(text)

    def learn(self) -> None:
        counts = {chr(point): int(self._counts[point]) for point in np.flatnonzero(self._counts)}
        self.vocabulary = _most_frequent(counts, self._size)
        self._ids = np.zeros(len(self._counts), self.dtype)
        self._ids[[ord(character) for character in self.vocabulary[1:]]] = np.arange(1, len(self.vocabulary))

    def encode(self, text: str) -> NDArray[Any]:
        return self._ids[self._points(text)]

    def _points(self, text: str) -> NDArray[Any]:
        return np.frombuffer(text.encode("utf-32-le"), "<u4")


class Words(Coder):
    r"""What stands between whitespace in the training text; the end of a line is ``<eos>``.

    Examples
    --------
    >>> coder = Words()
    >>> coder.count("to be or\nnot to be\n", training=True)
    8
    >>> coder.learn()
    >>> coder.vocabulary
    ['<unk>', '<eos>', 'be', 'to', 'not', 'or']
    >>> coder.encode("be so\n").tolist()
    [2, 0, 1]
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__(size)
        self._counts: Counter[str] = Counter()
        self._ids: dict[str, int] = {}

    def count(self, text: str, training: bool) -> int:
        words = self._split(text)
        if training:
            self._counts.update(words)
        return len(words)

    def learn(self) -> None:
        self.vocabulary = _most_frequent(self._counts, self._size)
        self._ids = {word: i for i, word in enumerate(self.vocabulary)}

    def encode(self, text: str) -> NDArray[Any]:
        return np.array([self._ids.get(word, 0) for word in self._split(text)], self.dtype)

    def _split(self, text: str) -> list[str]:
        return text.replace("\n", f" {END} ").split()


CODERS: dict[str, type[Coder]] = {"bytes": Bytes, "characters": Characters, "words": Words}


def _bad_byte(error: UnicodeDecodeError, before: int) -> str:
    """Where a text is no UTF-8; `before` bytes of it came before those that were decoded."""
    return f"expected text in UTF-8, got byte 0x{error.object[error.start]:02x} at position {before + error.start:,}"


def _decoded(piece: Piece, read: Callable[[int], None]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = piece.start
    try:
        with open(piece.path, "rb") as file:
            file.seek(at)
            while at < piece.stop:
                data = file.read(min(piece.stop - at, _BLOCK_BYTES))
                if not data:
                    raise ValueError(f"{piece.path}: expected {piece.stop:,} bytes as before, got {at:,}")
                pending = len(decoder.getstate()[0])
                skipped = len(_MARK) if at == 0 and data.startswith(_MARK) else 0
                try:
                    text = decoder.decode(data[skipped:], final=at + len(data) == piece.stop)
                except UnicodeDecodeError as error:
                    raise ValueError(f"{piece.path}: {_bad_byte(error, at + skipped - pending)}") from None
                at += len(data)
                read(len(data))
                yield text
    except OSError as error:
        raise ConfigError(f"{piece.path}: expected a readable text, got: {reason(error)}") from None


def _whole_words(piece: Piece, texts: Iterator[str]) -> Iterator[str]:
    """Cut texts anew, so that no word goes over a cut."""
    rest = ""
    for text in texts:
        text = rest + text
        end = next((i for i in range(len(text), 0, -1) if text[i - 1].isspace()), 0)
        rest = text[end:]
        if len(rest) > _MOST_WORD:
            raise ValueError(
                f"{piece.path}: expected words of at most {_MOST_WORD:,} characters, got one of {len(rest):,} or more"
            )
        yield text[:end]
    yield rest


def _pieces(paths: Sequence[str]) -> list[Piece]:
    pieces = []
    for path in paths:
        name = Path(path)
        size = stamp_of(name)[1]
        if size == 0:
            raise ConfigError(f"{path}: expected text, got an empty file")
        pieces.append(Piece(name, 0, size))
    return pieces


def _boundary(piece: Piece, at: int, words: bool) -> int:
    """The next byte, from `at` on, where a character begins; for words, the next after whitespace."""
    with open(piece.path, "rb") as file:
        file.seek(at)
        while data := file.read(_BLOCK_BYTES):
            for i, byte in enumerate(data):
                if words and chr(byte) in " \t\r\n":
                    return min(at + i + 1, piece.stop)
                if not words and byte & 0xC0 != 0x80:
                    return min(at + i, piece.stop)
            at += len(data)
    return piece.stop


def _cut(pieces: list[Piece], share: float, words: bool) -> dict[Split, list[Piece]]:
    """Split off the last share of the text, at least, at most, to the next character or word."""
    whole = sum(piece.stop for piece in pieces)
    left = whole - max(1, round(whole * share))
    train: list[Piece] = []
    val: list[Piece] = []
    for piece in pieces:
        at = 0
        if 0 < left < piece.stop:
            at = _boundary(piece, left, words)
        elif left >= piece.stop:
            at = piece.stop
        left -= piece.stop
        train += [piece._replace(stop=at)] if at else []
        val += [piece._replace(start=at)] if at < piece.stop else []
    return {"train": train, "val": val}


class TextStream:
    """Files as one stream of tokens for each split.

    Parameters
    ----------
    train : sequence of str
        Paths of files in UTF-8, which follow each other without anything between them. A byte order mark at the
        beginning of one is no part of it.
    val : sequence of str
        Files for validation; none: see `val_share`.
    tokens : "bytes", "characters" or "words"
        Characters and words have a vocabulary from the training text, with ``<unk>`` for what is not in it.
    vocabulary_size : int, optional
        Take so many of the most frequent characters or words, besides ``<unk>``; by default all.
    val_share : float, optional
        Without `val`: the share of the text that is taken for validation, its end.

    Attributes
    ----------
    counts : dict of split to int
        Number of tokens; after `survey`.
    vocabulary : "bytes" or list of str
        What the ids stand for; after `survey`.
    unknown : dict of split to int
        How many of them are ``<unk>``; after `blocks`.

    Raises
    ------
    ConfigError
        If a file is missing or empty, or there is not exactly one of `val` and `val_share`.
    """

    description = "Text."
    licence = "not stated"
    class_names = None
    vocabulary: Vocabulary

    def __init__(
        self,
        train: Sequence[str],
        val: Sequence[str] = (),
        *,
        tokens: str = "bytes",
        vocabulary_size: int | None = None,
        val_share: float | None = None,
    ) -> None:
        self.tokens = tokens
        self.coder = CODERS[tokens](vocabulary_size)
        pieces = _pieces(train)
        self.notes: list[str] = []
        self.left_out: list[str] = []
        self.name = Path(train[0]).stem
        self.source = f"the files {printable(listed(Path(path).name for path in [*train, *val]))}"
        if val and val_share is not None:
            raise ConfigError(f"--val-share: expected it only without --val, got {val_share}")
        if val:
            self._pieces: dict[Split, list[Piece]] = {"train": pieces, "val": _pieces(val)}
        elif val_share is None:
            raise ConfigError(
                "text: expected --val FILE, or --val-share 0.1 to take the last tenth, got neither"
            )
        else:
            self._pieces = _cut(pieces, val_share, tokens == "words")
            whole, last = (
                sum(piece.stop - piece.start for piece in part) for part in (pieces, self._pieces["val"])
            )
            self.notes.append(f"the last {last:,} of {whole:,} bytes are for validation")
        for split in SPLITS:
            if not self._pieces[split]:
                raise ConfigError(f"--val-share: expected text on both sides, got none for {split}")
        self.counts: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.unknown: dict[Split, int] = dict.fromkeys(SPLITS, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all text, which `survey` and `blocks` read once each."""
        return sum(piece.stop - piece.start for split in SPLITS for piece in self._pieces[split])

    def survey(self, read: Callable[[int], None]) -> None:
        """Read all text: count the tokens and make the vocabulary.

        Parameters
        ----------
        read : callable
            Is told the number of bytes after each block.

        Raises
        ------
        ConfigError, ValueError
            If a file cannot be read, is no UTF-8, or has no token: one line.
        """
        for split in SPLITS:
            self.counts[split] = sum(
                self.coder.count(text, split == "train") for text in self._texts(split, read)
            )
            if not self.counts[split]:
                raise ValueError(
                    f"{self._pieces[split][0].path}: expected {self.tokens}, got none for {split}"
                )
        self.coder.learn()
        self.vocabulary = self.coder.vocabulary

    def blocks(self, split: Split, read: Callable[[int], None]) -> Iterator[NDArray[Any]]:
        """Give the ids of a split, some after another."""
        for text in self._texts(split, read):
            ids = self.coder.encode(text)
            if self.tokens != "bytes":
                self.unknown[split] += int((ids == 0).sum())
            yield ids

    def _texts(self, split: Split, read: Callable[[int], None]) -> Iterator[str]:
        for piece in self._pieces[split]:
            texts = _decoded(piece, read)
            yield from _whole_words(piece, texts) if self.tokens == "words" else texts


class LabelledTexts(ABC):
    """Texts with classes, before they are packed.

    Attributes
    ----------
    name, description, source, licence : str
        As in the data set.
    tokens : "bytes", "characters" or "words"
        What a token is.
    class_names : list of str
    labels : dict of split to int64 (n,)
    lengths : dict of split to list of int
        Tokens of each text; after `survey`.
    vocabulary : "bytes" or list of str
        What the ids stand for; after `survey`.
    unknown : dict of split to int
        How many tokens are ``<unk>``; after `blocks`.
    left_out : list of str
        ``"name: reason"`` of what is no text; after `survey`.
    notes : list of str
        What the user should hear about.
    """

    name: str
    description: str
    source: str
    licence: str
    tokens: str
    class_names: list[str]
    vocabulary: Vocabulary

    def __init__(self) -> None:
        self.labels: dict[Split, Labels] = {}
        self.lengths: dict[Split, list[int]] = {split: [] for split in SPLITS}
        self.unknown: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.left_out: list[str] = []
        self.notes: list[str] = []

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of texts, which `survey` and `blocks` read once each."""

    @abstractmethod
    def survey(self, read: Callable[[int], None]) -> None:
        """Read all texts: see which are none, count the tokens of the others and make the vocabulary.

        Parameters
        ----------
        read : callable
            Is told the number of texts after each.
        """

    @abstractmethod
    def blocks(self, split: Split, read: Callable[[int], None]) -> Iterator[NDArray[Any]]:
        """Give the ids of each text of a split."""


class TextFolder(LabelledTexts):
    """Texts with classes: ``train/CLASS/*.txt`` and ``val`` or ``test`` likewise, as the films' reviews of aclImdb.

    Folders within a class are searched too, as those of images are (`theanompi.data.sources.folders.Folder`). A folder
    of `train` that val lacks is no class, such as aclImdb's texts without one; `notes` says so.

    Parameters
    ----------
    root : path
    tokens, vocabulary_size
        As in `TextStream`.
    val_share : float, optional
        Without ``val`` and ``test``: the share of each class that is taken for validation, the last ones by name.

    Raises
    ------
    ConfigError
        If a folder is missing or has no class folders, a class has no texts, or val has a class that train lacks.
    """

    description = "Texts from class folders."
    licence = "not stated"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        tokens: str = "bytes",
        vocabulary_size: int | None = None,
        val_share: float | None = None,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.coder = CODERS[tokens](vocabulary_size)
        self._root = Path(root)
        self.name = self._root.resolve().name or "texts"
        self.source = f"the folder {printable(self.name)}"
        val = next((name for name in ("val", "test") if (self._root / name).is_dir()), None)
        if val is None and val_share is None:
            raise ConfigError(
                f"{root}: expected a folder val or test, or --val-share 0.1 for a tenth of each class, got neither"
            )
        if val is not None and val_share is not None:
            raise ConfigError(f"--val-share: expected it only without folders val and test, got {val_share}")
        roots: dict[Split, Path] = {"train": self._root / "train"}
        if val is not None:
            roots["val"] = self._root / val
            if val == "val" and (self._root / "test").is_dir():
                self.notes.append("the folder test is not used: val is there")
        ignored = Ignored("texts")
        folders = {split: class_folders(path, ignored, TEXT_ENDINGS) for split, path in roots.items()}
        if val is not None:
            self._compare(folders, val)
        classes = list(folders["train"])
        self.class_names = [printable(name) for name in classes]
        starts = starting_folders(roots, {split: list(found.values()) for split, found in folders.items()})
        self._paths: dict[Split, list[Path]] = {}
        found: dict[Split, list[list[Path]]] = {}
        for split, path in roots.items():
            files = class_files(path, list(folders[split].values()), starts, ignored, TEXT_ENDINGS)
            check_not_empty(path, files, "texts")
            found[split] = [[path / file for file in files[folders[split][name]]] for name in classes]
        if val_share is not None:
            last = [max(1, round(len(files) * val_share)) for files in found["train"]]
            found["val"] = [files[-n:] for files, n in zip(found["train"], last, strict=True)]
            found["train"] = [files[:-n] for files, n in zip(found["train"], last, strict=True)]
            self.notes.append(f"the last {sum(last):,} texts of the classes, by name, are for validation")
        for split in SPLITS:
            self._paths[split], self.labels[split] = flattened(found[split])
            if not self._paths[split]:
                raise ConfigError(f"--val-share: expected texts on both sides, got none for {split}")
        self.notes += ignored.notes()

    def _compare(self, folders: dict[Split, dict[str, str]], val: str) -> None:
        train = folders["train"]
        check_known(folders["val"], train, self._root / val, "train")
        alone = [name for name in train if name not in folders["val"]]
        if alone:
            names = printable(listed(alone, 80))
            self.notes.append(f"{val} has no folder of these, which are no classes and are left out: {names}")
        folders["train"] = {name: folder for name, folder in train.items() if name in folders["val"]}

    @property
    def count(self) -> int:
        return sum(len(paths) for paths in self._paths.values())

    def survey(self, read: Callable[[int], None]) -> None:
        for split in SPLITS:
            kept = []
            for i, path in enumerate(self._paths[split]):
                try:
                    n = self.coder.count(self._text(path), split == "train")
                    if not n:
                        raise BadImage(f"expected {self.tokens}, got none")
                    self.lengths[split].append(n)
                    kept.append(i)
                except BadImage as error:
                    self.left_out.append(f"{printable(str(path.relative_to(self._root)))}: {error}")
                read(1)
            self._paths[split] = [self._paths[split][i] for i in kept]
            self.labels[split] = self.labels[split][kept]
        self.coder.learn()
        self.vocabulary = self.coder.vocabulary

    def blocks(self, split: Split, read: Callable[[int], None]) -> Iterator[NDArray[Any]]:
        for path in self._paths[split]:
            try:
                ids = self.coder.encode(self._text(path))
            except BadImage as error:
                raise ValueError(f"{path}: changed while it was packed: {error}") from None
            if self.tokens != "bytes":
                self.unknown[split] += int((ids == 0).sum())
            read(1)
            yield ids

    def _text(self, path: Path) -> str:
        try:
            data = read_regular(str(path))
        except OSError as error:
            raise ConfigError(f"{path}: expected a readable text, got: {cause(error)}") from None
        try:
            return data.removeprefix(_MARK).decode()
        except UnicodeDecodeError as error:
            skipped = len(data) - len(error.object)
            raise BadImage(_bad_byte(error, skipped)) from None
