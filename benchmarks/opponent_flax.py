"""The other opponent: the same ResNet-50 in Flax (JAX), compiled by XLA, in bfloat16 on a GPU.

Images already lie on the device as floats: no loading, no augmentation. Nesterov SGD by Optax; weights and batch
statistics in float32. One process, one device.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import common

# By default XLA takes three quarters of the GPU's memory at its start, and others are on it as well.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from flax import linen as nn  # noqa: E402

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


class Block(nn.Module):
    """A bottleneck; the stride is on the 3 × 3 convolution."""

    width: int
    stride: int
    first: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.width, (3, 3), (self.stride, self.stride))(y)))
        y = self.norm(scale_init=nn.initializers.zeros)(self.conv(4 * self.width, (1, 1))(y))
        if self.first:
            x = self.norm()(self.conv(4 * self.width, (1, 1), (self.stride, self.stride))(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """NHWC images to class scores."""

    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=False, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        x = nn.relu(norm()(conv(64, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])
        for width, blocks, stride in STAGES:
            for number in range(blocks):
                x = Block(width, stride if number == 0 else 1, number == 0, conv, norm)(x)
        return nn.Dense(self.classes, dtype=jnp.float32)(x.mean((1, 2)))


def build_step(args: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], object]]:
    """One training step on synthetic images, and what waits for it.

    Parameters
    ----------
    args : argparse.Namespace
        As parsed by `main`.
    """
    dtype = jnp.bfloat16 if args.precision == "bf16" else jnp.float32
    network = ResNet50(args.classes, dtype)
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    images = jax.random.normal(keys[0], (args.batch_size, args.image_size, args.image_size, 3))
    labels = jax.random.randint(keys[1], (args.batch_size,), 0, args.classes)
    variables = network.init(keys[2], images)
    optimiser = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.01, momentum=0.9, nesterov=True))

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def train(parameters: Any, statistics: Any, state: Any) -> Any:
        def loss(parameters: Any) -> Any:
            scores, new = network.apply(
                {"params": parameters, "batch_stats": statistics}, images, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            return losses.mean(), new["batch_stats"]

        gradients, new = jax.grad(loss, has_aux=True)(parameters)
        changes, state = optimiser.update(gradients, state, parameters)
        return optax.apply_updates(parameters, changes), new, state

    now = (variables["params"], variables["batch_stats"], optimiser.init(variables["params"]))

    def step() -> None:
        nonlocal now
        now = train(*now)

    return step, lambda: jax.block_until_ready(now)


def main() -> None:
    """Take part in a benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0; what JAX has is used")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    args = parser.parse_args()
    step, synchronise = build_step(args)

    def facts() -> dict[str, float]:
        statistics = jax.devices()[0].memory_stats() or {}
        peak = statistics.get("peak_bytes_in_use")
        return {"peak_memory_mib": peak / 2**20 if peak else common.peak_memory_mib("cpu")}

    common.serve(step, synchronise, lambda: None, facts)


if __name__ == "__main__":
    main()
