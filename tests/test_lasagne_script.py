"""A script as people write them for Lasagne runs here after a change of its import lines, and learns.

Everything below the imports is Theano's and Lasagne's way to write it: float64 variables by default, no mode, dropout
and batch normalisation without further ado, `.eval()`.
"""

import numpy as np
import pytensor as theano
import pytensor.tensor as T  # noqa: N812
import pytest

from theanompi import lasagne


def load_dataset(n):
    """Noisy images of four classes: which quadrant is bright."""
    rng = np.random.RandomState(1)
    y = rng.randint(4, size=n).astype("int32")
    X = rng.normal(0, 0.3, size=(n, 1, 8, 8)).astype("float32")  # noqa: N806
    for image, target in zip(X, y, strict=True):
        top, left = 4 * (target // 2), 4 * (target % 2)
        image[0, top : top + 4, left : left + 4] += 1
    return X, y


def build_mlp(input_var=None):
    network = lasagne.layers.InputLayer(shape=(None, 1, 8, 8), input_var=input_var)
    network = lasagne.layers.DropoutLayer(network, p=0.1)
    for _ in range(2):
        network = lasagne.layers.DenseLayer(
            network,
            num_units=32,
            nonlinearity=lasagne.nonlinearities.rectify,
            W=lasagne.init.GlorotUniform(),
        )
        network = lasagne.layers.DropoutLayer(network, p=0.3)
    return lasagne.layers.DenseLayer(network, 4, nonlinearity=lasagne.nonlinearities.softmax)


def build_cnn(input_var=None):
    network = lasagne.layers.InputLayer(shape=(None, 1, 8, 8), input_var=input_var)
    network = lasagne.layers.Conv2DLayer(
        network, num_filters=8, filter_size=(3, 3), nonlinearity=lasagne.nonlinearities.rectify
    )
    network = lasagne.layers.batch_norm(network)
    network = lasagne.layers.MaxPool2DLayer(network, pool_size=(2, 2))
    network = lasagne.layers.DenseLayer(lasagne.layers.dropout(network, p=0.2), num_units=32)
    return lasagne.layers.DenseLayer(
        lasagne.layers.dropout(network, p=0.2), num_units=4, nonlinearity=lasagne.nonlinearities.softmax
    )


def iterate_minibatches(inputs, targets, batchsize, shuffle=False):
    indices = np.arange(len(inputs))
    if shuffle:
        np.random.shuffle(indices)  # noqa: NPY002
    for start in range(0, len(inputs) - batchsize + 1, batchsize):
        excerpt = indices[start : start + batchsize]
        yield inputs[excerpt], targets[excerpt]


def main(build, num_epochs):
    lasagne.random.set_rng(np.random.RandomState(1))
    np.random.seed(1)  # noqa: NPY002
    X_train, y_train = load_dataset(160)  # noqa: N806
    input_var = T.tensor4("inputs")
    target_var = T.ivector("targets")
    network = build(input_var)

    prediction = lasagne.layers.get_output(network)
    loss = lasagne.objectives.categorical_crossentropy(prediction, target_var).mean()
    loss = loss + 1e-4 * lasagne.regularization.regularize_network_params(network, lasagne.regularization.l2)
    params = lasagne.layers.get_all_params(network, trainable=True)
    updates = lasagne.updates.nesterov_momentum(loss, params, learning_rate=0.05, momentum=0.9)

    test_prediction = lasagne.layers.get_output(network, deterministic=True)
    test_loss = lasagne.objectives.categorical_crossentropy(test_prediction, target_var).mean()
    test_acc = T.mean(T.eq(T.argmax(test_prediction, axis=1), target_var), dtype=theano.config.floatX)

    train_fn = theano.function([input_var, target_var], loss, updates=updates)
    val_fn = theano.function([input_var, target_var], [test_loss, test_acc])

    train_err = []
    for _ in range(num_epochs):
        batches = iterate_minibatches(X_train, y_train, 40, shuffle=True)
        train_err.append(np.mean([train_fn(inputs, targets) for inputs, targets in batches]))
    val_err, val_acc = val_fn(*load_dataset(160))

    probabilities = test_prediction.eval({input_var: X_train[:3]})
    values = lasagne.layers.get_all_param_values(network)
    return train_err, float(val_err), float(val_acc), probabilities, values


@pytest.mark.parametrize("build", [build_mlp, build_cnn])
def test_the_script_learns_and_does_the_same_again(build):
    train_err, val_err, val_acc, probabilities, values = main(build, num_epochs=6)
    assert train_err[-1] < 0.5 * train_err[0]
    assert val_acc > 0.95
    assert val_err < 0.4
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert {value.dtype for value in values} == {np.dtype("float32")}
    *_, again = main(build, num_epochs=6)
    for value, other in zip(values, again, strict=True):
        np.testing.assert_array_equal(value, other)
