"""How many generated cases a test tries: 100, or as many as EXAMPLES says; without it, the same ones each time."""

import os

from hypothesis import HealthCheck, settings

many = settings(
    max_examples=int(os.environ.get("EXAMPLES", 100)),
    deadline=None,
    derandomize="EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
