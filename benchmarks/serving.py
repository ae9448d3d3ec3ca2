"""How many requests a second does `wastetune serve` answer, how fast, and is its memory flat?

    python benchmarks/serving.py results/my_study/export/model.onnx photos/ [--requests 10000] [--threads N]

1, 8 and 64 clients send one photo a request, each as soon as it has its answer, over a connection of its own; they run
in a process beside the service, on the same cores. A tenth of the requests comes from 1 client, three tenths from 8,
the rest from 64. Seconds are from the client's first byte to its last. Start: from the command to the first
`GET /ready` of 200.
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
from itertools import count
from pathlib import Path

import numpy as np
import psutil

CLIENTS = {1: 0.1, 8: 0.3, 64: 0.6}  # the share of the requests
PHOTOS = 500  # different ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--threads")
    parser.add_argument("--client", type=int, nargs=2, metavar=("PORT", "CLIENTS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.client:
        print(json.dumps(send(*asked.client, asked.requests, bodies(asked.photos))))
        return
    command = [sys.executable, "-m", "wastetune", "serve", "--bundle", asked.model, "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen([*map(str, command), *threads(asked)], stdout=subprocess.PIPE, text=True) as served:
        try:
            found = re.search(r":(\d+)/predict", served.stdout.readline())
            if not found:
                sys.exit("the service did not start")
            wait_until_ready(int(found[1]))
            print(f"ready after {time.perf_counter() - began:.2f} s, {memory(served.pid)}")
            print(
                f"{'clients':>7} {'requests':>8} {'per s':>7} {'p50 ms':>7} {'p95 ms':>7} {'p99 ms':>7} {'not 200':>7}"
            )
            for clients, share in CLIENTS.items():
                print(row(clients, measure(asked, int(found[1]), clients, round(asked.requests * share))))
            print(f"after {asked.requests:,} requests {memory(served.pid)}")
        finally:
            served.terminate()


def threads(asked: argparse.Namespace) -> list[str]:
    return ["--threads", asked.threads] if asked.threads else []


def wait_until_ready(port: int) -> None:
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready").close()
            return
        except OSError:
            time.sleep(0.01)


def memory(pid: int) -> str:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return f"{psutil.Process(pid).memory_info().rss / 1e6:.0f} MB of memory, {int(peak[1]) * 1024 / 1e6:.0f} MB at most"


def measure(asked: argparse.Namespace, port: int, clients: int, requests: int) -> dict:
    command = [sys.executable, __file__, asked.model, asked.photos, "--requests", requests, "--client", port, clients]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def row(clients: int, told: dict) -> str:
    p50, p95, p99 = np.percentile(np.array(told["seconds"]) * 1e3, (50, 95, 99))
    number = len(told["seconds"])
    return (
        f"{clients:7} {number:8,} {number / told['took']:7.1f} {p50:7.1f} {p95:7.1f} {p99:7.1f} "
        f"{sum(status != 200 for status in told['status']):7}"
    )


def bodies(folder: Path) -> list[bytes]:
    """A form with one photo each."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        sys.exit(f"there are no photos in {folder}")
    chosen = photos[:: max(1, len(photos) // PHOTOS)][:PHOTOS]
    head = '--photo\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'
    return [head.format(path.name).encode() + path.read_bytes() + b"\r\n--photo--\r\n" for path in chosen]


def send(port: int, clients: int, requests: int, forms: list[bytes]) -> dict:
    """What the requests took, with their statuses; `clients` threads send them."""
    numbers, told, start = count(), [], threading.Barrier(clients + 1)

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.connect()
        start.wait()
        while (number := next(numbers)) < requests:
            began = time.perf_counter()
            headers = {"Content-Type": "multipart/form-data; boundary=photo"}
            connection.request("POST", "/predict", forms[number % len(forms)], headers)
            answer = connection.getresponse()
            answer.read()
            told.append((time.perf_counter() - began, answer.status))

    running = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in running:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in running:
        thread.join()
    took = time.perf_counter() - began
    if len(told) < requests:
        sys.exit(f"{requests - len(told)} requests were not answered")
    seconds, status = zip(*told, strict=True)
    return {"took": took, "seconds": seconds, "status": status}


if __name__ == "__main__":
    main()
