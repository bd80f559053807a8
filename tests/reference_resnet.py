"""The zoo's residual networks in plain torch.nn, written from the papers and sharing nothing with what they check.

ResNet-50 is that of Goyal et al. 2017 (arXiv 1706.02677), section 5.1: the stride of 2 sits on the 3×3 convolution
of a block and γ is 0 in the last batch normalisation of each block. Layers carry the names of the Lasagne zoo.
"""

import numpy as np
import torch
from torch import nn

STAGES = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}


class ReferenceNetwork(nn.Module):
    """Convolutions with batch normalisation, and a dense layer, by the zoo's names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()

    def _conv(self, conv: str, bn: str, incoming: int, outgoing: int, size: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(incoming, outgoing, size, stride, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        self.layers[conv] = convolution
        self.layers[bn] = nn.BatchNorm2d(outgoing, eps=1e-5, momentum=0.1)

    def _dense(self, name: str, incoming: int, outgoing: int) -> None:
        dense = nn.Linear(incoming, outgoing)
        nn.init.normal_(dense.weight, std=0.01)
        nn.init.zeros_(dense.bias)
        self.layers[name] = dense

    def _parameters_by_zoo_name(self) -> dict[str, nn.Parameter]:
        named = {}
        for name, layer in self.layers.items():
            zoo = (
                {"weight": "gamma", "bias": "beta"} if name.startswith("bn") else {"weight": "W", "bias": "b"}
            )
            for suffix, parameter in layer.named_parameters():
                named[f"{name}.{zoo[suffix]}"] = parameter
        return named

    def load_named(self, values: dict[str, np.ndarray]) -> None:
        """Set every trainable parameter.

        Parameters
        ----------
        values : dict of str to numpy.ndarray
            By zoo name, each trainable parameter once: filters (out, in, height, width) as cross-correlation
            applies them, the dense layer's ``W`` (in, out).

        Raises
        ------
        ValueError
            If names are missing or unknown, or a shape differs.

        Examples
        --------
        >>> one, other = ReferenceResNet50(1, 10), ReferenceResNet50(1, 10)
        >>> other.load_named(one.named_values())
        >>> bool(torch.equal(one.layers["fc1000"].weight, other.layers["fc1000"].weight))
        True
        """
        named = self._parameters_by_zoo_name()
        if named.keys() != values.keys():
            raise ValueError(
                f"parameters: missing {sorted(named.keys() - values.keys())}, "
                f"unknown {sorted(values.keys() - named.keys())}"
            )
        with torch.no_grad():
            for name, parameter in named.items():
                value = torch.from_numpy(_layout(name, np.asarray(values[name])).copy())
                if value.shape != parameter.shape:
                    expected = _layout(name, np.empty(parameter.shape)).shape
                    raise ValueError(f"{name}: expected shape {expected}, got {values[name].shape}")
                parameter.copy_(value)

    def named_values(self) -> dict[str, np.ndarray]:
        """Every trainable parameter, by zoo name and in the layout of `load_named`.

        Examples
        --------
        >>> ReferenceResNet50(1, 10).named_values()["fc1000.W"].shape
        (2048, 10)
        """
        return {
            name: _layout(name, parameter.detach().cpu().numpy().copy())
            for name, parameter in self._parameters_by_zoo_name().items()
        }

    def named_gradients(self) -> dict[str, np.ndarray]:
        """The gradients that ``backward`` left, by zoo name and in the layout of `load_named`.

        Examples
        --------
        >>> network = ReferenceResNet50(1, 10)
        >>> network(torch.zeros(2, 1, 32, 32)).sum().backward()
        >>> network.named_gradients()["fc1000.b"].tolist() == [2.0] * 10
        True
        """
        return {
            name: _layout(name, parameter.grad.cpu().numpy().copy())
            for name, parameter in self._parameters_by_zoo_name().items()
            if parameter.grad is not None
        }


class ReferenceResNet50(ReferenceNetwork):
    """ResNet-50 for images of any size from 1 pixel up.

    Parameters
    ----------
    channels : int
        Input channels.
    num_classes : int
        Outputs of ``fc1000``.

    Examples
    --------
    >>> network = ReferenceResNet50(channels=3, num_classes=1000)
    >>> sum(parameter.numel() for parameter in network.parameters())
    25557032
    >>> network(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 1000])
    """

    def __init__(self, channels: int = 3, num_classes: int = 1000) -> None:
        super().__init__()
        self._conv("conv1", "bn_conv1", channels, 64, size=7, stride=2)
        incoming = 64
        for stage, blocks in STAGES.items():
            width = 64 * 2 ** (stage - 2)
            for block in blocks:
                stride = 2 if block == "a" and stage > 2 else 1
                res, bn = f"res{stage}{block}_branch", f"bn{stage}{block}_branch"
                if block == "a":
                    self._conv(f"{res}1", f"{bn}1", incoming, 4 * width, size=1, stride=stride)
                self._conv(f"{res}2a", f"{bn}2a", incoming, width, size=1)
                self._conv(f"{res}2b", f"{bn}2b", width, width, size=3, stride=stride)
                self._conv(f"{res}2c", f"{bn}2c", width, 4 * width, size=1)
                nn.init.zeros_(self.layers[f"{bn}2c"].get_parameter("weight"))
                incoming = 4 * width
        self._dense("fc1000", incoming, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits.

        Parameters
        ----------
        images : torch.Tensor
            Shape (n, channels, height, width).

        Returns
        -------
        torch.Tensor
            Shape (n, num_classes).
        """
        layers = self.layers
        out = torch.relu(layers["bn_conv1"](layers["conv1"](images)))
        out = nn.functional.max_pool2d(out, 3, stride=2, padding=1)
        for stage, blocks in STAGES.items():
            for block in blocks:
                res, bn = f"res{stage}{block}_branch", f"bn{stage}{block}_branch"
                inner = torch.relu(layers[f"{bn}2a"](layers[f"{res}2a"](out)))
                inner = torch.relu(layers[f"{bn}2b"](layers[f"{res}2b"](inner)))
                inner = layers[f"{bn}2c"](layers[f"{res}2c"](inner))
                if block == "a":
                    out = layers[f"{bn}1"](layers[f"{res}1"](out))
                out = torch.relu(inner + out)
        return layers["fc1000"](out.mean(dim=(2, 3)))


