"""A head of the user's own: what its file may get wrong, what is asked for, and that it is trained and saved."""

import textwrap
from functools import partial

import numpy as np
import pytest

from support.activations import separable_set
from wastetune.backbones.activation_store import Activations
from wastetune.backbones.backbone import load_backbone, nearest_cut
from wastetune.backbones.cuts import TOP
from wastetune.errors import UserError
from wastetune.training.assembly import assemble_model, copy_branch
from wastetune.training.config import TrialConfig
from wastetune.training.custom_head import ask_values, build_custom_head, load_head, rehearse
from wastetune.training.fit import TrainingSet, fit_final, predict_probabilities
from wastetune.training.head_start import fit_head_first
from wastetune.training.learner import open_learner

pytest.importorskip("keras_tuner")

CLASSES = 3
HEAD = """
import keras

def build(hp, features, classes):
    x = features
    kind = hp.Choice("kind", ["plain", "gated"])
    with hp.conditional_scope("kind", ["plain"]):
        if kind == "plain":
            with hp.name_scope("first"):
                x = keras.layers.Dense(hp.Int("units", 8, 32, step=2, sampling="log", default=16), "gelu")(x)
    with hp.conditional_scope("kind", ["gated"]):
        units = hp.Int("gate", 8, 24, step=8)
        if kind == "gated":
            x = keras.layers.Multiply()([keras.layers.Dense(units)(x), keras.layers.Dense(units, "sigmoid")(x)])
            x = keras.layers.Dropout(hp.Float("rate", 0.0, 0.5))(x)
    if hp.Boolean("norm", default=True):
        x = keras.layers.BatchNormalization()(x)
    return keras.layers.Dense(classes, use_bias=hp.Fixed("bias", True))(x)
"""


