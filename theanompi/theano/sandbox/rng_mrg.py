"""The name of Theano's random streams for GPUs; here all draw on the device."""

from theanompi.theano.tensor.shared_randomstreams import RandomStreams

__all__ = ["MRG_RandomStreams"]

MRG_RandomStreams = RandomStreams
