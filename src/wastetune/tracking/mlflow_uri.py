"""The URI of an MLflow store: checks, requests, and error messages without its password."""

import contextlib
import re
import urllib.request
from base64 import b64encode
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wastetune.errors import UserError, first_line
from wastetune.network import LOOPBACK_HOSTS
from wastetune.storage.database import hide_password, quote_password

_DATABASES = ("mysql", "sqlite", "postgresql", "mssql")
_LONGEST_REASON = 160  # characters; messages of HTTP clients are long


def check_uri(uri: str) -> None:
    """UserError for what cannot be a store: no URI, a folder, an unknown scheme, a missing driver, another file.

    Quick, without MLflow. Whether the store answers is found out when it is opened.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    scheme, uri = uri_scheme(uri), quote_password(uri)
    try:
        if scheme in _DATABASES:
            make_url(uri).get_dialect().import_dbapi()
            if file := sqlite_file(uri):
                _check_file(file)
        elif scheme in ("http", "https"):
            _check_server(uri)
        elif scheme in ("", "file"):
            raise ValueError("MLflow keeps runs in a database or on a server: sqlite:///FILE or http://HOST:PORT")
        elif scheme not in ("databricks", *_plugins()):
            raise ValueError(f"MLflow knows no {scheme}://")
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise UserError(
            f"the MLflow store cannot be opened ({render_reason(error, uri)}); "
            "check --tracking-uri or MLFLOW_TRACKING_URI"
        ) from error


def check_store(uri: str) -> None:
    """UserError for what cannot be a store, for a missing file, and for a database that does not answer."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    file = None
    with contextlib.suppress(SQLAlchemyError):  # check_uri reports it
        file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise UserError(f"there is no MLflow store {file}; name another --tracking-uri, or make it: wastetune sync")
    check_uri(uri)
    if uri_scheme(uri) in _DATABASES:
        try:
            create_engine(quote_password(uri), poolclass=NullPool).connect().close()
        except (SQLAlchemyError, OSError) as error:
            raise UserError(
                f"the MLflow store does not answer ({render_reason(error, uri)}); check --tracking-uri"
            ) from error


def render_reason(error: Exception, uri: str) -> str:
    """The first line of a store's error, without the password of its URI: the database's own, where that is the cause.

    MLflow and SQLAlchemy put other lines before it.
    """
    cause: BaseException | None = error
    while cause and not isinstance(getattr(cause, "orig", None), Exception):
        cause = cause.__cause__ or cause.__context__
    line = first_line(getattr(cause, "orig", error))
    for given in (uri.rstrip("/"), quote_password(uri).rstrip("/")):
        line = line.replace(given, hide_password(given))
    return line[:_LONGEST_REASON]


def uri_scheme(uri: str) -> str:
    """postgresql of postgresql+psycopg://...; databricks may stand alone."""
    found = re.match(r"([a-z][a-z0-9.-]*)(\+[a-z0-9_]+)?(:|$)", uri)
    return found[1] if found and (found[3] or uri == "databricks") else ""


def sqlite_file(uri: str) -> Path | None:
    """The file of a store in SQLite; None for another kind of store."""
    from sqlalchemy.engine import make_url

    return Path(make_url(uri).database or ":memory:") if uri_scheme(uri) == "sqlite" else None


def without_password(url: str) -> str:
    """The URL of a server without user and password."""
    parts = urlsplit(quote_password(url))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def fetch(url: str) -> bytes:
    """The response of a server, with the user and password in the URL; without a proxy on this machine."""
    parts = urlsplit(quote_password(url))
    request = urllib.request.Request(without_password(url))
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {b64encode(pair.encode()).decode()}")
    handlers = [urllib.request.ProxyHandler({})] if parts.hostname in LOOPBACK_HOSTS else []
    with urllib.request.build_opener(*handlers).open(request, timeout=5) as response:
        body: bytes = response.read()
        return body


def _plugins() -> tuple[str, ...]:
    """The schemes that installed packages register with MLflow."""
    from importlib.metadata import entry_points

    return tuple(entry.name for entry in entry_points(group="mlflow.tracking_store"))


def _check_server(uri: str) -> None:
    parts = urlsplit(uri)
    _ = parts.port  # ValueError for one that is no number
    if not parts.hostname:
        raise ValueError("it names no host")


def _check_file(file: Path) -> None:
    if file.name == ":memory:":
        raise ValueError("it names no file")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        with file.open("rb") as stream:
            if stream.read(16) not in (b"", b"SQLite format 3\0"):
                raise ValueError(f"{file} is no SQLite database")
