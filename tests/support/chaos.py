"""Studies of fast trials while all that they stand on is struck at random: workers, the run, databases, disk, MLflow.

    PYTHONPATH=tests python -m support.chaos --blows 2000 --database sqlite

Some studies at a time, each with `wastetune run --workers 2` and a `wastetune worker` beside it, until there were so
many blows or the time is over; those in hand are then left in peace to their ends. Each is checked: exactly its number
of trials, no configuration twice, every lost one tried again, every score that was told in the database and in MLflow,
and the scores those of an undisturbed fit. One worker in some is a process from the command line, the others are forked
from one that has imported all, for one that is killed while it imports TensorFlow shows little.
Prints what was done and what was found as JSON; exits with 1 where something was lost.
"""

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.trial import FixedTrial

from support.forks import WORKER, Fork, is_alive, lend_forks, processes_of
from support.forkserver import preload
from support.postgres import open_postgres
from support.surroundings import SlowLine, damage, hold_write_lock, open_disk, open_memory_limit, open_mlflow
from wastetune.backbones import runtime
from wastetune.backbones.activation_store import open_store
from wastetune.cli.main import main as command_line
from wastetune.console import open_console
from wastetune.datasets.synthetic import write_sample
from wastetune.search.space import default_params
from wastetune.storage.budget import LOST, MAX_RETRIES, is_void, only_finished
from wastetune.storage.database import engine_of, open_storage
from wastetune.study import run
from wastetune.training.config import TrialConfig
from wastetune.tuning.objective import choose_config, run_trial, tuning_sets
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.spec import load_study

