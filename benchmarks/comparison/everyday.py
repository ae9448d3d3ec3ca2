"""How fast and how good is the everyday way: KerasTuner, or Optuna, over model.fit on pictures?

`compare.py` runs it, and writes down what it finds beside wastetune's figures.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for common.py

import keras
import keras_tuner
import numpy as np
import optuna
import psutil
import tensorflow as tf
from common import temporary_folder
from question import (
    OBJECTIVE,
    Question,
    build_everyday_model,
    class_weight,
    load_question,
    question_options,
    sample_with_keras_tuner,
    small_question,
    steps_per_epoch,
    write_question,
)

from wastetune.evaluation.metrics import metric_value
from wastetune.search.space import sample
from wastetune.training.config import TrialConfig

STARTED = psutil.Process().create_time()


def since_start() -> float:
    """Seconds since this process began, imports and decoding included: what a user waits."""
    return time.time() - STARTED


@dataclass
class Ledger:
    """The trials and epochs of a search, recorded as they run, and its limits."""

    deadline: float | None  # seconds since the process began
    most_epochs: int | None  # of a trial, for slow backbones
    all_epochs: int | None  # of all trials together: what an hour holds, on a machine that is not idle
    trials: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def begin_trial(self) -> None:
        """Starts a trial, whose model is not built yet."""
        self.trials.append({"number": len(self.trials), "begun": since_start(), "epochs": [], "stopped": None})

    def end_trial(self) -> None:
        """Ends the trial, also one that failed."""
        trial = self.trials[-1]
        trial["seconds"] = since_start() - trial.pop("begun")
        scores = [epoch["score"] for epoch in trial["epochs"]]
        trial["best"] = max(scores, default=None)
        print(f"trial {trial['number']}: {len(scores)} epochs, {trial['seconds']:.0f} s, best {trial['best']}")

    def is_over(self) -> bool:
        """Whether the seconds, or the epochs, are used up."""
        if self.all_epochs is not None and sum(len(trial["epochs"]) for trial in self.trials) >= self.all_epochs:
            return True
        return self.deadline is not None and since_start() >= self.deadline

    def epochs_of(self, config: TrialConfig) -> int:
        """The epochs of a trial."""
        if self.most_epochs is None or self.most_epochs >= config.epochs:
            return config.epochs
        self.trials[-1]["stopped"] = f"limited to {self.most_epochs} of {config.epochs} epochs"
        return self.most_epochs


class Watch(keras.callbacks.Callback):
    """Records each epoch in the ledger, and stops in the middle of one when the time is used up."""

    def __init__(self, ledger: Ledger, config: TrialConfig, steps: int) -> None:
        super().__init__()
        self._ledger, self._trial, self._steps = ledger, ledger.trials[-1], steps
        self._trial["config"] = config.model_dump()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun, self._batches = since_start(), 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches += 1
        if "starting_seconds" not in self._trial:  # building and compiling, which a trial does once
            self._trial["starting_seconds"] = since_start() - self._trial["begun"]
            self._begun, self._batches = since_start(), 0
        if self._ledger.is_over():
            self._trial["stopped"] = "the time was used up"
            self.model.stop_training = True  # the epoch is still validated

    def on_test_begin(self, logs: Any = None) -> None:
        self._trained = since_start()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now, score = since_start(), float(logs[OBJECTIVE])
        self._trial["epochs"].append(
            {
                "score": score,
                "share": self._batches / self._steps,
                "training_seconds": self._trained - self._begun,
                "validation_seconds": now - self._trained,
            }
        )
        self._ledger.events.append({"seconds": now, "score": score})
        if self._ledger.is_over() and self._trial["stopped"] is None:
            self._trial["stopped"] = "the time was used up"
            self.model.stop_training = True


def early_stopping(config: TrialConfig, **options: Any) -> Any:
    """Stops after as many epochs without a better score as a wastetune trial would."""
    return keras.callbacks.EarlyStopping(OBJECTIVE, patience=config.patience, mode="max", **options)


def one_hot(question: Question, labels: Any) -> Any:
    return np.eye(len(question.classes), dtype=np.float32)[labels]


# KerasTuner: numpy arrays into model.fit, batch size tuned in HyperModel.fit, as its guide shows.


class EverydayModel(keras_tuner.HyperModel):
    """The question as KerasTuner wants it."""

    def __init__(self, question: Question, ledger: Ledger) -> None:
        super().__init__()
        self._question, self._ledger = question, ledger

    def build(self, hp: Any) -> Any:
        config = sample_with_keras_tuner(self._question.space, hp)
        return build_everyday_model(self._question, config, len(self._ledger.trials))

    def fit(self, hp: Any, model: Any, *args: Any, callbacks: list[Any], **kwargs: Any) -> Any:
        config = sample_with_keras_tuner(self._question.space, hp)
        watch = Watch(self._ledger, config, steps_per_epoch(self._question, config))
        return model.fit(
            *args,
            **kwargs,
            batch_size=config.batch_size,
            epochs=self._ledger.epochs_of(config),
            class_weight=class_weight(self._question, config),
            # KerasTuner copies the callbacks of `search`, and a copied ledger would stay empty.
            callbacks=[*callbacks, watch, early_stopping(config)],
        )


class TimedRandomSearch(keras_tuner.RandomSearch):
    """RandomSearch that records its trials and starts none when the time is used up."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        self._ledger = ledger
        super().__init__(**options)

    def on_trial_begin(self, trial: Any) -> None:
        self._ledger.begin_trial()
        super().on_trial_begin(trial)

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        self._ledger.end_trial()
        if self._ledger.is_over():
            self.oracle.max_trials = len(self._ledger.trials)


