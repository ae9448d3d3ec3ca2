"""What a study stands on, and what can befall it: a disk that fills, a database that is slow, MLflow that restarts."""

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from support.forks import Fork
from wastetune.network import free_port

BIG = 256 << 20  # bytes of the small disk


class Disk:
    """A file system of its own, in memory, that can be filled; only root can make one."""

    def __init__(self, folder):
        self.folder, self.filler = folder, folder / ".filler"

    def fill(self):
        """Not a byte is left; what is written over stays as it was."""
        with suppress(OSError), self.filler.open("ab", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass
        with suppress(OSError), self.filler.open("ab", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass

    def free(self):
        self.filler.unlink(missing_ok=True)


@contextmanager
def open_disk(folder):
    """A disk mounted at a folder; None, and just the folder, where that is not allowed."""
    folder.mkdir()
    mounting = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", f"size={BIG}", "tmpfs", folder]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class MemoryLimit:
    """A control group whose processes may take almost no more memory: the kernel kills each that asks for it."""

    def __init__(self, folder):
        self.folder = folder

    def hold(self, pid):
        with suppress(ProcessLookupError):
            (self.folder / "cgroup.procs").write_text(str(pid))

    def kills(self):
        """How many the kernel has killed."""
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError):
                return int(re.search(r"^oom_kill (\d+)", (self.folder / name).read_text(), re.M)[1])
        return 0


@contextmanager
def open_memory_limit():
    """A control group below this process's own; None where none can be made."""
    folder = None
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if "memory" in kinds.split(","):
                folder, limit = Path(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"
                break
            if not kinds and (Path(f"/sys/fs/cgroup{path}") / "memory.max").exists():
                folder, limit = Path(f"/sys/fs/cgroup{path}"), "memory.max"
    made = None
    if folder is not None:
        with suppress(OSError):
            made = folder / f"chaos-{secrets.token_hex(4)}"
            made.mkdir()
            (made / limit).write_text(str(256 << 10))
    try:
        # In a group without the controller there is no such file, and none can be made.
        yield MemoryLimit(made) if made is not None and (made / limit).exists() else None
    finally:
        for _ in range(50):  # until the last one in it is dead
            with suppress(OSError):
                if made is not None:
                    made.rmdir()
                break
            time.sleep(0.1)


class Mlflow:
    """MLflow's own server, as a user starts it, on a database of its own."""

    def __init__(self, folder):
        self.store, self.port = f"sqlite:///{folder / 'mlflow.db'}", free_port("127.0.0.1")
        self.address, self.log = f"http://127.0.0.1:{self.port}", (folder / "mlflow.log").open("w")
        self.artifacts = folder / "artifacts"
        self.process = None

    def start(self):
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store, "--artifacts-destination", str(self.artifacts), "--workers", "1"]
        streams = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)

    def signal(self, number):
        """To the server and all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def answers(self):
        with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
            return answer.status == 200
        return False

    def wait(self, seconds=120):
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"MLflow's server did not come up: {Path(self.log.name).read_text()[-2000:]}")
            time.sleep(0.2)


@contextmanager
def open_mlflow(folder):
    server = Mlflow(folder)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()
        server.log.close()


def hold_write_lock(file, seconds, log):
    """A process that keeps SQLite's one write lock for so long, as one does that was paused in a transaction."""

    def hold():
        with suppress(sqlite3.OperationalError):  # the disk is full, or others are faster
            connection = sqlite3.connect(file, timeout=5, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")

    return Fork(hold, log)


class SlowLine:
    """A TCP proxy before a server's socket, in a process of its own: it delays, stands still and cuts connections."""

    def __init__(self, server, log):
        self.orders, orders = socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            self.process = Fork(lambda: asyncio.run(_carry_all(listener.dup(), server, orders)), log)
        orders.close()

    def order(self, word):
        """`slow` and `hang` until `well`; `cut` breaks every connection, `half` each one in the middle of an answer."""
        self.orders.send(word.encode().ljust(8))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.orders.close()


async def _carry_all(listener, server, orders):
    state, flowing, lines = {"word": "well"}, asyncio.Event(), set()
    flowing.set()
    loop = asyncio.get_running_loop()
    orders.setblocking(False)

    async def carry(reader, writer, answers):
        with suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                if state["word"] == "slow":
                    await asyncio.sleep(0.03 + secrets.randbelow(50) / 1000)
                await flowing.wait()
                if answers and state["word"] == "half":
                    writer.write(data[: len(data) // 2])
                    break
                writer.write(data)
                await writer.drain()
        for each in (reader._transport, writer.transport):
            if each is not None:
                each.close()

    async def connect(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(server)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        lines.update(pair)
        ways = carry(reader, far_writer, answers=False), carry(far_reader, writer, answers=True)
        await asyncio.gather(*ways, return_exceptions=True)
        lines.difference_update(pair)

    async with await asyncio.start_server(connect, sock=listener):
        while word := (await loop.sock_recv(orders, 8)).decode().strip():
            if word == "cut":
                for writer in list(lines):
                    writer.transport.abort()
                continue
            state["word"] = word
            if word == "hang":
                flowing.clear()
            else:
                flowing.set()


def damage(file, random):
    """Replaces a file by a damaged copy of it, as a disk would give it back; says how.

    By a rename: who has it open keeps what was checked. Nothing can notice what changes below a memory map.
    """
    content = bytearray(file.read_bytes())
    how = random.choice(["bit", "short", "zeros", "empty"]) if content else "empty"
    if how == "bit":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif how == "short":
        del content[random.randrange(len(content)) :]
    elif how == "zeros":
        begin = random.randrange(len(content) // 2)
        content[begin : begin + len(content) // 2] = bytes(len(content) // 2)
    else:
        content.clear()
    part = file.with_name(f".damaged-{secrets.token_hex(4)}")
    part.write_bytes(content)
    part.replace(file)
    return how
