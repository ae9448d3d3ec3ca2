"""A study from Python, whole: pictures, search, report, trials as a table, and the model on pictures it has not seen.

    python examples/small_study.py [FOLDER]

Works in the folder, or in one that it deletes again. The pictures are drawn and the backbone's weights random, so that
nothing is downloaded; with photos of your own, name their folder as `dataset` and leave `weights` out.
"""

import os
import sys
import tempfile
from pathlib import Path

import wastetune
from wastetune.datasets.synthetic import write_sample

SPACE = """\
head_layers   = { int = [0, 1], default = 0 }
head_units    = { int = [16, 64], log = true, default = 32, when = "head_layers > 0" }
dropout       = 0.2
learning_rate = { float = [1e-3, 3e-2], log = true, default = 3e-3 }
batch_size    = 16
epochs        = 6
"""
STUDY = """\
# Which head tells bottles from leaves?
dataset    = "{folder}/pictures"
backbone   = "resnet50"
space      = "{folder}/space.toml"
trials     = 4
weights    = "none"
image_size = 64
views      = 2
"""


def main(folder: Path) -> None:
    """The study in this folder, and what it says."""
    os.environ.setdefault("WASTETUNE_CACHE", str(folder / "cache"))  # so that nothing stays behind
    write_sample(folder / "pictures", classes=("bottle", "leaf"), per_class=30, size=64)
    (folder / "space.toml").write_text(SPACE)
    (folder / "small.toml").write_text(STUDY.format(folder=folder.as_posix()))

    storage = f"sqlite:///{folder / 'wastetune.db'}"
    report = wastetune.run_study(
        folder / "small.toml",
        storage=storage,
        tracking_uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}",
        results=folder / "results",
        quiet=True,
    )
    test, best = report["test"], report["best"]
    low, high = test["intervals"]["f1_macro"]
    print(f"trial {best['number']} won; macro F1 on the test set {test['f1_macro']:.3f} ({low:.3f} to {high:.3f})")

    trials = wastetune.load_trials("small", storage=storage).sort_values("score", ascending=False)
    print("\nThe best trials:")
    print(
        trials[["number", "state", "score", "seconds", "head_layers", "learning_rate"]].head(3).to_string(index=False)
    )

    unseen = write_sample(folder / "unseen", classes=("bottle", "leaf"), per_class=5, size=64, seed=1)
    said = wastetune.predict(folder / "results" / "small" / "bundle", unseen)
    said["picture"] = [Path(path).relative_to(unseen).as_posix() for path in said["picture"]]
    print("\nNew pictures:")
    print(said[["picture", "class", "probability"]].to_string(index=False))
    for row in said[said["problem"] != ""].itertuples():
        print(f"\nPassed over: {row.problem}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
