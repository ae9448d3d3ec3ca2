"""Small backbones of one's own with random weights: a Keras model, the same as ONNX, and one of KerasHub."""

import numpy as np


def small_model(size=32, *, rescale=True, classes=5, seed=0):
    """Pictures to five classes: a model in a model, with a residual block, frozen as many are saved."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    pixels = keras.Input((size, size, 3), name="input_layer")
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(pixels)
    x = layers.ReLU(name="stem_relu")(x)
    y = layers.Conv2D(8, 3, padding="same", name="first")(x)
    y = layers.BatchNormalization(name="norm")(y)
    x = layers.Add(name="block_out")([x, layers.ReLU(name="relu")(y)])
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="last")(x)
    inner = keras.Model(pixels, x, name="inner")
    inner.trainable = False
    outside = keras.Input((size, size, 3), name="input_layer")
    x = layers.Rescaling(1 / 127.5, -1.0)(outside) if rescale else outside
    x = layers.GlobalAveragePooling2D(name="pool")(inner(x, training=False))
    x = layers.Dropout(0.2, name="relu")(x)  # a name that is taken inside
    return keras.Model(outside, layers.Dense(classes, "softmax", name="predictions")(x))


def features_of(model):
    """Its features, below dropout and dense layer."""
    import keras

    return keras.Model(model.input, model.get_layer("pool").output)


def save_onnx(file, *, size=8, opset=17, channels_first=True, dense=True, batch="n", pool=True):
    """A convolution with ReLU, its mean and a dense layer as PyTorch exports them, or without channels first."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    drawn = np.random.default_rng(0)
    weights = {
        "w": drawn.normal(0, 0.3, (6, 3, 3, 3)).astype(np.float32),
        "g": drawn.normal(size=(6, 4)).astype(np.float32),
    }
    shape = [batch, 3, size, size] if channels_first else [batch, size, size, 3]
    nodes, name = [], "x"
    if not channels_first:
        nodes.append(helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]))
        name = "planes"
    nodes += [
        helper.make_node("Conv", [name, "w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["map"], name="relu"),
    ]
    end, dims = "map", [batch, 6, size, size]
    if not channels_first:
        nodes.append(helper.make_node("Transpose", ["map"], ["last"], perm=[0, 2, 3, 1]))
        end, dims = "last", [batch, size, size, 6]
    if pool:
        nodes += [helper.make_node("GlobalAveragePool", ["map"], ["p"]), helper.make_node("Flatten", ["p"], ["flat"])]
        end, dims = "flat", [batch, 6]
    if dense:
        nodes.append(helper.make_node("Gemm", ["flat", "g"], ["logits"]))
        end, dims = "logits", [batch, 4]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, dims)],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(file))
    return weights


def save_dinov2(folder, size=32):
    """A DINOv2 of three layers as a preset of KerasHub, with its preprocessing."""
    import keras_hub

    backbone = keras_hub.models.DINOV2Backbone(
        patch_size=8,
        num_layers=3,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        image_shape=(size, size, 3),
        position_embedding_shape=(size, size),
    )
    backbone.save_to_preset(str(folder))
    converter = keras_hub.layers.DINOV2ImageConverter(image_size=(size, size), scale=1 / 127.5, offset=-1.0)
    converter.save_to_preset(str(folder))
    return backbone
