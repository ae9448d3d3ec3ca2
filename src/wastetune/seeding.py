"""One seed per purpose, so that no random choice depends on the random choices before it."""

import hashlib


def seed_for(purpose: str, *parts: object) -> int:
    """A seed in [0, 2**32) for one purpose, for example ``seed_for("trial", study_seed, 7)``.

    The same purpose and parts give the same seed on every machine and Python version; others give unrelated seeds.
    """
    text = "\x1f".join([purpose, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
