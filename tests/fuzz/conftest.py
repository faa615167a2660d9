"""Two profiles: a quick one in the ordinary suite, a long one by TTC_FUZZ=long (`make fuzz`)."""

import os

from hypothesis import HealthCheck, settings

# No deadline and no complaint about slow data: a loaded machine is no finding.
_CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("quick", max_examples=40, derandomize=True, **_CALM)
settings.register_profile("long", max_examples=20_000, **_CALM)
settings.load_profile(os.environ.get("TTC_FUZZ", "quick"))
