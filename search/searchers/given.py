"""An Optuna sampler that is never asked: for trials whose parameters were chosen elsewhere."""

from __future__ import annotations

from typing import Any

import optuna


class Given(optuna.samplers.BaseSampler):
    """Has nothing to add to what was given, before a trial or after it."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError(f"{param_name} was not given")
