"""A classifier with an auxiliary one half way, as GoogLeNet has them (Szegedy et al. 2014, arXiv 1409.4842)."""

from theanompi import Model, Objective, classification
from theanompi.data import Arrays
from theanompi.lasagne.layers import DenseLayer, InputLayer, get_output
from theanompi.lasagne.nonlinearities import softmax, tanh


class TwoHeads(Model):
    """Fields of the data: x (features), labels. Both heads count in training, one in validation."""

    modality = Arrays
    defaults = {"batch_size": 8, "epochs": 2, "base_lr": 0.1, "base_batch": 8}

    def build(self, batch):
        classes = self.dataset.n_classes
        lower = DenseLayer(InputLayer(batch["x"].type.shape), 12, nonlinearity=tanh, name="lower")
        upper = DenseLayer(lower, 12, nonlinearity=tanh, name="upper")
        return {
            "main": DenseLayer(upper, classes, nonlinearity=softmax, name="main"),
            "aux": DenseLayer(lower, classes, nonlinearity=softmax, name="aux"),
        }

    def objectives(self, batch, training):
        main, aux = get_output([self.network["main"], self.network["aux"]], batch["x"])
        main, aux = (classification(scores, batch["labels"]) for scores in (main, aux))
        loss = main.loss + 0.3 * aux.loss if training else main.loss
        return Objective(loss, metrics={"error": main.metrics["error"], "error_aux": aux.metrics["error"]})