def search_with_keras_tuner(question: Question, ledger: Ledger, trials: int, folder: Path) -> Any:
    """The best model that KerasTuner finds, as it returns it: built again, with the checkpoint's weights."""
    tuner = TimedRandomSearch(
        ledger,
        hypermodel=EverydayModel(question, ledger),
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        max_trials=trials,
        seed=question.spec.seed,
        directory=str(folder),
        project_name="kerastuner",
        overwrite=True,
    )
    train, val = question.train, question.val
    tuner.search(
        train.read(range(len(train))),
        one_hot(question, train.labels),
        validation_data=(val.read(range(len(val))), one_hot(question, val.labels)),
        verbose=0,
    )
    found = tuner.get_best_models(1)
    return found[0] if found else None


# Optuna: tf.data with cache and prefetch, TPE and median pruning in SQLite, as its examples show.


class ReportAndPrune(keras.callbacks.Callback):
    """Reports every epoch's score to Optuna, and stops where its pruner says so."""

    def __init__(self, trial: optuna.Trial, note: dict[str, Any]) -> None:
        super().__init__()
        self._trial, self._note = trial, note

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._trial.report(float(logs[OBJECTIVE]), epoch)
        if self._trial.should_prune():
            self._note["pruned"] = True
            raise optuna.TrialPruned


def cached_pictures(question: Question, pictures: Any) -> Any:
    """Pictures and labels one by one, read from disk in the first pass and from memory in all others."""
    labels = one_hot(question, pictures.labels)

    def read() -> Any:
        for row in range(len(pictures)):
            yield pictures.read(range(row, row + 1))[0], labels[row]

    shape = pictures.read(range(1)).shape[1:]
    signature = (tf.TensorSpec(shape, tf.uint8), tf.TensorSpec(labels.shape[1:], tf.float32))
    rows = tf.data.Dataset.from_generator(read, output_signature=signature)
    return rows.apply(tf.data.experimental.assert_cardinality(len(pictures))).cache()


def search_with_optuna(question: Question, ledger: Ledger, trials: int, folder: Path) -> Any:
    """The best model that Optuna finds, with the weights of its best epoch."""
    train, val = cached_pictures(question, question.train), cached_pictures(question, question.val)
    kept = folder / "best.weights.h5"
    best_score = -1.0

    def objective(trial: optuna.Trial) -> float:
        nonlocal best_score
        keras.backend.clear_session()
        ledger.begin_trial()
        try:
            config = sample(question.space, trial)
            model = build_everyday_model(question, config, trial.number)
            model.fit(
                train.shuffle(len(question.train)).batch(config.batch_size).prefetch(tf.data.AUTOTUNE),
                validation_data=val.batch(config.batch_size).prefetch(tf.data.AUTOTUNE),
                epochs=ledger.epochs_of(config),
                class_weight=class_weight(question, config),
                callbacks=[
                    Watch(ledger, config, steps_per_epoch(question, config)),
                    early_stopping(config, restore_best_weights=True),
                    ReportAndPrune(trial, ledger.trials[-1]),
                ],
                verbose=0,
            )
            score = max(epoch["score"] for epoch in ledger.trials[-1]["epochs"])
            if score > best_score:
                best_score = score
                model.save_weights(kept)
            return score
        finally:
            ledger.end_trial()

    study = optuna.create_study(
        storage=f"sqlite:///{folder}/optuna.db",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=question.spec.seed),
        pruner=optuna.pruners.MedianPruner(),
    )
    left = None if ledger.deadline is None else max(0.1, ledger.deadline - since_start())
    study.optimize(objective, n_trials=trials, timeout=left)
    if not kept.exists():
        return None
    model = build_everyday_model(question, sample(question.space, study.best_trial))
    model.load_weights(kept)
    return model


