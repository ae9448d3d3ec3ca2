"""The app as a process: Streamlit with its settings, at an address."""

import warnings
from collections.abc import Callable
from pathlib import Path

import streamlit as st
from PIL import Image
from starlette.responses import FileResponse
from starlette.routing import Route
from streamlit.web.bootstrap import load_config_options

from wastetune.data.picture import MAX_BYTES
from wastetune.places import ONLY_HERE
from wastetune.serve.exhibit import REPORT, open_exhibit
from wastetune.serve.listening import answer_at, open_listener

_GRACE = 1  # second for pages that are open when the app is told to end

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
    results: Path, data: Path, dataset: str | None, *, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Shows the study in this results folder until SIGINT or SIGTERM; `say` gets the address.

    Its pictures are those of `dataset`, a path or a name in the folder `data`; for None, of the name its model says.
    UserError where its model cannot be opened, or the place is taken.
    """
    # A name that another page has brought to this address is refused; elsewhere only its owner knows the names.
    known = {"server.allowedHosts": sorted(ONLY_HERE)} if host in ONLY_HERE else {}
    load_config_options(_SETTINGS | known)
    with open_listener(host, port) as listener:
        exhibit = open_exhibit(results, data, dataset or "")  # a broken model is told now, and the script finds it open
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the visitor is told
        app = st.App(
            Path(__file__).with_name("app.py"),
            secrets={"results": str(results), "data": str(data), "dataset": dataset or ""},
            # At an address of its own: inside Streamlit's page, links within it would lead to Streamlit.
            routes=[Route(REPORT, lambda request: FileResponse(exhibit.report))],
        )
        answer_at(listener, app, websockets=True, grace=_GRACE, say=say)
