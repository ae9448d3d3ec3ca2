"""`wastetune serve` as its clients meet it: a process over HTTP, many at once, and uploads that mean harm."""

import asyncio
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from wastetune.models.bundle import BundleDescription
from wastetune.models.loading import Model, open_model
from wastetune.serving.api import Limits, build_app
from wastetune.serving.server import open_listener
from wastetune.serving.uploads import decode_upload

# The service as it is where nothing but `wastetune[serve]` is installed.
ALONE = """
import sys
absent = "tensorflow keras optuna mlflow pandas cv2 matplotlib sqlalchemy rich sklearn filelock platformdirs".split()
sys.modules.update(dict.fromkeys(absent))
from wastetune.cli.main import main
main(prog_name="wastetune")
"""


class Served:
    """A `wastetune serve` that answers."""

    def __init__(self, process):
        self.process = process
        line = process.stdout.readline()
        assert line, process.stderr.read()
        self.url = re.search(r"http://\S+(?=/predict)", line)[0]
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def predict(self, *files, **options):
        return self.client.post("/predict", files=[("files", file) for file in files], **options)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, stderr


@contextmanager
def serving(model, *arguments, **environment):
    command = [sys.executable, "-c", ALONE, "serve", "--bundle", model, "--port", "0", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        process = subprocess.Popen(list(map(str, command)), **pipes)
    served = None
    try:
        served = Served(process)
        yield served
    finally:
        if served:
            served.client.close()
        process.kill()
        process.communicate()


def run_apart(talk):
    """Runs a coroutine in a thread of its own: where tests of pages ran before, Playwright's loop is in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, talk).result()


@pytest.fixture(scope="module")
def server(brightness):
    limits = ["--max-mb", "4", "--max-files", "5", "--max-megapixels", "20", "--queue", "100"]
    with serving(brightness.parent, *limits) as served:
        yield served


def picture(level, size=(30, 20), form="JPEG"):
    content = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(content, form)
    return content.getvalue()


def test_it_says_what_the_model_says(server, brightness):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")  # of the model's own size, so that nothing is scaled
    (answer,) = server.predict(("noise.png", content.getvalue())).raise_for_status().json()["predictions"]
    said = open_model(brightness).run(noise[None])[0]
    assert list(answer["probabilities"]) == ["dark", "grey", "bright"]
    assert list(answer["probabilities"].values()) == [float(each) for each in said]
    best = int(said.argmax())
    assert (answer["filename"], answer["class"]) == ("noise.png", ("dark", "grey", "bright")[best])
    assert [each["probability"] for each in answer["top"]] == sorted(map(float, said), reverse=True)
    assert (answer["problem"], answer["unsure"]) == (None, False)


def test_files_are_answered_in_their_order_and_a_bad_one_stops_no_other(server):
    answer = server.predict(("n.jpg", picture(0)), ("x.jpg", b"none"), ("d.png", picture(255, form="PNG")))
    assert answer.status_code == 200
    rows = answer.json()["predictions"]
    assert [(row["filename"], row["class"], row["problem"]) for row in rows] == [
        ("n.jpg", "dark", None),
        ("x.jpg", None, "not a picture Pillow can read"),
        ("d.png", "bright", None),
    ]


def test_with_a_precision_it_says_where_it_is_unsure(brightness):
    with serving(brightness.parent, "--precision", "95") as served:
        rows = served.predict(("n.jpg", picture(0)), ("g.jpg", picture(127))).json()["predictions"]
        assert [(row["class"], row["unsure"]) for row in rows] == [("dark", False), ("unsure", True)]
        assert rows[1]["top"][0] == {"class": "bright", "probability": rows[1]["probability"]}
        assert served.client.get("/model").json()["unsure_below"] == 0.9


def png(header, rows):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def huge_png():
    """30,000 by 30,000 pixels of one colour, in a file of two hundred kilobytes."""
    side = (30_000).to_bytes(4, "big")
    return png(side + side + bytes([1, 0, 0, 0, 0]), zlib.compress(bytes(30_000 * (1 + 30_000 // 8)), 9))


def zip_bomb():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photo.jpg", bytes(100_000_000))
    return content.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


@pytest.mark.parametrize(
    ("make", "status", "sentence"),
    [
        (lambda: [("torn.jpg", picture(9, (400, 400))[:900])], 422, "torn.jpg: broken: "),
        (lambda: [("big.png", huge_png())], 422, "big.png: more than 20 million pixels"),
        (lambda: [("wide.jpg", picture(9, (6000, 4000)))], 422, "wide.jpg: more than 20 million pixels"),
        (lambda: [("bomb.jpg", zip_bomb())], 422, "bomb.jpg: not a picture Pillow can read"),
        (lambda: [("drawing.svg", SVG)], 422, "drawing.svg: not a picture Pillow can read"),
        (lambda: [("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")], 422, "not a picture"),
        (lambda: [("empty.jpg", b"")], 422, "empty.jpg: empty file"),
        (lambda: [("../../etc/passwd", b"root")], 422, "not a picture Pillow can read"),
        (lambda: [(f"{n}.jpg", picture(9)) for n in range(200)], 413, "200 files came, and 5 are taken at once"),
        (lambda: [("long.bmp", bytes(5_000_000))], 413, "the request has more than 4,194,304 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_good_is_refused_in_a_sentence_and_the_next_is_served(server, make, status, sentence):
    answer = server.predict(*make())
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]
    assert server.predict(("n.jpg", picture(0))).json()["predictions"][0]["class"] == "dark"
    assert psutil.Process(server.process.pid).memory_info().rss < 500e6


def test_a_body_that_does_not_say_its_length_is_bounded_too(server):
    def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)
        yield b"\r\n--x--\r\n"

    with httpx.Client(base_url=server.url, trust_env=False) as client:
        try:
            answer = client.post(
                "/predict", content=parts(), headers={"Content-Type": "multipart/form-data; boundary=x"}
            )
        except httpx.WriteError:  # it closed the connection in the middle, as it may
            return
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"json": {"files": "photo.jpg"}},
        {"data": {"files": "photo.jpg"}},
        {"files": [("picture", ("n.jpg", b"none"))]},
    ],
    ids=["nothing", "JSON", "text", "another field"],
)
def test_a_request_without_pictures_is_told_how(server, request_):
    answer = server.client.post("/predict", **request_)
    assert answer.status_code == 422
    assert f"curl -F files=@photo.jpg {server.url}/predict" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_form_that_is_none_is_refused(server, kind):
    answer = server.client.post("/predict", content=b"\x00\xff--x garbage", headers={"Content-Type": kind})
    assert answer.status_code in (400, 422)
    assert isinstance(answer.json()["detail"], str)


def test_many_clients_at_once_each_get_their_own_answer(server):
    def ask(number):
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            level, name = ((0, "dark"), (255, "bright"))[number % 2]
            for _ in range(3):
                files = [("files", (f"{number}.jpg", picture(level)))] * (1 + number % 2)
                rows = client.post("/predict", files=files).raise_for_status().json()["predictions"]
                assert [(row["filename"], row["class"]) for row in rows] == [(f"{number}.jpg", name)] * len(files)
        return True

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(32)))
    figures = server.client.get("/metrics").text
    assert re.search(r'wastetune_requests_total\{path="/predict",status="200"\} (\d+)', figures)
    assert float(re.search(r"wastetune_batch_pictures_sum (\S+)", figures)[1]) >= 32 * 3
    assert "wastetune_pictures_in_hand 0.0" in figures


def test_it_says_which_model_it_is_and_how_it_is(server):
    card = server.client.get("/model").json()
    assert (card["classes"], card["input_size"], card["unsure_below"]) == (["dark", "grey", "bright"], 8, 0.0)
    assert server.client.get("/health").json() == {"status": "alive"}
    assert server.client.get("/ready").json() == {"status": "ready"}
    assert server.client.get("/", follow_redirects=True).url.path == "/docs"
    told = server.client.get("/openapi.json").json()
    assert told["components"]["schemas"]["Answer"]["examples"][0]["class"] == "glass"


def test_whatever_it_is_asked_the_answer_is_one_that_its_openapi_describes(server):
    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install '.[dev]'")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} == {"/predict", "/model", "/health", "/ready", "/metrics"}
    for operation in operations:

        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case):
            # Its files hold noise, which is well described and no picture.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        ask()


def test_the_key_is_asked_for_where_something_is_to_be_had(brightness):
    with serving(brightness, WASTETUNE_API_KEY="opensesame") as served:
        photo = ("n.jpg", picture(0))
        assert served.predict(photo).status_code == 401
        assert served.predict(photo, headers={"X-API-Key": "wrong"}).json() == {
            "detail": "send the API key in the header X-API-Key"
        }
        assert served.client.get("/model").status_code == 401
        assert served.predict(photo, headers={"X-API-Key": "opensesame"}).status_code == 200
        for open_to_all in ("/health", "/ready", "/metrics", "/openapi.json"):
            answer = served.client.get(open_to_all)
            assert answer.status_code == 200
            assert "opensesame" not in answer.text
        status, stdout, stderr = served.stop()
    assert "opensesame" not in stdout + stderr
    assert (status, stderr) == (0, "stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_answers_what_it_has_and_ends_with_0(brightness, number):
    with serving(brightness) as served:
        asked, answered, gone = threading.Event(), [], []

        def ask():
            with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as client:
                while True:
                    try:
                        answered.append(client.post("/predict", files={"files": ("n.jpg", picture(0))}).status_code)
                    except httpx.TransportError as error:  # it listens no more
                        gone.append(error)
                        return
                    asked.set()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert asked.wait(30)
        status, _, stderr = served.stop(number)
        for thread in threads:
            thread.join(30)
    assert (status, stderr) == (0, "stopped\n")
    assert set(answered) == {200}
    assert len(gone) == 8


def test_a_client_that_goes_away_or_has_no_key_costs_nothing(brightness):
    """The service reads no upload of those who may not predict, and says nothing of half a request."""
    half = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n%s"
    half += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    with serving(brightness, WASTETUNE_API_KEY="opensesame") as served:
        address = ("127.0.0.1", served.client.base_url.port)
        with socket.create_connection(address, timeout=60) as client:
            client.sendall(half % b"")
            assert client.recv(100).startswith(b"HTTP/1.1 401 ")
        with socket.create_connection(address, timeout=60) as client:
            client.sendall(half % b"X-API-Key: opensesame\r\n")
        answer = served.predict(("n.jpg", picture(0)), headers={"X-API-Key": "opensesame"})
        assert answer.status_code == 200
        status, _, stderr = served.stop()
    assert (status, stderr) == (0, "stopped\n")


def rgba(width, height):
    """A transparent PNG; Pillow's own writer would take seconds for a large one."""
    rows = zlib.compress(bytes(height * (1 + 4 * width)), 1)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return png(size + bytes([8, 6, 0, 0, 0]), rows)


def test_the_largest_pictures_from_many_clients_do_not_fill_the_memory(server):
    """Each takes 160 MB while it is unpacked, and three times that where it is laid on white in one go."""
    content = rgba(5000, 4000)

    def ask(number):
        with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
            files = {"files": (f"{number}.png", content)}
            return client.post("/predict", files=files).raise_for_status().json()["predictions"][0]["class"]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {"bright"}
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("only Linux tells how much memory a process has ever had")
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) < 500_000
    assert psutil.Process(server.process.pid).memory_info().rss < 250e6  # and it has been given back


