"""The app: a photo in the browser, what the model takes it for, and why it thinks so.

Streamlit runs this file as a script, anew for each visitor and whenever something is pressed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from wastetune.data.picture import decode_picture, pixels_hash, resize_picture
from wastetune.page.thumbnails import draw_thumbnail
from wastetune.serve.exhibit import REPORT, Example, Exhibit, Gathering, open_exhibit
from wastetune.serve.plates import (
    render_answer,
    render_invitation,
    render_similar,
    render_style,
    render_title,
)
from wastetune.similar import most_similar

ALIKE = 6  # training pictures shown
_ANY = 600  # pixels; the style makes it as high as the window


def show() -> None:
    """The two pages."""
    given = st.secrets
    exhibit = open_exhibit(Path(given["results"]), Path(given["data"]), given["dataset"])
    st.set_page_config(page_title=f"{exhibit.study}: what is on the photo?", page_icon="♻️", layout="wide")
    st.html(render_style())
    report = st.Page(lambda: _show_report(exhibit), title="The study", url_path="study")
    picture = st.Page(lambda: _show_picture(exhibit, report), title="A photo", url_path="photo", default=True)
    st.navigation([picture, report], position="top").run()


@dataclass(frozen=True)
class _Chosen:
    content: bytes
    truth: str | None = None  # its class, where that is known


def _show_picture(exhibit: Exhibit, report: Any) -> None:
    st.html(render_title(exhibit.study, exhibit.about))
    left, right = st.columns([3, 8], gap="medium")
    with left:
        chosen = _choose(exhibit)
    with right:
        if chosen is None:
            st.html(render_invitation(exhibit.onlooker.classes))
        else:
            _show_answer(exhibit, chosen)
        # On a phone the pages' names are folded away.
        st.page_link(report, label="How good is it in general? The study's report", icon=":material/insights:")


def _choose(exhibit: Exhibit) -> _Chosen | None:
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


def _show_answer(exhibit: Exhibit, chosen: _Chosen) -> None:
    onlooker = exhibit.onlooker
    try:
        picture = decode_picture(chosen.content)
    except ValueError as error:
        st.error(f"This file cannot be used: {error}. Try another photo.")
        return
    look = onlooker.look(resize_picture(picture, onlooker.size))
    st.html(render_answer(look, picture, onlooker.classes, exhibit.about, chosen.truth))
    gathering = exhibit.gathering
    if gathering.gallery is not None:
        answer = onlooker.classes[int(look.probabilities.argmax())]
        alike = most_similar(gathering.gallery, look.vector, ALIKE)
        st.html(render_similar(alike, answer, learnt=pixels_hash(picture) in gathering.gallery.learnt))
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


def _show_report(exhibit: Exhibit) -> None:
    if exhibit.report.is_file():
        with st.container(key="report"):
            st.iframe(REPORT, height=_ANY)
    else:
        st.info(f"{exhibit.report} is not there; run the study again, which writes it.")


if __name__ == "__main__":
    show()
