"""The opponents: the same ResNet-50 in plain torch and under DistributedDataParallel, each at its best.

channels_last (unless ``--contiguous``), Nesterov SGD over all tensors at once (``foreach``, or ``--fused``), gradients
as views of DDP's buckets, no broadcast of BN buffers, and images that already lie on the device as floats: no loading,
no augmentation.
"""

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import common
import torch
from reference_resnet import ReferenceResNet50
from torch import distributed, nn


def build_step(args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """One training step of the opponent on synthetic images.

    Parameters
    ----------
    args : argparse.Namespace
        As parsed by `main`.
    device : torch.device
        Where to train.

    Returns
    -------
    callable
        Forward, backward and update; no arguments.
    """
    torch.manual_seed(common.rank_and_size()[0])
    images = torch.randn(args.batch_size, args.channels, args.image_size, args.image_size, device=device)
    layout = torch.contiguous_format if args.contiguous else torch.channels_last
    images = images.contiguous(memory_format=layout)
    labels = torch.randint(args.classes, (args.batch_size,), device=device)
    network: nn.Module = ReferenceResNet50(args.channels, args.classes).to(device)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            # With the strides of its gradient, also where a filter of one pixel fits several: else DDP copies it.
            laid = torch.empty(parameter.shape, device="meta", memory_format=layout).stride()
            parameter.data = torch.empty_strided(parameter.shape, laid, device=device).copy_(parameter.data)
    if args.kind == "ddp":
        network = nn.parallel.DistributedDataParallel(
            network, gradient_as_bucket_view=True, broadcast_buffers=False
        )
    if args.compile:
        network = torch.compile(network, mode=args.compile)  # type: ignore[assignment]
    recipe: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
    optimiser = torch.optim.SGD(network.parameters(), **recipe, foreach=not args.fused, fused=args.fused)
    loss_function = nn.CrossEntropyLoss()

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if args.precision == "bf16" else nullcontext():
            loss = loss_function(network(images), labels)
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    """Take part in a benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["plain", "ddp"], required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="images per rank")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="float32")
    parser.add_argument("--contiguous", action="store_true", help="NCHW in memory, torch's default layout")
    parser.add_argument("--compile", metavar="MODE", help="torch.compile in this mode, as max-autotune")
    parser.add_argument("--fused", action="store_true", help="SGD as one kernel, where torch has it")
    parser.add_argument("--port", type=int, help="of DDP's rendezvous on this host")
    parser.add_argument("--profile", action="store_true", help="also report the time of each kernel of a GPU")
    args = parser.parse_args()

    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision != "float32"
    if args.kind == "ddp":
        rank, size = common.rank_and_size()
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port), GLOO_SOCKET_IFNAME="lo")
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, rank=rank, world_size=size)

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def barrier() -> None:
        if args.kind == "ddp":
            distributed.barrier()

    def facts() -> dict[str, float]:
        return {"peak_memory_mib": common.peak_memory_mib(args.device)}

    common.serve(build_step(args, device), synchronise, barrier, facts, profile=args.profile)
    if args.kind == "ddp":
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
