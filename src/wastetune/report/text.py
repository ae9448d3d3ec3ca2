"""A report as plain text and as Markdown."""

import textwrap
from collections.abc import Iterable, Sequence

from wastetune.data.corrections import render_corrected
from wastetune.data.layout import Problem
from wastetune.evaluation.metrics import METRICS
from wastetune.evaluation.novelty import KNOWN
from wastetune.evaluation.objectives import COSTS, Goals, render_brief, render_cost, render_costs
from wastetune.evaluation.scores import Scores
from wastetune.evaluation.selective import Answered
from wastetune.evaluation.shift import TOLD_APART
from wastetune.formatting import aligned, markdown_table, render_count, render_duration, render_value, shortened
from wastetune.report.results import FinalModel, Report, TrialCounts
from wastetune.search.choice import describe_search
from wastetune.storage.records import BackboneTrials, Opening, Origin

WIDTH = 80
_NO_BREAK = "\u00a0"
_OPENINGS = 5  # listed
NEARLY = 0.01  # of a score: a point
_MANY = 3  # times the usual share of pictures that are unlike the training pictures
COLUMNS = ("", "precision", "recall", "f1", "support")


def render_report(report: Report) -> str:
    """The report as plain text for a terminal, at most 80 columns wide."""
    config = _config_rows(report)
    return join_parts(
        wrapped([render_title(report), report.question]),
        wrapped(findings(report)),
        aligned([BACKBONE_COLUMNS, *backbone_rows(report)]) if report.backbones else [],
        *score_parts(report.test, report.classes),
        [*wrapped([best_line(report)]), *(f"  {line}" for line in aligned(config, left=3))],
        [FRONT, *(f"  {line}" for line in aligned(front_rows(report)))] if report.front else [],
        wrapped(_facts(report)),
        wrapped(problem_lines(report.problems)),
    )


def render_markdown(report: Report) -> str:
    """The report as Markdown, with confusion_matrix.png beside it."""
    return join_parts(
        [f"# {render_title(report)}"],
        [report.question],
        [f"- {line}" for line in findings(report)],
        *((["## Backbones"], markdown_table(BACKBONE_COLUMNS, backbone_rows(report))) if report.backbones else ()),
        ["## Scores on the test set"],
        markdown_table(COLUMNS, class_rows(report.test)),
        [f"## {CONFUSION}"],
        ["![Confusion matrix](confusion_matrix.png)"],
        matrix_table(report.test, report.classes),
        [f"## {best_line(report)}"],
        markdown_table(("parameter", "value", ""), _config_rows(report)),
        *([[f"## {FRONT}"], markdown_table(*_table(front_rows(report)))] if report.front else []),
        ["## How it was made"],
        [f"- {line}" for line in [*_facts(report), *problem_lines(report.problems)]],
    )


FRONT = "Pareto front (validation score against costs; none is better in all)"
CONFUSION = "Confusion matrix (rows: true class, columns: predicted class)"