def test_a_large_picture_is_unpacked_in_its_turn_and_a_small_one_at_once():
    turns = []

    @contextmanager
    def turn():
        turns.append("large")
        yield

    for side, taken in ((10, []), (30, ["large"])):
        assert decode_upload(picture(9, (side, side)), 8, 1000, turn()).shape == (8, 8, 3)
        assert turns == taken
    with pytest.raises(ValueError, match=r"more than 0\.001 million pixels"):
        decode_upload(picture(9, (40, 40)), 8, 1000, turn())


class Talk:
    """A request to an app in this process, whose body comes when the test says so."""

    def __init__(self, app, *, length=None):
        self.body, self.asked, self.sent = asyncio.Queue(), asyncio.Event(), []
        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        self.asked.set()
        return {"type": "http.request", "body": await self.body.get(), "more_body": True}

    async def _send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"]


ABOUT = BundleDescription(classes=("a", "b"), input_size=8)
HALF = Model(("a", "b"), 8, ABOUT, lambda pixels: (np.full((len(pixels), 2), 0.5), None))


def test_a_request_that_takes_too_long_to_arrive_is_refused():
    async def talk():
        slow = Talk(build_app(HALF, Limits(seconds=0.01)))
        await slow.task
        assert slow.status == 408
        assert b"did not arrive within 0.01 seconds" in slow.sent[1]["body"]

    run_apart(talk())


