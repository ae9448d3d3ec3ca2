"""A process that has imported all that `wastetune` imports, and forks itself for each command of a test.

    python -m support.forkserver SOCKET

Importing TensorFlow and MLflow takes some five seconds of a core, a fork some milliseconds. Nothing but imports happens
here: TensorFlow starts its threads with its first operation, and a process that has them cannot be forked. The code
runs in the child as with `python -c` in a new interpreter: with its own streams, folder, environment and random
numbers, with the signals as Python sets them, and with an interpreter that ends as one does.
"""

import gc
import json
import os
import pkgutil
import socket
import sys
import warnings
from contextlib import suppress
from importlib import import_module

MAX_REQUEST = 1 << 17  # bytes
# What wastetune imports late, or its libraries do.
PRELOADED = (
    "alembic",
    "cv2",
    "keras",
    "matplotlib.backends.backend_agg",
    "mlflow.keras",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.storages",
    "optuna.artifacts",
    "pandas",
    "psycopg",
    "rich.progress",
    "tensorflow",
)


def preload():
    """Imports what a command may need; what is not installed is left out."""
    import wastetune

    own = (each.name for each in pkgutil.walk_packages(wastetune.__path__, "wastetune."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*PRELOADED, *own):
            with suppress(ImportError):
                import_module(name)
    gc.freeze()  # so that a child neither copies all of it, nor takes it apart when it ends


def serve(connection):
    """Forks for each request; returns the request in the child, and None in the server when it is to end."""
    while True:
        message, streams, _, _ = socket.recv_fds(connection, MAX_REQUEST, 4)
        if not message:
            return None
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not os.fork():
            connection.close()
            if not _report_child(streams.pop(), streams):
                return json.loads(message), streams
        for stream in streams:
            os.close(stream)


def _report_child(report, streams):
    """Forks once more: 0 in the child; the parent writes its number and how it ended, and ends."""
    if not (child := os.fork()):
        os.close(report)
        return 0
    for stream in streams:
        os.close(stream)
    os.write(report, f"{child}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):  # the test is over
        os.write(report, f"{status}\n".encode())
    os._exit(0)


def become(request, streams):
    """Makes this process that of the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(line_buffering=True)
    import numpy as np

    np.random.seed()  # the standard library's numbers see to it themselves


def main():
    connection = socket.socket(fileno=int(sys.argv[1]))
    preload()
    found = serve(connection)
    if not found:
        os._exit(0)  # at once
    become(*found)
    exec(found[0]["code"], {"__name__": "__main__"})


if __name__ == "__main__":
    main()
