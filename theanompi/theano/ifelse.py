"""The conditional that computes one of its branches, as ``from theano.ifelse import ifelse``."""

from theanompi.device.versions import ifelse

__all__ = ["ifelse"]