def test_a_request_that_is_cut_off_at_the_end_of_the_service_is_told():
    async def talk():
        slow = Talk(build_app(HALF))
        await slow.asked.wait()
        slow.task.cancel()
        await slow.task
        assert (slow.status, slow.sent[1]["body"]) == (503, b'{"detail":"the service is ending"}')

    run_apart(talk())


def test_all_requests_together_hold_so_many_bytes_and_room_is_made_again():
    async def talk():
        app = build_app(HALF, Limits(bytes=1000))  # so 8,000 in all
        start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        first = [Talk(app) for _ in range(8)]
        for each in first:
            each.body.put_nowait(start + bytes(990 - len(start)))
        while any(not each.body.empty() for each in first):
            await asyncio.sleep(0)
        refused = Talk(app)
        refused.body.put_nowait(start + bytes(900 - len(start)))
        await refused.task
        assert refused.status == 503
        assert (b"retry-after", b"1") in refused.sent[0]["headers"]
        assert b"requests of 8,000 bytes are in hand" in refused.sent[1]["body"]
        for each in first:
            each.body.put_nowait(bytes(11))  # one more than its own bound
            await each.task
            assert each.status == 413
        again = Talk(app)
        again.body.put_nowait(start + bytes(900 - len(start)))
        await again.asked.wait()
        assert not again.task.done()
        again.task.cancel()
        await again.task

    run_apart(talk())


