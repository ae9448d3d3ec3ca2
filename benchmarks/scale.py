"""What gives way first with 1,000 workers, a million trials, ten million pictures? A simulation with measured costs.

    costs: what the steps of a trial cost on PostgreSQL: round trips, processor, by trials known and trials running
    point: trials a minute of real workers before a database that is some milliseconds away, and of simulated ones
    workers: simulated trials a minute of 1 to 1,000 workers on PostgreSQL and behind the gRPC proxy
    sizes: by arithmetic on measured costs, what a million trials and ten million pictures take

`point` is what the simulation has to reproduce: costs are measured with one worker, the point with several, whose turns
wait for each other. `workers` and `sizes` use the costs of this machine unless `--costs FILE` names what `costs --json`
wrote. What is assumed and not measured stands in ASSUMED.
"""

import argparse
import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import psutil
import simpy
from common import Row, open_postgres, options, prepare, print_table, temporary_folder, write_small_study
from optuna.trial import TrialState, create_trial
from sqlalchemy.engine import make_url
from workers import run_nothing, run_workers

from wastetune.backbones.activation_store import CHUNK
from wastetune.console import open_console
from wastetune.data.index import Picture
from wastetune.data.near_duplicates import GRID, LENGTH, group_near_duplicates
from wastetune.files import is_sound, seal
from wastetune.search.sampler import open_in_memory_study
from wastetune.search.space import bounds
from wastetune.storage.database import engine_of, open_storage
from wastetune.storage.locks import SHORT_TIMEOUT
from wastetune.storage.study import open_study
from wastetune.tuning.pictures import folder_stamp
from wastetune.tuning.workers import worker

READS = 60  # of a study; the system counts a server's processor time in hundredths of a second
BEATS = 6  # heartbeats of a worker in a lease
HISTORY = [{"number": n, "loss": 0.123456, "score": 0.8123, "accuracy": 0.8123, "seconds": 0.12} for n in range(40)]


@dataclass(frozen=True)
class Costs:
    """What one worker's trial costs; seconds, on this machine. Round trips are requests that wait for an answer."""

    turn_trips: float  # round trips while the worker holds the turn: reads the study, proposes, creates the trial
    rest_trips: float  # those of the rest of a trial: before the turn, reports, attributes, note, end
    turn_client: float  # processor of the worker in the turn, few trials known
    rest_client: float
    trip_server: float  # processor of the server for a round trip
    running_server: float  # more of it for each running trial, where the study is read
    running_client: float
    known_client: float  # more of the worker's for each known trial, where it proposes
    join_seconds: float  # for each known trial, when a worker joins
    known_bytes: float  # memory of a worker for each known trial


@dataclass(frozen=True)
class Place:
    """Where workers and database are."""

    trip: float  # seconds of a round trip
    server_cores: int
    shared: bool = False  # whether the workers run on the server's cores
    turns: bool = True  # whether workers take turns to create trials; behind the proxy they do not
    proxy: float = 0.0  # seconds of the one core of a gRPC proxy for a trial


# Not measured: a server and a network of a usual cluster. The proxy's is the most that docs/log.md found, 11.9 trials a
# second.
ASSUMED = {
    "postgresql": Place(trip=0.0005, server_cores=16),
    "grpc": Place(trip=0.001, server_cores=16, turns=False, proxy=1 / 11.9),
}


def main() -> None:
    parser = options(__doc__, "costs", "point", "workers", "sizes")
    parser.add_argument("--costs", type=Path, help="the file that `costs --json` wrote")
    parser.add_argument("--workers", type=int, default=6, help="of `point`")
    parser.add_argument("--trials", type=int, help="of each worker of `point`; by default 6")
    parser.add_argument("--milliseconds", type=float, default=40.0, help="of `point`: how far away the database is")
    asked = parser.parse_args()
    known = json.loads(asked.costs.read_text())[-1] if asked.costs else None
    parts = {"costs": show_costs, "point": show_point, "workers": show_workers, "sizes": show_sizes}
    with temporary_folder():
        costs = Costs(**known) if known else measure_costs(asked)
        print_table(
            (row for name in parts if asked.part in (name, "all") for row in parts[name](costs, asked)), asked.json
        )


def show_costs(costs: Costs, asked: argparse.Namespace) -> Iterator[Row]:
    yield asdict(costs)


