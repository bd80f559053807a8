"""Functions that Lasagne keeps beside Theano's own."""

from theanompi.lasagne.theano_extensions import conv, padding

__all__ = ["conv", "padding"]
