"""The service as a process."""

from collections.abc import Callable

from PIL import Image

from wastetune.models import Model
from wastetune.serve.api import Limits, build_app
from wastetune.serve.listening import answer_at, open_listener

# A picture in one piece, up to this: malloc gives large pieces back to the system, and keeps Pillow's usual 16 MiB.
_BLOCK = 512 * 2**20
_GRACE = 10  # seconds for what is in hand when the service is told to end


def serve_model(
    model: Model,
    *,
    host: str,
    port: int,
    key: str | None,
    limits: Limits,
    say: Callable[[str], None],
) -> None:
    """Serves a model until SIGINT or SIGTERM; `say` gets its address, where it answers from then on.

    UserError where the place is taken.
    """
    with open_listener(host, port) as listener:
        Image.core.set_block_size(_BLOCK)  # type: ignore[attr-defined]
        answer_at(listener, build_app(model, limits, key), websockets=False, grace=_GRACE, say=say)