# -- measured ---------------------------------------------------------------------------------------------------------


def measure_costs(asked: argparse.Namespace) -> Costs:
    context = prepare(write_small_study("tiny")).context
    trials, few, many, running = (6, 20, 60, 20) if asked.quick else (40, 100, 1000, 100)
    with open_postgres() as new_database, patch.object(worker, "run_trial", run_nothing):
        one = measure_trial(new_database(), context, trials)
        url = new_database()
        fill(url, few)
        known_few = seconds_to_choose(url, context)
        fill(url, many - few)
        known_many = seconds_to_choose(url, context)
        joining, memory = in_child(join, url)
        nothing = read_costs(url)
        fill(url, running, state=TrialState.RUNNING)
        client, server = read_costs(url)
    return Costs(
        **one,
        running_client=max(client - nothing[0], 0.0) / running,
        running_server=max(server - nothing[1], 0.0) / running,
        known_client=max(known_many - known_few, 0.0) / (many - few),
        join_seconds=joining / many,
        known_bytes=memory / many,
    )


def measure_trial(url: str, context: Any, trials: int) -> dict[str, float]:
    """One worker, counted and timed: in the turn, and in the rest."""
    spent = {"client": 0.0, "trips": 0.0}
    ask_lock = worker.ask_lock
    with delayed(url, 0.0) as (near, count):

        @contextmanager
        def counted(study: Any) -> Iterator[None]:
            with ask_lock(study):
                client, trips = time.thread_time(), count()
                yield
                spent["client"] += time.thread_time() - client
                spent["trips"] += count() - trips

        study = open_study(open_storage(near), "tiny", {})
        run = {"timeout": None, "bar": open_console(quiet=True).bar, "on_trial": lambda trial: None, "name": "one"}
        worker.run_worker(study, context, trials=3, **run)
        with patch.object(worker, "ask_lock", counted):
            client, trips, server = time.thread_time(), count(), server_seconds(url)
            worker.run_worker(study, context, trials=3 + trials, **run)
        client, trips, server = time.thread_time() - client, count() - trips, server_seconds(url) - server
        engine = engine_of(study._storage)
        assert engine is not None
        engine.dispose()
    return {
        "turn_trips": spent["trips"] / trials,
        "rest_trips": (trips - spent["trips"]) / trials,
        "turn_client": spent["client"] / trials,
        "rest_client": (client - spent["client"]) / trials,
        "trip_server": server / trips,
    }


def server_seconds(url: str) -> float:
    """Processor time of the PostgreSQL server of this URL, all its processes together."""
    folder, total = str(make_url(url).query["host"]), 0.0
    for process in psutil.process_iter(["name", "cmdline"]):
        if "postgres" in (process.info["name"] or "") and folder in (process.info["cmdline"] or []):
            for each in (process, *process.children()):
                with suppress(psutil.NoSuchProcess):
                    used = each.cpu_times()
                    ended = used.children_user + used.children_system if each is process else 0.0
                    total += used.user + used.system + ended
    return total


