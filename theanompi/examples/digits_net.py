"""A network so small that hundreds of trainings take minutes, for comparisons of many workers."""

from theanompi import Model
from theanompi.lasagne.init import HeNormal
from theanompi.lasagne.layers import Conv2DLayer, DenseLayer, InputLayer, Layer, MaxPool2DLayer
from theanompi.lasagne.nonlinearities import softmax


class DigitsNet(Model):
    """A convolution and a hidden layer, without batch normalisation: rules differ in nothing but the weights."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        net: Layer = InputLayer(input_shape)
        net = Conv2DLayer(net, 16, 3, W=HeNormal("relu"), name="conv")
        net = MaxPool2DLayer(net, 2)
        net = DenseLayer(net, 64, W=HeNormal("relu"), name="hidden")
        return DenseLayer(net, num_classes, W=HeNormal(), nonlinearity=softmax, name="scores")
