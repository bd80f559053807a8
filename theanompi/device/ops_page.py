"""The page docs/ops.md, which lists what runs on the device and what is refused, written from what is registered.

``python -m theanompi.device.ops_page > docs/ops.md``
"""

from collections.abc import Iterator

import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.graph.op import Op
from pytensor.scalar import math as special
from pytensor.scalar.basic import ScalarOp
from pytensor.tensor.elemwise import Elemwise

from theanompi.device.branches import Branches
from theanompi.device.dispatch import REFUSED, torch_function
from theanompi.device.elemwise import elemwise_function
from theanompi.device.ops.base import Context, TorchOp
from theanompi.device.unsupported import Unsupported

_HEAD = """\
# Which ops run on the device

`theanompi.device.mode` compiles a graph of PyTensor's to torch. Every op runs by a function of this package's own, with
the values of PyTensor's interpreter, and so NumPy's: the dtype of a result is that of its type, an index of any integer
dtype is an index, unsigned integers wrap, NaN sorts last, and what does not fit is an error. Two things differ: sums
are taken in torch's order, so that the last digits of floats may be others, and under `tf32` and `bf16` products are as
narrow as asked for.

An op without such a function is refused when a function is compiled, before anything runs, by one line that names it:

```
Scan{scan_fn, while_loop=False, inplace=none}: not supported on the device: loops over steps are not compiled to …
```

It is a `theanompi.device.unsupported.Unsupported`, which is a `NotImplementedError`; a run ends with that line alone. A
graph may still hold such an op if PyTensor's rewrites remove it, or if it is computed outside: on the host, in the mode
that is PyTensor's default. Graphs within ops are compiled in the same way (`OpFromGraph`, `Blockwise` and
`pt.vectorize`), and of `ifelse` the taken branch only is computed.

This page is written by `python -m theanompi.device.ops_page` from what is registered.
"""


def _columns(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names, key=str.lower))


def _leaves(kind: type[Op]) -> Iterator[str]:
    """The names of the ops of this room that have no subclasses."""
    for below in kind.__subclasses__():
        if below.__module__.startswith("theanompi.device."):
            yield from _leaves(below) if below.__subclasses__() else [below.__name__]


def _refusal(op: ScalarOp) -> str:
    """Why a scalar op is refused, for every dtype that it takes; or nothing."""
    why = "it takes no numbers"
    for dtype in ("float32", "int64"):
        operands = [pt.vector(dtype=dtype) for _ in range(op.nin if op.nin >= 0 else 2)]
        try:
            elemwise_function(Elemwise(op).make_node(*operands), Context())
            return ""
        except Unsupported as error:
            why = error.why
        except (TypeError, NotImplementedError):
            pass
    return why


def _scalars() -> dict[str, str]:
    """The name of each scalar op of PyTensor's → why it is refused, or nothing."""
    ops = [v for module in (ps, special) for v in vars(module).values() if isinstance(v, ScalarOp)]
    return {type(op).__name__: _refusal(op) for op in ops}


def page() -> str:
    """The text of docs/ops.md."""
    kinds = [kind for kind in torch_function.registry if isinstance(kind, type) and issubclass(kind, Op)]
    by_module: dict[str, list[str]] = {}
    for kind in kinds:
        if kind not in (TorchOp, Branches, Op):
            module = kind.__module__.removeprefix("pytensor.").removeprefix("tensor.")
            by_module.setdefault(module, []).append(kind.__name__)
    scalars = _scalars()
    without = [name for name, why in scalars.items() if why]
    lines = [
        _HEAD,
        "## Supported",
        "",
        "| module of PyTensor's | ops |",
        "|---|---|",
        *(f"| `{module}` | {_columns(names)} |" for module, names in sorted(by_module.items())),
        f"| `theanompi.device.ops` | {_columns(list(_leaves(TorchOp)))} |",
        f"| element by element | {_columns(list(scalars.keys() - set(without)))} |",
        "",
        "## Refused",
        "",
        "| op | why |",
        "|---|---|",
        *(
            f"| `{kind.__name__}` | {why} |"
            for kind, why in sorted(REFUSED.items(), key=lambda p: p[0].__name__)
        ),
        f"| element by element: {_columns(without)} | torch has no such function, unless of a constant order |",
        "| any other op | it is unknown to theanompi.device |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
