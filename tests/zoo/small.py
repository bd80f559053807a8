"""The networks of the zoo with few filters, for pictures of few pixels: what the tests and a benchmark train."""

from theanompi.models.alex_net import AlexNet
from theanompi.models.cifar10 import Cifar10_model
from theanompi.models.densenet import DenseNet121, DenseNet169, DenseNet201, DenseNetCifar
from theanompi.models.googlenet import GoogLeNet
from theanompi.models.googlenet_bn import GoogLeNetBN
from theanompi.models.inception_v3 import InceptionV3
from theanompi.models.nin import NIN
from theanompi.models.one_tower import AlexNetOneTower
from theanompi.models.resnet import ResNet18, ResNet34, ResNet101, ResNet152
from theanompi.models.resnet50 import ResNet50
from theanompi.models.resnet_cifar import ResNetCifar
from theanompi.models.vgg import VGG11, VGG13, VGG16, VGG19
from theanompi.models.wide_resnet import Wide_ResNet


class SmallAlexNet(AlexNet):
    architecture = {"width": 8, "hidden": 256}


class SmallAlexNetOneTower(AlexNetOneTower):
    architecture = {"width": 4, "hidden": 128}


class SmallCifar10(Cifar10_model):
    architecture = {"width": 16}


class SmallDenseNet(DenseNet121):
    architecture = {"blocks": (1, 2, 1), "growth": 8}


class SmallDenseNet169(DenseNet169):
    architecture = {"blocks": (6, 12, 32, 32), "growth": 4}


class SmallDenseNet201(DenseNet201):
    architecture = {"blocks": (6, 12, 48, 32), "growth": 4}


class SmallDenseNetCifar(DenseNetCifar):
    architecture = {"blocks": (1, 2, 1), "growth": 8, "small": True}


class SmallGoogLeNet(GoogLeNet):
    architecture = {"divisor": 8}


class SmallGoogLeNetBN(GoogLeNetBN):
    architecture = {"divisor": 16}


class SmallInceptionV3(InceptionV3):
    architecture = {"divisor": 16}


class SmallNIN(NIN):
    architecture = {"width": 4}


class SmallResNet18(ResNet18):
    architecture = {"depth": 18, "width": 8}


class SmallResNet34(ResNet34):
    architecture = {"depth": 34, "width": 8}


class SmallResNet50(ResNet50):
    architecture = {"depth": 50, "width": 4}


class SmallResNet101(ResNet101):
    architecture = {"depth": 101, "width": 4}


class SmallResNet152(ResNet152):
    architecture = {"depth": 152, "width": 4}


class SmallResNetCifar(ResNetCifar):
    architecture = {"width": 8}


class SmallVGG(VGG11):
    architecture = {"configuration": "A", "width": 8, "hidden": 128}


class SmallVGG13(VGG13):
    architecture = {"configuration": "B", "width": 8, "hidden": 128}


class SmallVGG16(VGG16):
    architecture = {"configuration": "D", "width": 8, "hidden": 128}


class SmallVGG19(VGG19):
    architecture = {"configuration": "E", "width": 8, "hidden": 128}


class SmallWideResNet(Wide_ResNet):
    architecture = {"depth": 10, "width": 1}
