"""The winner: trained again, evaluated once, and the same model whether it sees pixels or stored activations."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import wastetune.study.final
import wastetune.study.fits
import wastetune.study.refit
import wastetune.tuning.objective
from wastetune.backbones.activation_store import open_store
from wastetune.backbones.backbone import build_trunk, nearest_cut
from wastetune.backbones.cuts import TOP
from wastetune.backbones.live_views import LiveViews
from wastetune.console import open_console
from wastetune.data.splits import draw_folds
from wastetune.evaluation.metrics import metric_value
from wastetune.evaluation.novelty import fit_centres, likeness
from wastetune.models.bundle import (
    BundleDescription,
    load_model,
    save_centres,
    save_description,
    save_model,
    split_at_trunk,
)
from wastetune.models.loading import open_model
from wastetune.models.saliency import open_saliency_model
from wastetune.storage.records import TrialAttrs, TrialRecord
from wastetune.study.members import Candidates
from wastetune.study.refit import refit, refit_again
from wastetune.study.select import select_final
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingFailed, predict_probabilities
from wastetune.training.learner import get_weights
from wastetune.tuning.held_out import keep_fit, read_held_out, read_weights
from wastetune.tuning.objective import cross_predict, fitted_learner, run_trial, tuning_sets
from wastetune.tuning.prepare import trial_seed

BAR = open_console().bar


def attrs(**changes):
    given = {"head_layers": 1, "head_units": 8, "dropout": 0.1, "learning_rate": 0.01, "batch_size": 8, "epochs": 3}
    return TrialAttrs(config=TrialConfig(**{**given, **changes}).model_dump(), best_epoch=2)


def refit_and_save(prepared, members, folder, **options):
    def keep(model):
        save_model(folder, model)

    return refit(prepared.context, prepared.test, members, bar=BAR, keep=keep, **options)


@pytest.mark.parametrize("frozen_depth", [1.0, 0.0])
def test_the_assembled_model_gives_the_probabilities_of_the_stored_activations(prepared, frozen_depth):
    kept = []

    def keep(model):
        pixels = prepared.test.read(range(len(prepared.test))).astype(np.float32)
        kept.append(np.asarray(model(pixels)))

    given = attrs(frozen_depth=frozen_depth, augmentation=1.0)
    final = refit(prepared.context, prepared.test, {3: given}, bar=BAR, keep=keep)
    np.testing.assert_allclose(kept[0], final.probabilities, atol=5e-3)
    np.testing.assert_allclose(kept[0].sum(axis=1), 1, atol=1e-5)
    assert final.largest_difference < 5e-3
    assert final.epochs == 3
    matrix = np.array(final.scores.confusion_matrix)
    assert matrix.sum() == len(prepared.test)
    assert np.trace(matrix) == (final.probabilities.argmax(axis=1) == prepared.test.labels).sum()


def test_trials_of_different_cuts_are_averaged_in_one_model_behind_one_trunk(prepared, tmp_path):
    members = {
        1: attrs(frozen_depth=2 / 3, learning_rate=0.3),
        2: attrs(learning_rate=1.0),
        3: attrs(frozen_depth=0.0, augmentation=0.5, learning_rate=0.03),
        4: attrs(frozen_depth=2 / 3, learning_rate=0.1, augmentation=1.0),
    }
    weights = (0.1, 0.2, 0.3, 0.4)
    final = refit_and_save(prepared, members, tmp_path, temperature=0.7, weights=weights)
    assert final.largest_difference < 5e-3
    assert final.cut == TOP
    mean = sum(weight * each for weight, each in zip(weights, final.each.values(), strict=True))
    np.testing.assert_allclose(final.uncalibrated, mean, atol=1e-6)
    different = [np.abs(one - two).max() for one, two in itertools.combinations(final.each.values(), 2)]
    assert max(different) > 0.1  # each has weights of its own
    pixels = prepared.test.read(range(len(prepared.test)))
    saved = load_model(tmp_path)
    np.testing.assert_allclose(saved(pixels.astype(np.float32)), final.probabilities, atol=5e-3)
    save_description(
        tmp_path, BundleDescription(classes=prepared.context.classes, input_size=prepared.context.backbone.size)
    )
    seen = open_saliency_model(tmp_path).explain(pixels[0])
    np.testing.assert_allclose(seen.probabilities, final.probabilities[0], atol=5e-3)
    assert seen.heatmap.shape == (8, 8)
    trunk, _ = split_at_trunk(saved)
    grids = trunk.predict_on_batch(pixels.astype(np.float32))
    assert [each.ndim for each in grids] == [4, 4, 2]  # the pixels, a block and the top
    save_centres(tmp_path, np.ones((1, grids[-1].shape[-1]), np.float32))
    probabilities, likenesses = open_model(tmp_path).outputs(pixels)
    np.testing.assert_allclose(probabilities, final.probabilities, atol=5e-3)
    np.testing.assert_allclose(
        likenesses, likeness(grids[-1], np.ones((1, grids[-1].shape[-1]), np.float32)), atol=1e-5
    )


def test_a_model_that_disagrees_with_the_stored_activations_is_no_winner(prepared, monkeypatch):
    monkeypatch.setattr(wastetune.study.refit, "TOLERANCE", -1.0)
    with pytest.raises(TrainingFailed, match="differs from the stored activations"):
        refit(prepared.context, prepared.test, {3: attrs()}, bar=BAR)


def test_the_model_is_compared_on_pictures_read_from_their_own_files(prepared):
    """What is stored may be wrong in a way that no checksum notices."""
    refit(prepared.context, prepared.test, {3: attrs()}, bar=BAR)  # from here on its activations are stored
    decoded = []

    def decode(rows):
        decoded.extend(rows)
        return prepared.test.decode(rows)

    refit(prepared.context, replace(prepared.test, read=None, decode=decode), {3: attrs()}, bar=BAR)
    assert decoded == list(range(len(prepared.test)))


def test_it_trains_on_train_and_validation_pictures_together(prepared, monkeypatch):
    seen = []
    fit_final = wastetune.study.fits.fit_final

    def spy(model, train, **options):
        seen.append((len(train.labels), [len(view) for view in train.views], options["steps"]))
        fit_final(model, train, **options)

    monkeypatch.setattr(wastetune.study.fits, "fit_final", spy)
    for whole_schedule in (True, False):
        refit(prepared.context, prepared.test, {3: attrs(augmentation=1.0)}, whole_schedule=whole_schedule, bar=BAR)
    count = len(prepared.context.data.train) + len(prepared.context.data.val)
    # All epochs of the configuration; or up to its trial's best one, as earlier versions did.
    assert seen == [(count, [count, count], epochs * (count // 8)) for epochs in (3, 2)]


def test_heads_fitted_at_once_in_processes_are_those_fitted_one_after_another(prepared, monkeypatch):
    members = {number: attrs(learning_rate=0.01 * number) for number in (1, 2, 3)}
    alone = refit_again(prepared.context, prepared.test, members, repeat=1, bar=BAR)
    monkeypatch.setattr(wastetune.study.fits, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    # A process of its own has not this `fit_final`.
    monkeypatch.setattr(wastetune.study.fits, "fit_final", lambda *_, **__: pytest.fail("fitted in this process"))
    together = refit_again(prepared.context, prepared.test, members, repeat=1, bar=BAR)
    for number, probabilities in alone.items():
        np.testing.assert_array_equal(together[number], probabilities)


def test_the_same_trial_retrained_twice_is_the_same_model(prepared):
    one, two = (refit(prepared.context, prepared.test, {5: attrs(frozen_depth=2 / 3)}, bar=BAR) for _ in range(2))
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


def test_for_want_of_time_each_is_fitted_for_fewer_epochs(prepared):
    context, test = prepared.context, prepared.test
    shorter = refit(context, test, {3: attrs(), 4: attrs()}, bar=BAR, fewer_epochs=(1, 2))
    planned = refit(context, test, {3: attrs(epochs=1), 4: attrs(epochs=2)}, bar=BAR)
    np.testing.assert_array_equal(shorter.probabilities, planned.probabilities)


def test_fitted_again_with_other_seeds_it_is_another_model_of_the_same_trials(prepared):
    members = {1: attrs(), 2: attrs(learning_rate=1.0)}
    first = refit(prepared.context, prepared.test, members, bar=BAR).each
    repeats = [refit_again(prepared.context, prepared.test, members, repeat=n, bar=BAR) for n in (1, 2, 1)]
    for number in members:
        different = [first[number], repeats[0][number], repeats[1][number]]
        assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(different, [*different[1:], different[0]], strict=True))
        np.testing.assert_array_equal(repeats[0][number], repeats[2][number])


def test_several_heads_are_one_model_with_the_mean_of_their_probabilities_at_a_temperature(prepared, tmp_path):
    members = {1: attrs(), 2: attrs(learning_rate=1.0, augmentation=1.0), 4: attrs(head_layers=0, head_units=None)}
    alone = [
        refit(prepared.context, prepared.test, {number: given}, bar=BAR).probabilities
        for number, given in members.items()
    ]
    together = refit_and_save(prepared, members, tmp_path, temperature=0.5)
    kept = load_model(tmp_path)
    pixels = prepared.test.read(range(len(prepared.test))).astype(np.float32)
    mean = np.mean(alone, axis=0)
    np.testing.assert_allclose(together.uncalibrated, mean, atol=1e-6)
    np.testing.assert_allclose(together.probabilities, mean**2 / (mean**2).sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(kept.predict_on_batch(pixels), together.probabilities, atol=5e-3)
    assert np.abs(alone[0] - alone[1]).max() > 0.02  # a mean that is not one of them


def test_out_of_fold_predictions_come_from_models_that_did_not_see_the_pictures(prepared, monkeypatch):
    context, fitted = prepared.context, []
    fit_final = wastetune.study.fits.fit_final

    def spy(learner, train, **options):
        fitted.append(len(train.labels))
        fit_final(learner, train, **options)

    monkeypatch.setattr(wastetune.tuning.objective, "fit_final", spy)
    config = TrialConfig.model_validate(attrs().config)
    train, val = len(context.data.train), len(context.data.val)
    held_out = np.repeat([-1, 0], [train, val])
    made = cross_predict(context, config, held_out, number=0, epochs=1, bar=BAR)
    assert fitted == [train]
    assert not made[:train].any()
    np.testing.assert_allclose(made[train:].sum(axis=1), 1, atol=1e-5)
    rows = (*prepared.splits.train, *prepared.splits.val)
    folds = draw_folds(prepared.index, rows, 3, seed=0)
    everything = cross_predict(context, config, folds, number=0, epochs=1, bar=BAR)
    assert fitted[1:] == [int((folds != fold).sum()) for fold in range(3)]
    np.testing.assert_allclose(everything.sum(axis=1), 1, atol=1e-5)


def test_a_tail_that_ran_its_whole_schedule_is_not_fitted_again_to_be_compared(prepared, tmp_path, monkeypatch):
    context = replace(prepared.context, store=open_store(tmp_path / "cache"))
    config = TrialConfig.model_validate(attrs(frozen_depth=2 / 3).config)
    run_trial(config, 5, context, BAR, lambda epoch: False)
    (kept,) = (tmp_path / "cache").rglob("held_out/*.npy")
    train, val = tuning_sets(context, config, BAR)
    with fitted_learner(context, config, train, epochs=config.epochs, seed=trial_seed(context, 5)) as learner:
        again = predict_probabilities(learner, val.activations)
    np.testing.assert_array_equal(read_held_out(context, config, trial_seed(context, 5)), again)

    fitted = []
    monkeypatch.setattr("wastetune.study.select.fit_each", lambda context, tasks: fitted.extend(tasks) or iter(()))
    ended = TrialRecord(
        **dict.fromkeys(("parameters", "best_epoch"), 1),
        **{"number": 5, "state": "complete", "score": 1.0, "seconds": 1.0, "default": True, "failure": ""},
        **{"config": config.model_dump(), "drawn": {}, "epochs": (), "cut": "block_out"},
    )
    final = select_final(context, Candidates((ended,), ended), open_console(quiet=True))
    assert (final.members, final.epochs, fitted) == ((5,), (), [])
    short_of_time = Candidates((ended,), ended, epochs={5: 2})
    assert select_final(context, short_of_time, open_console(quiet=True)).epochs == (2,)
    assert final.score == metric_value(context.spec.metric, val.labels, again)

    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: fitted again
    assert read_held_out(context, config, trial_seed(context, 5)) is None
    with pytest.raises(ValueError, match="zip"):  # as nothing is fitted here
        select_final(context, Candidates((ended,), ended), open_console(quiet=True))
    assert len(fitted) == 1


@pytest.mark.parametrize("frozen_depth", [0.6, 1.0])
def test_on_live_views_the_plain_activations_alone_are_stored(prepared, tmp_path, monkeypatch, frozen_depth):
    context = replace(prepared.context, store=open_store(tmp_path / "cache"))
    cut, seen = nearest_cut(context.backbone, frozen_depth), []
    config = TrialConfig.model_validate(
        attrs(frozen_depth=cut.frozen_depth, live_depth=1.0, augmentation=0.7, head_layers=0).config
    )
    take = LiveViews.take
    monkeypatch.setattr(LiveViews, "take", lambda views, rows, seeds: seen.extend(seeds) or take(views, rows, seeds))
    run_trial(config, 3, context, BAR, lambda epoch: None)
    per_epoch = config.batch_size * (len(context.data.train) // config.batch_size)
    assert len(set(seen)) == config.epochs * per_epoch
    (folder,) = (tmp_path / "cache" / "activations").glob("small*")
    assert len({path.stem for path in folder.rglob("*.npy")}) == 2  # of the training and the validation pictures

    members = {3: TrialAttrs(config=config.model_dump(), best_epoch=1), 4: attrs(augmentation=1.0)}
    final = refit(context, prepared.test, members, bar=BAR)
    assert final.largest_difference < 5e-3
    np.testing.assert_array_equal(refit(context, prepared.test, members, bar=BAR).probabilities, final.probabilities)


def test_a_whole_network_is_fitted_further_from_the_weights_of_its_trial(prepared, tmp_path, monkeypatch):
    context = replace(prepared.context, store=open_store(tmp_path / "cache"))
    given = attrs(frozen_depth=0.0, augmentation=0.5, learning_rate=0.03, epochs=1)
    config, test, members = TrialConfig.model_validate(given.config), prepared.test, {3: given, 4: attrs()}
    run_trial(config, 3, context, BAR, lambda epoch: None)

    fitted, fit_final = [], wastetune.tuning.objective.fit_final

    def spy(learner, data, **given):
        fitted.append((len(data.labels), get_weights(learner)))
        fit_final(learner, data, **given)

    monkeypatch.setattr(wastetune.tuning.objective, "fit_final", spy)
    made = refit_and_save(replace(prepared, context=context), members, tmp_path)
    count = len(context.data.train)
    ((pictures, start),) = fitted
    assert pictures == count + len(context.data.val)
    np.testing.assert_array_equal(start, read_weights(context, config, trial_seed(context, 3)))
    pixels = test.read(range(len(test))).astype(np.float32)
    np.testing.assert_allclose(load_model(tmp_path)(pixels), made.probabilities, atol=5e-3)

    again = refit(context, test, members, bar=BAR, use_kept=False)
    assert [pictures for pictures, _ in fitted[1:]] == [count, count + len(context.data.val)]
    np.testing.assert_array_equal(again.probabilities, made.probabilities)


def test_the_weights_of_the_best_networks_are_kept_and_damaged_ones_are_not_used(prepared, tmp_path):
    context = replace(prepared.context, store=open_store(tmp_path))
    config = TrialConfig.model_validate(attrs(frozen_depth=0.0).config)

    class Model:
        def __init__(self, value):
            self.value = value

        def get_weights(self):
            return [np.full((2, 2), self.value, np.float32), np.zeros(1, np.float32)]

    def kept():
        return [seed for seed in range(5) if read_weights(context, config, seed) is not None]

    for seed, score in enumerate([0.5, 0.9, 0.1, 0.7, 0.6]):
        keep_fit(context, config, seed, score, np.eye(2, dtype=np.float32), Model(seed))
    assert kept() == [1, 3, 4]
    np.testing.assert_array_equal(read_weights(context, config, 3), [3, 3, 3, 3, 0])
    assert all(read_held_out(context, config, seed) is not None for seed in range(5))
    best = max(tmp_path.rglob("weights/*/*.npy"))
    best.write_bytes(best.read_bytes()[:-1])
    assert kept() == [3, 4]
    other = replace(context, classes=(*context.classes, "another"))
    assert read_weights(other, config, 3) is None


def test_a_trial_that_was_stopped_early_keeps_nothing(prepared, tmp_path):
    context = replace(prepared.context, store=open_store(tmp_path))
    config = TrialConfig.model_validate(attrs(frozen_depth=0.0, augmentation=0.5).config)
    run_trial(config, 5, context, BAR, lambda epoch: epoch.number == 2)
    assert not list(tmp_path.rglob("held_out/*"))


@pytest.mark.parametrize("frozen_depth", [1.0, 2 / 3])
def test_what_a_bundle_says_of_likeness_is_that_of_the_features_at_its_cut(prepared, frozen_depth, tmp_path):
    context, test, given = prepared.context, prepared.test, attrs(frozen_depth=frozen_depth)
    made = refit_and_save(prepared, {3: given}, tmp_path)
    seen = wastetune.study.final._features(context, context.data.train, made.cut, BAR)
    centres = fit_centres(seen.vectors, seen.labels, seed=0)
    save_centres(tmp_path, centres)
    save_description(tmp_path, BundleDescription(classes=context.classes, input_size=context.backbone.size))
    pixels = test.read(range(len(test)))
    probabilities, known = zip(*open_model(tmp_path).predict(pixels), strict=True)
    trunk = build_trunk(context.backbone, (made.cut,))
    features = trunk.predict_on_batch(pixels.astype(np.float32))
    features = features if features.ndim == 2 else features.mean(axis=(1, 2))
    np.testing.assert_allclose(known, likeness(features, centres), atol=1e-4)
    if frozen_depth == 1:
        sealed = wastetune.study.final._features(context, test, made.cut, BAR)
        np.testing.assert_allclose(known, likeness(sealed.vectors, centres), atol=1e-3)
    assert max(known) < 0.99999  # no test picture is a training picture
    np.testing.assert_allclose(probabilities, load_model(tmp_path).predict_on_batch(pixels * 1.0), atol=1e-5)


def test_a_trial_leaves_the_backbone_as_it_was(prepared):
    before = prepared.context.backbone.body.get_weights()
    config = TrialConfig.model_validate(attrs(frozen_depth=2 / 3).config)
    run_trial(config, 0, prepared.context, BAR, lambda epoch: None)
    after = prepared.context.backbone.body.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
