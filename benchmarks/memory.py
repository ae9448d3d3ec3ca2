"""Memory that is a process's own after so many trials, heads alone and tails, on TrashNet."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import psutil

from wastetune import storage
from wastetune.prepare import prepare_study
from wastetune.space import default_params
from wastetune.spec import load_study
from wastetune.terminal import open_terminal
from wastetune.worker import run_worker

TRIALS = 50
SPACE = """
head_layers = { int = [0, 2], default = 1 }
head_units = { int = [64, 256], default = 64, when = "head_layers > 0" }
dropout = { float = [0.0, 0.5], default = 0.2 }
learning_rate = 1e-3
batch_size = 128
frozen_depth = { float = [0.9, 1.0], default = 1.0 }
epochs = 2
"""


def main() -> None:
    os.chdir(tempfile.mkdtemp())
    Path("space.toml").write_text(SPACE)
    spec = load_study("mobilenet_small_trashnet").model_copy(update={"space": "space.toml", "views": 1})
    data, weights = (Path(os.environ[name]) for name in ("WASTETUNE_DATA", "WASTETUNE_WEIGHTS"))
    terminal = open_terminal()
    prepared = prepare_study(spec, data=data, weights=weights, terminal=terminal)
    opened = storage.open_storage("sqlite:///memory.db")
    study = storage.open_study(opened, "memory", prepared.fingerprint, default_params(prepared.setting.space))
    process = psutil.Process()

    def measure(trial: object) -> None:
        count = len(storage.finished_trials(study))
        if count == 1 or count % 10 == 0:
            print(f"{count:4d} trials: {process.memory_full_info().uss / 1e6:7.0f} MB", file=sys.stderr)

    run_worker(study, prepared.setting, trials=TRIALS, timeout=None, bar=terminal.bar, on_trial=measure)


if __name__ == "__main__":
    main()
