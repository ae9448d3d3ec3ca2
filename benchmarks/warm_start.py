"""Does a study find good configurations sooner with those of a study of another data set? TrashNet and WID, both ways.

    python benchmarks/warm_start.py --json warm_start.json

For each seed, a study of each data set runs without a warm start, then one of each with the other's best
configurations. Both have the same split, and their trials the same seeds. The table has the best validation score after
some trials, trial 0, the default, included; a pruned trial counts as a trial. No test picture is read.

WID contains TrashNet's pictures, so this is kinder to a warm start than two data sets that share none.

Activations, in WASTETUNE_CACHE, are computed once for all splits of a data set.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import numpy as np
from common import Row, folders, options, prepare, print_table, temporary_folder, timed, write_small_study, write_study
from selection import BACKBONE, Vectors, no_pixels

from wastetune.console import open_console
from wastetune.datasets.synthetic import write_sample
from wastetune.storage.study import read_trials
from wastetune.tuning.prepare import join_study
from wastetune.tuning.workers.worker import run_worker

CASES = ("trashnet", "wid")
AFTER = (5, 10, 20)  # trials
SEEDS = 5


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", help=f"by default 0 to {SEEDS - 1}, with --quick 0")
    asked = parser.parse_args()
    seeds = asked.seeds or range(1 if asked.quick else SEEDS)
    with temporary_folder() if asked.quick else real_studies():
        print_table(compare(seeds, quick=asked.quick), asked.json)


@contextlib.contextmanager
def real_studies() -> Iterator[None]:
    """A new working directory, in which studies look up the vectors of their pictures."""
    data, _ = folders()
    assert data is not None, "name the folder of data sets: WASTETUNE_DATA"
    with (
        tempfile.TemporaryDirectory() as here,
        chdir(here),
        patch("wastetune.tuning.prepare.open_pixels", no_pixels),
        patch("wastetune.tuning.objective._activations", Vectors(data.resolve()).look_up),
    ):
        yield


def compare(seeds: Sequence[int], *, quick: bool) -> Iterator[Row]:
    """A row for each study with a warm start, then for each data set and number of trials the mean difference."""
    found: dict[str, list[Row]] = {case: [] for case in CASES}
    for seed in seeds:
        cold = {case: run(case, seed, quick=quick) for case in CASES}
        for case, other in zip(CASES, reversed(CASES), strict=True):
            warm = run(case, seed, source=f"{other}_{seed}", quick=quick)
            row: Row = {"from, to": f"{other}, {case}", "seed": seed}
            for after in AFTER:
                row |= {f"cold {after}": max(cold[case][:after]), f"warm {after}": max(warm[:after])}
            row["trial of the cold best"] = int(np.argmax(cold[case]))
            row["warm better from"] = next((n for n, score in enumerate(warm) if score > max(cold[case])), None)
            found[case].append(row)
            yield row
    for case, rows in found.items():
        for after in AFTER:
            gains = np.array([row[f"warm {after}"] - row[f"cold {after}"] for row in rows])
            yield {
                "to": case,
                "trials": after,
                "cold": float(np.mean([row[f"cold {after}"] for row in rows])),
                "warm": float(np.mean([row[f"warm {after}"] for row in rows])),
                "gain": float(gains.mean()),
                "standard error": float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else None,
                "better": int((gains > 0).sum()),
                "worse": int((gains < 0).sum()),
            }


def run(case: str, seed: int, *, source: str | None = None, quick: bool) -> list[float]:
    """The validation score of each trial of a study, 0 for a pruned one; with a warm start where a source is named."""
    name, trials = f"{case}_{seed}" + ("_warm" if source else ""), max(AFTER)
    values = {"trials": trials, "seed": seed} | ({"warm_start": [source]} if source else {})
    if quick:
        pictures = Path(case).resolve()
        if not pictures.exists():
            classes = ("box", "leaf") if case == CASES[0] else ("bottle", "can")
            write_sample(pictures, classes=classes, per_class=20, size=48, odd_files=False)
        file = write_small_study(name, dataset=str(pictures), epochs=4, **values)
    else:
        file = write_study(name, dataset=case, views=4, **BACKBONE, **values)
    prepared, console = prepare(file), open_console(quiet=True)
    study = join_study(prepared, f"sqlite:///{Path('studies.db').resolve()}", console)
    seconds = timed(
        lambda: run_worker(
            study, prepared.context, trials=trials, timeout=None, bar=console.bar, on_trial=lambda trial: None
        )
    )
    print(f"{name}: {seconds:.0f} s", flush=True)
    finished = [trial for trial in read_trials(study) if trial.state.name in ("COMPLETE", "PRUNED")]
    return [trial.value if trial.state.name == "COMPLETE" else 0.0 for trial in finished]


if __name__ == "__main__":
    main()
