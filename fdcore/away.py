"""How long a client may be away whose connection broke: workers and servers ask."""

import os
from collections.abc import Mapping

AWAY_SECONDS = 60


def away_seconds(environment: Mapping[str, str] = os.environ) -> int:
    """FD_RECONNECT says it otherwise."""
    try:
        return max(0, int(environment.get("FD_RECONNECT") or AWAY_SECONDS))
    except ValueError:
        return AWAY_SECONDS
