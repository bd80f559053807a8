"""Recurrent layers: sequences of shape (n, steps, features) to a state for each step.

In a loop on the device (`pytensor.scan`), or with the steps written out.

>>> from theanompi.lasagne.layers import DenseLayer, InputLayer, ReshapeLayer
>>> letters = InputLayer((None, None, 10))
>>> samples, steps, _ = letters.input_var.shape
>>> states = LSTMLayer(letters, num_units=12)
>>> scores = DenseLayer(ReshapeLayer(states, (-1, 12)), num_units=10, nonlinearity=None)
>>> states.output_shape, scores.output_shape
((None, None, 12), (None, 10))
"""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import grad_clip

from theanompi.device.ops import lstm
from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers import helper
from theanompi.lasagne.layers.base import Incoming, Layer, MergeLayer
from theanompi.lasagne.layers.dense import DenseLayer, known_or_symbolic_size
from theanompi.lasagne.layers.input import InputLayer
from theanompi.lasagne.layers.noise import identity_of, salt_of
from theanompi.lasagne.utils import Shape, compatible, unroll_scan

__all__ = ["CustomRecurrentLayer", "GRULayer", "Gate", "LSTMLayer", "RecurrentLayer"]

Step = Callable[..., list[Any]]

_WEYL = np.int64(0x5851F42D4C957F2D)
"""An odd number: modulo 2**64 its first 2**64 multiples are all different."""