def test_past_its_places_it_says_503_and_is_well_afterwards():
    """In this process, where a model can be made to wait."""
    free = threading.Event()

    def wait(pixels):
        assert free.wait(60)
        return np.full((len(pixels), 2), 0.5, np.float32)

    app = build_app(Model(("a", "b"), 8, ABOUT, lambda pixels: (wait(pixels), None)), Limits(places=3))

    async def talk():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):

            def ask(count):
                return client.post("/predict", files=[("files", ("n.jpg", picture(0)))] * count)

            first = [asyncio.create_task(ask(1)) for _ in range(3)]
            while "wastetune_pictures_in_hand 3.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
            refused = await ask(1)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            assert "3 pictures are in hand, as many as the service takes" in refused.json()["detail"]
            free.set()
            assert [(await each).status_code for each in first] == [200, 200, 200]
            assert (await ask(3)).status_code == 200

    run_apart(talk())


@pytest.mark.parametrize("failure", ["it raises", "it answers too little"])
def test_a_model_that_fails_costs_that_request_alone(failure):
    calls = []

    def run(pixels):
        calls.append(len(pixels))
        if len(calls) == 1:
            if failure == "it raises":
                raise MemoryError("no room")
            return np.zeros((0, 2), np.float32)
        return np.full((len(pixels), 2), 0.5, np.float32)

    app = build_app(Model(("a", "b"), 8, ABOUT, lambda pixels: (run(pixels), None)))

    async def talk():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            files = {"files": ("n.jpg", picture(0))}
            failed = await client.post("/predict", files=files)
            assert failed.status_code == 500
            assert failed.json() == {"detail": "the service has failed over this request; its log says why"}
            assert (await client.post("/predict", files=files)).status_code == 200

    run_apart(talk())


def test_what_is_in_the_way_is_told_in_a_sentence(brightness, run_cli, tmp_path):
    def told(*arguments):
        done = run_cli("serve", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"error: cannot listen at 127.0.0.1 port {port}: Address already in use"
        assert told("--bundle", brightness, "--port", port).startswith(sentence)
    assert "holds no model.onnx; make it with `wastetune export" in told("--bundle", tmp_path)
    assert "no.onnx does not exist" in told("--bundle", tmp_path / "no.onnx")
    assert "is no .onnx file" in told("--bundle", __file__)
    assert "--queue 3 is less than --max-files 32" in told("--bundle", brightness, "--queue", "3")
    for key in ("", "schlüssel", "two\nlines", " space"):
        assert "the API key travels in a header" in told("--bundle", brightness, "--api-key", key)
    (tmp_path / "results" / "mine" / "bundle").mkdir(parents=True)
    how = "wastetune export --study mine --format onnx"
    assert f"has no ONNX export yet; make it: {how}" in told("--study", "mine")
    (tmp_path / "results" / "mine" / "export").mkdir()
    (tmp_path / "results" / "mine" / "export" / "model.onnx").write_bytes(brightness.read_bytes())
    description = '{"classes": ["dark", "grey", "bright"], "input_size": 16}'
    (tmp_path / "results" / "mine" / "bundle" / "bundle.json").write_text(description)
    assert f"is not of the study's present winner; make it anew: {how}" in told("--study", "mine")


def test_an_answer_goes_out_at_once():
    """Without this option each takes 40 ms more, in which the system waits for more to send."""
    with (
        open_listener("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_where_nothing_but_the_service_is_installed_the_other_commands_say_what_they_need():
    command = [sys.executable, "-c", ALONE, "compare"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: this command needs \w+, which is not installed; pip install wastetune\n", done.stderr)


def test_where_others_can_reach_it_and_no_key_is_asked_for_that_is_said(brightness):
    with serving(brightness, "--host", "0.0.0.0") as served:
        status, _, stderr = served.stop()
    assert (status, stderr.splitlines()[0]) == (
        0,
        "warning: whoever reaches 0.0.0.0 may predict; --api-key asks for a key",
    )
