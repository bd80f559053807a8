"""IMDB's reviews of films: the folder that is published (Maas et al. 2011), or the npz file that Keras downloads."""

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, got
from theanompi.config.files import MOST_TEXT, read_bytes, trouble
from theanompi.data.sources.arrays import check_labels, npy_header
from theanompi.data.sources.base import cause
from theanompi.data.sources.fields import npz_array
from theanompi.data.sources.pickles import load_objects
from theanompi.data.sources.texts import UNKNOWN, LabelledTexts, TextFolder, Words
from theanompi.data.store.schema import SPLITS, Split

CLASSES = ["neg", "pos"]
WORD_INDEX = "imdb_word_index.json"
VOCABULARY_SIZE = 10_000
"""The words that are told apart, as in Theano's tutorial and in Theano-MPI."""
_DESCRIPTION = (
    "50,000 reviews of films, half of them for training and half for validation, each clearly good or bad."
)
_SOURCE = (
    "A. L. Maas et al., Learning Word Vectors for Sentiment Analysis, ACL 2011, "
    "https://ai.stanford.edu/~amaas/data/sentiment/"
)
# More words than a vocabulary may have are a damaged file.
_MOST_RANK = 10**7


class ReviewWords(Words):
    """Words of letters and digits, in lower case; punctuation and HTML's line breaks only separate them.

    Examples
    --------
    >>> coder = ReviewWords()
    >>> coder.count("Don't!<br />GOOD film, good.", training=True)
    4
    >>> coder.learn()
    >>> coder.vocabulary
    ['<unk>', 'good', "don't", 'film']
    """

    def _split(self, text: str) -> list[str]:
        return re.findall(r"\w+(?:['’]\w+)*", text.lower().replace("<br />", " "))


class AclImdb(TextFolder):
    """The folder aclImdb: ``train/pos``, ``train/neg`` and ``test`` likewise; its texts without a class are left out.

    Parameters
    ----------
    path : path
    vocabulary_size : int
        So many of the most frequent words are told apart.

    Raises
    ------
    ConfigError
        If a folder or its texts are missing, or its classes are others.
    """

    description, licence = _DESCRIPTION, "not stated"

    def __init__(self, path: str | os.PathLike[str], vocabulary_size: int = VOCABULARY_SIZE) -> None:
        super().__init__(path, tokens="words")
        if self.class_names != CLASSES:
            raise ConfigError(
                f"{path}: expected the classes neg and pos in train and test, got {self.class_names}"
            )
        self.name, self.source = "IMDB", _SOURCE
        self.coder = ReviewWords(vocabulary_size)