def fill(url: str, trials: int, state: TrialState = TrialState.COMPLETE) -> None:
    """Trials as a study of heads has them, without having run."""
    storage = open_storage(url)
    study = open_study(storage, "filled", {})
    there = len(study.get_trials(deepcopy=False))
    drawn = {"learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)}
    for number in range(there, there + trials):
        rate = 1e-4 * 10 ** (3 * (number * 0.618 % 1))
        attrs = {"config": {"learning_rate": rate, "epochs": 40, "head_units": 256}, "history": HISTORY, "cut": "top"}
        trial = create_trial(
            state=state,
            value=rate if state is TrialState.COMPLETE else None,
            params={"learning_rate": rate},
            distributions=drawn,
            user_attrs=attrs,
            intermediate_values=dict.fromkeys(range(1, 41, 5), 0.8),
        )
        storage.create_new_trial(study._study_id, template_trial=trial)


def seconds_to_choose(url: str, context: Any) -> float:
    """Processor seconds of a proposal."""
    study = open_study(open_storage(url), "filled", {})
    known = study.get_trials(deepcopy=False)
    memory = open_in_memory_study(epochs=int(bounds(context.space, "epochs")[1]))
    worker._choose(known, memory, context, False, "one")
    began = time.thread_time()
    for number in range(5):
        worker._choose(known, memory, context, False, str(number))
    return (time.thread_time() - began) / 5


def read_costs(url: str) -> tuple[float, float]:
    """Processor seconds of the reader and of the server where a study that was read before is read again."""
    study = open_study(open_storage(url), "filled", {})
    study.get_trials(deepcopy=False)
    client, server = time.thread_time(), server_seconds(url)
    for _ in range(READS):
        study.get_trials(deepcopy=False)
    return (time.thread_time() - client) / READS, (server_seconds(url) - server) / READS


def join(url: str) -> tuple[float, float]:
    """Seconds and bytes that it takes to know a study."""
    study = open_study(open_storage(url), "filled", {})
    before, began = psutil.Process().memory_info().rss, time.thread_time()
    study.get_trials(deepcopy=False)
    return time.thread_time() - began, psutil.Process().memory_info().rss - before


def in_child(work: Any, *given: Any) -> Any:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


@contextmanager
def delayed(url: str, seconds: float) -> Iterator[tuple[str, Any]]:
    """The URL of a PostgreSQL that is so many seconds away, and a function that counts the requests to it so far."""
    forking = get_context("fork")
    count, port = forking.Value("q", 0), forking.Value("i", 0)
    server = make_url(url)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: float) -> None:
        while data := await reader.read(1 << 20):
            if wait >= 0:
                count.value += 1
                await asyncio.sleep(wait)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(f"{server.query['host']}/.s.PGSQL.5432")
        await asyncio.gather(
            carry(reader, far_writer, seconds), carry(far_reader, writer, -1.0), return_exceptions=True
        )

    async def serve() -> None:
        listening = await asyncio.start_server(connect, "127.0.0.1", 0)
        port.value = listening.sockets[0].getsockname()[1]
        await listening.serve_forever()

    process = forking.Process(target=lambda: asyncio.run(serve()), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port.value}/{server.database}", lambda: count.value
    finally:
        process.terminate()
        process.join()


# -- simulated --------------------------------------------------------------------------------------------------------


class Simulation:
    """Workers that share a database until so many trials are finished."""

    def __init__(
        self,
        costs: Costs,
        place: Place,
        workers: int,
        trials: int,
        training: float,
        known: int = 0,
        lease: float = 60.0,
    ):
        self.costs, self.place, self.training, self.known = costs, place, training, known
        self.pause = lease / BEATS
        self.env = simpy.Environment()
        self.server = simpy.Resource(self.env, place.server_cores)
        self.turn = simpy.Resource(self.env, 1)
        self.proxy = simpy.Resource(self.env, 1)
        self.trials, self.begun, self.running, self.finished = trials, 0, 0, 0
        self.busy, self.in_vain = 0.0, 0  # seconds of the server's cores; trials begun without the turn
        self.ends: list[float] = []
        self.all = self.env.event()
        for number in range(workers):
            self.env.process(self.work(number / workers * training))  # they have begun one after another
            self.env.process(self.beat(number / workers * self.pause))

    def run(self) -> float:
        """Trials a minute, without the first and the last fifth."""
        self.env.run(self.all)
        first, last = len(self.ends) // 5, len(self.ends) * 4 // 5
        return 60 * (last - first) / (self.ends[last] - self.ends[first])

    def run_all(self) -> float:
        """Trials a minute from the first moment to the last."""
        self.env.run(self.all)
        return 60 * self.finished / self.env.now

    def compute(self, seconds: float) -> Iterator[Any]:
        """A worker's own work."""
        if self.place.shared:
            yield from self.serve(seconds)
        else:
            yield self.env.timeout(seconds)

    def serve(self, seconds: float) -> Iterator[Any]:
        """Work on the server's cores."""
        with self.server.request() as core:
            yield core
            yield self.env.timeout(seconds)
        self.busy += seconds

    def ask(self, trips: float, reads: int = 0) -> Iterator[Any]:
        """Round trips to the server, `reads` of which read all running trials."""
        yield self.env.timeout(trips * self.place.trip)
        yield from self.serve(trips * self.costs.trip_server + reads * self.running * self.costs.running_server)
        reading = reads * self.running * self.costs.running_client
        if self.place.proxy and reads:  # which reads the study as a worker does, and tells it the worker
            with self.proxy.request() as turn:
                yield turn
                yield self.env.timeout(reading)
        if reads:
            yield from self.compute(reading)

    def begin(self) -> Iterator[Any]:
        yield from self.ask(self.costs.turn_trips, reads=1)
        yield from self.compute(self.costs.turn_client + self.costs.known_client * (self.known + self.finished))

    def work(self, start: float) -> Iterator[Any]:
        yield self.env.timeout(start)
        while self.begun < self.trials:
            self.begun += 1
            # Half of the rest comes before the turn: lost trials are looked for, which reads the study, too.
            yield from self.ask(self.costs.rest_trips / 4, reads=1)
            if self.place.turns:
                turn = self.turn.request()
                yield turn | self.env.timeout(SHORT_TIMEOUT)
                if not turn.triggered:
                    turn.cancel()
                    self.in_vain += 1  # it goes on without; the turn is not exact, the budget is
                yield from self.begin()
                yield self.env.timeout(self.place.trip)  # until the server knows that the turn is over
                if turn.triggered:
                    self.turn.release(turn)
            else:
                yield from self.begin()
            if self.place.proxy:
                with self.proxy.request() as turn:
                    yield turn
                    yield self.env.timeout(self.place.proxy)
            self.running += 1
            yield self.env.timeout(self.training)
            yield from self.compute(self.costs.rest_client)
            yield from self.ask(self.costs.rest_trips * 3 / 4)
            self.running -= 1
            self.finished += 1
            self.ends.append(self.env.now)
            if self.finished == self.trials:
                self.all.succeed()

    def beat(self, start: float) -> Iterator[Any]:
        yield self.env.timeout(start)
        while True:
            yield self.env.timeout(self.pause)
            yield from self.ask(12, reads=1)