@pytest.fixture
def write(tmp_path):
    def write_head(text, name="my_head.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return tmp_path

    return write_head


@pytest.fixture
def head(write):
    return rehearse(load_head("my_head.py:build", write(HEAD)), 6, CLASSES)


def returning(line):
    return f"import keras\nlayers = keras.layers\n\n\ndef build(hp, features, classes):\n    {line}\n"


@pytest.mark.parametrize(
    ("reference", "text", "sentence"),
    [
        ("my_head.py", HEAD, r'a Python file and a function in it, such as "my_head\.py:build"'),
        ("my_head:build", HEAD, "a Python file and a function in it"),
        ("your_head.py:build", HEAD, r"your_head\.py cannot be read: No such file"),
        ("my_head.py:bild", HEAD, r"my_head\.py has no function 'bild'; did you mean build\?"),
        ("my_head.py:keras", "import keras", "has no function 'keras'; define it there"),
        (
            "my_head.py:build",
            "x = 1\ndef build(:\n",
            "cannot be imported: line 2: SyntaxError: invalid syntax",
        ),
        (
            "my_head.py:build",
            "import nowhere_at_all",
            "cannot be imported: line 1: ModuleNotFoundError: No module",
        ),
        ("my_head.py:build", "import sys\nsys.exit(3)", "cannot be imported: line 2: SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(write, reference, text, sentence):
    with pytest.raises(UserError, match=sentence):
        load_head(reference, write(text))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("return hp.Int('units', 4, 2)", r"build raised line 6: ValueError: For HyperParameters\.Int\(name='units'\)"),
        ("layers.Dense(classes)(features)", "build returned nothing; return the Keras tensor of the last layer"),
        ("return keras.Sequential([layers.Dense(classes)])", "build returned a Sequential; return the Keras tensor"),
        ("return layers.Dense(5)(features)", r"shape \(None, 5\); for 3 classes it must be \(None, 3\)"),
        ("return layers.Dense(classes, activation='softmax')(features)", "returned probabilities, but .* need logits"),
        ("return keras.ops.softmax(layers.Dense(classes)(features))", "leave the softmax or sigmoid of the last layer"),
        ("return layers.Dense(classes, activation='sigmoid')(features)", "returned probabilities"),
        ("return layers.Dense(classes)(keras.Input((6,)))", "a tensor that is not made from `features`"),
        ("return layers.Lambda(lambda x: x[:, :3], output_shape=(3,))(features)", "uses a lambda, which a saved"),
        (
            "return layers.Dense(classes if hp.Choice('kind', ['a', 'b']) == 'a' else 2)(features)",
            r"shape \(None, 2\); .* \(with kind = b\)",
        ),
        (
            "return 1 / 0 if hp.Int('units', 8, 20, step=8) == 16 else layers.Dense(classes)(features)",
            r"build raised line 6: ZeroDivisionError: division by zero \(with units = 16\)",
        ),
        (
            "return layers.Dense(classes, use_bias=hp.Boolean('b?'))(features)",
            r"the name 'b\?' of a hyperparam",
        ),
    ],
)
def test_a_function_that_gives_no_head_is_one_sentence_before_any_trial(write, line, sentence):
    file = load_head("my_head.py:build", write(returning(line)))
    with pytest.raises(UserError, match=sentence) as raised:
        rehearse(file, 6, CLASSES)
    assert str(file.path) in str(raised.value)


def test_classes_of_the_user_are_refused_because_a_saved_model_would_need_them(write):
    text = """
    import keras

    @keras.saving.register_keras_serializable()
    class Mine(keras.layers.Layer):
        def call(self, x):
            return x

    def swish(x):
        return x * keras.ops.sigmoid(x)

    def with_layer(hp, features, classes):
        return keras.layers.Dense(classes)(Mine()(features))

    def with_function(hp, features, classes):
        return keras.layers.Dense(classes)(keras.layers.Dense(4, activation=swish)(features))

    def with_operation(hp, features, classes):
        return keras.layers.Dense(classes, kernel_initializer="zeros")(swish(features))
    """
    for name, found in (("with_layer", "uses the class Mine"), ("with_function", "uses the function swish")):
        with pytest.raises(UserError, match=found):
            rehearse(load_head(f"my_head.py:{name}", write(text)), 6, CLASSES)
    # A function of Keras's operations becomes a part of the graph; and zeros are logits.
    rehearse(load_head("my_head.py:with_operation", write(text)), 6, CLASSES)


def test_the_rehearsal_finds_what_stands_in_every_scope(head):
    names = [asked.name for asked in head.hyperparameters]
    assert names == ["kind", "first/units", "gate", "norm", "bias", "rate"]


def test_only_what_is_active_is_asked_for_and_each_once(head):
    asked = []

    def answer(hp):
        asked.append(hp.name)
        return {"kind": "gated"}.get(hp.name, hp.default)

    values = ask_values(head, answer)
    assert asked == ["kind", "gate", "rate", "norm"]
    assert values == {
        "head": "my_head.py:build",
        "head.kind": "gated",
        "head.gate": 8,
        "head.rate": 0.0,
        "head.norm": True,
        "head.bias": True,
    }


def test_a_configuration_has_the_parameters_as_keys_and_reads_them_again(head):
    rest = {"learning_rate": 0.01, "batch_size": 8, "epochs": 2}
    config = TrialConfig.model_validate(ask_values(head, lambda asked: asked.default) | rest)
    stored = config.model_dump()
    assert {key: value for key, value in stored.items() if key.startswith("head")} == {
        "head": "my_head.py:build",
        "head.kind": "plain",
        "head.first/units": 16,
        "head.norm": True,
        "head.bias": True,
    }
    assert "dropout" not in stored
    assert TrialConfig.model_validate(stored) == config
    own = TrialConfig(head_layers=0, dropout=0.1, **rest).model_dump()
    assert not {"head", "head_params"} & own.keys()


def configuration(head, kind, **changes):
    values = ask_values(head, lambda asked: {"kind": kind}.get(asked.name, asked.default))
    rest = {"learning_rate": 0.02, "batch_size": 16, "epochs": 8}
    return TrialConfig.model_validate(values | rest | changes)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("mobilenet_v3_small_minimalistic", "none", size=32)


def test_heads_are_trained_and_saved_behind_one_trunk_without_their_file(backbone, write, tmp_path):
    import keras

    size = int(backbone.body.output.shape[1])
    head = rehearse(load_head("my_head.py:build", write(HEAD)), size, CLASSES)
    build = partial(build_custom_head, head.file)
    labels = np.repeat(np.arange(CLASSES), 16)
    inputs = (np.random.default_rng(1).normal(0, 1, (48, size)) + 4 * np.eye(size)[labels]).astype(np.float32)
    train = TrainingSet((Activations((inputs,)),), labels, CLASSES)
    branches, said = [], []
    for kind in ("plain", "gated"):
        config = configuration(head, kind, head_start="fitted")
        fits = []
        for _ in range(2):
            with open_learner(backbone, TOP, config, CLASSES, horizon=24, seed=3, build=build) as learner:
                fit_head_first(learner, train, config, seed=3, build=build)  # there is nothing to start: no tail
                fit_final(learner, train, config=config, steps=24, seed=3)
                fits.append(predict_probabilities(learner, train.views[0]))
        branches.append(copy_branch(TOP, learner))
        said.append(np.asarray(learner.predict_on_batch(inputs)))
        assert (fits[0].argmax(axis=1) == labels).mean() > 0.9
        np.testing.assert_array_equal(fits[0], fits[1])  # the seed decides
    for branch, logits in zip(branches, said, strict=True):
        np.testing.assert_allclose(np.asarray(branch.model(inputs)), logits, atol=1e-4)
    model = assemble_model(backbone, branches, 1.5)
    model.save(tmp_path / "model.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    (tmp_path / "my_head.py").unlink()
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(np.asarray(loaded(pixels)), np.asarray(model(pixels)), atol=1e-6)


def test_a_fitted_start_gives_the_head_what_it_learnt_alone(backbone, write):
    cut, size = nearest_cut(backbone, 0.9), int(backbone.body.output.shape[1])
    head = rehearse(load_head("my_head.py:build", write(HEAD)), size, CLASSES)
    build = partial(build_custom_head, head.file)
    train = separable_set(CLASSES)
    right = {}
    for start in ("random", "fitted"):
        config = configuration(head, "gated", head_start=start)
        with open_learner(backbone, cut, config, CLASSES, horizon=9, seed=0, build=build) as learner:
            fit_head_first(learner, train, config, seed=0, build=build)
            right[start] = (predict_probabilities(learner, train.views[0]).argmax(axis=1) == train.labels).mean()
    assert right["fitted"] > 0.8 > right["random"]


def test_a_function_that_asks_for_something_else_later_is_told(head):
    import keras

    config = configuration(head, "plain")
    without = config.model_copy(update={"head_params": {"kind": "gated"}})
    with pytest.raises(UserError, match="asks for 'gate' now, and did not when the trial was proposed"):
        build_custom_head(head.file, keras.Input((6,)), without, CLASSES)