class KerasImdb(LabelledTexts):
    """Keras's imdb.npz: ``x_train``, ``y_train``, ``x_test`` and ``y_test``, each text a list of its words' ranks.

    A word has its rank by frequency as its id, the most frequent one 1, and rarer ones than `vocabulary_size` are
    ``<unk>``, 0; Keras's own reader adds 3 to each, and a mark where a text begins. What the words are is read from
    ``imdb_word_index.json``, if it is in the same folder; else they are called by their ranks.

    Parameters
    ----------
    path : path
    vocabulary_size : int
        So many of the most frequent words are told apart.

    Raises
    ------
    ConfigError
        If there is no such file.
    """

    name, description, source, licence = "IMDB", _DESCRIPTION, _SOURCE, "not stated"
    tokens = "words"
    class_names = CLASSES

    def __init__(self, path: str | os.PathLike[str], vocabulary_size: int = VOCABULARY_SIZE) -> None:
        super().__init__()
        self._path, self._size = Path(path), vocabulary_size
        wrong = trouble(path)
        if wrong:
            raise ConfigError(f"{path}: expected imdb.npz or the folder aclImdb, got: {wrong}")
        self._words = self._read_words()
        self._texts: dict[Split, list[NDArray[np.int32]]] = {}
        for split, part in zip(SPLITS, ("train", "test"), strict=True):
            self.labels[split] = self._read_labels(f"y_{part}")

    @property
    def count(self) -> int:
        return sum(len(labels) for labels in self.labels.values())

    def survey(self, read: Callable[[int], None]) -> None:
        for split, part in zip(SPLITS, ("train", "test"), strict=True):
            self._texts[split] = list(self._read_texts(f"x_{part}", len(self.labels[split]), read))
            self.lengths[split] = [len(text) for text in self._texts[split]]
        most = min(self._size, max(int(text.max()) for text in self._texts["train"]))
        self.vocabulary = [UNKNOWN, *(self._words.get(rank, f"word{rank}") for rank in range(1, most + 1))]

    def blocks(self, split: Split, read: Callable[[int], None]) -> Iterator[NDArray[Any]]:
        for ranks in self._texts[split]:
            ids = np.where(ranks < len(self.vocabulary), ranks, 0)
            self.unknown[split] += int((ids == 0).sum())
            read(1)
            yield ids

    def _read_labels(self, key: str) -> NDArray[np.int64]:
        with self._member(key) as (_, info):
            array = npz_array(self._path, info)
            if array.dtype.kind not in "iu" or len(array.shape) != 1 or not array.shape[0]:
                raise ValueError(f"expected whole numbers (n,), got {array.dtype} {array.shape}")
            found = np.concatenate(list(array.rows(0, array.shape[0]))).astype(np.int64)
        check_labels(found, len(CLASSES), f"{self._path}: {key}", "text")
        return found

    def _read_texts(self, key: str, count: int, read: Callable[[int], None]) -> Iterator[NDArray[np.int32]]:
        with self._member(key) as (archive, info), archive.open(info) as file:
            shape, _, dtype = npy_header(file)
            if not dtype.hasobject or len(shape) != 1:
                raise ValueError(f"expected lists of words (n,), got {dtype} {shape}")
            found = load_objects(file)
        if len(found) != count:
            raise ValueError(
                f"{self._path}: {key}: expected a text for each of {count} labels, got {len(found)}"
            )
        for i, text in enumerate(found):
            if not isinstance(text, list) or not text or not all(type(rank) is int for rank in text):
                raise ValueError(
                    f"{self._path}: {key}: text {i}: expected a list of whole numbers, got {got(text, 60)}"
                )
            if not 0 < min(text) <= max(text) < _MOST_RANK:
                wrong = min(text) if min(text) < 1 else max(text)
                raise ValueError(
                    f"{self._path}: {key}: text {i}: expected words from 1 to {_MOST_RANK - 1:,}, got {got(wrong, 60)}"
                )
            read(1)
            yield np.array(text, np.int32)

    @contextmanager
    def _member(self, key: str) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
        """Read one array of the archive; whatever is wrong with it is a line."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                if f"{key}.npy" not in archive.namelist():
                    raise ConfigError(
                        f"{self._path}: expected arrays x_train, y_train, x_test and y_test, got no {key}"
                    )
                yield archive, archive.getinfo(f"{key}.npy")
        except ConfigError:
            raise
        except EOFError:
            raise ValueError(
                f"{self._path}: {key}: expected a whole array, got one that is cut short"
            ) from None
        except (
            Exception
        ) as error:  # zipfile, NumPy and the unpickler let through whatever the damage makes happen
            raise ValueError(
                f"{self._path}: {key}: expected an array of Keras's IMDB, got: {cause(error)}"
            ) from None

    def _read_words(self) -> dict[int, str]:
        """What the words are by their ranks, if that is known."""
        path = self._path.with_name(WORD_INDEX)
        if not path.exists():
            self.notes.append(f"what the words are is not known: {path} is not there")
            return {}
        try:
            content = json.loads(read_bytes(path, 16 * MOST_TEXT))
            words = {rank: word for word, rank in content.items() if type(rank) is int}
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected words with their ranks in JSON, got: {cause(error)}"
            ) from None
        if len(words) != len(content):
            raise ValueError(f"{path}: expected a rank of its own, a whole number, for each word, got others")
        return words


def imdb(path: str | os.PathLike[str], vocabulary_size: int = VOCABULARY_SIZE) -> LabelledTexts:
    """Open IMDB's reviews, in the folder or the file that `path` is."""
    return (AclImdb if os.path.isdir(path) else KerasImdb)(path, vocabulary_size)
