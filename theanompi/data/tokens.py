"""Token sequences: windows of one long stream, or texts of their own, each cut or padded to one length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, RunConfig
from theanompi.data.modality import Field, Modality, ReaderClass

if TYPE_CHECKING:
    from pytensor.graph.basic import Variable

    from theanompi.data.store.hdf5 import Split
    from theanompi.data.store.records import TokenDataset


class Tokens(Modality):
    """Windows of a stream, for a language model; or texts with labels, for a classifier.

    Let L be the run's `length`. Window i of a stream has the tokens from i·L on, and their successors as targets, so
    that over all windows every token but the first is a target exactly once; the last window may be ragged. A text
    is cut to L tokens, or padded. What is padded has token 0.

    A model sees, of both, ``tokens`` int64 (n, L), ``mask`` float32 (n, L), which is 0 where there is no target or no
    token, ``weights`` and ``keys``; of a stream ``targets`` int64 (n, L), of texts ``labels`` int64 (n,).

    Parameters
    ----------
    dataset : TokenDataset
    config : RunConfig
        Resolved: its `length` and `seed`.

    Raises
    ------
    ConfigError
        If the file has no tokens, or the windows are longer than a stream.
    """

    name = "tokens"
    items_alone = True
    for_networks = ("kind", "vocabulary", "class names")
    columns = 2
    reader = ReaderClass("theanompi.data.reading.reader", "BytesReader")
    dataset: TokenDataset

    def __init__(self, dataset: TokenDataset, config: RunConfig) -> None:
        super().__init__(dataset, config)
        self.length: int = config.length
        self.is_stream = dataset.kind == "stream"
        # A window is followed by the target of its last token.
        self._held = self.length + 1 if self.is_stream else self.length
        self.noun = "windows" if self.is_stream else "texts"
        self.read = {"tokens": Field(np.dtype(dataset.dtype).name, (self._held,))}
        self.given = {"lengths": Field("int64", ()), **self.given}
        if not self.is_stream:
            self.given = {"labels": Field("int64", ()), **self.given}
        splits: tuple[Split, ...] = ("train", "val")
        for split in splits:
            targets = dataset.length(split) - 1
            if self.is_stream and self.length > targets:
                raise ConfigError(
                    f"length: expected at most {targets}, as {dataset.path} has {targets + 1} {split} tokens, and the "
                    f"first is no target, got {self.length}"
                )

    def count(self, split: Split) -> int:
        if self.is_stream:
            return -(-(self.dataset.length(split) - 1) // self.length)
        return self.dataset.count(split)

    def batch(
        self, split: Split, epoch: int | None, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        if self.is_stream:
            begins = ids * self.length
            ends = np.full(len(ids), self.dataset.length(split))
        else:
            offsets = self.dataset.offsets(split)
            begins, ends = offsets[ids], offsets[ids + 1]
        held, size = np.minimum(ends - begins, self._held), np.dtype(self.dataset.dtype).itemsize
        rows = np.column_stack([self.dataset.start(split) + begins * size, held * size])
        values = {"lengths": held - 1 if self.is_stream else held, "keys": self.keys(epoch, ids)}
        if not self.is_stream:
            values["labels"] = self.dataset.labels(split)[ids]
        return rows, values

    def graph(self, inputs: Mapping[str, Variable], training: bool) -> dict[str, Variable]:
        import pytensor.tensor as pt

        ids = pt.cast(inputs["tokens"], "int64")
        mask = pt.lt(pt.arange(self.length)[None, :], inputs["lengths"][:, None])
        seen = {"tokens": ids[:, : self.length], "mask": pt.cast(mask, "float32")}
        if self.is_stream:
            # The last token of a ragged window has no successor: it is no input, as the mask says.
            seen["targets"] = ids[:, 1:]
        else:
            seen["labels"] = inputs["labels"]
        return {**seen, "weights": inputs["weights"], "keys": inputs["keys"]}