def score_parts(scores: Scores, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The classification report and the confusion matrix for a terminal, each as lines."""
    short = {name: shortened(name, 30) for name in classes}
    table = aligned([COLUMNS, *((short.get(row[0], row[0]), *row[1:]) for row in class_rows(scores))])
    matrix = _confusion_lines(scores.confusion_matrix, list(short.values()))
    return [table[0], "", *table[1:-3], "", *table[-3:]], [CONFUSION, *matrix]


def matrix_table(scores: Scores, classes: Sequence[str]) -> list[str]:
    """The confusion matrix as lines of Markdown; classes without pictures have no row."""
    rows = zip(classes, scores.confusion_matrix, strict=True)
    return markdown_table(("", *classes), [(name, *map(str, row)) for name, row in rows if any(row)])


def join_parts(*parts: Sequence[str]) -> str:
    """Lines as one text, with an empty line between the parts; parts without lines are left out."""
    return "\n\n".join("\n".join(part) for part in parts if any(part)) + "\n"


def render_title(report: Report) -> str:
    """Study, backbone and data set in one line."""
    return f"{report.study}: {backbone_name(report)} on {report.dataset}"


def backbone_name(report: Report) -> str:
    """The backbone of the best trial, and of how many it is the best."""
    return f"{report.backbone} (best of {len(report.backbones)})" if report.backbones else report.backbone


def findings(report: Report) -> list[str]:
    """The answer in sentences: how good, how much better than the default, where the space was too small."""
    test, default = report.test, report.default_test
    metric = METRICS[report.metric]
    shown = dict.fromkeys([metric, METRICS["macro_f1"], METRICS["accuracy"]])
    scores = ", ".join(f"{name} {with_interval(test, key)}" for name, key in shown)
    lines = [
        *leak_line(report),
        *shift_line(report),
        f"Test set: {scores}; 95 % intervals{_of_what(report)}.",
        *backbone_lines(report),
    ]
    if report.is_default and report.final:
        lines.append("Final model: the default configuration; on validation pictures nothing was better.")
    elif report.is_default:
        lines.append("Tuned against default: no trial was better than the default configuration.")
    else:
        pairs = [
            (name, getattr(test, key), getattr(default, key))
            for name, key in dict.fromkeys([metric, METRICS["accuracy"]])
        ]
        gains = ", ".join(
            f"{name} {ours:.3f} against {theirs:.3f} ({ours - theirs:+.3f})" for name, ours, theirs in pairs
        )
        if report.final:
            lines.append(f"Final model: {final_model(report.final)}.")
            if report.final.epochs:
                lines.append(_epochs_line(report.final.epochs))
        lines.append(f"Tuned against default: {gains}{_doubt(report)}.")
        lines += worse_line(report)
    lines += cost_line(report) + optimism(report) + calibration_line(report)
    lines += unsure_line(report.answered, "test pictures") + unlike_line(report.unlike, "test pictures")
    too_small = [edge.parameter for edge in report.edges if edge.widen]
    if too_small:
        lines.append(f"On a bound of the search space: {', '.join(too_small)}; a wider space may do better.")
    return lines


def _epochs_line(epochs: Sequence[int]) -> str:
    """For how many epochs the members of the final model were fitted again, where there was no time for all."""
    if len(epochs) == 1:
        return f"For want of time it was fitted again for {epochs[0]} epochs."
    return f"For want of time they were fitted again for {', '.join(map(str, epochs))} epochs, in this order."


BACKBONE_COLUMNS = ("backbone", "trials", "default", "best", "time", "M params", "ms")


def backbone_rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each of a study's backbones, the best first: trials, scores, time, and what a model of it costs."""
    return [
        (
            each.name,
            str(each.trials),
            _score(each.default),
            _score(each.score),
            render_duration(each.seconds + each.activation_seconds),
            f"{(each.parameters or 0) / 1e6:.1f}",
            _milliseconds(latency) if (latency := report.latency_ms.get(each.name)) else "",
        )
        for each in _by_score(report)
    ]


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _by_score(report: Report) -> list[BackboneTrials]:
    """The winner's first, also where a default that is above a limit has a better score."""
    return sorted(
        report.backbones, key=lambda each: (each.name != report.backbone, -(each.score or 0.0), each.best or 0)
    )


def backbone_lines(report: Report) -> list[str]:
    """Which backbone won and by how much, and which is the cheapest of the nearly best; none where there is one."""
    if len(report.backbones) < 2:
        return []
    first, *rest = _by_score(report)
    others = ", ".join(
        f"{each.name} {_score(each.score) or 'none'} ({_score(each.default) or 'none'})" for each in rest
    )
    lines = [
        f"Backbone: {first.name}, by the best validation {METRICS[report.metric][0]}, {_score(first.score)} "
        f"{'within the limits ' if report.limits else ''}({_score(first.default)} with the default configuration), "
        f"against {others}, on {report.counts.val} pictures."
    ]
    cheapest = min(
        (each for each in report.backbones if (each.score or 0.0) >= report.best.score - NEARLY),
        key=lambda each: (report.latency_ms.get(each.name, 0.0), each.parameters or 0),
    )
    if cheapest.name == first.name:
        cheaper = [each.name for each in rest if (each.parameters or 0) < (first.parameters or 0)]
        return [*lines, f"No cheaper backbone comes within {NEARLY} of it."] if cheaper else lines
    return [
        *lines,
        f"Cheapest within {NEARLY} of the best: {cheapest.name}, {_score(cheapest.score)} (trial {cheapest.best}), "
        f"with {_cost(report, cheapest)} instead of {_cost(report, first)}; it was not evaluated on the test set.",
    ]


def _cost(report: Report, backbone: BackboneTrials) -> str:
    latency = report.latency_ms.get(backbone.name)
    size = f"{(backbone.parameters or 0) / 1e6:.1f} M parameters"
    return size if latency is None else f"{_milliseconds(latency)} ms a picture and {size}"


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def worse_line(report: Report) -> list[str]:
    """A warning where the final model is worse than the default, beyond chance."""
    if report.is_default or not report.is_worse(METRICS[report.metric][1]):
        return []
    return ["WORSE THAN THE DEFAULT, beyond chance: tuning did not pay on these test pictures; never the champion."]


def leak_line(report: Report) -> list[str]:
    """A warning where near-duplicates of test pictures were learned from."""
    if not report.leaked:
        return []
    return [
        f'THE SPLIT LEAKS (split = "random"): {report.leaked} of {report.counts.test} test pictures look like one that '
        "the model learned from, so its scores are too high: compare them with figures of such splits only. Never the "
        "champion."
    ]


def final_model(final: FinalModel) -> str:
    """What the final model is made of: `the mean of 6 models (trials 3, 7, ...)`, or `trial 3`.

    Where weights are not all alike: `the mean of 3 models (trials 3: 50 %; 1, 7: 25 % each)`.
    """
    numbers = ", ".join(map(str, final.members))
    if final.kind != "ensemble":
        return f"trial {numbers}"
    if final.weights:
        alike: dict[float, list[str]] = {}
        for number, weight in zip(final.members, final.weights, strict=True):
            alike.setdefault(weight, []).append(str(number))
        numbers = "; ".join(
            f"{', '.join(each)}: {_share(weight)}{' each' * (len(each) > 1)}" for weight, each in alike.items()
        )
    return f"the mean of {len(final.members)} models (trials {numbers})"


def shift_line(report: Report) -> list[str]:
    """A warning where the test pictures are not like the training pictures."""
    shift = report.shift
    if shift is None or shift.auroc < TOLD_APART:
        return []
    worst = max(shift.per_class, key=lambda name: shift.per_class[name], default="")
    where = f", most of all in {worst}" if worst else ""
    return [
        "Your test pictures are not like your training pictures, so expect less than the validation score: "
        f"a classifier tells them apart with AUROC {shift.auroc:.2f}{where} (0.5: alike)."
    ]


def cost_line(report: Report) -> list[str]:
    """What the final model costs, and the best trial alone; whether that is within the limits."""
    if report.final is None or not report.final.costs:
        return []
    goals = Goals(tuple(report.final.costs), report.limits)
    over = "" if goals.allow(report.final.costs) else ", measured again ABOVE THE LIMIT"
    line = f"Costs of the final model: {render_costs(report.final.costs, report.limits)}{over}"
    if report.final.costs != report.best.costs and report.best.costs:
        line += f"; of the best trial alone: {render_brief(report.best.costs)}"
    return [f"{line}."]


def front_rows(report: Report) -> list[tuple[str, ...]]:
    """The Pareto front as rows with a header: trial, score, each cost, and what the trial is."""
    costs = list(report.front[0].costs) if report.front else []
    members = report.final.members if report.final else ()
    rows = [("trial", f"validation {METRICS[report.metric][0]}", *(COSTS[key].title for key in costs), "")]
    for each in report.front:
        told = [
            *(["the default"] if each.number == report.default_number else []),
            *(["best"] if each.number == report.best.number else []),
            *(["in the final model"] if each.number in members else []),
        ]
        values = (render_cost(key, each.costs[key]) for key in costs)
        rows.append((str(each.number), f"{each.score:.3f}", *values, ", ".join(told)))
    return rows


def _table(rows: list[tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return rows[0], rows[1:]


def optimism(report: Report) -> list[str]:
    """How far the scores of the search can be trusted, in a sentence."""
    if report.final is None:
        return []
    name, key = METRICS[report.metric]
    return [
        f"From search to test, {name}: best validation score {report.best.score:.3f}; final model fitted again, on "
        f"validation pictures {report.final.score:.3f}; test set {getattr(report.test, key):.3f}."
    ]


def calibration_line(report: Report) -> list[str]:
    """How far the probabilities can be trusted, in a sentence."""
    if report.final is None or report.calibration is None or report.uncalibrated is None:
        return []
    now, before, temperature = report.calibration, report.uncalibrated, report.final.temperature
    return [
        f"Confidence is off by {100 * now.error:.1f} points on average ({100 * before.error:.1f} before calibration "
        f"with temperature {temperature:.2f}); log loss {now.log_loss:.3f} ({before.log_loss:.3f}), "
        f"Brier score {now.brier:.3f} ({before.brier:.3f})."
    ]


def unsure_line(answered: Sequence[Answered], pictures: str) -> list[str]:
    """How many pictures the model answers if it has to be right as often as wanted, in a sentence."""
    kept = [
        f"right {_share(each.precision)} of the time, it answers {_share(each.coverage)} of the {pictures} "
        f"({_share(each.accuracy, 1)} of them right)"
        for each in answered
        if each.accuracy is not None and each.precision in (0.95, 0.99)
    ]
    return [f"Unsure is an answer, too: to be {'; to be '.join(kept)}."] if kept else []


def unlike_line(share: float | None, pictures: str) -> list[str]:
    """A warning where many pictures are unlike the training pictures."""
    if share is None or share < _MANY * (1 - KNOWN):
        return []
    return [
        f"{_share(share)} of the {pictures} are unlike the training pictures, where {_share(1 - KNOWN)} is usual: "
        "expect less there, and look whether they show the classes at all."
    ]


def _share(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _of_what(report: Report) -> str:
    """What intervals are over, as the end of a sentence."""
    if report.seeds == 1:
        return f", {report.counts.test} pictures"
    name, key = METRICS[report.metric]
    others = " and ".join(f"{value:.3f}" for value in report.repeats.get(key, ()))
    return f" over {report.counts.test} pictures and {report.seeds} seeds ({name} {others} with the others)"


def _doubt(report: Report) -> str:
    """How far chance may explain the gain, as the end of a sentence."""
    name, key = METRICS[report.metric]
    if span := report.gain.get(key):
        sure = f"; 95 % interval of the difference in {name} {span[0]:+.3f} to {span[1]:+.3f}"
        return f"{sure}, so chance may explain it" if span[0] <= 0 <= span[1] else sure
    low, high = report.test.intervals.get(key, (1.0, 0.0))
    inside = low <= getattr(report.default_test, key) <= high
    return "; the default lies inside the interval, so chance may explain the difference" if inside else ""


def with_interval(scores: Scores, key: str) -> str:
    """A score with its 95 % interval: `0.853 (0.817 to 0.887)`."""
    interval = scores.intervals.get(key)
    return f"{getattr(scores, key):.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def class_rows(scores: Scores) -> list[tuple[str, ...]]:
    """The classification report as scikit-learn lays it out: classes, then accuracy and the two averages."""
    total = sum(one.support for one in scores.per_class.values())
    rows: list[tuple[str, ...]] = [
        (name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support))
        for name, one in scores.per_class.items()
    ]
    rows.append(("accuracy", "", "", f"{scores.accuracy:.3f}", str(total)))
    for kind in ("macro", "weighted"):
        means = (f"{getattr(scores, f'{key}_{kind}'):.3f}" for key in ("precision", "recall", "f1"))
        rows.append((f"{kind} avg", *means, str(total)))
    return rows


def _confusion_lines(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    named = [("", *names), *((name, *map(str, row)) for name, row in zip(names, matrix, strict=True))]
    header = ("", "", *(str(number) for number in range(1, len(names) + 1)))
    numbered = [(str(number), *row) for number, row in enumerate(named[1:], start=1)]
    for lines in (aligned(named), aligned([header, *numbered], left=2)):
        if max(map(len, lines)) <= WIDTH:
            return lines
    # Too many classes for a terminal: list the most frequent confusions instead.
    worst = [f"{names[i]} taken for {names[j]}: {count}" for count, i, j in worst_confusions(matrix, 10)]
    return [f"{len(names)} classes, see confusion_matrix.png; the most frequent confusions:"] + [
        shortened(f"  {text}", WIDTH) for text in worst
    ]


def worst_confusions(matrix: Sequence[Sequence[int]], most: int) -> list[tuple[int, int, int]]:
    """The most frequent confusions: (pictures, true class, predicted class)."""
    found = [(count, i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count]
    return sorted(found, key=lambda one: -one[0])[:most]


def best_line(report: Report) -> str:
    """Which trial was best, and what the final model is where it is not that trial retrained."""
    best, final = report.best, report.final
    score = f"validation {METRICS[report.metric][0]} {best.score:.3f}"
    name = f"{best.number}, from {best.origin}" if best.origin else f"{best.number}"
    if report.is_default and not report.default_won:
        return f"Best trial: {name}, {score}; the final model is the default configuration, not this one"
    if final and final.kind == "ensemble":
        place = "with this one" if best.number in final.members else "without this one"
        return f"Best trial: {name}, {score}; the final model is a mean of {len(final.members)}, {place}"
    return f"Best configuration: trial {name}, {score}; retrained for {render_count(report.retrain.epochs, 'epoch')}"


def _config_rows(report: Report) -> list[tuple[str, ...]]:
    bounds = {edge.parameter: edge.bound for edge in report.edges}
    return [
        (key, render_value(value), f"at the bound {render_value(bounds[key])} of its range" if key in bounds else "")
        for key, value in report.best.config.items()
    ]


def _facts(report: Report) -> list[str]:
    """Counts, times and versions, each a sentence."""
    trials, seconds = report.trials, report.seconds.to_dict()
    search = describe_search(report.begun_with)
    return [
        f"Trials: {trials.complete} complete, {trials.pruned} pruned, {trials.failed} failed"
        + (f", {trials.interrupted} interrupted and tried again" if trials.interrupted else "")
        + (f"; {search}." if search else "."),
        *objectives_line(report),
        *warm_start_lines(report.warm_starts),
        *data_facts(report),
        "Time: " + ", ".join(f"{name} {render_duration(spent)}" for name, spent in seconds.items()) + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report.versions.items()) + ".",
        f"Fingerprint: {report.fingerprint}.",
        *warn_of_reuse(report),
    ]


def objectives_line(report: Report) -> list[str]:
    """The objectives, where there are several, and how many trials were not trained for a limit."""
    if not report.front:
        return []
    names = ", ".join(
        COSTS[key].title + (f" (at most {render_cost(key, report.limits[key])})" if key in report.limits else "")
        for key in report.front[0].costs
    )
    above = report.trials.pruned
    stopped = f"; {render_count(above, 'trial')} above a limit, pruned without being trained" if above else ""
    return [f"Objectives: {METRICS[report.metric][0]}, {names}{stopped}."]


def warm_start_lines(origins: Sequence[Origin]) -> list[str]:
    """Which trials of earlier studies the configurations are from that ran early, and which of them to doubt."""
    if not origins:
        return []
    trials: dict[str, list[str]] = {}
    for each in origins:
        trials.setdefault(each.study, []).append(str(each.trial))
    named = "; ".join(f"{study} (trials {', '.join(numbers)})" for study, numbers in trials.items())
    lines = [f"Warm start with {render_count(len(origins), 'configuration')} of earlier studies: {named}."]
    if resplit := ", ".join(dict.fromkeys(each.study for each in origins if each.resplit)):
        lines.append(
            f"{resplit} had another split of this data set, so what these configurations were chosen by may be among "
            "the test pictures here."
        )
    return lines


def render_states(trials: TrialCounts) -> str:
    """The states that occur: `14 complete, 1 failed`."""
    counts = {"complete": trials.complete, "pruned": trials.pruned, "failed": trials.failed}
    counts["interrupted"] = trials.interrupted
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def data_facts(report: Report) -> list[str]:
    """The pictures, and what was corrected, in a sentence each."""
    counts = report.counts
    twice = f", {report.contradictions} in more than one class" if report.contradictions else ""
    return [
        f"Pictures: {counts.train} train, {counts.val} validation, {counts.test} test; "
        f"{render_count(report.duplicates, 'duplicate')}{twice}, "
        f"{len(report.problems)} left out.",
        *(
            [f"Near-duplicates: {render_count(report.near_duplicates, 'group')} of pictures that look alike."]
            if report.near_duplicates
            else []
        ),
        *([f"Corrected by hand: {render_corrected(report.corrected)}."] if report.corrected else []),
    ]


def warn_of_reuse(report: Report) -> list[str]:
    """A warning where more than one final model was evaluated on test pictures of this data set."""
    openings = report.openings or [Opening(study=report.study, trials=(each,)) for each in report.test_opened_for]
    if len(openings) < 2:
        return []
    times = [
        f"{each.when[:10] + ' ' if each.when else ''}{each.study} (trials {', '.join(map(str, each.trials))})"
        for each in openings[-_OPENINGS:]
    ]
    last = "" if len(openings) <= _OPENINGS else "the last, "
    return [
        f"Test pictures of this data set were evaluated {len(openings)} times: {last}{'; '.join(times)}. Trust the "
        "scores a little less each time."
    ]


def problem_lines(problems: Sequence[Problem], most: int = 20) -> list[str]:
    """The files that were left out, each with its reason."""
    lines = [f"Left out: {one.path}: {one.what}" for one in problems]
    rest = len(lines) - most
    return lines[:most] + ([f"... and {rest} more, see report.json"] if rest > 0 else [])


def wrapped(lines: Iterable[str]) -> list[str]:
    """The lines, broken at the width of a terminal, between words only: a path or a name may be copied whole.

    A number keeps its sign of percent.
    """
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    parts = (part for line in lines for part in wrapper.wrap(line.replace(" %", f"{_NO_BREAK}%")))
    return [part.replace(_NO_BREAK, " ") for part in parts]
