"""Graph rewrites of our mode: batch normalisation with the sum and the rectifier after it as one node, or written out.

Each gives what replaces what. They are registered under tags of their own, so that no other mode of PyTensor's meets
ops that only torch can compute.
"""

import math

from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.features import ReplaceValidate
from pytensor.graph.fg import FunctionGraph, Output
from pytensor.graph.rewriting.basic import GraphRewriter, in2out, node_rewriter
from pytensor.graph.traversal import ancestors
from pytensor.scalar.basic import Add, Mul, TrueDiv
from pytensor.tensor.basic import Alloc, cast
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.type import TensorType, discrete_dtypes

from theanompi.device.buffers import BUCKET, adjacent
from theanompi.device.ops.activation import Relu, ReluGrad
from theanompi.device.ops.base import TorchOp
from theanompi.device.ops.conv import Convolution, ConvolutionGrad
from theanompi.device.ops.fused import (
    BiasedRelu,
    BiasedReluGrad,
    BlockEnd,
    JoinedBatchNormGrad,
    NormalizedCrop,
    PooledBatchNorm,
    PooledBatchNormGrad,
)
from theanompi.device.ops.image import CropResize
from theanompi.device.ops.norm import BatchNorm, BatchNormGrad, Normalize
from theanompi.device.ops.pool import MaxPool, MaxPoolGrad, MaxPoolPlaces, MaxPoolPlacesGrad
from theanompi.device.ops.together import NarrowWeights, WrittenTogether

TAG = "theanompi_fusion"
GPU_TAG = "theanompi_fusion_gpu"
"""Of rewrites for Triton's kernels, which only modes for CUDA devices include."""
BF16_TAG = "theanompi_fusion_bf16"
"""Of what modes for CUDA devices include whose convolutions compute in bfloat16."""
LAUNCH_TAG = "theanompi_fusion_launch"
"""Of what spares kernels their start, which all modes for CUDA devices include."""


def _normalised(fgraph: FunctionGraph, variable: Variable) -> bool:
    """Whether this is the output of a plain batch normalisation that nothing else reads."""
    node = variable.owner
    return (
        node is not None
        and isinstance(node.op, BatchNorm)
        and variable is node.outputs[0]
        and len(node.inputs) == 3
        and not node.op.rectify
        and len(fgraph.clients[variable]) == 1
    )


def _depends(variable: Variable, node: Apply) -> bool:
    return any(v.owner is node for v in ancestors([variable]))


