"""Few, quick examples by default; `HYPOTHESIS_PROFILE=long` looks further and shrinks what fails."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_quick = (Phase.explicit, Phase.reuse, Phase.generate)
_calm = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("quick", max_examples=25, deadline=None, phases=_quick, suppress_health_check=_calm)
_all = (*_quick, Phase.shrink)
settings.register_profile("long", max_examples=400, deadline=None, phases=_all, suppress_health_check=_calm)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
