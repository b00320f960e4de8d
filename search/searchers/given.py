"""An Optuna sampler that says what it was told: how a proposal made elsewhere enters the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna


class Given(optuna.samplers.BaseSampler):
    """Answers every question with a given parameter.

    Attributes:
        params: values by name, as the study names them.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self.params[param_name]
