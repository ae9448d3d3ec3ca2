"""The app: prediction, saliency map and similar training pictures for a photo in the browser.

Streamlit runs this file as a script for each visitor and after each interaction.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image
from starlette.responses import FileResponse
from starlette.routing import Route
from streamlit.web.bootstrap import load_config_options

from wastetune.data.image import MAX_BYTES, decode_picture, draw_thumbnail, pixels_hash, resize_picture
from wastetune.models.answers import Rule, choose_rule
from wastetune.models.neighbors import nearest_neighbors
from wastetune.network import LOOPBACK_HOSTS
from wastetune.serving.app_html import render_answer, render_similar, render_style, render_title, render_upload_hint
from wastetune.serving.app_state import REPORT, AppState, Example, IndexBuild, open_app_state
from wastetune.serving.server import open_listener, serve_at

SIMILAR = 6  # training pictures shown
_FRAME_HEIGHT = 600  # pixels, until the style makes the frame as high as the window


def show() -> None:
    """The two pages."""
    secrets = st.secrets
    state = open_app_state(Path(secrets["results"]), Path(secrets["data"]), secrets["dataset"])
    st.set_page_config(page_title=f"{state.study}: what is on the photo?", page_icon="♻️", layout="wide")
    st.html(render_style())
    report = st.Page(lambda: _show_report(state), title="The study", url_path="study")
    picture = st.Page(lambda: _show_picture(state, report), title="A photo", url_path="photo", default=True)
    st.navigation([picture, report], position="top").run()


@dataclass(frozen=True)
class _Selection:
    content: bytes
    truth: str | None = None  # its class, where that is known


def _show_picture(state: AppState, report: Any) -> None:
    st.html(render_title(state.study, state.about))
    left, right = st.columns([3, 8], gap="medium")
    with left:
        chosen = _choose(state)
        rule = _choose_rule(state)
    with right:
        if chosen is None:
            st.html(render_upload_hint(state.model.classes))
        else:
            _show_answer(state, chosen, rule)
        # On a phone the pages' names are folded away.
        st.page_link(report, label="How good is it in general? The study's report", icon=":material/insights:")


def _choose(state: AppState) -> _Selection | None:
    """The latest of a file, a photo from the camera and an example."""
    session = st.session_state
    session.setdefault("example", None)
    session.setdefault("turn", 0)  # a new key is a new, empty uploader

    def try_example(example: Example) -> None:
        session.example = example
        session.turn += 1

    def forget_example() -> None:
        session.example = None

    key = f"photo {session.turn}"
    if st.toggle("Use the camera", on_change=forget_example):
        file = st.camera_input("Take a photo", key=f"{key} taken", on_change=forget_example)
    else:
        file = st.file_uploader("Drop a photo", key=key, on_change=forget_example)
    if state.examples:
        st.caption("Or try a test picture, which it was not trained on:")
        with st.container(horizontal=True, key="examples"):
            for number, example in enumerate(state.examples):
                label = f"![test picture {number + 1}]({draw_thumbnail(example.path)})"
                st.button(label, key=f"example {number}", on_click=try_example, args=(example,))
    if session.example is not None:
        return _Selection(session.example.path.read_bytes(), session.example.name)
    return None if file is None else _Selection(file.getvalue())


def _choose_rule(state: AppState) -> Rule:
    """How often answers have to be right."""
    percents = [100 * each.precision for each in state.about.thresholds]
    promises = {f"Right {percent:g} % of the time": percent for percent in percents}
    asked = st.selectbox("When should it answer?", ["Always", *promises]) if promises else ""
    return choose_rule(state.about, precision=promises.get(asked))


def _show_answer(state: AppState, chosen: _Selection, rule: Rule) -> None:
    model = state.model
    try:
        picture = decode_picture(chosen.content)
    except ValueError as error:
        st.error(f"This file cannot be used: {error}. Try another photo.")
        return
    saliency = model.explain(resize_picture(picture, model.size))
    st.html(render_answer(saliency, picture, model.classes, state.about, chosen.truth, rule))
    neighbors = state.neighbors
    if neighbors.index is not None:
        answer = model.classes[int(saliency.probabilities.argmax())]
        similar = nearest_neighbors(neighbors.index, saliency.embedding, SIMILAR)
        st.html(render_similar(similar, answer, learnt=pixels_hash(picture) in neighbors.index.trained_on))
    elif neighbors.problem:
        st.caption(f"No training pictures to compare with: {neighbors.problem}")
    else:
        _show_progress(neighbors)


@st.fragment(run_every=1.0)
def _show_progress(neighbors: IndexBuild) -> None:
    if neighbors.index is not None or neighbors.problem:
        st.rerun()
    share = neighbors.done / max(neighbors.total, 1)
    st.progress(share, f"Looking at its training pictures, once: {neighbors.done:,} of {neighbors.total:,}")


def _show_report(state: AppState) -> None:
    if state.report.is_file():
        with st.container(key="report"):
            st.iframe(REPORT, height=_FRAME_HEIGHT)
    else:
        st.info(f"{state.report} is not there; run the study again, which writes it.")


if __name__ == "__main__":
    show()

_STOP_GRACE = 1  # second for open pages when the app stops

_SETTINGS = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "logger.level": "error",  # also of uvicorn's logger, which would log each request
    "server.fileWatcherType": "none",
    "server.maxUploadSize": MAX_BYTES // 2**20,
    # The colours of report.html.
    "theme.light.primaryColor": "#c2410c",
    "theme.light.backgroundColor": "#fcfcfb",
    "theme.light.secondaryBackgroundColor": "#f2f4f6",
    "theme.light.textColor": "#1d2329",
    "theme.dark.primaryColor": "#ff9b5c",
    "theme.dark.backgroundColor": "#14181d",
    "theme.dark.secondaryBackgroundColor": "#1d232a",
    "theme.dark.textColor": "#e6e9ec",
}


def serve_app(
    results: Path, data: Path, dataset: str | None, *, host: str, port: int, echo: Callable[[str], None]
) -> None:
    """Serves the app for a study's results folder until SIGINT or SIGTERM; `echo` gets the address.

    Its pictures are those of `dataset`, a path or a name in the folder `data`; for None, of the data set named in the
    bundle. UserError where the model cannot be opened, or nothing can listen there.
    """
    # Requests for other host names are refused (DNS rebinding); the names of other hosts are not known here.
    known = {"server.allowedHosts": sorted(LOOPBACK_HOSTS)} if host in LOOPBACK_HOSTS else {}
    load_config_options(_SETTINGS | known)
    with open_listener(host, port) as listener:
        state = open_app_state(results, data, dataset or "")  # opened now, so that a broken model is reported here
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the page reports it
        app = st.App(
            Path(__file__).with_name("app.py"),
            secrets={"results": str(results), "data": str(data), "dataset": dataset or ""},
            # At an address of its own: inside Streamlit's page, links within the report would lead to Streamlit.
            routes=[Route(REPORT, lambda request: FileResponse(state.report))],
        )
        serve_at(listener, app, websockets=True, grace=_STOP_GRACE, echo=echo)
