"""The notes that the Optuna dashboard shows of a study and its trials, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wastetune.training.metrics import METRICS

_WORST = 3  # classes that a trial's note names
_LISTED = 12  # classes that a study's note lists
_SIDES = (("train", "to train"), ("val", "to validate"), ("test", "sealed for the test"))


def render_trial_note(
    config: Mapping[str, Any],
    attrs: Mapping[str, Any],
    metric: str,
    classes: Sequence[str],
    pictures: Iterable[tuple[str, str]],
    *,
    pruned: bool,
) -> str:
    """A trial's note: how good, where it errs, what was run.

    attrs: the trial's record; pictures: what each shows, and its address. Lines are short, because the dashboard's
    page of a trial is as wide as its longest attribute.
    """
    best = attrs["history"][attrs["best_epoch"] - 1]
    accuracy = "" if metric == "accuracy" else f", accuracy {best['accuracy']:.4f}"
    epochs = f"{len(attrs['history'])}{', then pruned' if pruned else ''}"
    lines = [
        f"**{metric_name(metric)} {best['score']:.4f}**{accuracy} on the validation pictures, "
        f"in epoch {best['number']} of {epochs}; {attrs['trainable_parameters']:,} parameters trained.",
        "",
        "Worst classes:",
        "",
        *(f"- {line}" for line in _worst_classes(attrs["confusion_matrix"], classes)),
        "",
        *(f"![{shown}]({address})" for shown, address in pictures),
        "",
        "| parameter | value |",
        "| --- | --- |",
        *(f"| {key} | {_value(value)} |" for key, value in config.items() if value is not None),
    ]
    return "\n".join(lines)


def render_study_note(
    about: Mapping[str, Any],
    report: Mapping[str, Any] | None = None,
    *,
    trial: str = "",
    files: str = "",
    link: str = "",
) -> str:
    """The study's note: the question, what it is asked of and, with a report, the answer.

    about: what a study stores of itself; trial, link: the addresses of the best trial and of the report; files: where
    those of the report lie.
    """
    data, metric, counts = about["data"], about["metric"], about["data"]["counts"]
    parts = ", ".join(f"{counts[side]:,} {word}" for side, word in _SIDES)
    lines = [
        f"**{about['question'] or 'A study without a question.'}**",
        "",
        *(_answer(report, metric, trial, files, link) if report else ()),
        "| | |",
        "| --- | --- |",
        f"| data set | {data['name']}: {sum(counts.values()):,} pictures ({parts}) |",
        f"| classes | {len(data['classes'])}: {_listed(data['classes'])} |",
        f"| backbone | {about['tags']['backbone']} |",
        f"| maximised | {metric_name(metric)} on the validation pictures |",
    ]
    return "\n".join(lines)


def metric_name(metric: str) -> str:
    """The metric as it is called in a sentence."""
    return METRICS[metric][0]


def _answer(report: Mapping[str, Any], metric: str, trial: str, files: str, link: str) -> list[str]:
    best, test, default = report["best"], report["test"], report["default_test"]
    is_default = best["number"] == report.get("default_number", 0)
    beside = f"{default['f1_macro']:.3f} and {default['accuracy']:.3f}"
    return [
        f"[Trial {best['number']}]({trial}) is best, with a validation {metric_name(metric)} of {best['score']:.4f}. "
        f"Trained again on train + validation, it has macro F1 **{test['f1_macro']:.3f}** and accuracy "
        f"**{test['accuracy']:.3f}** on the sealed test set; "
        f"{'it is the default configuration' if is_default else f'the default configuration has {beside}'}.",
        "",
        f"{f'[Open the report]({link}). ' if link else ''}Files: `{files}`",
        "",
    ]


def _worst_classes(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    """The classes that are found least, each with what it is taken for most."""
    told = []
    for _, i in sorted((row[i] / sum(row), i) for i, row in enumerate(matrix) if sum(row))[:_WORST]:
        found, total = matrix[i][i], sum(matrix[i])
        count, j = max((count, -j) for j, count in enumerate(matrix[i]) if j != i)
        taken = f", {count} taken for {classes[-j]}" if count else ""
        told.append(f"**{classes[i]}**: {found} of {total} found ({found / total:.0%}){taken}")
    return told


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
