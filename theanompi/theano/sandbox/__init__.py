"""Where Theano has its faster random streams."""

from theanompi.theano.sandbox import rng_mrg

__all__ = ["rng_mrg"]
