"""A Wasserstein GAN (Arjovsky et al. 2017, arXiv 1701.07875) of points, with a penalty in the place of clipping."""

from theanompi import Model, Objective
from theanompi.data import Arrays
from theanompi.device.ops import normal
from theanompi.lasagne.layers import DenseLayer, InputLayer, get_all_params, get_output
from theanompi.lasagne.nonlinearities import tanh
from theanompi.training.optimizers import get_optimizer


class WGAN(Model):
    """Three updates of the critic for each of the generator, which has an optimizer of its own."""

    modality = Arrays
    defaults = {"batch_size": 8, "epochs": 2, "base_lr": 0.02, "base_batch": 8, "weight_decay": 0.0}

    def build(self, batch):
        n, width = batch["x"].type.shape
        generator = DenseLayer(InputLayer((n, 4)), 16, nonlinearity=tanh, name="generator1")
        critic = DenseLayer(InputLayer((n, width)), 16, nonlinearity=tanh, name="critic1")
        return {
            "generator": DenseLayer(generator, width, nonlinearity=None, name="generator2"),
            "critic": DenseLayer(critic, 1, nonlinearity=None, name="critic2"),
        }

    def objectives(self, batch, training):
        generator, critic = self.network["generator"], self.network["critic"]
        made = get_output(generator, normal(batch["keys"], (4,), salt=1))
        real, fake = (get_output(critic, points)[:, 0] for points in (batch["x"], made))
        return [
            Objective(
                fake - real + 0.1 * (fake**2 + real**2),
                params=get_all_params(critic, trainable=True),
                metrics={"distance": real - fake},
                name="critic",
            ),
            Objective(
                -fake, params=get_all_params(generator, trainable=True), name="generator", every=3, rate=0.5
            ),
        ]

    def optimizer(self, objective):
        return get_optimizer({"critic": "rmsprop", "generator": "adam"}[objective.name])(self.config)
