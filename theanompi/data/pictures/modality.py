"""Pictures: pieces of images on canvases, cropped, coloured and normalised on the device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, RunConfig
from theanompi.data.modality import Field, Modality, ReaderClass
from theanompi.data.pictures.augment import (
    color_transforms,
    erased_boxes,
    evaluation_boxes,
    mixing,
    train_boxes,
)
from theanompi.data.pictures.reader import Row
from theanompi.data.pictures.regions import canvas, regions

if TYPE_CHECKING:
    from pytensor.graph.basic import Variable

    from theanompi.data.store.schema import Dataset, Split


class Pictures(Modality):
    """Images with a label each, of any size in the file and of one size for the network.

    A batch has the fields

    ===========  =======================================================================================
    ``images``   uint8 (n, H, W, c): a piece of each image in the top left corner of a `canvas`; the
                 rest of the canvas holds anything
    ``boxes``    float32 (n, 7): where to crop the canvas and whether to mirror: y0, x0, height, width,
                 flip, and height and width of the part of the canvas that is filled
                 (`theanompi.data.pictures.regions`)
    ``colors``   float32 (n, 3, 7): `theanompi.data.pictures.augment.color_transforms`; identities in
                 validation
    ``labels``   int64 (n,)
    ``erased``   float32 (n, 4), in a run that erases: `theanompi.data.pictures.augment.erased_boxes`
    ``mixing``   float32 (n, 5), in a run that mixes: `theanompi.data.pictures.augment.mixing`
    ===========  =======================================================================================

    and those of every modality. A model sees ``images`` float32 (n, c, size, size), each channel with mean 0 and
    deviation 1, ``labels``, ``weights`` and ``keys``. In training with mixup or cutmix the images are mixed, each with
    the one before it in the batch (`theanompi.device.ops.partners`), and ``mixed`` float32 (n,) is the share of that
    one's label; `theanompi.classification` heeds it.

    Parameters
    ----------
    dataset : Dataset
    config : RunConfig
        Resolved: its `image_size`, `color_jitter`, `lighting`, `mixup`, `cutmix`, `random_erasing`, `batch_size` and
        `seed`.

    Attributes
    ----------
    canvas : (int, int)
        H, W of the images in a batch.

    Raises
    ------
    ConfigError
        If the file has no pictures, colours are to be changed in pictures that have none, or images are to be mixed
        that come one at a time.

    Examples
    --------
    >>> from theanompi.config import resolve
    >>> from theanompi.data import open_dataset
    >>> pictures = Pictures(open_dataset("digits"), resolve(RunConfig(image_size=16)))
    >>> pictures.canvas, pictures.item_name("val", 3), pictures.read
    ((32, 32), 'val image 3 (3)', {'images': Field(dtype='uint8', shape=(32, 32, 1))})
    """

    name = "pictures"
    noun = "images"
    augmentations = ("mixup", "cutmix", "random_erasing", "color_jitter", "lighting")
    for_networks = ("channels", "class names")
    columns = len(Row._fields)
    dataset: Dataset

    def __init__(self, dataset: Dataset, config: RunConfig) -> None:
        super().__init__(dataset, config)
        assert config.image_size is not None
        if (config.color_jitter or config.lighting) and dataset.channels != 3:
            raise ConfigError(
                f"data file {dataset.path}: expected pictures of 3 channels for color_jitter and lighting, "
                f"got {dataset.channels}"
            )
        if (config.mixup or config.cutmix) and config.batch_size == 1:
            raise ConfigError(
                "batch_size: expected at least 2 with mixup or cutmix, as an image is mixed with another of its batch, "
                "got 1"
            )
        self.image_size = config.image_size
        self.color_jitter, self.lighting = config.color_jitter, config.lighting
        self.mixup, self.cutmix, self.random_erasing = config.mixup, config.cutmix, config.random_erasing
        sizes = np.concatenate([dataset.sizes("train"), dataset.sizes("val")])
        self.canvas = canvas(dataset.store, dataset.augmentation, sizes, self.image_size)
        self.read = {"images": Field("uint8", (*self.canvas, dataset.channels))}
        self.given = {
            "boxes": Field("float32", (7,)),
            "colors": Field("float32", (3, 7)),
            "labels": Field("int64", ()),
            **({"erased": Field("float32", (4,))} if self.random_erasing else {}),
            **({"mixing": Field("float32", (5,))} if self.mixup or self.cutmix else {}),
            **self.given,
        }
        self.reader = ReaderClass("theanompi.data.pictures.reader", "PictureReader", (dataset.store,))

    def see_as(self, other: Modality) -> None:
        super().see_as(other)
        assert isinstance(other, Pictures)
        self.dataset.mean, self.dataset.std = other.dataset.mean, other.dataset.std

    def item_name(self, split: Split, i: int) -> str:
        name = ""
        # A file that is damaged may have lost its names as well.
        with suppress(OSError, ValueError, LookupError, RuntimeError):
            name = f" ({self.dataset.image_name(split, i)})"
        return super().item_name(split, i) + name

    def batch(
        self, split: Split, epoch: int | None, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        data, sizes = self.dataset, self.dataset.sizes(split)[ids]
        if epoch is None:
            source_boxes = evaluation_boxes(data.augmentation, sizes)
            colors = color_transforms(0.0, 0.0, self.seed, 0, ids)
        else:
            source_boxes = train_boxes(data.augmentation, sizes, self.seed, epoch, ids)
            colors = color_transforms(self.color_jitter, self.lighting, self.seed, epoch, ids)
        reduction, shrink, cuts, boxes = regions(
            data.store, data.augmentation, sizes, source_boxes, self.image_size
        )
        # In the order of the fields of Row.
        rows = np.column_stack([*data.locate(split, ids), sizes, reduction, cuts, shrink])
        labels = data.labels(split)[ids]
        values: dict[str, NDArray[Any]] = {
            "boxes": boxes,
            "colors": colors,
            "labels": labels,
            "keys": self.keys(epoch, ids),
        }
        # A validation reads neither.
        place = self.image_size, self.seed, epoch or 0, ids
        if "erased" in self.given:
            values["erased"] = erased_boxes(self.random_erasing, *place)
        if "mixing" in self.given:
            values["mixing"] = mixing(self.mixup, self.cutmix, *place)
        return rows, values

    def graph(self, inputs: Mapping[str, Variable], training: bool) -> dict[str, Variable]:
        from theanompi.device.ops import color_adjust, crop_resize, in_boxes, partners

        # NHWC in memory, as in the file and as convolutions like it; NCHW by name.
        images = crop_resize(inputs["images"].dimshuffle(0, 3, 1, 2), inputs["boxes"], self.image_size)
        if training and (self.color_jitter or self.lighting):
            images = 255 * color_adjust(images / np.float32(255), inputs["colors"])
        mean, std = self.dataset.mean, self.dataset.std
        scale, shift = (
            values.astype("float32")[None, :, None, None] for values in (1 / (255 * std), -mean / std)
        )
        images = images * scale + shift
        seen = {name: inputs[name] for name in ("labels", "weights", "keys")}
        if training and "erased" in inputs:
            images = images * (1 - in_boxes(inputs["erased"], self.image_size))
        if training and "mixing" in inputs:
            boxes, shares = inputs["mixing"][:, :4], inputs["mixing"][:, 4]
            theirs = in_boxes(boxes, self.image_size) * shares[:, None, None, None]
            images = images * (1 - theirs) + partners(images) * theirs
            seen["mixed"] = shares * boxes[:, 2] * boxes[:, 3] / np.float32(self.image_size**2)
        return {"images": images, **seen}