class _LoopLayer(MergeLayer):
    """Base of the recurrent layers: how a step is repeated.

    The incoming layers are the sequences, then a mask if there is one, then the initial states that are layers.
    """

    def __init__(
        self,
        incoming: Incoming,
        mask_input: Incoming | None,
        states: dict[str, Any],
        *,
        backwards: bool,
        learn_init: bool,
        gradient_steps: int,
        grad_clipping: float,
        unroll_scan: bool,
        precompute_input: bool,
        only_return_final: bool,
        **kwargs: Any,
    ):
        incomings = [incoming]
        self.mask_incoming_index = -1
        if mask_input is not None:
            self.mask_incoming_index = len(incomings)
            incomings.append(mask_input)
        for name, initial in states.items():
            is_layer = isinstance(initial, Layer)
            setattr(self, f"{name}_incoming_index", len(incomings) if is_layer else -1)
            incomings += [initial] if is_layer else []
        super().__init__(incomings, **kwargs)
        self.learn_init, self.backwards = learn_init, backwards
        self.gradient_steps, self.grad_clipping = gradient_steps, grad_clipping
        self.unroll_scan, self.precompute_input = unroll_scan, precompute_input
        self.only_return_final = only_return_final
        shape = self.input_shapes[0]
        if len(shape) < 3:
            raise ValueError(f"{self}: expected an input of shape (n, steps, features, …), got {shape}")
        if unroll_scan and gradient_steps != -1:
            raise ValueError(f"{self}: gradient_steps: expected -1 with unroll_scan, got {gradient_steps}")
        if unroll_scan and shape[1] is None:
            raise ValueError(f"{self}: unroll_scan: expected a known number of steps, got {shape}")

    def _add_gates(self, units: int, **gates: "Gate") -> None:
        """Add the parameters of gates, as attributes of these names."""
        trailing: Any = self.input_shapes[0][2:]
        if None in trailing:
            raise ValueError(f"{self}: expected known sizes from axis 2 on, got {self.input_shapes[0]}")
        for name, gate in gates.items():
            for kind, spec, shape in (
                ("W_in_to", gate.W_in, (math.prod(trailing), units)),
                ("W_hid_to", gate.W_hid, (units, units)),
                ("b", gate.b, (units,)),
            ):
                parameter = self.add_param(spec, shape, name=f"{kind}_{name}", regularizable=kind != "b")
                setattr(self, f"{kind}_{name}", parameter)

    def _add_state(self, name: str, initial: Any, shape: Shape) -> Any:
        """The initial value of a state of that shape, without the samples: a layer, or a parameter of one sample."""
        if isinstance(initial, Layer):
            if not compatible((None, *shape), initial.output_shape):
                expected = (None, *shape)
                raise ValueError(f"{self}: {name}: expected shape {expected}, got {initial.output_shape}")
            return initial
        return self.add_param(initial, (1, *shape), name=name, trainable=self.learn_init, regularizable=False)

    def _initial(self, name: str, inputs: Sequence[Any], samples: Any) -> Any:
        """The initial value of a state for all samples."""
        index = getattr(self, f"{name}_incoming_index")
        if index > 0:
            return inputs[index]
        one = getattr(self, name)
        return pt.alloc(one, samples, *(known_or_symbolic_size(one, axis) for axis in range(1, one.ndim)))

    def _clipped(self, x: Any) -> Any:
        """`x`, whose gradient is clipped."""
        return grad_clip(x, -self.grad_clipping, self.grad_clipping) if self.grad_clipping else x

    def _repeat(
        self, step: Step, rows: list[Any], inputs: Sequence[Any], initial: list[Any], non_sequences: list[Any]
    ) -> Any:
        """The last of the states, after each step over the `rows` of (steps, …) or after all of them."""

        def masked(mask: Any, *arguments: Any) -> list[Any]:
            # Past the end of a sequence, its states stay what they are.
            before = arguments[len(rows) :]
            return [pt.switch(mask, new, old) for new, old in zip(step(*arguments), before, strict=False)]

        sequences, fn = rows, step
        if self.mask_incoming_index > 0:
            mask = inputs[self.mask_incoming_index]
            sequences, fn = [mask.dimshuffle(1, 0, *"x" * (initial[-1].ndim - 1)), *rows], masked
        if self.unroll_scan:
            steps: Any = self.input_shapes[0][1]
            results = unroll_scan(fn, sequences, initial, non_sequences, steps, self.backwards)
        else:
            with warnings.catch_warnings():
                # A later PyTensor does not give the updates; noise in a layer within needs them.
                warnings.simplefilter("ignore", DeprecationWarning)
                results, updates = pytensor.scan(
                    fn,
                    sequences,
                    initial,
                    non_sequences,
                    go_backwards=self.backwards,
                    truncate_gradient=self.gradient_steps,
                )
            for state, new in updates.items():
                state.default_update = new
        states = results[-1] if isinstance(results, list) else results
        if self.only_return_final:
            return states[-1]
        states = states.dimshuffle(1, 0, *range(2, states.ndim))
        return states[:, ::-1] if self.backwards else states

    def _all_steps(self, function: Callable[[Any], Any], x: Any, inputs: Sequence[Any], initial: Any) -> Any:
        """The state after each step, or after all of them, by a function of all steps of `x`, (steps, n, features).

        With a mask each sample's steps that count come first; its state at a step is that after as many of these.
        """
        if self.backwards:
            x = x[::-1]
        if self.mask_incoming_index > 0:
            mask = pt.neq(inputs[self.mask_incoming_index].T, 0)
            mask = mask[::-1] if self.backwards else mask
            states = function(_rows(x, pt.argsort(~mask, axis=0, stable=True)))
            states = _rows(pt.concatenate([initial[None], states]), pt.cumsum(mask.astype("int64"), axis=0))
        else:
            states = function(x)
        if self.only_return_final:
            return states[-1]
        return (states[::-1] if self.backwards else states).dimshuffle(1, 0, 2)

    def _output_shape(self, input_shapes: Sequence[Shape], state: Shape) -> Shape:
        shape = input_shapes[0]
        return (shape[0], *state) if self.only_return_final else (shape[0], shape[1], *state)


def _rows(x: Any, steps: Any) -> Any:
    """Of (steps, n, …) for each sample the steps that are numbered in (as many steps as wanted, n)."""
    samples = known_or_symbolic_size(x, 1)
    rows = (steps * samples + pt.arange(samples)).flatten()
    return x.reshape((-1, known_or_symbolic_size(x, 2)))[rows].reshape((-1, samples, x.shape[2]))