@node_rewriter([Relu])
def rectify_normalised(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """relu(batch_norm(x)) and relu(batch_norm(x) + residual) as one node.

    Examples
    --------
    >>> import pytensor, pytensor.tensor as pt
    >>> from theanompi.device import mode, ops
    >>> x = pt.tensor("x", dtype="float32", shape=(8, 16))
    >>> y, _, _ = ops.batch_norm(x, pt.ones(16, "float32"), pt.zeros(16, "float32"))
    >>> f = pytensor.function([x], ops.relu(y + x), mode=mode("cpu"))
    >>> [str(node.op) for node in f.maker.fgraph.toposort()]
    ['BatchNorm{epsilon=1e-05, rectify=True}']
    """
    (total,) = node.inputs
    normalised = total
    residual: tuple[Variable, ...] = ()
    if total.owner is not None and isinstance(total.owner.op, Elemwise):
        terms = total.owner.inputs
        if type(total.owner.op.scalar_op) is not Add or len(terms) != 2 or len(fgraph.clients[total]) != 1:
            return None
        # Shapes that are only known later might be broadcast.
        if None in total.type.shape or any(term.type != total.type for term in terms):
            return None
        normalised = next((term for term in terms if _normalised(fgraph, term)), total)
        residual = tuple(term for term in terms if term is not normalised)
    if not _normalised(fgraph, normalised):
        return None
    norm = normalised.owner
    if any(_depends(r, norm) for r in residual):
        return None
    y, mean, inv_std = BatchNorm(norm.op.epsilon, rectify=True)(*norm.inputs, *residual)
    return {node.outputs[0]: y, norm.outputs[1]: mean, norm.outputs[2]: inv_std}


@node_rewriter([BatchNormGrad])
def rectified_gradient(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """The rectifier's gradient, as a part of that of the batch normalisation before it.

    Examples
    --------
    >>> import pytensor, pytensor.tensor as pt
    >>> from theanompi.device import mode, ops
    >>> x = pt.tensor("x", dtype="float32", shape=(8, 16))
    >>> y, _, _ = ops.batch_norm(x, pt.ones(16, "float32"), pt.zeros(16, "float32"))
    >>> f = pytensor.function([x], pytensor.grad((ops.relu(y) ** 2).sum(), x), mode=mode("cpu"))
    >>> [str(node.op) for node in f.maker.fgraph.toposort()]
    ['BatchNorm{epsilon=1e-05, rectify=True}', 'Composite{...}', 'BatchNormGrad{epsilon=1e-05}']
    """
    g, *others = node.inputs
    if g.owner is None or not isinstance(g.owner.op, ReluGrad) or len(others) != 4:
        return None
    gy, y = g.owner.inputs
    if y.type != others[0].type or any(_depends(v, g.owner) for v in others):
        return None
    gradients = BatchNormGrad(node.op.epsilon)(gy, *others, y)
    return dict(zip([*node.outputs, g], gradients, strict=True))


@node_rewriter([Normalize])
def written_out(fgraph: FunctionGraph, node: Apply) -> list[Variable]:
    """Normalisation by given statistics as element-wise nodes."""
    return [node.op.written_out(*node.inputs)]


@node_rewriter([Relu])
def biased_relu(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """A rectifier with the bias that is added before it, and their gradients as one node too."""
    (total,), (y,) = node.inputs, node.outputs
    added = total.owner
    if added is None or not isinstance(added.op, Elemwise) or type(added.op.scalar_op) is not Add:
        return None
    by_channel = ("x", 0, *("x",) * (total.type.ndim - 2))
    biases = [v for v in added.inputs if v.owner is not None and isinstance(v.owner.op, DimShuffle)]
    biases = [v for v in biases if v.owner.op.new_order == by_channel and v.owner.inputs[0].type.ndim == 1]
    others = [v for v in added.inputs if v not in biases]
    known = None not in total.type.shape and 0 not in total.type.shape and total.type.dtype == "float32"
    if not known or len(biases) != 1 or len(others) != 1 or len(fgraph.clients[total]) != 1:
        return None
    (bias,) = biases[0].owner.inputs
    if (
        others[0].type != total.type
        or bias.type.shape != total.type.shape[1:2]
        or bias.type.dtype != "float32"
    ):
        return None
    new_y = BiasedRelu()(others[0], bias)
    replaced = {y: new_y}
    sums = tuple(axis for axis in range(total.type.ndim) if axis != 1)
    for pulled, i in fgraph.clients[y]:
        if i != 1 or not isinstance(pulled.op, ReluGrad):
            continue
        g = pulled.outputs[0]
        of_bias = [n.outputs[0] for n, _ in fgraph.clients[g] if isinstance(n.op, Sum) and n.op.axis == sums]
        if of_bias:
            new_g, g_bias = BiasedReluGrad()(pulled.inputs[0], new_y)
            replaced |= {g: new_g, of_bias[0]: g_bias}
    return replaced


@node_rewriter([BatchNorm])
def block_end(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """A rectified normalisation with a residual as a node that keeps bits for its gradient, and normalises that too."""
    if not node.op.rectify or len(node.inputs) != 4 or node.inputs[0].dtype != "float32":
        return None
    *own, residual = node.inputs
    if _normalised(fgraph, residual):
        second = residual.owner
        *new, _ = BlockEnd(node.op.epsilon, second.op.epsilon)(*own, *second.inputs, return_list=True)
        return dict(zip([*node.outputs, *second.outputs[1:]], new, strict=True))
    *new, _ = BlockEnd(node.op.epsilon)(*node.inputs, return_list=True)
    return dict(zip(node.outputs, new, strict=True))


@node_rewriter([BatchNormGrad])
def joined_gradient(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """The sum of two cotangents, as a part of the gradient; the rectifier's output is not read where it need not be."""
    if len(node.inputs) != 6 or node.inputs[1].dtype != "float32":
        return None
    gy, *own, y = node.inputs
    terms, mask, passed = [gy], "y", y
    if y.owner is not None and isinstance(y.owner.op, BlockEnd):
        mask, passed = "bits", y.owner.outputs[-1]
    elif _is_of(y.owner, *own):
        mask, passed = "beta", y.owner.inputs[2]
    total = gy.owner
    if total is not None and isinstance(total.op, Elemwise) and type(total.op.scalar_op) is Add:
        alike = None not in gy.type.shape and all(term.type == gy.type for term in total.inputs)
        if alike and len(total.inputs) == 2 and len(fgraph.clients[gy]) == 1:
            terms = total.inputs
    if total is not None and isinstance(total.op, Alloc) and None not in gy.type.shape:
        # The same for all pixels, as of their mean: not written out before it is read.
        if total.inputs[0].type.ndim == gy.type.ndim and total.inputs[0].type.dtype == gy.type.dtype:
            terms = total.inputs[:1]
    if mask == "y" and len(terms) == 1:
        return None
    op = JoinedBatchNormGrad(mask, joined=len(terms) == 2)
    return dict(zip(node.outputs, op(terms[0], *own, passed, *terms[1:]), strict=True))


def _is_of(norm: Apply | None, x: Variable, gamma: Variable, mean: Variable, inv_std: Variable) -> bool:
    """Whether a node is the rectified normalisation of `x` to which the others belong, without a residual."""
    return (
        norm is not None
        and isinstance(norm.op, BatchNorm)
        and len(norm.inputs) == 3
        and norm.inputs[:2] == [x, gamma]
        and norm.outputs[1:] == [mean, inv_std]
    )


@node_rewriter([BatchNormGrad])
def gradients_of_both(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """The gradient of a normalised residual, as a part of that of what it is added to."""
    g, *second = node.inputs
    first = g.owner
    if first is None or not isinstance(first.op, JoinedBatchNormGrad) or g is not first.outputs[3]:
        return None
    alike = second[0].type == first.inputs[1].type and len(second) == 4
    if first.op.projected or not alike or len(fgraph.clients[g]) != 1:
        return None
    op = JoinedBatchNormGrad(first.op.mask, first.op.joined, projected=True)
    gx, g_gamma, g_beta, gx2, g_gamma2 = op(*first.inputs, *second)
    replaced = [*first.outputs[:3], *node.outputs]
    return dict(zip(replaced, (gx, g_gamma, g_beta, gx2, g_gamma2, g_beta), strict=True))


@node_rewriter([MaxPool])
def small_places(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """Maximum pooling that keeps the places of the maxima in 8 bits, where only its gradient asks for them."""
    (x,), (y, indices) = node.inputs, node.outputs
    readers = [reader for reader, _ in fgraph.clients[indices]]
    fits = node.op.axes == 2 and x.dtype == "float32" and math.prod(node.op.size) <= 127
    if not fits or not all(isinstance(reader.op, MaxPoolGrad) for reader in readers):
        return None
    new_y, places = MaxPoolPlaces(*node.op.geometry)(x, return_list=True)
    replaced = {y: new_y}
    for reader in readers:
        replaced[reader.outputs[0]] = MaxPoolPlacesGrad(*node.op.geometry)(x, places, reader.inputs[2])
    return replaced


@node_rewriter([MaxPoolPlaces])
def pooled_normalisation(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable] | None:
    """Maximum pooling with the rectified normalisation before it, where nothing else reads what is pooled."""
    (pooled,) = node.inputs
    norm = pooled.owner
    if norm is None or not isinstance(norm.op, BatchNorm) or not norm.op.rectify or len(norm.inputs) != 3:
        return None
    geometry = node.op.geometry
    y, mean, inv_std, places = PooledBatchNorm(norm.op.epsilon, *geometry)(*norm.inputs, return_list=True)
    replaced = dict(zip([*node.outputs, *norm.outputs[1:]], (y, places, mean, inv_std), strict=True))
    x, gamma, beta = norm.inputs
    for pulled, _ in fgraph.clients[pooled]:
        if pulled is node:
            continue
        readers = fgraph.clients[pulled.outputs[0]] if isinstance(pulled.op, MaxPoolPlacesGrad) else []
        grad = readers[0][0] if len(readers) == 1 else None
        if grad is None or not isinstance(grad.op, JoinedBatchNormGrad) or grad.op.mask != "beta":
            return None
        own = grad.inputs == [pulled.outputs[0], x, gamma, *norm.outputs[1:], beta]
        if not own or fgraph.clients[grad.outputs[3]]:
            return None
        made = PooledBatchNormGrad(*geometry)(pulled.inputs[2], x, gamma, beta, mean, inv_std, places)
        replaced |= zip(grad.outputs, made, strict=False)
    return replaced


def _by_channel(fgraph: FunctionGraph, images: Variable, kind: type) -> tuple[Variable, Variable] | None:
    """What images become, if all that reads them adds or multiplies a constant for each channel; and that constant."""
    readers = fgraph.clients[images]
    node = readers[0][0] if len(readers) == 1 else None
    if node is None or not isinstance(node.op, Elemwise) or type(node.op.scalar_op) is not kind:
        return None
    vector = (1, images.type.shape[1], 1, 1)
    others = [v for v in node.inputs if isinstance(v, Constant) and v.type.shape == vector]
    alike = (
        len(node.inputs) == 2 and len(others) == 1 and node.outputs[0].dtype == others[0].dtype == "float32"
    )
    return (node.outputs[0], others[0]) if alike else None


@node_rewriter([CropResize])
def crop_in_one_pass(fgraph: FunctionGraph, node: Apply) -> dict[Variable, Variable]:
    """The crop by one kernel, with the normalisation after it, and in 16 bits where only convolutions read it."""
    result, affine = node.outputs[0], list[Variable]()
    scaled = _by_channel(fgraph, result, Mul)
    moved = scaled and _by_channel(fgraph, scaled[0], Add)
    if scaled and moved:
        result, affine = moved[0], [scaled[1], moved[1]]
    narrow = all(isinstance(n.op, Convolution | ConvolutionGrad) for n, _ in fgraph.clients[result])
    return {result: NormalizedCrop(node.op.size, narrow)(*node.inputs, *affine)}


class WeightsNarrowedOnce(GraphRewriter):
    """Filters and matrices that are inputs of the graph are rounded to bfloat16 by one node, for all readers."""

    def add_requirements(self, fgraph: FunctionGraph) -> None:
        fgraph.attach_feature(ReplaceValidate())

    def apply(self, fgraph: FunctionGraph) -> None:
        reading: dict[Variable, list[tuple[Apply, int]]] = {}
        for node in fgraph.toposort():
            for i in self._read(fgraph, node):
                reading.setdefault(node.inputs[i], []).append((node, i))
        weights = [w for w in reading if w.owner is None and w.type.dtype == "float32"]
        if not weights:
            return
        narrow = NarrowWeights()(*weights, return_list=True)
        for w, new in zip(weights, narrow, strict=True):
            for node, i in reading[w]:
                fgraph.change_node_input(node, i, new, reason=type(self).__name__)

    @staticmethod
    def _read(fgraph: FunctionGraph, node: Apply) -> list[int]:
        """Which inputs of a node it rounds itself, if they are not narrow."""
        if isinstance(node.op, Convolution | ConvolutionGrad):
            return [1]
        if isinstance(node.op, Dot):
            return [i for i, v in enumerate(node.inputs) if not isinstance(v, Constant) and v.type.ndim == 2]
        # A matrix is transposed for the gradient.
        readers = [reader for reader, _ in fgraph.clients[node.outputs[0]]]
        transposed = isinstance(node.op, DimShuffle) and node.op.new_order == (1, 0)
        return [0] if transposed and all(isinstance(reader.op, Dot) for reader in readers) else []


class UpdatesWrittenTogether(GraphRewriter):
    """What is nothing but an update, and small, is written by one node for each bucket of the exchange.

    Gradients with respect to filters, and vectors: gradients and statistics of normalisations, also if they are
    multiplied by a number, gradients with respect to biases.
    """

    def add_requirements(self, fgraph: FunctionGraph) -> None:
        fgraph.attach_feature(ReplaceValidate())

    def apply(self, fgraph: FunctionGraph) -> None:
        mapping: dict[int, int] = fgraph.update_mapping or {}
        targets = {k: fgraph.inputs[i].type for k, i in sorted(mapping.items())}
        places = [k for k, t in targets.items() if isinstance(t, TensorType) and None not in t.shape]
        for bucket in adjacent([targets[k].shape for k in places], BUCKET // 4):
            alike: dict[float, list[tuple[Apply, Variable]]] = {}
            for k in (places[i] for i in bucket):
                value, factor = _times(fgraph.outputs[k])
                end = next(reader for reader, _ in fgraph.clients[fgraph.outputs[k]] if _ends_at(reader, k))
                if self._small(fgraph, value):
                    alike.setdefault(factor, []).append((end, value))
            for factor, pairs in alike.items():
                if len(pairs) < 2:
                    continue
                written = WrittenTogether(len(pairs), factor)(*(v for _, v in pairs), return_list=True)
                for (end, _), new in zip(pairs, written, strict=True):
                    fgraph.change_node_input(end, 0, new, reason=type(self).__name__)

    @staticmethod
    def _small(fgraph: FunctionGraph, value: Variable) -> bool:
        """Whether a value may wait for others: a gradient of filters that nothing else reads, or a vector."""
        node = value.owner
        if node is None or value.type.dtype != "float32":
            return False
        if isinstance(node.op, ConvolutionGrad):
            return value is node.outputs[1] and len(fgraph.clients[value]) == 1
        return value.type.ndim == 1 and isinstance(node.op, TorchOp | Sum)


def _ends_at(reader: Apply, position: int) -> bool:
    """Whether this is what reads the graph's output at `position`."""
    return isinstance(reader.op, Output) and reader.op.idx == position


def _times(value: Variable) -> tuple[Variable, float]:
    """What a value is the product of, if one factor is a number: the other one, and that number."""
    node = value.owner
    if node is not None and isinstance(node.op, Elemwise) and type(node.op.scalar_op) is Mul:
        numbers = [v for v in node.inputs if isinstance(v, Constant) and v.data.size == 1]
        others = [v for v in node.inputs if v not in numbers]
        if len(numbers) == len(others) == 1 and others[0].type == value.type:
            return others[0], float(numbers[0].data.item())
    return value, 1.0


@node_rewriter([Elemwise])
def quotient_of_floats(fgraph: FunctionGraph, node: Apply) -> list[Variable] | None:
    """A quotient of whole numbers with its dtype written out: PyTensor takes that of its setting floatX for it.

    A graph made under another floatX could not be rewritten: each new node with that quotient is of another dtype.

    Examples
    --------
    >>> import pytensor, pytensor.tensor as pt
    >>> from theanompi.device import mode
    >>> x = pt.lvector("x")
    >>> with pytensor.config.change_flags(floatX="float32"):
    ...     share = pt.exp(x / 2)
    >>> f = pytensor.function([x], share, mode=mode("cpu"))
    >>> f([2])
    array([2.7182817], dtype=float32)
    """
    if type(node.op.scalar_op) is not TrueDiv or any(
        v.type.dtype not in discrete_dtypes for v in node.inputs
    ):
        return None
    return [node.op(*(cast(v, node.outputs[0].type.dtype) for v in node.inputs))]


# Before everything that makes nodes anew.
optdb.register("quotient_of_floats", in2out(quotient_of_floats), TAG, position=0.05)
# After what simplifies the graph, before PyTensor's own fusion of element-wise nodes (position 49).
for _rewriter in (rectify_normalised, rectified_gradient, written_out):
    optdb.register(_rewriter.__name__, in2out(_rewriter), TAG, position=48)
# Each finds what those before it have made.
_for_gpus = (
    *(biased_relu, block_end, joined_gradient, gradients_of_both),
    *(small_places, pooled_normalisation),
    crop_in_one_pass,
)
for _number, _rewriter in enumerate(_for_gpus):
    optdb.register(_rewriter.__name__, in2out(_rewriter), GPU_TAG, position=48.5 + _number / 100)
optdb.register("weights_narrowed_once", WeightsNarrowedOnce(), BF16_TAG, position=48.9)
optdb.register("updates_written_together", UpdatesWrittenTogether(), LAUNCH_TAG, position=48.91)
