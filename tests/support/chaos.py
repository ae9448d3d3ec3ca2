"""Studies of fast trials while workers are killed, paused and told to end, and the database is stopped, at random.

    PYTHONPATH=tests python -m support.chaos --minutes 15 --database sqlite

Studies run one after another until the time is over, each to its end and each checked: exactly its number of trials,
no configuration twice, every lost one tried again, every score that was told in the database and in MLflow. One worker
in four is a `wastetune worker` from the command line, the others are forked from one process that has imported all, for
a worker that is killed while it imports TensorFlow shows little. Prints what was done and what was found as JSON;
exits with 1 where something was lost.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.trial import FixedTrial

from support.postgres import open_postgres
from wastetune.cli.main import main as command_line
from wastetune.console import open_console
from wastetune.datasets.synthetic import write_sample
from wastetune.errors import UserError
from wastetune.search.space import default_params
from wastetune.settings import Locations
from wastetune.signals import raise_on_signals
from wastetune.storage.budget import LOST, MAX_RETRIES, is_void, only_finished
from wastetune.storage.database import engine_of, open_storage
from wastetune.study import run
from wastetune.study.run import run_one_worker
from wastetune.tuning.objective import choose_config, tuning_sets
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.processes import PARENT
from wastetune.tuning.spec import load_study

WORKERS = 3
LEASE = 3.0
SPACE = """\
head_layers = { int = [0, 1], default = 0 }
head_units = { int = [4, 64], default = 8, when = "head_layers > 0" }
dropout = { float = [0.0, 0.5], default = 0.1 }
learning_rate = { float = [1e-3, 1e-1], log = true, default = 1e-2 }
batch_size = 16
frozen_depth = 1.0
augmentation = { choice = [0.0, 1.0], default = 0.0 }
epochs = 60
patience = 60
"""
STUDY = """\
# Is anything lost?
dataset = "{pictures}"
backbone = "mobilenet_v3_small_minimalistic"
space = "{space}"
trials = {trials}
weights = "none"
image_size = 32
views = 2
"""


class Fork:
    """A worker forked from this process, as `wastetune run --workers` starts them, with what `Popen` has."""

    def __init__(self, work, log):
        self.returncode = None
        self.pid = os.fork()
        if not self.pid:
            os.environ[PARENT] = str(os.getppid())
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                work()
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                os._exit(2)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.02)

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


class Arena:
    """A study, its workers, and the means to make their lives hard."""

    def __init__(self, folder, url, tracking, postgres, trials, seed, fresh_every):
        self.folder, self.url, self.tracking, self.postgres, self.trials = folder, url, tracking, postgres, trials
        self.fresh_every = fresh_every
        self.random = random.Random(seed)
        self.study = folder / f"chaos{seed}.toml"
        (folder / "space.toml").write_text(SPACE)
        self.study.write_text(STUDY.format(pictures=folder / "pictures", space=folder / "space.toml", trials=trials))
        self.spec = load_study(str(self.study))
        self.prepared = prepare_study(self.spec, data=None, weights=None, console=open_console())
        for augmentation in (0.0, 1.0):
            params = default_params(self.prepared.context.space) | {"augmentation": augmentation}
            config = choose_config(FixedTrial(params), self.prepared.context)
            tuning_sets(self.prepared.context, config, open_console().bar)
        self.done = Counter()
        self.workers, self.paused, self.logs = [], [], []
        self.back_at = None

    def start(self):
        log = (self.folder / f"{self.study.stem}-worker{len(self.logs)}.log").open("w+")
        self.logs.append(log)
        if len(self.logs) % self.fresh_every:
            self.workers.append(Fork(self.work, log))
        else:
            command = [sys.executable, "-m", "wastetune", "worker", "--study", str(self.study)]
            self.workers.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        self.workers[-1].log = log

    def work(self):
        """What `wastetune worker` does, without preparing."""
        run.prepare_study = lambda *given, **named: self.prepared
        locations = Locations(self.url, "", Path(), None, None)
        with suppress(KeyboardInterrupt), raise_on_signals() as check:
            run_one_worker(self.spec, locations, open_console(), timeout=None, renew_after=50, check=check)

    def run(self, deadline):
        """Until every worker has ended by itself. Gives what is wrong with how they ended."""
        next_blow, next_count = time.monotonic() + 1, 3
        wrong = []
        while time.monotonic() < deadline:
            now = time.monotonic()
            self.paused = [each for each in self.paused if each[0] > now]
            if self.back_at is not None and self.back_at <= now:
                self.postgres.start()
                self.back_at = None
            for worker in [each for each in self.workers if each.poll() is not None]:
                self.workers.remove(worker)
                self.done[f"exit {worker.returncode}"] += 1
                if worker.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM) and not self.came_in_vain(worker):
                    said = Path(worker.log.name).read_text()[-2000:]
                    wrong.append(f"a worker ended with {worker.returncode}: {said}")
            finished = self.count()
            if finished < self.trials:
                while len(self.workers) < WORKERS:
                    self.start()
            elif not self.workers:
                return wrong
            # By time, and by trials as well: a fast machine is not spared.
            if self.trials > finished and (now >= next_blow or finished >= next_count):
                self.strike()
                next_blow, next_count = now + self.random.uniform(0.2, 3), finished + self.random.randint(1, 5)
            time.sleep(0.1)
        return [*wrong, "the study did not end in time"]

    def came_in_vain(self, worker):
        """Whether it ended with the sentence for a database that was away when it came."""
        said = Path(worker.log.name).read_text().strip().splitlines()
        return worker.returncode == 2 and "cannot be opened" in said[-1] and self.postgres is not None

    def count(self):
        """Finished trials, as far as can be seen now."""
        try:
            return len(only_finished(self.read())) if self.back_at is None else 0
        except KeyError:  # nobody has begun it yet
            return 0

    def strike(self):
        free = [worker for worker in self.workers if all(worker is not other for _, other in self.paused)]
        blows = ["kill", "kill", "pause", "term"]
        if self.postgres is not None and self.back_at is None:
            blows += ["restart", "away"]
        if not free:
            return
        blow, victim = self.random.choice(blows), self.random.choice(free)
        self.done[blow] += 1
        if blow == "kill":
            victim.kill()
        elif blow == "term":
            victim.terminate()
        elif blow == "pause":
            seconds = self.random.uniform(0.5, 3 * LEASE)
            victim.send_signal(signal.SIGSTOP)
            # Woken by another process: this one may wait for a lock that the victim holds.
            subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {victim.pid}"], stderr=subprocess.DEVNULL)
            self.paused.append((time.monotonic() + seconds, victim))
        else:
            self.postgres.stop()
            self.back_at = time.monotonic() + (0 if blow == "restart" else self.random.uniform(2, 8))

    def told(self):
        """(number, score) of the complete trials that workers said they had finished, None for pruned ones."""
        for log in self.logs:
            for number, score in re.findall(
                r"^trial +(\d+)  (0\.\d{4}|1\.0000|pruned) ", Path(log.name).read_text(), re.M
            ):
                yield int(number), None if score == "pruned" else float(score)

    def read(self):
        """The trials. No connection stays open: SQLite loses its locks where one is carried across a fork."""
        opened = open_storage(self.url)
        try:
            return optuna.load_study(study_name=self.study.stem, storage=opened).trials
        finally:
            engine_of(opened).dispose()

    def check(self):
        """What is wrong with what is left; nothing else."""
        trials = self.read()
        wrong = []
        finished = only_finished(trials)
        if len(finished) != self.trials:
            wrong.append(f"{len(finished)} finished trials instead of {self.trials}")
        configs = Counter(json.dumps(trial.user_attrs["config"], sort_keys=True) for trial in finished)
        wrong += [
            f"{count} trials finished the configuration {config}" for config, count in configs.items() if count > 1
        ]
        wrong += [f"trial {trial.number} is {trial.state.name}" for trial in trials if not trial.state.is_finished()]
        wrong += [
            f"trial {t.number} failed without a reason"
            for t in trials
            if t.state.name == "FAIL" and "failure" not in t.user_attrs
        ]
        if not any(trial.user_attrs.get("default") for trial in finished):
            wrong.append("the default configuration was never finished")
        for number, score in self.told():
            value = trials[number].value
            if trials[number].state.name not in ("COMPLETE", "PRUNED") or (
                score is not None and abs(value - score) > 1e-4
            ):
                wrong.append(f"trial {number} told {score} and has {trials[number].state.name} {value}")
        lost = Counter(
            json.dumps(trial.user_attrs["config"], sort_keys=True)
            for trial in trials
            if trial.user_attrs.get("failure") == LOST
        )
        wrong += [f"lost {count} times: {config}" for config, count in lost.items() if count > MAX_RETRIES + 1]
        never = [config for config, count in lost.items() if config not in configs and count <= MAX_RETRIES]
        self.done["lost"] += sum(lost.values())
        self.done["lost, not tried again before the budget was spent"] += len(never)
        self.done["void"] += sum(is_void(trial) for trial in trials)
        self.done["handed back"] += sum(bool(trial.user_attrs.get("handed_back")) for trial in trials)
        self.done["failed by themselves"] += sum(
            trial.state.name == "FAIL"
            and trial.user_attrs["failure"] not in (LOST, "interrupted")
            and not is_void(trial)
            for trial in trials
        )
        self.done["finished"] += len(finished)
        return wrong + self.check_mirror(trials)

    def check_mirror(self, trials):
        """`wastetune sync`, twice; then each trial that ran is one run, in its state, with its score."""
        with (self.folder / f"{self.study.stem}-sync.log").open("w+") as log:
            syncing = Fork(self.sync, log)
            syncing.wait()
            if syncing.returncode:
                return [f"wastetune sync ended with {syncing.returncode}: {Path(log.name).read_text()[-2000:]}"]
        names = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
        expected = sorted(
            (f"trial {t.number}", names[t.state.name], t.value if t.state.name == "COMPLETE" else None)
            for t in trials
            if not is_void(t)
        )
        found = [tuple(run) for run in json.loads((self.folder / "runs.json").read_text())]
        return [] if found == expected else [f"MLflow has {set(found) ^ set(expected)} differently"]

    def sync(self):
        """`wastetune sync`, twice, and a file of the runs that MLflow has then.

        In a process of its own: this one opens no database that its workers would inherit.
        """
        os.chdir(self.folder)
        for _ in range(2):
            command = ["sync", "--study", self.study.stem, "--tracking-uri", self.tracking]
            assert not command_line(command, prog_name="wastetune", standalone_mode=False)
        client = MlflowClient(self.tracking)
        (experiment,) = (each for each in client.search_experiments() if each.name == "pictures")
        query = f"tags.study = '{self.study.stem}' and tags.`wastetune.trial` = 'study'"
        (parent,) = client.search_runs([experiment.experiment_id], query)
        runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        found = sorted(
            (r.info.run_name, r.info.status, r.data.metrics.get("best_score") if r.info.status == "FINISHED" else None)
            for r in runs
        )
        Path("runs.json").write_text(json.dumps(found))

    def close(self):
        for worker in self.workers:
            worker.kill()
            worker.wait()
        for log in self.logs:
            log.close()


def run_chaos(folder, url, tracking, postgres, *, trials, seed, minutes, fresh_every):
    """One study under blows, checked: what was done, and what is wrong."""
    arena = Arena(folder, url, tracking, postgres, trials, seed, fresh_every)
    try:
        wrong = arena.run(time.monotonic() + 60 * minutes)
        if arena.back_at is not None:
            postgres.start()
        return arena.done, wrong + arena.check()
    finally:
        arena.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--trials", type=int, default=200, help="of each study")
    parser.add_argument("--studies", type=int, default=1000, help="no more than so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh-every", type=int, default=4, help="one worker in so many is not forked")
    parser.add_argument("--tracking-uri", help="of an MLflow store; left out: a new one")
    asked = parser.parse_args()
    done, wrong, studies = Counter(), [], 0
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        write_sample(folder / "pictures", classes=("box", "leaf"), per_class=20, size=48)
        postgres = stack.enter_context(open_postgres()) if asked.database == "postgresql" else None
        url = postgres.new_database() if postgres else f"sqlite:///{folder / 'study.db'}"
        tracking = asked.tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"
        cache, lease = str(folder / "cache"), str(LEASE)
        os.environ.update(WASTETUNE_STORAGE=url, WASTETUNE_LEASE=lease, WASTETUNE_CACHE=cache)
        while time.monotonic() - began < 60 * asked.minutes and studies < asked.studies:
            more, bad = run_chaos(
                *(folder, url, tracking, postgres),
                trials=asked.trials,
                seed=asked.seed + studies,
                minutes=asked.minutes,
                fresh_every=asked.fresh_every,
            )
            done += more
            wrong += bad
            studies += 1
            print(json.dumps({"study": studies, "done": more, "wrong": bad}), flush=True)
    minutes = round((time.monotonic() - began) / 60, 1)
    found = {"database": asked.database, "minutes": minutes, "studies": studies, "done": done, "wrong": wrong}
    print(json.dumps(found))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