class ReferenceResNetCifar(ReferenceNetwork):
    """The small network: a 5×5 stem with stride 2, and four blocks of two 3×3 convolutions (He et al. 2016, §4.2).

    Parameters
    ----------
    channels : int
        Input channels.
    num_classes : int
        Outputs of ``fc``.

    Examples
    --------
    >>> ReferenceResNetCifar(channels=1, num_classes=62)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 62])
    """

    def __init__(self, channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self._conv("conv1", "bn_conv1", channels, 16, size=5, stride=2)
        incoming = 16
        for block, width in enumerate((16, 32, 64, 128), start=2):
            stride = 1 if block == 2 else 2
            res, bn = f"res{block}_branch", f"bn{block}_branch"
            if block > 2:
                self._conv(f"{res}1", f"{bn}1", incoming, width, size=1, stride=stride)
            self._conv(f"{res}2a", f"{bn}2a", incoming, width, size=3, stride=stride)
            self._conv(f"{res}2b", f"{bn}2b", width, width, size=3)
            nn.init.zeros_(self.layers[f"{bn}2b"].get_parameter("weight"))
            incoming = width
        self._dense("fc", incoming, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, (n, num_classes), of images (n, channels, height, width)."""
        layers = self.layers
        out = torch.relu(layers["bn_conv1"](layers["conv1"](images)))
        for block in range(2, 6):
            res, bn = f"res{block}_branch", f"bn{block}_branch"
            inner = torch.relu(layers[f"{bn}2a"](layers[f"{res}2a"](out)))
            inner = layers[f"{bn}2b"](layers[f"{res}2b"](inner))
            if block > 2:
                out = layers[f"{bn}1"](layers[f"{res}1"](out))
            out = torch.relu(inner + out)
        return layers["fc"](out.mean(dim=(2, 3)))


def _layout(name: str, value: np.ndarray) -> np.ndarray:
    """Between torch's (out, in) and Lasagne's (in, out) for the one dense matrix, either way."""
    return np.ascontiguousarray(value.T) if name.startswith("fc") and name.endswith(".W") else value