LEASE = 3.0
FITTED_AGAIN = 8  # complete trials of each study whose score is compared with that of an undisturbed fit
PATIENCE = 15  # minutes without a finished trial after which a study counts as stuck
SPACE = """\
head_layers = { int = [0, 1], default = 0 }
head_units = { int = [4, 64], default = 8, when = "head_layers > 0" }
dropout = { float = [0.0, 0.5], default = 0.1 }
learning_rate = { float = [1e-3, 1e-1], log = true, default = 1e-2 }
batch_size = 16
frozen_depth = 1.0
augmentation = { choice = [0.0, 1.0], default = 0.0 }
epochs = 30
patience = 30
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
# How often each blow falls, against the others; those that need what is not there are left out.
BLOWS = {
    "worker killed": 5,
    "worker paused": 5,
    "worker told to end": 3,
    "worker at its memory limit": 3,
    "run paused": 3,
    "run killed": 1,
    "run told to end": 1,
    "part damaged": 4,
    "disk full": 1,
    "MLflow restarted": 0.3,
    "MLflow paused": 1,
    "write lock held": 3,
    "database restarted": 1,
    "database away": 1,
    "database slow": 2,
    "database stands still": 1,
    "connections cut": 2,
    "connections cut in the middle of an answer": 2,
}
# After one of these somebody has to begin anew; the next comes once a trial has been finished, or after this time.
ENDS = ("killed", "told to end", "at its memory limit")
RECOVERY = 20
# What a command may say when it ends with 2: sentences that tell a user what to do about what was done to it.
EXCUSES = (
    "the study database .* cannot be opened",
    "the study database cannot be written to",
    "No space left on device",
    r"\d+ workers died without a trial being finished",
)


class Surroundings:
    """What all studies share: disk, database, MLflow, and what strikes them until it is taken back."""

    def __init__(self, stack, folder, database, seed, tracking):
        self.folder, self.random, self.done = folder, random.Random(seed), Counter()
        self.due, self.helpers = [], []  # (when, what is struck, how it is taken back); processes that help
        self.memory = stack.enter_context(open_memory_limit())
        self.disk = stack.enter_context(open_disk(folder / "disk"))
        self.log = stack.enter_context((folder / "helpers.log").open("w"))
        self.cache, self.file = folder / "disk" / "cache", folder / "disk" / "study.db"
        self.postgres = self.line = None
        if database == "postgresql":
            self.postgres = stack.enter_context(open_postgres())
            self.direct = self.postgres.new_database()
            socket_file = Path(self.postgres.server.get_postmaster_info().socket_dir) / ".s.PGSQL.5432"
            self.line = SlowLine(str(socket_file), self.log)
            stack.callback(self.line.close)
            name = re.search(r"/(\w+)\?", self.direct)[1]
            self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.line.port}/{name}"
        else:
            self.url = self.direct = f"sqlite:///{self.file}"
        self.mlflow = None if tracking else stack.enter_context(open_mlflow(folder))
        self.tracking = tracking or self.mlflow.address

    def blows(self):
        """Those that can fall now, with how often they do. Nothing is struck twice at a time."""
        struck = {what for _, what, _ in self.due}
        there = dict(BLOWS)
        for missing, names in (
            (self.memory is None, ["worker at its memory limit"]),
            (self.disk is None or "disk" in struck, ["disk full"]),
            (self.mlflow is None or "MLflow" in struck, [blow for blow in BLOWS if blow.startswith("MLflow")]),
            (self.postgres is not None or "lock" in struck, ["write lock held"]),
            (
                self.postgres is None or "database" in struck,
                [blow for blow in BLOWS if blow.startswith(("database", "connections"))],
            ),
        ):
            for name in names if missing else ():
                there.pop(name, None)
        return there

    def strike(self, blow):
        """One of the blows that fall on no process of a study."""
        lasting = self.random.uniform(0.3, 4)
        if blow == "part damaged":
            self.damage_part()
        elif blow == "disk full":
            self.damage_part()  # so that workers need room
            self.disk.fill()
            self.later(lasting, "disk", self.disk.free)
        elif blow == "MLflow restarted":
            self.mlflow.kill()
            self.later(lasting, "MLflow", self.mlflow.start)
        elif blow == "MLflow paused":
            self.mlflow.signal(signal.SIGSTOP)
            self.later(lasting, "MLflow", lambda: self.mlflow.signal(signal.SIGCONT))
        elif blow == "write lock held":
            self.helpers.append(hold_write_lock(self.file, lasting, self.log))
            self.later(lasting, "lock", lambda: None)
        elif blow in ("database restarted", "database away"):
            self.postgres.stop()
            self.later(0 if blow == "database restarted" else 2 * lasting, "database", self.postgres.start)
        elif blow in ("database slow", "database stands still"):
            self.line.order("slow" if blow == "database slow" else "hang")
            self.later(2 * lasting, "database", lambda: self.line.order("well"))
        elif blow == "connections cut":
            self.line.order("cut")
        else:
            self.line.order("half")
            self.later(0.3, "database", lambda: self.line.order("well"))

    def damage_part(self):
        """A file of activations, or some of the stored pictures that one is computed from as well."""
        parts = [*self.cache.glob("activations/*/*/[!.]*.npy")]
        if self.random.random() < 0.2:
            parts += self.cache.glob("pixels-*.npy")
        if parts:
            with suppress(OSError):  # deleted meanwhile, or the disk is full
                damage(self.random.choice(parts), self.random)

    def later(self, seconds, what, take_back):
        self.due.append((time.monotonic() + seconds, what, take_back))

    def take_back(self, *, all=False):
        """What is due; or all of it."""
        self.helpers = [each for each in self.helpers if each.poll() is None]
        now = time.monotonic()
        due = [each for each in self.due if all or each[0] <= now]
        self.due = [each for each in self.due if each not in due]
        for _, _, take_back in due:
            take_back()

    def count(self, study):
        """The finished trials of a study, and those of the default among them; None where that cannot be seen now."""
        query = (
            "SELECT count(*), count(a.trial_id) FROM trials JOIN studies USING (study_id) "
            "LEFT JOIN trial_user_attributes a ON a.trial_id = trials.trial_id AND a.key = 'default' "
            f"WHERE study_name = '{study}' AND state IN ('COMPLETE', 'PRUNED')"
        )
        try:
            if self.postgres is None:
                with closing(sqlite3.connect(f"file:{self.file}?mode=rw", uri=True, timeout=0.1)) as connection:
                    return connection.execute(query).fetchone()
            import psycopg

            with psycopg.connect(self.direct.replace("+psycopg", ""), connect_timeout=1) as connection:
                return connection.execute(query).fetchone()
        except Exception:  # not there yet, away, without room
            return None


class Arena:
    """A study and its processes."""

    def __init__(self, ground, prepared, trials, number, fresh_every):
        self.ground, self.trials, self.fresh_every = ground, trials, fresh_every
        self.folder, self.random, self.done = ground.folder, ground.random, Counter()
        self.study = self.folder / f"chaos{number}.toml"
        self.study.write_text(
            STUDY.format(pictures=self.folder / "pictures", space=self.folder / "space.toml", trials=trials)
        )
        self.spec = load_study(str(self.study))
        self.prepared = replace(prepared, context=replace(prepared.context, spec=self.spec))
        self.run, self.workers, self.orphans, self.paused, self.logs, self.wrong = None, [], [], [], [], []
        self.finished, self.has_default, self.changed, self.counted = 0, False, time.monotonic(), 0.0
        self.not_before = 0.0
        self.may_end = (0.0, 0)  # when somebody may be made to end again, and from how many finished trials on

    def open_log(self):
        self.logs.append((self.folder / f"{self.study.stem}-{len(self.logs)}.log").open("w+"))
        return self.logs[-1]

    def start_worker(self):
        log = self.open_log()
        if len(self.logs) % self.fresh_every:
            self.workers.append(Fork(self.work, log))
        else:
            command = [sys.executable, "-m", "wastetune", "worker", "--study", str(self.study)]
            self.workers.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        self.workers[-1].log = log

    def start_run(self):
        self.run = Fork(self.search, log := self.open_log())
        self.run.log = log

    def spare_time(self):
        """In a fork: the study is prepared and the trunk converted, as they were before it."""
        run.prepare_study = lambda *given, **named: self.prepared
        runtime._open_openvino = lambda trunk, size: open_converted(self.folder)

    def work(self):
        """`wastetune worker`, without preparing."""
        self.spare_time()
        command_line(["worker", "--study", str(self.study)], prog_name="wastetune")

    def search(self):
        """`wastetune run --workers 2`, without preparing; its workers are forks."""
        self.spare_time()
        lend_forks(lambda words: self.work())
        results = str(self.ground.cache.parent / "results")
        command = ["run", "--study", str(self.study), "--workers", "2", "--no-retrain", "--results", results]
        command_line([*command, "--tracking-uri", self.ground.tracking], prog_name="wastetune")

    def step(self):
        """Sees who has ended, and starts others. False once the study has its trials and everybody has ended."""
        now = time.monotonic()
        self.paused = [each for each in self.paused if each[0] > now]
        for worker in [each for each in self.workers if each.poll() is not None]:
            self.workers.remove(worker)
            self.note_end("worker", worker, (0, -signal.SIGKILL, -signal.SIGTERM))
        if self.run is not None and self.run.poll() is not None:
            self.note_end("run", self.run, (0, 130, -signal.SIGKILL, -signal.SIGTERM))
            self.run = None
        if now - self.counted > 0.2:
            finished, default = self.ground.count(self.study.stem) or (self.finished, self.has_default)
            if finished != self.finished:
                self.changed = now
            self.finished, self.has_default, self.counted = finished, bool(default), now
        if self.finished < self.trials and now >= self.not_before:
            if self.run is None:
                self.start_run()
            if not self.workers:
                self.start_worker()
        if self.finished >= self.trials and not self.workers and self.run is None:
            return False
        if now - self.changed > 60 * PATIENCE:
            self.wrong.append(f"{self.finished} of {self.trials} trials, and nothing more for {PATIENCE} minutes")
            return False
        return True

    def note_end(self, who, process, fine):
        self.done[f"{who}: exit {process.returncode}"] += 1
        if process.returncode in fine:
            return
        said = Path(process.log.name).read_text()
        last = (said.strip().splitlines() or [""])[-1]
        excuse = next((each for each in EXCUSES if process.returncode == 2 and re.search(each, last)), None)
        if excuse is None:
            self.wrong.append(f"a {who} ended with {process.returncode}: {said[-3000:]}")
        else:
            self.done[f"{who} said: {excuse}"] += 1
            self.not_before = time.monotonic() + 1  # what it came for is not there yet

    def strike(self, blow):
        """One of the blows that fall on a process; false where there is none to fall on."""
        still = {pid for _, pid in self.paused}
        whose, _, what = blow.partition(" ")
        when, trials = self.may_end
        if what in ENDS and time.monotonic() < when and self.finished < trials:
            return False
        if whose == "run":
            victims = [self.run.pid] if self.run is not None and self.run.poll() is None else []
        else:
            victims = [worker.pid for worker in self.workers if worker.poll() is None]
            victims += processes_of(self.run.pid, WORKER) if self.run is not None else []
        free = [pid for pid in victims if pid not in still]
        if not free:
            return False
        victim = self.random.choice(free)
        if what in ENDS:
            self.may_end = (time.monotonic() + RECOVERY, self.finished + 1)
        with suppress(ProcessLookupError):
            if what == "killed":
                if whose == "run":
                    self.orphans += processes_of(victim, WORKER)
                os.kill(victim, signal.SIGKILL)
            elif what == "told to end":
                os.kill(victim, signal.SIGTERM)
            elif what == "at its memory limit":
                self.ground.memory.hold(victim)
            else:
                # Mostly short; now and then past the lease.
                seconds = self.random.uniform(0.2, 1.5) if self.random.random() < 0.7 else 3 * LEASE
                os.kill(victim, signal.SIGSTOP)
                # Woken by another process: this one may wait for a lock that the victim holds.
                subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {victim}"], stderr=subprocess.DEVNULL)
                self.paused.append((time.monotonic() + seconds, victim))
        return True

    def told(self):
        """(number, score, log) of the trials that processes said were finished; a score of None for pruned ones."""
        for log in self.logs:
            for number, score in re.findall(
                r"^trial +(\d+)  (?:macro F1 )?(0\.\d{4}|1\.0000|pruned) ", Path(log.name).read_text(), re.M
            ):
                yield int(number), None if score == "pruned" else float(score), Path(log.name).name

    def read(self):
        """The trials. No connection stays open: SQLite loses its locks where one is carried across a fork."""
        opened = open_storage(self.ground.direct)
        try:
            return optuna.load_study(study_name=self.study.stem, storage=opened).trials
        finally:
            engine_of(opened).dispose()

    def check(self):
        """What is wrong with how the processes ended and with what is left; nothing else."""
        trials = self.read()
        wrong = self.wrong
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
        told = [*self.told()]
        if not any(score is not None for _, score, _ in told):
            wrong.append("no process said that a trial was complete")
        for number, score, log in told:
            state, value, attrs = trials[number].state.name, trials[number].value, trials[number].user_attrs
            if state not in ("COMPLETE", "PRUNED") or (score is not None and abs((value or 0) - score) > 1e-4):
                why = {key: attrs.get(key) for key in ("failure", "owner", "seconds", "handed_back")}
                wrong.append(f"trial {number} told {score} in {log} and has {state} {value} {why}")
        lost = Counter(
            json.dumps(trial.user_attrs["config"], sort_keys=True)
            for trial in trials
            if trial.user_attrs.get("failure") == LOST
        )
        wrong += [f"lost {count} times: {config}" for config, count in lost.items() if count > MAX_RETRIES + 1]
        never = [config for config, count in lost.items() if config not in configs and count <= MAX_RETRIES]
        by_themselves = [
            trial
            for trial in trials
            if trial.state.name == "FAIL"
            and not trial.user_attrs.get("handed_back")
            and trial.user_attrs.get("failure") != LOST
            and not is_void(trial)
        ]
        wrong += [f"trial {trial.number} failed: {trial.user_attrs.get('failure')}" for trial in by_themselves]
        self.done["lost"] += sum(lost.values())
        self.done["lost, not tried again before the budget was spent"] += len(never)
        self.done["void"] += sum(is_void(trial) for trial in trials)
        self.done["handed back"] += sum(bool(trial.user_attrs.get("handed_back")) for trial in trials)
        self.done["finished"] += len(finished)
        self.done["damage noticed"] += sum(len(re.findall("damaged", Path(log.name).read_text())) for log in self.logs)
        return wrong + self.check_orphans() + self.check_apart(trials)

    def check_apart(self, trials):
        """`wastetune sync`, twice, then each trial that ran is one run with its state and score; and scores again."""
        with (self.folder / f"{self.study.stem}-check.log").open("w+") as log:
            for work in (self.sync, lambda: self.fit_again(trials)):
                checking = Fork(work, log)
                checking.wait()
                if checking.returncode:
                    return [f"a check ended with {checking.returncode}: {Path(log.name).read_text()[-3000:]}"]
        names = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
        expected = sorted(
            (
                f"trial {t.number}",
                names[t.state.name],
                float(f"{t.value:.4g}") if t.state.name == "COMPLETE" else None,
            )  # MLflow has four digits
            for t in trials
            if not is_void(t)
        )
        found = [tuple(run) for run in json.loads((self.folder / "runs.json").read_text())]
        wrong = [] if found == expected else [f"MLflow has {set(found) ^ set(expected)} differently"]
        again = json.loads((self.folder / "again.json").read_text())
        self.done["fitted again"] += len(again)
        return wrong + [f"trial {n} has {then}, and {now} undisturbed" for n, then, now in again if then != now]

    def sync(self):
        """`wastetune sync`, twice, and a file of the runs that MLflow has then.

        In a process of its own: this one opens no database that its workers would inherit.
        """
        os.chdir(self.folder)
        for _ in range(2):
            command = ["sync", "--study", self.study.stem, "--tracking-uri", self.ground.tracking]
            assert not command_line(command, prog_name="wastetune", standalone_mode=False)
        client = MlflowClient(self.ground.tracking)
        (experiment,) = (each for each in client.search_experiments() if each.name == "pictures")
        query = f"tags.study = '{self.study.stem}' and tags.`wastetune.trial` = 'study'"
        (parent,) = client.search_runs([experiment.experiment_id], query)
        of_study, runs, page = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", [], None
        while page != "":
            found = client.search_runs([experiment.experiment_id], of_study, page_token=page)
            runs, page = [*runs, *found], found.token or ""
        found = sorted(
            (r.info.run_name, r.info.status, r.data.metrics.get("best_score") if r.info.status == "FINISHED" else None)
            for r in runs
        )
        Path("runs.json").write_text(json.dumps(found))

    def fit_again(self, trials):
        """A file of scores then, and now on activations that nobody has touched."""
        context = replace(self.prepared.context, store=open_store(self.folder / "untouched"))
        complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
        again = []
        for trial in self.random.sample(complete, min(FITTED_AGAIN, len(complete))):
            config = TrialConfig(**trial.user_attrs["config"])
            fitted = run_trial(config, trial.number, context, open_console(quiet=True).bar, lambda epoch: None)
            again.append((trial.number, trial.value, fitted.fit.best.score))
        (self.folder / "again.json").write_text(json.dumps(again))

    def check_orphans(self):
        """Workers whose run was killed end by themselves."""
        deadline = time.monotonic() + 30
        while left := [pid for pid in self.orphans if is_alive(pid, WORKER)]:
            if time.monotonic() > deadline:
                return [f"workers {left} have outlived their run"]
            time.sleep(0.1)
        return []

    def close(self):
        orphans = [*self.orphans, *(processes_of(self.run.pid, WORKER) if self.run is not None else [])]
        for process in [*self.workers, *([self.run] if self.run is not None else [])]:
            process.kill()
            process.wait()
        for pid in orphans:
            if is_alive(pid, WORKER):
                os.kill(pid, signal.SIGKILL)
        for log in self.logs:
            log.close()


def keep_converted(folder):
    """From now on, a trunk that is converted for OpenVINO is kept in a folder, for `open_converted`."""
    import openvino

    convert = openvino.convert_model

    def convert_and_keep(function):
        model = convert(function)
        openvino.save_model(model, folder / "trunk.xml", compress_to_fp16=False)
        (folder / "trunk.json").write_text(json.dumps([tensor.name for tensor in function.outputs]))
        return model

    openvino.convert_model = convert_and_keep


def open_converted(folder):
    """The trunk, in a tenth of the time that its conversion takes."""
    import openvino

    names = json.loads((folder / "trunk.json").read_text())
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "trunk.xml", "CPU", hints)
    run_all = partial(runtime._run_openvino, compiled, names)
    return runtime.TrunkRunner("openvino", runtime._OPENVINO_BATCH, run_all)


def prepare(folder):
    """What every study needs before it begins. Nothing is computed with the trunk here: no thread may be forked."""
    (folder / "space.toml").write_text(SPACE)
    first = folder / "first.toml"
    first.write_text(STUDY.format(pictures=folder / "pictures", space=folder / "space.toml", trials=1))
    prepared = prepare_study(load_study(str(first)), data=None, weights=None, console=open_console())
    warm = open_storage(f"sqlite:///{folder / 'warm.db'}")  # SQLAlchemy's mappers are made with the first one
    engine_of(warm).dispose()

    def fill():
        keep_converted(folder)
        for store in (prepared.context.store, open_store(folder / "untouched")):
            context = replace(prepared.context, store=store)
            for augmentation in (0.0, 1.0):
                params = default_params(context.space) | {"augmentation": augmentation}
                tuning_sets(context, choose_config(FixedTrial(params), context), open_console(quiet=True).bar)

    with (folder / "fill.log").open("w+") as log:
        filling = Fork(fill, log)
        filling.wait()
        assert not filling.returncode, Path(log.name).read_text()
    return prepared


def run_chaos(ground, prepared, asked):
    """Studies under blows, each checked: how many, and what is wrong."""
    deadline, at_once = time.monotonic() + 60 * asked.minutes, min(asked.at_once, asked.studies)
    arenas, wrong, begun, done = [], [], 0, ground.done
    began, next_word, next_blow, next_count, blows = time.monotonic(), 0, time.monotonic() + 1, 3, 0
    try:
        while True:
            is_over = blows >= asked.blows or time.monotonic() >= deadline
            while len(arenas) < at_once and begun < asked.studies and not is_over:
                arenas.append(Arena(ground, prepared, asked.trials, asked.seed + begun, asked.fresh_every))
                begun += 1
            if not arenas:
                return begun, wrong
            ground.take_back(all=is_over)
            for arena in list(arenas):
                if arena.step():
                    continue
                ground.take_back(all=True)
                if ground.mlflow is not None:
                    ground.mlflow.wait()
                arenas.remove(arena)
                bad = arena.check()
                arena.close()
                wrong += bad
                done.update(arena.done)
                print(
                    json.dumps({"study": arena.study.stem, "blows": blows, "done": arena.done, "wrong": bad}),
                    flush=True,
                )
            if time.monotonic() >= next_word:
                next_word = time.monotonic() + 30
                seen = {arena.study.stem: f"{arena.finished} {dict(arena.done)}" for arena in arenas}
                told = (round(time.monotonic() - began), blows, done["finished"], dict(done), seen)
                print(*told, file=sys.stderr, flush=True)
            now, finished = time.monotonic(), done["finished"] + sum(arena.finished for arena in arenas)
            # After each trial, so that there is work between them, and after some time, which a standstill needs.
            if arenas and not is_over and (now >= next_blow or finished >= next_count):
                there = ground.blows()
                (blow,) = ground.random.choices([*there], [*there.values()])
                # A study whose default was lost three times is given up, as it should be: nobody is killed before.
                victims = [arena for arena in arenas if arena.has_default and arena.finished < asked.trials]
                if blow.startswith(("worker", "run")):
                    has_struck = bool(victims) and ground.random.choice(victims).strike(blow)
                else:
                    has_struck = bool(victims)
                    if has_struck:
                        ground.strike(blow)
                if has_struck:
                    blows += 1
                    done[blow] += 1
                    next_blow, next_count = now + ground.random.uniform(1, asked.seconds), finished + 1
            time.sleep(0.05)
    finally:
        ground.take_back(all=True)
        for arena in arenas:
            arena.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15, help="no blow falls later")
    parser.add_argument("--blows", type=int, default=1_000_000, help="no more than so many")
    parser.add_argument("--seconds", type=float, default=8, help="at most between two blows")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--trials", type=int, default=150, help="of each study")
    parser.add_argument("--studies", type=int, default=1000, help="no more than so many")
    parser.add_argument("--at-once", type=int, default=2, help="so many studies at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh-every", type=int, default=40, help="one process in so many is not forked")
    parser.add_argument("--tracking-uri", help="of an MLflow store, which is not struck; left out: a server of its own")
    asked = parser.parse_args()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # all that was started is stopped
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        write_sample(folder / "pictures", classes=("box", "leaf"), per_class=20, size=48)
        preload()
        ground = Surroundings(stack, folder, asked.database, asked.seed, asked.tracking_uri)
        os.environ.update(WASTETUNE_STORAGE=ground.url, WASTETUNE_LEASE=str(LEASE), WASTETUNE_CACHE=str(ground.cache))
        os.environ["WASTETUNE_RUNTIME"] = "openvino"  # TensorFlow runs nothing in a fork
        prepared = prepare(folder)
        studies, wrong = run_chaos(ground, prepared, asked)
        if ground.memory is not None:
            ground.done["killed at the memory limit"] = ground.memory.kills()
    minutes = round((time.monotonic() - began) / 60, 1)
    missing = [blow for blow in BLOWS if not ground.done[blow]]
    found = {
        "database": asked.database,
        "minutes": minutes,
        "studies": studies,
        "blows": sum(ground.done[blow] for blow in BLOWS),
        "done": ground.done,
        "never fell": missing,
        "wrong": wrong,
    }
    print(json.dumps(found))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