def show_point(costs: Costs, asked: argparse.Namespace) -> Iterator[Row]:
    """Real workers and simulated ones before the same distance; one worker alone tells how long a round trip takes."""
    context = prepare(write_small_study("tiny")).context
    trials, seconds, cores = asked.trials or (2 if asked.quick else 6), asked.milliseconds / 1000, os.cpu_count() or 1
    place = Place(trip=seconds, server_cores=cores, shared=True)
    for workers in (1, asked.workers):
        with open_postgres() as new_database, patch.object(worker, "run_trial", run_nothing):
            url = new_database()
            run_workers(url, context, 1, 2)  # the tables, and the default
            with delayed(url, seconds) as (far, count):
                load, before = os.getloadavg()[0], count()
                real = run_workers(far, context, workers, 2 + trials * workers)
                trips = (count() - before) / (trials * workers)
        # `run_workers` divides by all trials of the study; two were there.
        rate = real["trials/min"] * trials * workers / (2 + trials * workers)
        if workers == 1:
            computing = costs.turn_client + costs.rest_client
            trip = (60 / rate - computing) / (costs.turn_trips + costs.rest_trips + 1)
            place = replace(place, trip=trip)
        simulation = Simulation(costs, place, workers, trials * workers, training=0.0)
        simulated = simulation.run_all()
        yield {
            "workers": workers,
            "ms away": asked.milliseconds,
            "ms a round trip": 1000 * place.trip,
            "load before": load,
            "trials": trials * workers,
            "round trips/trial": trips,
            "cores busy": real["cores busy"],
            "real/min": rate,
            "simulated/min": simulated,
            "simulated/real": simulated / rate,
        }


def show_workers(costs: Costs, asked: argparse.Namespace) -> Iterator[Row]:
    rounds = 3 if asked.quick else 10  # trials of each worker
    for name, lease in (("postgresql", 60.0), ("grpc", 60.0), ("grpc", 600.0)):
        for training in (10.0, 60.0, 600.0):
            for workers in (1, 30) if asked.quick else (1, 10, 30, 100, 300, 1000):
                simulation = Simulation(costs, ASSUMED[name], workers, rounds * workers, training, lease=lease)
                rate = simulation.run()
                yield {
                    "database": name,
                    "lease": lease,
                    "s/trial": training,
                    "workers": workers,
                    "trials/min": rate,
                    "of what they could": rate / (60 * workers / training),
                    "server cores busy": simulation.busy / simulation.env.now,
                    "without the turn": simulation.in_vain / (rounds * workers),
                }
    for known in (1_000, 10_000, 100_000, 1_000_000):
        simulation = Simulation(costs, ASSUMED["postgresql"], 100, 100 * rounds, 60.0, known=known)
        row = {"known trials": known, "workers": 100, "s/trial": 60.0, "trials/min": simulation.run()}
        yield row | {
            "of what they could": row["trials/min"] / 100,
            "without the turn": simulation.in_vain / 100 / rounds,
        }


