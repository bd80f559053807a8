"""A contender of `loader_throughput.py`: one process that loads batches and copies them to the device.

``standard`` is what users of torch do: `torch.utils.data.DataLoader` over JPEG files in class folders, with
Pillow. ``jpeg`` and ``raw`` are the package's own loader; with ``--crop`` the compiled crop and normalisation
run too, which the standard way does in its loader processes.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image
from processes import cpu_ticks
from torch import Tensor
from torch.utils.data import DataLoader

BATCH_SIZE = 32
IMAGE_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREFETCH = 2  # torch's default: batches ahead of each loader process
WARM_UP_BATCHES = 8
Step = Callable[[], object]


class Folder(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """JPEG files in class folders, transformed as for training on ImageNet.

    Operation by operation, random numbers included, what torchvision 0.28 does in
    ``ImageFolder(path, Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor(), Normalize(MEAN, STD)]))``
    (https://github.com/pytorch/examples/blob/main/imagenet/main.py), which is thus no requirement.

    Parameters
    ----------
    path : Path
        A folder with a folder for each class.
    """

    def __init__(self, path: Path) -> None:
        classes = sorted(folder.name for folder in path.iterdir())
        self.files = [
            (str(file), label)
            for label, name in enumerate(classes)
            for file in sorted(Path(path, name).iterdir())
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with open(path, "rb") as file:
            image: Image.Image = Image.open(file).convert("RGB")
        y, x, h, w = random_box(image.height, image.width)
        image = image.crop((x, y, x + w, y + h))
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        values = pixels.to(torch.float32).div(255)
        mean, std = torch.as_tensor(MEAN)[:, None, None], torch.as_tensor(STD)[:, None, None]
        return values.clone().sub_(mean).div_(std), label


def random_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Draw the top, left, height and width of a crop: ``RandomResizedCrop.get_params`` of torchvision.

    Area 8–100 % of the image's, aspect 3/4–4/3; when ten attempts do not fit, the centre.
    """
    log_ratio = torch.log(torch.tensor((3 / 4, 4 / 3)))
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(0.08, 1).item()
        aspect = torch.exp(torch.empty(1).uniform_(float(log_ratio[0]), float(log_ratio[1]))).item()
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y = int(torch.randint(0, height - h + 1, size=(1,)).item())
            x = int(torch.randint(0, width - w + 1, size=(1,)).item())
            return y, x, h, w
    h, w = min(height, round(width / (3 / 4))), min(width, round(height * (4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


class Endless(torch.utils.data.Sampler[int]):
    """One permutation of the images after another, so that the loader never starts again."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.images).tolist()


def standard_step(path: Path, processes: int, device: torch.device) -> tuple[Step, int]:
    """The loop of a user of torch, and how many batches are read ahead."""
    folder = Folder(path)
    cuda = device.type == "cuda"
    loader = DataLoader(
        folder,
        BATCH_SIZE,
        sampler=Endless(len(folder)),
        num_workers=processes,
        prefetch_factor=PREFETCH,
        persistent_workers=True,
        pin_memory=cuda,
        drop_last=True,
    )
    batches = iter(loader)
    images = torch.empty(BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    labels = torch.empty(BATCH_SIZE, dtype=torch.int64, device=device)

    def step() -> None:
        loaded, numbers = next(batches)
        images.copy_(loaded, non_blocking=cuda)
        labels.copy_(numbers, non_blocking=cuda)

    return step, PREFETCH * processes


def our_step(path: Path, processes: int, device: torch.device, crop: bool) -> tuple[Step, int]:
    """The loop of a run of the package, and how many batches are read ahead."""
    import pytensor

    import theanompi.device
    from theanompi.config import RunConfig, resolve
    from theanompi.data import Batch, Loader, Pictures, Sampler, open_pictures
    from theanompi.device import Pinned
    from theanompi.training.inputs import Feed, Inputs

    theanompi.device.use("cuda:0" if device.type == "cuda" else "cpu")
    dataset = open_pictures(path)
    sampler = Sampler(dataset.n_train, BATCH_SIZE, size=1, rank=0, accumulation=1, seed=0)
    depth = max(4, PREFETCH * processes)
    pictures = Pictures(dataset, resolve(RunConfig(image_size=IMAGE_SIZE)))
    loader = Loader(pictures, BATCH_SIZE, processes=processes, depth=depth)
    Pinned(loader.memory)
    inputs = Inputs(pictures, BATCH_SIZE)

    def stream() -> Iterator[Batch]:
        for epoch in itertools.count():
            for units in loader.train(sampler, epoch):
                yield from units

    feed = Feed(inputs, stream())
    actions: list[Step] = [feed.load, feed.stage]
    if crop:
        image = pictures.graph(inputs.variables, training=True)["images"]
        compute = pytensor.function([], image, mode=theanompi.device.mode(return_internal_type=True))
        actions.insert(1, compute)

    def step() -> None:
        for action in actions:
            action()

    return step, depth


def settle() -> None:
    """Wait until nothing is read ahead any more, so that the next contender has the machine for itself."""
    deadline = time.monotonic() + 30
    before = cpu_ticks()
    while time.monotonic() < deadline:
        time.sleep(0.2)
        # Counting takes a tick of its own now and then.
        if (now := cpu_ticks()) <= before + 1:
            return
        before = now
    raise TimeoutError("loader: expected it to be idle once it has read ahead, got 30 s of work")


def serve(step: Step, synchronise: Step, ahead: int) -> None:
    """Warm up, then run bursts until the driver is gone: the talk of `common.serve`, for what reads ahead.

    The batches that were read ahead while others ran are taken first, untimed. When a burst is over, as many
    are read ahead again, so that CPU seconds are those of `ahead` + steps batches.
    """
    step()
    synchronise()
    common.say(first_step=True)
    for _ in range(ahead):
        step()
    start = time.perf_counter()
    for _ in range(WARM_UP_BATCHES):
        step()
    synchronise()
    common.say(step_s=(time.perf_counter() - start) / WARM_UP_BATCHES)
    settle()
    with open(Path(os.environ[common.PIPES], "0"), encoding="utf-8") as pipe:
        for line in pipe:
            if line == common.END:
                break
            ticks = cpu_ticks()
            for _ in range(ahead):
                step()
            synchronise()
            start = time.perf_counter()
            for _ in range(int(line)):
                step()
            synchronise()
            seconds = time.perf_counter() - start
            settle()
            cpu_s = (cpu_ticks() - ticks) / os.sysconf("SC_CLK_TCK")
            common.say(seconds=seconds, cpu_s_per_image=cpu_s / (BATCH_SIZE * (ahead + int(line))))


def main() -> None:
    """Take part in a benchmark; started by its driver."""
    parser = common.parser(__doc__)
    parser.add_argument("--kind", choices=["standard", "ours"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of class folders, or packed file")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--crop", action="store_true", help="ours: with the crop and normalisation")
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    if args.kind == "standard":
        step, ahead = standard_step(args.data, args.processes, device)
    else:
        step, ahead = our_step(args.data, args.processes, device, args.crop)
    serve(step, synchronise, ahead)


if __name__ == "__main__":
    main()
