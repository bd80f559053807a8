"""ResNet-50: see `theanompi.models.resnet`."""

from theanompi.models.resnet import EPSILON, ResNet50, bottleneck, build_model, convolution, rectified

__all__ = ["EPSILON", "ResNet50", "bottleneck", "build_model", "convolution", "rectified"]
