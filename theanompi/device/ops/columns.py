"""Convolution as a matrix product, for images so small that moving the filters is most of the work.

oneDNN brings the filters of a convolution, and their gradient, into a layout of its own at each call. With
fewer output pixels than channels that takes longer than the arithmetic: the last stage of ResNet-50 at 32
pixels runs 2 to 4 times faster as products of matrices (``benchmarks/NOTES.md``). Rows are output pixels;
filters and images are read in their channels-last layout, so nothing but the columns is copied.
"""

import torch

from theanompi.device.ops.base import matrix_product

Pair = tuple[int, ...]


def pays(x: torch.Tensor, w: torch.Tensor, height: int, width: int, groups: int) -> tuple[bool, bool]:
    """What is done this way: a function of shapes alone, so that every run computes the same bits.

    The bounds are where oneDNN has been as fast, with AVX2 and with AVX-512 (``benchmarks/NOTES.md``).

    Parameters
    ----------
    x : torch.Tensor, shape (n, c, h, w)
    w : torch.Tensor, shape (out, c, kh, kw)
    height, width : int
        Of the output.
    groups : int

    Returns
    -------
    bool
        Whether the convolution itself and its gradient with respect to the images.
    bool
        Whether its gradient with respect to the filters.
    """
    if groups > 1 or x.device.type != "cpu":
        return False, False
    rows, (out, channels) = x.shape[0] * height * width, w.shape[:2]
    if w.shape[2] * w.shape[3] == 1:
        return rows <= min(out, channels), rows <= 4 * max(out, channels)
    return 8 * rows <= min(out, channels), rows <= 2 * min(out, channels)


def _columns(
    x: torch.Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> torch.Tensor:
    """The pixels that each output pixel sees, shape (n · h' · w', kh · kw · c)."""
    images = x.permute(0, 2, 3, 1)
    if any(padding):
        images = torch.nn.functional.pad(images, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    images = images.contiguous()
    n, _, _, channels = images.shape
    image, row, pixel, channel = images.stride()
    strides = (image, row * stride[0], pixel * stride[1], row * dilation[0], pixel * dilation[1], channel)
    windows = images.as_strided((n, *size, *kernel, channels), strides)
    return windows.reshape(n * size[0] * size[1], kernel[0] * kernel[1] * channels)


def _matrix(w: torch.Tensor) -> torch.Tensor:
    """The filters, shape (out, kh · kw · c): a view of channels-last ones."""
    return w.permute(0, 2, 3, 1).reshape(w.shape[0], -1)


def forward(
    x: torch.Tensor, w: torch.Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> torch.Tensor:
    """The convolution, shape (n, out, *size), channels last."""
    kernel = (w.shape[2], w.shape[3])
    y = _columns(x, size, kernel, stride, padding, dilation) @ _matrix(w).t()
    return y.view(x.shape[0], *size, w.shape[0]).permute(0, 3, 1, 2)


def backward_filters(
    x: torch.Tensor,
    w: torch.Tensor,
    gy: torch.Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """The gradient with respect to the filters, channels last, or in the tensor that is given for it."""
    out, channels, *kernel = w.shape
    size = (gy.shape[2], gy.shape[3])
    columns = _columns(x, size, (kernel[0], kernel[1]), stride, padding, dilation)
    pixels = gy.permute(0, 2, 3, 1).reshape(-1, out).t()
    if into is not None and into.dtype == x.dtype and into.is_contiguous(memory_format=torch.channels_last):
        matrix_product(pixels, columns, _matrix(into))
        return into
    gw = (pixels @ columns).view(out, *kernel, channels).permute(0, 3, 1, 2)
    return gw if into is None else into.copy_(gw)


def backward_images(
    x: torch.Tensor, w: torch.Tensor, gy: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> torch.Tensor:
    """The gradient with respect to the images, channels last: each column adds to the pixels that it saw."""
    n, channels, *image = x.shape
    kernel, size = w.shape[2:], gy.shape[2:]
    columns = (gy.permute(0, 2, 3, 1).reshape(-1, w.shape[0]) @ _matrix(w)).view(n, *size, *kernel, channels)
    gx = columns.new_zeros(n, image[0] + 2 * padding[0], image[1] + 2 * padding[1], channels)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dilation[0], i * dilation[0] + stride[0] * (size[0] - 1) + 1, stride[0])
            pixels = slice(j * dilation[1], j * dilation[1] + stride[1] * (size[1] - 1) + 1, stride[1])
            gx[:, rows, pixels] += columns[:, :, :, i, j]
    inside = gx[:, padding[0] : padding[0] + image[0], padding[1] : padding[1] + image[1]]
    return inside.permute(0, 3, 1, 2)
