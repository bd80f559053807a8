"""Pictures that a generative adversarial network of the zoo has learnt to make.

python -m theanompi.models.samples RUN -o samples.png
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from PIL import Image

from theanompi import device
from theanompi.config import FIELDS, ConfigError, got, one_line
from theanompi.config.modules import find_module, look_in_current_folder
from theanompi.models.gans import GAN
from theanompi.record import checkpoint
from theanompi.record.folder import CHECKPOINT_FILE, CONFIG_FILE, read_json
from theanompi.training.state import load_views


def samples(run: str | os.PathLike[str], count: int = 64) -> NDArray[np.uint8]:
    """Make pictures by the generator of a run.

    Parameters
    ----------
    run : path
        The folder of a run of a `GAN`, with a checkpoint.
    count : int

    Returns
    -------
    uint8 (count, height, width, channels)

    Raises
    ------
    ConfigError, ValueError
        If there is no such run, or its model is no `GAN`.
    """
    folder = Path(run)
    found = read_json(folder / CONFIG_FILE)
    arrays, _ = checkpoint.load(folder / CHECKPOINT_FILE)
    look_in_current_folder()
    module, name = str(found["modelfile"]), str(found["modelclass"])
    cls = getattr(import_module(find_module(module).name), name, None)
    if not (isinstance(cls, type) and issubclass(cls, GAN)):
        raise ConfigError(
            f"{folder}: expected a run of a GAN of the zoo, got one of {got(f'{module}.{name}', 80)}"
        )
    model = cls({**{key: value for key, value in found.items() if key in FIELDS}, "verbose": False})
    try:
        load_views(
            model.state.weights, {view: arrays[f"weights/{view}"] for view in model.state.weights.views}
        )
        return made(model, count)
    finally:
        model.cleanup()


def made(model: GAN, count: int) -> NDArray[np.uint8]:
    """Make pictures by the generator that a model has now; others are as for `samples`."""
    keys = pt.lvector("keys")
    make = pytensor.function([keys], model.made(keys, deterministic=True), mode=device.mode())
    pictures = np.asarray(make(np.arange(count, dtype=np.int64)))
    return np.rint(255 * pictures.transpose(0, 2, 3, 1)).astype(np.uint8)


def grid(pictures: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Put pictures into rows, a pixel apart.

    Parameters
    ----------
    pictures : uint8 (n, height, width, channels)
    columns : int

    Returns
    -------
    uint8 (rows·(height + 1) - 1, columns·(width + 1) - 1, channels)

    Examples
    --------
    >>> grid(np.full((3, 1, 2, 1), 9, np.uint8), 2)[..., 0].tolist()
    [[9, 9, 0, 9, 9], [0, 0, 0, 0, 0], [9, 9, 0, 0, 0]]
    """
    n, height, width, channels = pictures.shape
    rows = -(-n // columns)
    made = np.zeros((rows * (height + 1), columns * (width + 1), channels), np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (height + 1), i % columns * (width + 1)
        made[y : y + height, x : x + width] = picture
    return made[:-1, :-1]


def save(pictures: NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
    """Write pictures into an image file, in a square `grid`."""
    image = grid(pictures, max(1, round(len(pictures) ** 0.5)))
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)


def main(arguments: list[str] | None = None) -> int:
    """Write a picture of a run's samples, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m theanompi.models.samples", description="Write pictures that a run's generator makes."
    )
    parser.add_argument("run", metavar="RUN", help="the folder of the run")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.png", help="the picture to write")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="how many (default: 64)")
    args = parser.parse_args(arguments)
    try:
        if not 1 <= args.count <= 10_000:
            raise ConfigError(f"--count: expected 1 to 10,000, got {args.count}")
        save(samples(args.run, args.count), args.output)
    except (ValueError, OSError) as error:
        print(one_line(f"samples: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
