"""Runtimes: which one is taken, that they agree, and what happens when one fails."""

import signal
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from wastetune.backbones import runtime
from wastetune.backbones.backbone import activation_shape, load_backbone, nearest_cut
from wastetune.backbones.cuts import TOP
from wastetune.backbones.runtime import choose_runtime, open_trunk, time_pictures
from wastetune.data.image import read_picture, resize_picture
from wastetune.errors import UserError
from wastetune.signals import raise_on_signals

pytestmark = pytest.mark.slow

SIZE = 32
# Of the largest activation. The store's float16 keeps 5e-4, so what runs the trunk is not seen in it.
AGREEMENT = 1e-5

# Found, not imported: that is left to wastetune, which keeps its telemetry from a process and a request per conversion.
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed: pip install openvino")


@pytest.fixture
def _forgotten():
    runtime._open.cache_clear()


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("mobilenet_v3_small_075", "none", size=SIZE)


@pytest.fixture(scope="module", params=["keras", pytest.param("openvino", marks=needs_openvino)])
def trunk(request, backbone):
    """Up to the top, opened once with each runtime: OpenVINO takes seconds to convert it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WASTETUNE_RUNTIME", request.param)
        opened = open_trunk(backbone, (TOP,))
    assert opened.runtime == request.param
    return opened


def draw_pixels(count, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def run_with(name, backbone, cuts, pixels, monkeypatch):
    """What one runtime makes of the pixels, an array per cut."""
    monkeypatch.setenv("WASTETUNE_RUNTIME", name)
    trunk = open_trunk(backbone, cuts)
    assert trunk.runtime == name
    return run(trunk, pixels)


def run(trunk, pixels):
    batches = [pixels[start : start + trunk.batch] for start in range(0, len(pixels), trunk.batch)]
    made = list(trunk.run(batches))
    assert [len(each[0]) for each in made] == [len(batch) for batch in batches]
    return [np.concatenate(each) for each in zip(*made, strict=True)]


def largest_difference(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


@needs_openvino
@pytest.mark.parametrize(
    ("name", "count"),
    # The first seven blocks of ConvNeXt and EfficientNet have each kind.
    [("mobilenet_v3_small_075", None), ("resnet50", None), ("convnext_tiny", 7), ("efficientnet_v2_b0", 7)],
)
def test_runtimes_agree_at_the_cuts(name, count, monkeypatch):
    backbone = load_backbone(name, "none", size=SIZE)
    cuts = backbone.cuts[1:][:count]
    assert count or len(cuts) > 10, "OpenVINO sorts Identity_10 before Identity_2"
    pixels = draw_pixels(19)  # no whole number of batches
    keras, fast = (run_with(each, backbone, cuts, pixels, monkeypatch) for each in ("keras", "openvino"))
    for cut, one, other in zip(cuts, keras, fast, strict=True):
        assert one.shape == other.shape == (19, *activation_shape(backbone, cut))
        assert one.dtype == other.dtype == np.float32
        assert largest_difference(one, other) < AGREEMENT, cut.name


@needs_openvino
def test_runtimes_agree_on_real_photos(real_data, real_weights, monkeypatch):
    if not (real_weights / "resnet50_notop.weights.h5").exists():
        pytest.skip("there are no weights of ResNet50 there")
    backbone = load_backbone("resnet50", folder=real_weights, size=96)
    files = sorted((real_data / "trashnet").glob("*/*1.jpg"))[::16][:12]
    pixels = np.stack([resize_picture(read_picture(path), backbone.size) for path in files])
    cuts = (nearest_cut(backbone, 0.8125), TOP)
    keras, fast = (run_with(name, backbone, cuts, pixels, monkeypatch) for name in ("keras", "openvino"))
    for one, other in zip(keras, fast, strict=True):
        assert largest_difference(one, other) < AGREEMENT


def test_a_picture_gives_the_same_wherever_it_stands(trunk):
    pixels = draw_pixels(40)
    together = run(trunk, pixels)[0]
    alone = np.concatenate([run(trunk, pixels[i : i + 1])[0] for i in (0, 3, 39)])
    np.testing.assert_array_equal(alone, together[[0, 3, 39]])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_what_goes_wrong_in_reading_comes_out_and_the_trunk_still_runs(stop, trunk):
    def broken():
        yield from draw_pixels(4)[:, None]
        raise stop("pressed")

    with pytest.raises(stop, match="pressed"):
        list(trunk.run(broken()))
    unfinished = trunk.run(iter(draw_pixels(40)[:, None]))
    next(unfinished)
    unfinished.close()
    assert len(list(trunk.run(draw_pixels(4)[:, None]))) == 4


@pytest.mark.usefixtures("_forgotten")
def test_a_study_opens_a_trunk_once(backbone, monkeypatch):
    monkeypatch.setenv("WASTETUNE_RUNTIME", "keras")
    first, again = (open_trunk(backbone, (TOP,)) for _ in range(2))
    assert first is again
    assert open_trunk(backbone, backbone.cuts[-2:]) is not first


@needs_openvino
def test_openvino_is_taken_where_it_is_installed(monkeypatch):
    monkeypatch.delenv("WASTETUNE_RUNTIME", raising=False)
    assert choose_runtime() == "openvino"
    monkeypatch.setattr(runtime, "_is_tensorflow_on_cpu", lambda: False)
    assert choose_runtime() == "keras"


@pytest.mark.usefixtures("_forgotten")
def test_without_openvino_keras_is_taken_in_silence(backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delenv("WASTETUNE_RUNTIME", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_trunk(backbone, (TOP,)).runtime == "keras"


def test_asking_for_what_is_not_there_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setenv("WASTETUNE_RUNTIME", "openvino")
    with pytest.raises(UserError, match=r"pip install 'wastetune\[openvino\]'"):
        choose_runtime()
    monkeypatch.setenv("WASTETUNE_RUNTIME", "onnx")
    with pytest.raises(UserError, match="WASTETUNE_RUNTIME is 'onnx', but must be auto, keras or openvino"):
        choose_runtime()


@needs_openvino
@pytest.mark.usefixtures("_forgotten")
def test_a_trunk_that_openvino_cannot_convert_runs_with_keras_and_that_is_said_once(backbone, monkeypatch):
    def fail(*_):
        raise RuntimeError("no translator found\nfor operation(s): Erfc")

    monkeypatch.setattr(runtime, "_open_openvino", fail)
    monkeypatch.setenv("WASTETUNE_RUNTIME", "auto")
    with pytest.warns(RuntimeWarning, match="no translator found for operation.*Keras runs it") as said:
        trunks = [open_trunk(backbone, (TOP,)) for _ in range(2)]
    assert [trunk.runtime for trunk in trunks] == ["keras", "keras"]
    assert len(said) == 1
    monkeypatch.setenv("WASTETUNE_RUNTIME", "openvino")
    with pytest.raises(UserError, match="set WASTETUNE_RUNTIME to keras"):
        open_trunk(backbone, (TOP,))


@needs_openvino
@pytest.mark.usefixtures("_forgotten")
def test_ctrl_c_during_the_conversion_is_no_failure_of_it(backbone, monkeypatch):
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "openvino_telemetry", None)
        decoder = import_module("openvino.frontend.tensorflow.node_decoder").TFGraphNodeDecoder
    told, get_op_type = [], decoder.get_op_type

    def interrupted(self):
        if not told:
            told.append(True)
            signal.raise_signal(signal.SIGTERM)
        return get_op_type(self)

    monkeypatch.setattr(decoder, "get_op_type", interrupted)  # which OpenVINO calls, and takes its errors for its own
    monkeypatch.setenv("WASTETUNE_RUNTIME", "auto")
    with raise_on_signals(), warnings.catch_warnings(action="error"), pytest.raises(KeyboardInterrupt):
        open_trunk(backbone, (TOP,))
    assert told


def test_a_picture_in_batches_takes_a_part_of_a_second(backbone):
    assert 1e-6 < time_pictures(backbone) < 1
