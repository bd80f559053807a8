"""Scalars of the update, which are combined in double precision before they meet the arrays.

The update is bound by memory, and each multiplication of an array may be one more pass over it.
"""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable


def double(x: Any) -> TensorVariable:
    """`x` as a float64 scalar: PyTensor gives a Python float the dtype of its setting floatX.

    >>> double(0.1).dtype, double(pt.iscalar()).dtype
    ('float64', 'float64')
    """
    return pt.cast(pt.as_tensor_variable(np.float64(x) if isinstance(x, float | int) else x), "float64")


def scalar(x: Any, array: TensorVariable) -> TensorVariable:
    """`x` as it meets `array`: rounded once, to the dtype of that.

    >>> scalar(0.1, pt.fvector()).dtype
    'float32'
    """
    return pt.cast(double(x), array.dtype)
