"""How good is one fine-tuning of the whole network in plain Keras, with a schedule that fits the time?

    python benchmarks/comparison/by_hand.py --dataset trashnet --seconds 600 --json by_hand.json

The recipe of a good practitioner: batch norm frozen, a normalised head with dropout, AdamW, warm-up and cosine, label
smoothing, new views in every epoch, a moving average of the weights; fitted on training and validation pictures, since
nothing is selected. Seconds count from the start of the process. The rate follows the time, not the steps, so that the
schedule ends when there is just time left for the test set, however long a step takes.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for common.py

import keras
import numpy as np
import psutil
import tensorflow as tf
from common import folders, temporary_folder
from question import Question, load_question, question_options, small_question, write_question

from wastetune.backbones.backbone import load_backbone
from wastetune.evaluation.metrics import metric_value

STARTED = psutil.Process().create_time()
BATCH, RATE, WARM_UP = 32, 2e-4, 0.08  # the share of the time that warms up: two epochs of 24
EVALUATION = 10  # seconds, for the test set
LAYERS = keras.layers
VIEWS = keras.Sequential(
    [
        LAYERS.RandomFlip("horizontal_and_vertical"),
        LAYERS.RandomTranslation(0.1, 0.1),
        LAYERS.RandomRotation(25 / 360),
        LAYERS.RandomZoom((-0.25, 0.25)),
        LAYERS.RandomBrightness(0.2, value_range=(0, 255)),
        LAYERS.RandomContrast(0.2, value_range=(0, 255)),
    ]
)


def main() -> None:
    parser = question_options(__doc__)
    asked = parser.parse_args()
    with temporary_folder():
        if asked.quick:
            vars(asked).update(small_question(), seconds=asked.seconds or 10)
        question = load_question(write_question(asked, 1))
        record = fine_tune(question, asked.seconds)
    print(record)
    if asked.json:
        asked.json.write_text(json.dumps(record, indent=1))


def fine_tune(question: Question, seconds: float) -> dict[str, Any]:
    keras.utils.set_random_seed(question.spec.seed)
    model = build_model(question)
    train, val, test = question.train, question.val, question.test
    pixels = np.concatenate([each.read(range(len(each))) for each in (train, val)])
    labels = np.eye(len(question.classes), dtype=np.float32)[np.concatenate([train.labels, val.labels])]
    batches = (
        tf.data.Dataset.from_tensor_slices((pixels, labels))
        .shuffle(len(labels), seed=question.spec.seed)
        .repeat()
        .batch(BATCH)
        .map(lambda x, y: (VIEWS(tf.cast(x, tf.float32), training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    compile_model(model)
    model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)  # compiles the step, at a rate of 0
    schedule = Schedule(STARTED + seconds - EVALUATION)
    model.fit(batches, steps_per_epoch=sys.maxsize, callbacks=[schedule], shuffle=False, verbose=0)
    logits = model.predict(test.read(range(len(test))), verbose=0)
    scores = {name: metric_value(name, test.labels, logits) for name in ("accuracy", "macro_f1")}
    return {"test": scores, "epochs": schedule.steps * BATCH / len(labels), "seconds": time.time() - STARTED}


def build_model(question: Question) -> Any:
    spec = question.spec
    backbone = load_backbone(spec.backbone, spec.weights, size=spec.image_size, folder=folders()[1])
    pixels = keras.Input((backbone.size, backbone.size, 3))
    x = LAYERS.BatchNormalization(scale=False, center=False)(backbone.body(backbone.preprocess(pixels)))
    return keras.Model(pixels, LAYERS.Dense(len(question.classes))(LAYERS.Dropout(0.3)(x)))


def compile_model(model: Any) -> None:
    model.compile(
        keras.optimizers.AdamW(0.0, weight_decay=1e-3, use_ema=True, ema_momentum=0.99),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    )


class Schedule(keras.callbacks.Callback):
    """Warm-up and a cosine to 0 at a moment, by the clock; then the fit ends."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.started, self.end, self.steps = time.time(), end, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        share = min((time.time() - self.started) / max(self.end - self.started, 1e-9), 1.0)
        falling = (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2
        self.model.optimizer.learning_rate = RATE * (share / WARM_UP if share < WARM_UP else falling)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        self.model.stop_training = time.time() >= self.end


if __name__ == "__main__":
    main()