def score_on_test(question: Question, model: Any) -> dict[str, float] | None:
    if model is None:
        return None
    test = question.test
    logits = model.predict(test.read(range(len(test))), verbose=0)
    return {name: metric_value(name, test.labels, logits) for name in ("accuracy", "macro_f1")}


def seconds_per_epoch(ledger: Ledger) -> float | None:
    """Seconds of a pass over the training pictures and its validation, without the compilation in a trial's first."""
    epochs = [epoch for trial in ledger.trials for epoch in trial["epochs"]]
    later = [epoch for trial in ledger.trials for epoch in trial["epochs"][1:]]
    chosen = later or epochs  # of a first epoch, the first batch was not counted; its validation compiles too
    passes = sum(epoch["share"] for epoch in chosen)
    if not passes:
        return None
    training = sum(epoch["training_seconds"] for epoch in chosen) / passes
    return training + sum(epoch["validation_seconds"] for epoch in chosen) / len(chosen)


def seconds_per_trial(question: Question, ledger: Ledger, epochs_per_trial: int | None) -> dict[str, Any]:
    """Seconds of a trial, and in words how they were measured."""
    whole = [trial["seconds"] for trial in ledger.trials if trial["stopped"] is None and trial["epochs"]]
    per_epoch = seconds_per_epoch(ledger)
    if whole and epochs_per_trial is None:
        how = f"mean of {len(whole)} whole trials, stopped early or pruned where they were"
        return {"seconds": float(np.mean(whole)), "seconds_per_epoch": per_epoch, "how": how}
    if per_epoch is None:
        return {"seconds": None, "seconds_per_epoch": None, "how": "nothing was measured"}
    count = epochs_per_trial or question.epochs
    starting = float(np.mean([trial["starting_seconds"] for trial in ledger.trials if "starting_seconds" in trial]))
    passes = sum(epoch["share"] for trial in ledger.trials for epoch in trial["epochs"])
    assumed = (
        "as named with --epochs-per-trial" if epochs_per_trial else "all that the space allows, never stopped early"
    )
    how = (
        f"{starting:.0f} s to build and compile, then {count} epochs ({assumed}) of {per_epoch:.1f} s, "
        f"measured in {passes:.2f} epochs"
    )
    return {"seconds": starting + per_epoch * count, "seconds_per_epoch": per_epoch, "how": how}


def main() -> None:
    parser = question_options(__doc__)
    parser.add_argument("contestant", choices=("kerastuner", "optuna"))
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = {"kerastuner": search_with_keras_tuner, "optuna": search_with_optuna}[asked.contestant]
    with temporary_folder() as folder:
        if asked.quick:
            vars(asked).update(small_question())
        question = load_question(write_question(asked, asked.trials))
        ledger = Ledger(asked.seconds, asked.epochs, asked.all_epochs)
        preparing = since_start()
        model = search(question, ledger, asked.trials, folder)
        record = {
            "pictures": {name: len(getattr(question, name)) for name in ("train", "val", "test")},
            "preparing_seconds": preparing,
            "search_ended": since_start(),
            "per_trial": seconds_per_trial(question, ledger, asked.epochs_per_trial),
            "best_score": max((event["score"] for event in ledger.events), default=None),
            "test": score_on_test(question, model),
            "trials": ledger.trials,
            "events": ledger.events,
            "gpus": [gpu.name for gpu in tf.config.list_physical_devices("GPU")],
        }
    print({key: value for key, value in record.items() if key not in ("trials", "events")})
    if asked.json:
        asked.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