def show_sizes(costs: Costs, asked: argparse.Namespace) -> Iterator[Row]:
    for known in (1_000, 10_000, 100_000, 1_000_000):
        yield {
            "known trials": known,
            "s to join": costs.join_seconds * known,
            "s of a proposal": costs.turn_client + costs.known_client * known,
            "GB a worker": costs.known_bytes * known / 1e9,
        }
    one = measure_picture(2_000 if asked.quick else 10_000)
    yield {f"of one picture: {name}": value for name, value in one.items()}
    for pictures in (100_000, 1_000_000, 10_000_000):
        yield {
            "pictures": pictures,
            "h of near-duplicates": one["s of near-duplicates, times n"] * pictures**2 / 3600,
            "GB of index a process": one["bytes of index"] * pictures / 1e9,
            "min to look at the folder": one["s to look at its file"] * pictures / 60,
            "GB of pixels at 224 px": 224 * 224 * 3 * pictures / 1e9,
            **{f"GB a view, {cut}": size * pictures / 1e9 for cut, size in CUT_BYTES.items()},
            **{f"h a view, {name}": pictures / rate / 3600 for name, rate in RATES.items()},
            "s to name parts": one["s to name its part"] * pictures,
            "parts of a view": pictures / CHUNK,
            "s to check a view": pictures * CUT_BYTES["mobilenet_v3_small_075 top"] * one["s to check a byte"],
        }


# Bytes of one picture in one view: 432 numbers of four bytes; 14 x 14 x 1024 of two.
CUT_BYTES = {"mobilenet_v3_small_075 top": 432 * 4, "resnet50 conv4_block6_out": 14 * 14 * 1024 * 2}
# Images/s through a trunk on two cores (docs/log.md, 2026-11-24, idle).
RATES = {"mobilenet_v3_small_075": 1164.0, "resnet50": 25.2}


def measure_picture(count: int) -> dict[str, float]:
    """What one picture of many costs before anything is trained."""
    random = np.random.default_rng(0)
    names = [f"class{number % 10}/{number:08}.jpg" for number in range(count)]
    thumbnails = [bytes(random.integers(0, 256, GRID * GRID, np.uint8)).hex() for _ in names]
    keys = tuple(hashlib.sha256(name.encode()).hexdigest() for name in names)
    for name in names:
        file = Path("many", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    content = Path("content")
    content.write_bytes(random.bytes(64 << 20))
    seal(content, "content")

    def name_parts() -> None:
        for start in range(0, count, CHUNK):
            hashlib.sha256("".join(keys[start : start + CHUNK]).encode()).hexdigest()

    return {
        "s of near-duplicates, times n": processor_seconds(lambda: group_near_duplicates(thumbnails)) / count**2,
        "bytes of index": in_child(bytes_of_index, count) / count,
        "s to look at its file": processor_seconds(lambda: folder_stamp(Path("many"))) / count,
        "s to name its part": processor_seconds(name_parts) / count,
        "s to check a byte": processor_seconds(lambda: is_sound(content, "content")) / (64 << 20),
    }


def bytes_of_index(count: int) -> float:
    """Memory that a process takes for pictures as `index_folder` reads them from its file."""
    before = psutil.Process().memory_info().rss
    kept = [
        Picture(f"class{n % 10}/{n:08}.jpg", n % 10, f"{n:064}", f"{n + 1:064}", f"{n:0{LENGTH}}", 512, 384, None)
        for n in range(count)
    ]
    return (psutil.Process().memory_info().rss - before) * len(kept) / count


def processor_seconds(action: Callable[[], object]) -> float:
    """Processor time of this process, all threads together: it depends less than the clock on what else runs."""
    began = time.process_time()
    action()
    return time.process_time() - began


if __name__ == "__main__":
    main()
