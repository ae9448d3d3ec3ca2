"""How many requests a second does `wastetune serve` answer, how fast, and is its memory flat?

    python benchmarks/serving.py results/my_study/export/model.onnx photos/ [--requests 10000] [--threads N]

1, 8 and 64 clients send one photo a request, each as soon as it has its answer, over a connection of its own; they run
in a process beside the service, on the same cores. A tenth of the requests comes from 1 client, three tenths from 8,
the rest from 64. Times are from a request's first byte to its answer's last one. Start: from the command to the first
`GET /ready` of 200. With --quick, the model is that of a small study on generated pictures.
"""

import argparse
import http.client
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import Row, options, print_table, temporary_folder, write_small_study

CLIENTS = {1: 0.1, 8: 0.3, 64: 0.6}  # clients -> share of the requests
PHOTOS = 500  # different ones
WASTETUNE = (sys.executable, "-m", "wastetune")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="an .onnx file, as `wastetune export` writes it")
    parser.add_argument("photos", type=Path, nargs="?", help="a folder")
    parser.add_argument("--requests", type=int, help="by default 10,000, with --quick 200")
    parser.add_argument("--threads", help="threads per prediction, as in `wastetune serve`")
    parser.add_argument("--client", type=int, nargs=2, help=argparse.SUPPRESS)  # port, clients
    asked = parser.parse_args()
    asked.requests = asked.requests or (200 if asked.quick else 10_000)
    if asked.client:
        print(json.dumps(send(*asked.client, asked.requests, forms(asked.photos))))
    elif asked.model and asked.photos:
        print_table(measure(asked), asked.json)
    elif asked.quick:
        with temporary_folder():
            asked.model, asked.photos = export_small_model(), Path("pictures")
            print_table(measure(asked), asked.json)
    else:
        parser.error("MODEL and PHOTOS are needed, or --quick")


def export_small_model() -> Path:
    study = str(write_small_study("served", trials=1))
    for words in (("run",), ("export", "--format", "onnx")):
        subprocess.run([*WASTETUNE, *words, "--study", study], check=True, stdout=subprocess.DEVNULL)
    return Path("results/served/export/model.onnx")


def measure(asked: argparse.Namespace) -> Iterator[Row]:
    command = [*WASTETUNE, "serve", "--bundle", str(asked.model), "--port", "0"]
    command += ["--threads", asked.threads] if asked.threads else []
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            found = re.search(r":(\d+)/predict", service.stdout.readline())
            if not found:
                sys.exit("the service did not start")
            wait_until_ready(int(found[1]))
            print(f"ready after {time.perf_counter() - began:.2f} s, {memory(service.pid)}")
            first = None
            for clients, share in CLIENTS.items():
                row = send_in_process(asked, int(found[1]), clients, round(asked.requests * share))
                first = first or row["per s"]
                yield row | {"times": row["per s"] / first}
            print(f"after {asked.requests:,} requests {memory(service.pid)}")
        finally:
            service.terminate()


def wait_until_ready(port: int) -> None:
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready").close()
            return
        except OSError:
            time.sleep(0.01)


def memory(pid: int) -> str:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    resident = psutil.Process(pid).memory_info().rss / 1e6
    return f"{resident:.0f} MB of memory, {int(peak[1]) * 1024 / 1e6 if peak else resident:.0f} MB at most"


def send_in_process(asked: argparse.Namespace, port: int, clients: int, requests: int) -> Row:
    """Sends the requests from another process, so that its threads do not slow down this one's clock."""
    command = [sys.executable, __file__, asked.model, asked.photos, "--requests", requests, "--client", port, clients]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    sent = json.loads(done.stdout)
    p50, p95, p99 = np.percentile(np.array(sent["seconds"]) * 1e3, (50, 95, 99))
    number, failed = len(sent["seconds"]), sum(status != 200 for status in sent["status"])
    row = {"clients": clients, "requests": number, "per s": number / sent["took"]}
    return row | {"p50 ms": p50, "p95 ms": p95, "p99 ms": p99, "not 200": failed}


def forms(folder: Path) -> list[bytes]:
    """Request bodies with one photo each."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        sys.exit(f"there are no photos in {folder}")
    chosen = photos[:: max(1, len(photos) // PHOTOS)][:PHOTOS]
    head = '--photo\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'
    return [head.format(path.name).encode() + path.read_bytes() + b"\r\n--photo--\r\n" for path in chosen]


def send(port: int, clients: int, requests: int, bodies: list[bytes]) -> dict[str, Any]:
    """Sends the requests by `clients` threads: the seconds and status of each, and the seconds of all together."""
    numbers, answers, start = count(), [], threading.Barrier(clients + 1)

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.connect()
        start.wait()
        while (number := next(numbers)) < requests:
            began = time.perf_counter()
            headers = {"Content-Type": "multipart/form-data; boundary=photo"}
            connection.request("POST", "/predict", bodies[number % len(bodies)], headers)
            answer = connection.getresponse()
            answer.read()
            answers.append((time.perf_counter() - began, answer.status))

    running = [threading.Thread(target=work) for _ in range(clients)]
    for thread in running:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in running:
        thread.join()
    took = time.perf_counter() - began
    if len(answers) < requests:
        sys.exit(f"{requests - len(answers)} requests were not answered")
    seconds, status = zip(*answers, strict=True)
    return {"took": took, "seconds": seconds, "status": status}


if __name__ == "__main__":
    main()
