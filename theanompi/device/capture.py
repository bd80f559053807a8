"""A compiled function as a CUDA graph: recorded once, then replayed without Python between its kernels.

At 32 images a step, starting the kernels one by one takes longer than many of them run. A function is fit for it
that always works on the same memory: shared variables are, and so are flat buffers.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from theanompi.device.generated import origin


class Captured:
    """Runs a function as a CUDA graph from its second call on.

    The first call runs as ever: libraries choose their algorithms then, and nobody's memory is counted twice. The
    second one is recorded, which runs nothing, and then played, as all later ones are. A call with arguments in
    other memory than was recorded is recorded anew. What cannot be recorded runs as ever, after a warning.

    Parameters
    ----------
    function : callable
        From tensors on the current CUDA device to a tuple of such. It may write into its arguments.

    Attributes
    ----------
    recordings : int
        How often it was recorded.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._calls = self.recordings = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._arguments: tuple[Any, ...] = ()
        self._results: tuple[Any, ...] = ()
        self._fit = True

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        self._calls += 1
        if not self._fit or self._calls == 1:
            return self._function(*arguments)
        if self._graph is None or not _same_memory(arguments, self._arguments):
            self._record(arguments)
        if self._graph is None:
            return self._function(*arguments)
        self._graph.replay()
        return tuple(self._result(r, arguments) for r in self._results)

    def _result(self, result: Any, arguments: tuple[Any, ...]) -> Any:
        """What the caller gets: an argument itself, or a copy of what the next call writes over."""
        for argument, recorded in zip(arguments, self._arguments, strict=True):
            if result is recorded:
                return argument
        return result.clone() if isinstance(result, torch.Tensor) else result

    def _record(self, arguments: tuple[Any, ...]) -> None:
        self._graph = None
        # What the first call left in the allocator's cache is memory that the graph needs.
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        try:
            # A recording that fails does not take its own stream back.
            with torch.cuda.stream(torch.cuda.current_stream()):
                # Other threads, as those that load and exchange, may use the device meanwhile.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self._results = self._function(*arguments)
        except RuntimeError as error:
            self._fit = False
            cause = _first(error)
            reason = f"{origin(cause)}: {cause}".removeprefix(": ").strip().splitlines()[0]
            warnings.warn(
                f"CUDA graph: not possible for this model, which runs slower: {reason}", stacklevel=2
            )
            return
        self._graph, self._arguments = graph, arguments
        self.recordings += 1


def _first(error: BaseException) -> BaseException:
    """What went wrong first: to end a recording that has failed is an error of its own."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    return error


def _same_memory(arguments: tuple[Any, ...], recorded: tuple[Any, ...]) -> bool:
    return len(arguments) == len(recorded) and all(
        a is b
        or (
            isinstance(a, torch.Tensor)
            and isinstance(b, torch.Tensor)
            and (a.data_ptr(), a.shape, a.stride(), a.dtype) == (b.data_ptr(), b.shape, b.stride(), b.dtype)
        )
        for a, b in zip(arguments, recorded, strict=True)
    )
