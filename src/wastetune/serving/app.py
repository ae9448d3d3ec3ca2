"""The app: a photo in the browser, what the model takes it for, and why it thinks so.

Streamlit runs this file as a script, anew for each visitor and whenever something is pressed.
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
from wastetune.models.neighbors import nearest_neighbors
from wastetune.serving.app_html import render_answer, render_similar, render_style, render_title, render_upload_hint
from wastetune.serving.app_state import REPORT, AppState, Example, Gathering, open_app_state
from wastetune.serving.server import answer_at, open_listener
from wastetune.settings import LOOPBACK_HOSTS

ALIKE = 6  # training pictures shown
_ANY = 600  # pixels; the style makes it as high as the window


def show() -> None:
    """The two pages."""
    given = st.secrets
    exhibit = open_app_state(Path(given["results"]), Path(given["data"]), given["dataset"])
    st.set_page_config(page_title=f"{exhibit.study}: what is on the photo?", page_icon="♻️", layout="wide")
    st.html(render_style())
    report = st.Page(lambda: _show_report(exhibit), title="The study", url_path="study")
    picture = st.Page(lambda: _show_picture(exhibit, report), title="A photo", url_path="photo", default=True)
    st.navigation([picture, report], position="top").run()


@dataclass(frozen=True)
class _Chosen:
    content: bytes
    truth: str | None = None  # its class, where that is known


def _show_picture(exhibit: AppState, report: Any) -> None:
    st.html(render_title(exhibit.study, exhibit.about))
    left, right = st.columns([3, 8], gap="medium")
    with left:
        chosen = _choose(exhibit)
    with right:
        if chosen is None:
            st.html(render_upload_hint(exhibit.onlooker.classes))
        else:
            _show_answer(exhibit, chosen)
        # On a phone the pages' names are folded away.
        st.page_link(report, label="How good is it in general? The study's report", icon=":material/insights:")


def _choose(exhibit: AppState) -> _Chosen | None:
    """What was given last: a file, a photo from the camera, or an example."""
    state = st.session_state
    state.setdefault("example", None)
    state.setdefault("turn", 0)  # a new key is a new, empty uploader

    def try_example(example: Example) -> None:
        state.example = example
        state.turn += 1

    def forget_example() -> None:
        state.example = None

    key = f"photo {state.turn}"
    if st.toggle("Use the camera", on_change=forget_example):
        file = st.camera_input("Take a photo", key=f"{key} taken", on_change=forget_example)
    else:
        file = st.file_uploader("Drop a photo", key=key, on_change=forget_example)
    if exhibit.examples:
        st.caption("Or try a test picture, which it was not trained on:")
        with st.container(horizontal=True, key="examples"):
            for number, example in enumerate(exhibit.examples):
                label = f"![test picture {number + 1}]({draw_thumbnail(example.path)})"
                st.button(label, key=f"example {number}", on_click=try_example, args=(example,))
    if state.example is not None:
        return _Chosen(state.example.path.read_bytes(), state.example.name)
    return None if file is None else _Chosen(file.getvalue())


def _show_answer(exhibit: AppState, chosen: _Chosen) -> None:
    onlooker = exhibit.onlooker
    try:
        picture = decode_picture(chosen.content)
    except ValueError as error:
        st.error(f"This file cannot be used: {error}. Try another photo.")
        return
    look = onlooker.explain(resize_picture(picture, onlooker.size))
    st.html(render_answer(look, picture, onlooker.classes, exhibit.about, chosen.truth))
    gathering = exhibit.gathering
    if gathering.gallery is not None:
        answer = onlooker.classes[int(look.probabilities.argmax())]
        alike = nearest_neighbors(gathering.gallery, look.embedding, ALIKE)
        st.html(render_similar(alike, answer, learnt=pixels_hash(picture) in gathering.gallery.trained_on))
    elif gathering.missing:
        st.caption(f"No training pictures to compare with: {gathering.missing}")
    else:
        _show_gathering(gathering)


@st.fragment(run_every=1.0)
def _show_gathering(gathering: Gathering) -> None:
    if gathering.gallery is not None or gathering.missing:
        st.rerun()
    share = gathering.done / max(gathering.total, 1)
    st.progress(share, f"Looking at its training pictures, once: {gathering.done:,} of {gathering.total:,}")


def _show_report(exhibit: AppState) -> None:
    if exhibit.report.is_file():
        with st.container(key="report"):
            st.iframe(REPORT, height=_ANY)
    else:
        st.info(f"{exhibit.report} is not there; run the study again, which writes it.")


if __name__ == "__main__":
    show()

_STOP_GRACE = 1  # second for pages that are open when the app is told to end

_SETTINGS = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "logger.level": "error",  # it takes over uvicorn's, which would tell of each request
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
    """Shows the study in this results folder until SIGINT or SIGTERM; `say` gets the address.

    Its pictures are those of `dataset`, a path or a name in the folder `data`; for None, of the name its model says.
    UserError where its model cannot be opened, or the place is taken.
    """
    # A name that another page has brought to this address is refused; elsewhere only its owner knows the names.
    known = {"server.allowedHosts": sorted(LOOPBACK_HOSTS)} if host in LOOPBACK_HOSTS else {}
    load_config_options(_SETTINGS | known)
    with open_listener(host, port) as listener:
        exhibit = open_app_state(
            results, data, dataset or ""
        )  # a broken model is told now, and the script finds it open
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the visitor is told
        app = st.App(
            Path(__file__).with_name("app.py"),
            secrets={"results": str(results), "data": str(data), "dataset": dataset or ""},
            # At an address of its own: inside Streamlit's page, links within it would lead to Streamlit.
            routes=[Route(REPORT, lambda request: FileResponse(exhibit.report))],
        )
        answer_at(listener, app, websockets=True, grace=_STOP_GRACE, echo=echo)