def _at_each_step(function: Callable[[Any], Any], x: Any) -> Any:
    """Apply a function of (rows, …) to all steps of (steps, n, …) at once."""
    steps, samples = known_or_symbolic_size(x, 0), known_or_symbolic_size(x, 1)
    y = function(
        x.reshape((steps * samples, *(known_or_symbolic_size(x, axis) for axis in range(2, x.ndim))))
    )
    return y.reshape((steps, samples, *(known_or_symbolic_size(y, axis) for axis in range(1, y.ndim))))


class CustomRecurrentLayer(_LoopLayer):
    r"""Recurrent layer of any connections: h_t = nonlinearity(input_to_hidden(x_t) + hidden_to_hidden(h_{t−1})).

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, steps, …).
    input_to_hidden : Layer
        The end of a network that begins with an :class:`InputLayer` of one step's shape, (n, …).
    hidden_to_hidden : Layer
        The end of one that begins with an :class:`InputLayer` of the state's shape, which is also its output's.
    nonlinearity : callable or None
        None for a linear layer.
    hid_init : initialiser, number, array, variable or Layer
        The state before the first step: of shape (1, …) for all samples, or a layer of shape (n, …).
    backwards : bool
        Begin with the last step; the output's steps are in the input's order all the same.
    learn_init : bool
        Whether `hid_init` is trainable, unless it is a layer.
    gradient_steps : int
        How many steps back the gradient goes; −1 for all.
    grad_clipping : float
        Clip the gradient of what the nonlinearity is applied to, at each step and element by element, to
        [−grad_clipping, grad_clipping] [1]_; 0 for no clipping.
    unroll_scan : bool
        Write the steps out instead of a loop: longer to compile, at times faster. Their number must be known.
    precompute_input : bool
        Apply `input_to_hidden` to all steps at once, before the loop: faster, at the cost of memory.
    mask_input : Layer, optional
        Of shape (n, steps): where it is 0, a sample's state stays that of the step before.
    only_return_final : bool
        Give the state after the last step only, of shape (n, …). With `backwards` that is the first step's.
    **kwargs
        ``name``.

    Raises
    ------
    ValueError
        If the shapes do not fit each other, or if `unroll_scan` is asked for together with `gradient_steps` or with an
        unknown number of steps.

    References
    ----------
    .. [1] A. Graves (2013): Generating sequences with recurrent neural networks. arXiv:1308.0850, page 6.

    Examples
    --------
    Filters for images in time:

    >>> from theanompi.lasagne.layers import Conv2DLayer
    >>> films = InputLayer((2, 3, 1, 8, 8))
    >>> of_input = Conv2DLayer(InputLayer((None, 1, 8, 8)), 4, 3, pad="same")
    >>> of_state = Conv2DLayer(InputLayer((None, 4, 8, 8)), 4, 3, pad="same")
    >>> CustomRecurrentLayer(films, of_input, of_state).output_shape
    (2, 3, 4, 8, 8)
    """

    def __init__(
        self,
        incoming: Incoming,
        input_to_hidden: Layer,
        hidden_to_hidden: Layer,
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        hid_init: Any = init.Constant(0.0),  # noqa: B008 - holds no state
        backwards: bool = False,
        learn_init: bool = False,
        gradient_steps: int = -1,
        grad_clipping: float = 0,
        unroll_scan: bool = False,
        precompute_input: bool = True,
        mask_input: Incoming | None = None,
        only_return_final: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            incoming,
            mask_input,
            {"hid_init": hid_init},
            backwards=backwards,
            learn_init=learn_init,
            gradient_steps=gradient_steps,
            grad_clipping=grad_clipping,
            unroll_scan=unroll_scan,
            precompute_input=precompute_input,
            only_return_final=only_return_final,
            **kwargs,
        )
        self.input_to_hidden, self.hidden_to_hidden = input_to_hidden, hidden_to_hidden
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity
        self._check_shapes()
        self.hid_init = self._add_state("hid_init", hid_init, hidden_to_hidden.output_shape[1:])
        within = helper.get_all_layers([input_to_hidden, hidden_to_hidden])
        # As of any layer with random numbers: `get_output` sees to it that no other one has the same.
        self.salt = salt_of(self) if any(getattr(one, "salt", None) is not None for one in within) else None

    def _check_shapes(self) -> None:
        samples, steps = self.input_shapes[0][:2]
        of_input, of_state = self.input_to_hidden.output_shape, self.hidden_to_hidden.output_shape
        before: Any = self.hidden_to_hidden.input_shape
        rows = of_state[0]
        if self.precompute_input:
            rows = None if samples is None or steps is None else samples * steps
        if not compatible((rows, *of_state[1:]), of_input):
            raise ValueError(
                f"{self}: input_to_hidden: expected an output of shape {(rows, *of_state[1:])}, got {of_input}"
            )
        if not compatible(of_input[1:], before[1:]):
            raise ValueError(
                f"{self}: hidden_to_hidden: expected an input of shape {(None, *of_input[1:])}, got {before}"
            )

    def get_params(self, unwrap_shared: bool = True, **tags: bool) -> list[Any]:
        """List the initial state, then the parameters of the two connections; see :meth:`Layer.get_params`."""
        return [
            *super().get_params(unwrap_shared, **tags),
            *helper.get_all_params(self.input_to_hidden, unwrap_shared, **tags),
            *helper.get_all_params(self.hidden_to_hidden, unwrap_shared, **tags),
        ]

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Give the state's shape at each step, or once."""
        return self._output_shape(input_shapes, self.hidden_to_hidden.output_shape[1:])

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Apply the connections step by step."""
        x = inputs[0].dimshuffle(1, 0, *range(2, inputs[0].ndim))
        samples = known_or_symbolic_size(x, 1)
        parameters = helper.get_all_params(self.hidden_to_hidden)
        keys = kwargs.pop("sample_keys", None)
        drawn = [] if keys is None or kwargs.get("deterministic") else [_keys_of_steps(keys, x)]

        def output(network: str, rows: Any, keys: Sequence[Any]) -> Any:
            # Layers within have names and places among themselves only.
            own = {"sample_keys": keys[0] + _number(f"{network} of {identity_of(self)}")} if keys else {}
            return _output(getattr(self, network), rows, {**kwargs, **own})

        if self.precompute_input:
            keys_of_rows = [keys.flatten() for keys in drawn]
            x = _at_each_step(lambda rows: output("input_to_hidden", rows, keys_of_rows), x)
        else:
            parameters += helper.get_all_params(self.input_to_hidden)

        def step(row: Any, *others: Any) -> list[Any]:
            keys, hid = others[: len(drawn)], others[len(drawn)]
            total = output("hidden_to_hidden", hid, keys)
            total += row if self.precompute_input else output("input_to_hidden", row, keys)
            return [self.nonlinearity(self._clipped(total))]

        initial = [self._initial("hid_init", inputs, samples)]
        return self._repeat(step, [x, *drawn], inputs, initial, parameters)


def _keys_of_steps(sample_keys: Any, x: Any) -> Any:
    """Keys of shape (steps, n) for noise within a step: of each sample another one at each step, in Weyl's sequence.

    They do not depend on how many steps there are, nor on how they are repeated.
    """
    step = pt.arange(known_or_symbolic_size(x, 0), dtype="int64").dimshuffle(0, "x")
    return sample_keys.dimshuffle("x", 0) + step * _WEYL


def _number(identity: str) -> np.int64:
    """A number that is another one for each text."""
    return np.frombuffer(blake2b(identity.encode(), digest_size=8).digest(), "<i8")[0]


def _output(layer: Layer, x: Any, keywords: dict[str, Any]) -> Any:
    """The output of a network within a layer, which is given the keywords that it knows."""
    known = set(helper.COMMON_KEYWORDS)
    for one in helper.get_all_layers(layer):
        known.update(inspect.signature(one.get_output_for).parameters)
    return helper.get_output(layer, x, **{k: v for k, v in keywords.items() if k in known})


class RecurrentLayer(CustomRecurrentLayer):
    """Dense recurrent layer: h_t = nonlinearity(x_t·W_in_to_hid + h_{t−1}·W_hid_to_hid + b).

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, steps, …); what follows the steps is flattened.
    num_units : int
    W_in_to_hid : initialiser, number, array or variable
        Of shape (inputs, num_units).
    W_hid_to_hid : the same
        Of shape (num_units, num_units).
    b : the same, or None
        Of shape (num_units,), not regularizable; None for no bias.
    nonlinearity : callable or None
    hid_init, backwards, learn_init, gradient_steps, grad_clipping, unroll_scan, precompute_input, mask_input
        As for :class:`CustomRecurrentLayer`.
    only_return_final, **kwargs
        The same.

    Examples
    --------
    >>> RecurrentLayer((None, 7, 3), num_units=5, name="elman").get_params(trainable=True)
    [elman.input_to_hidden.W, elman.input_to_hidden.b, elman.hidden_to_hidden.W]
    """

    def __init__(
        self,
        incoming: Incoming,
        num_units: int,
        W_in_to_hid: Any = init.Uniform(),  # noqa: B008 - holds no state
        W_hid_to_hid: Any = init.Uniform(),  # noqa: B008
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        hid_init: Any = init.Constant(0.0),  # noqa: B008
        backwards: bool = False,
        learn_init: bool = False,
        gradient_steps: int = -1,
        grad_clipping: float = 0,
        unroll_scan: bool = False,
        precompute_input: bool = True,
        mask_input: Incoming | None = None,
        only_return_final: bool = False,
        **kwargs: Any,
    ):
        shape = incoming if isinstance(incoming, tuple) else incoming.output_shape
        name, others = kwargs.get("name"), {k: v for k, v in kwargs.items() if k != "name"}
        prefix = "" if name is None else f"{name}."
        input_to_hidden = DenseLayer(
            InputLayer((None, *shape[2:])),
            num_units,
            W_in_to_hid,
            b,
            nonlinearity=None,
            name=f"{prefix}input_to_hidden",
            **others,
        )
        hidden_to_hidden = DenseLayer(
            InputLayer((None, num_units)),
            num_units,
            W_hid_to_hid,
            b=None,
            nonlinearity=None,
            name=f"{prefix}hidden_to_hidden",
            **others,
        )
        self.W_in_to_hid, self.W_hid_to_hid = input_to_hidden.W, hidden_to_hidden.W
        self.b = input_to_hidden.b
        super().__init__(
            incoming,
            input_to_hidden,
            hidden_to_hidden,
            nonlinearity,
            hid_init,
            backwards,
            learn_init,
            gradient_steps,
            grad_clipping,
            unroll_scan,
            precompute_input,
            mask_input,
            only_return_final,
            **kwargs,
        )


class Gate:
    """The parameters of a gate: nonlinearity(x·W_in + h·W_hid + c ⊙ W_cell + b), with c the cell of an LSTM.

    Parameters
    ----------
    W_in, W_hid : initialiser, number, array or variable
        Of shapes (inputs, units) and (units, units).
    W_cell : the same, or None
        Of shape (units,); None where nothing looks at the cell.
    b : initialiser, number, array or variable
        Of shape (units,).
    nonlinearity : callable or None
        None for a linear gate.

    Examples
    --------
    A large bias of the forget gate lets a cell remember at first:

    >>> layer = LSTMLayer((None, 20, 30), num_units=10, forgetgate=Gate(b=init.Constant(5.0)))
    >>> layer.b_forgetgate.get_value()[:2]
    array([5., 5.], dtype=float32)
    """

    def __init__(
        self,
        W_in: Any = init.Normal(0.1),  # noqa: B008 - holds no state
        W_hid: Any = init.Normal(0.1),  # noqa: B008
        W_cell: Any = init.Normal(0.1),  # noqa: B008
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.sigmoid,
    ):
        self.W_in, self.W_hid, self.b = W_in, W_hid, b
        if W_cell is not None:
            self.W_cell = W_cell
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity


class LSTMLayer(_LoopLayer):
    r"""Long short-term memory, with a forget gate and peepholes [1]_ (equations 7 to 11).

    .. math::
        i_t &= σ_i(x_t W_{xi} + h_{t−1} W_{hi} + w_{ci} ⊙ c_{t−1} + b_i)\\
        f_t &= σ_f(x_t W_{xf} + h_{t−1} W_{hf} + w_{cf} ⊙ c_{t−1} + b_f)\\
        c_t &= f_t ⊙ c_{t−1} + i_t ⊙ σ_c(x_t W_{xc} + h_{t−1} W_{hc} + b_c)\\
        o_t &= σ_o(x_t W_{xo} + h_{t−1} W_{ho} + w_{co} ⊙ c_t + b_o)\\
        h_t &= o_t ⊙ σ_h(c_t)

    With ``peepholes=False`` these are torch's equations, with one bias instead of two.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, steps, …); what follows the steps is flattened.
    num_units : int
    ingate, forgetgate, cell, outgate : Gate
        i, f, the cell's input and o.
    nonlinearity : callable or None
        σ_h; None for none.
    cell_init, hid_init : initialiser, number, array, variable or Layer
        The cell and the state before the first step: of shape (1, num_units) for all samples, or a layer of shape
        (n, num_units).
    backwards, learn_init, gradient_steps, grad_clipping, unroll_scan, precompute_input, mask_input
        As for :class:`CustomRecurrentLayer`; clipped are the gradients of what the gates' nonlinearities are
        applied to, before the peepholes.
    peepholes : bool
        Whether the gates look at the cell; otherwise their `W_cell` is not used.
    only_return_final, **kwargs
        As for :class:`CustomRecurrentLayer`.

    Raises
    ------
    ValueError
        As for :class:`CustomRecurrentLayer`, or if a gate with a peephole has no `W_cell`.

    References
    ----------
    .. [1] A. Graves (2013): Generating sequences with recurrent neural networks. arXiv:1308.0850.

    Examples
    --------
    >>> LSTMLayer((None, 7, 3), num_units=5, only_return_final=True).output_shape
    (None, 5)
    """

    _GATES = ("ingate", "forgetgate", "cell", "outgate")

    def __init__(
        self,
        incoming: Incoming,
        num_units: int,
        ingate: Gate = Gate(),  # noqa: B008 - holds no state
        forgetgate: Gate = Gate(),  # noqa: B008
        cell: Gate = Gate(W_cell=None, nonlinearity=nonlinearities.tanh),  # noqa: B008
        outgate: Gate = Gate(),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.tanh,
        cell_init: Any = init.Constant(0.0),  # noqa: B008
        hid_init: Any = init.Constant(0.0),  # noqa: B008
        backwards: bool = False,
        learn_init: bool = False,
        peepholes: bool = True,
        gradient_steps: int = -1,
        grad_clipping: float = 0,
        unroll_scan: bool = False,
        precompute_input: bool = True,
        mask_input: Incoming | None = None,
        only_return_final: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            incoming,
            mask_input,
            {"hid_init": hid_init, "cell_init": cell_init},
            backwards=backwards,
            learn_init=learn_init,
            gradient_steps=gradient_steps,
            grad_clipping=grad_clipping,
            unroll_scan=unroll_scan,
            precompute_input=precompute_input,
            only_return_final=only_return_final,
            **kwargs,
        )
        self.num_units, self.peepholes = num_units, peepholes
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity
        self._add_gates(num_units, ingate=ingate, forgetgate=forgetgate, cell=cell, outgate=outgate)
        self.nonlinearity_ingate, self.nonlinearity_forgetgate = ingate.nonlinearity, forgetgate.nonlinearity
        self.nonlinearity_cell, self.nonlinearity_outgate = cell.nonlinearity, outgate.nonlinearity
        if peepholes:
            self.W_cell_to_ingate = self._add_peephole(ingate, "ingate")
            self.W_cell_to_forgetgate = self._add_peephole(forgetgate, "forgetgate")
            self.W_cell_to_outgate = self._add_peephole(outgate, "outgate")
        self.cell_init = self._add_state("cell_init", cell_init, (num_units,))
        self.hid_init = self._add_state("hid_init", hid_init, (num_units,))

    def _add_peephole(self, gate: Gate, name: str) -> Any:
        if not hasattr(gate, "W_cell"):
            raise ValueError(f"{self}: peepholes: expected a W_cell of the {name}, got None")
        return self.add_param(gate.W_cell, (self.num_units,), name=f"W_cell_to_{name}")

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Give the state's shape at each step, or once."""
        return self._output_shape(input_shapes, (self.num_units,))

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Compute the state step by step."""
        x, W_in, W_hid, b = _stacked(self, inputs[0], self._GATES)
        cell, hid = (
            self._initial(name, inputs, known_or_symbolic_size(x, 1)) for name in ("cell_init", "hid_init")
        )
        peepholes = (
            [self.W_cell_to_ingate, self.W_cell_to_forgetgate, self.W_cell_to_outgate]
            if self.peepholes
            else []
        )
        if self._is_one_op():
            weights = W_in.T, W_hid.T, b
            return self._all_steps(
                lambda x: lstm(x, *weights, hid, cell, *peepholes, clip=self.grad_clipping), x, inputs, hid
            )
        if self.precompute_input:
            x = _at_each_step(lambda rows: pt.dot(rows, W_in) + b, x)

        def step(row: Any, cell: Any, hid: Any, W_hid: Any, *others: Any) -> list[Any]:
            if not self.precompute_input:
                W_in, b = others[-2:]
                row = pt.dot(row, W_in) + b
            gates = self._clipped(row + pt.dot(hid, W_hid))
            i, f, new, o = _parts(gates, 4, self.num_units)
            if self.peepholes:
                i, f = i + cell * others[0], f + cell * others[1]
            i, f, new = (
                self.nonlinearity_ingate(i),
                self.nonlinearity_forgetgate(f),
                self.nonlinearity_cell(new),
            )
            cell = f * cell + i * new
            if self.peepholes:
                o = o + cell * others[2]
            return [cell, self.nonlinearity_outgate(o) * self.nonlinearity(cell)]

        fixed = [W_hid, *peepholes, *([] if self.precompute_input else [W_in, b])]
        return self._repeat(step, [x], inputs, [cell, hid], fixed)

    def _is_one_op(self) -> bool:
        """Whether all steps are one op: with the usual nonlinearities, unless it is said how to repeat a step."""
        gates = (self.nonlinearity_ingate, self.nonlinearity_forgetgate, self.nonlinearity_outgate)
        return (
            all(function is nonlinearities.sigmoid for function in gates)
            and self.nonlinearity_cell is self.nonlinearity is nonlinearities.tanh
            and self.precompute_input
            and not self.unroll_scan
            and self.gradient_steps == -1
        )


class GRULayer(_LoopLayer):
    r"""Gated recurrent unit [1]_, whose reset gate is applied after the product with the state [2]_.

    .. math::
        r_t &= σ_r(x_t W_{xr} + h_{t−1} W_{hr} + b_r)\\
        u_t &= σ_u(x_t W_{xu} + h_{t−1} W_{hu} + b_u)\\
        c_t &= σ_c(x_t W_{xc} + r_t ⊙ (h_{t−1} W_{hc}) + b_c)\\
        h_t &= (1 − u_t) ⊙ h_{t−1} + u_t ⊙ c_t

    Torch's update gate is 1 − u, and its state has a bias of its own in c, under the reset gate.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, steps, …); what follows the steps is flattened.
    num_units : int
    resetgate, updategate, hidden_update : Gate
        r, u and c; none of them has a `W_cell`.
    hid_init, backwards, learn_init, gradient_steps, grad_clipping, unroll_scan, precompute_input, mask_input
        As for :class:`CustomRecurrentLayer`. Clipped are the gradients of the products, and of what the hidden update's
        nonlinearity is applied to.
    only_return_final, **kwargs
        As for :class:`CustomRecurrentLayer`.

    References
    ----------
    .. [1] K. Cho et al. (2014): On the properties of neural machine translation: encoder-decoder approaches.
       arXiv:1409.1259.
    .. [2] J. Chung et al. (2014): Empirical evaluation of gated recurrent neural networks on sequence modeling.
       arXiv:1412.3555, which has the product after the reset gate.

    Examples
    --------
    >>> GRULayer((None, 7, 3), num_units=5).output_shape
    (None, 7, 5)
    """

    _GATES = ("resetgate", "updategate", "hidden_update")

    def __init__(
        self,
        incoming: Incoming,
        num_units: int,
        resetgate: Gate = Gate(W_cell=None),  # noqa: B008 - holds no state
        updategate: Gate = Gate(W_cell=None),  # noqa: B008
        hidden_update: Gate = Gate(W_cell=None, nonlinearity=nonlinearities.tanh),  # noqa: B008
        hid_init: Any = init.Constant(0.0),  # noqa: B008
        backwards: bool = False,
        learn_init: bool = False,
        gradient_steps: int = -1,
        grad_clipping: float = 0,
        unroll_scan: bool = False,
        precompute_input: bool = True,
        mask_input: Incoming | None = None,
        only_return_final: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            incoming,
            mask_input,
            {"hid_init": hid_init},
            backwards=backwards,
            learn_init=learn_init,
            gradient_steps=gradient_steps,
            grad_clipping=grad_clipping,
            unroll_scan=unroll_scan,
            precompute_input=precompute_input,
            only_return_final=only_return_final,
            **kwargs,
        )
        self.num_units = num_units
        self._add_gates(num_units, updategate=updategate, resetgate=resetgate, hidden_update=hidden_update)
        self.nonlinearity_updategate = updategate.nonlinearity
        self.nonlinearity_resetgate = resetgate.nonlinearity
        self.nonlinearity_hid = hidden_update.nonlinearity
        self.hid_init = self._add_state("hid_init", hid_init, (num_units,))

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Give the state's shape at each step, or once."""
        return self._output_shape(input_shapes, (self.num_units,))

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Compute the state step by step."""
        x, W_in, W_hid, b = _stacked(self, inputs[0], self._GATES)
        samples = known_or_symbolic_size(x, 1)
        if self.precompute_input:
            x = _at_each_step(lambda rows: pt.dot(rows, W_in) + b, x)

        def step(row: Any, hid: Any, W_hid: Any, *others: Any) -> list[Any]:
            of_state = self._clipped(pt.dot(hid, W_hid))
            row = self._clipped(row)
            if not self.precompute_input:
                W_in, b = others
                row = pt.dot(row, W_in) + b
            r_state, u_state, c_state = _parts(of_state, 3, self.num_units)
            r_row, u_row, c_row = _parts(row, 3, self.num_units)
            r = self.nonlinearity_resetgate(r_row + r_state)
            u = self.nonlinearity_updategate(u_row + u_state)
            c = self.nonlinearity_hid(self._clipped(c_row + r * c_state))
            return [(1 - u) * hid + u * c]

        fixed = [W_hid, *([] if self.precompute_input else [W_in, b])]
        return self._repeat(step, [x], inputs, [self._initial("hid_init", inputs, samples)], fixed)


def _stacked(layer: MergeLayer, x: Any, gates: Sequence[str]) -> tuple[Any, Any, Any, Any]:
    """The input as (steps, n, features), and the gates' parameters side by side: one product is for all of them."""
    W_in, W_hid = (
        pt.concatenate([getattr(layer, f"{kind}_to_{gate}") for gate in gates], axis=1)
        for kind in ("W_in", "W_hid")
    )
    b = pt.concatenate([getattr(layer, f"b_{gate}") for gate in gates])
    return x.flatten(3).dimshuffle(1, 0, 2), W_in, W_hid, b


def _parts(x: Any, count: int, units: int) -> list[Any]:
    """What belongs to each gate."""
    return pt.split(x, [units] * count, axis=1)
