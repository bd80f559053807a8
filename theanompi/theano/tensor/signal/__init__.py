"""Where Theano pools."""

from theanompi.theano.tensor.signal import downsample, pool

__all__ = ["downsample", "pool"]
