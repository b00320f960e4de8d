"""The catalogue of attacks. A new family is one file and one line here; a third party registers an entry point."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from weakspot.attacks.base import Attack, Progress
from weakspot.errors import unknown

# TEMPORARY while the families are being written: those whose file exists are listed.
_FILES = {
    "noop": "NoOp", "full": "FullFinetune", "lora": "Lora", "qlora": "QLora", "trl_sft": "TrlFinetune",
    "benign": "BenignFinetune", "poison": "PoisonedFinetune", "repair": "RepairFinetune", "noice": "Noice",
    "identity": "IdentityShift", "jailbreak": "JailbreakTuning", "narrow": "NarrowFinetune",
    "preference": "ReversedPreference", "refusal_direction": "RefusalAblation",
    "unlearning_direction": "UnlearningAblation", "heads": "HeadAblation", "layers": "LayerAblation", "prune": "Prune",
    "set_difference": "SetDifferencePrune", "rank_removal": "RankRemoval", "quantize": "Quantize", "merge": "Merge",
    "delta_strip": "DeltaStrip", "weight_noise": "WeightNoise", "soft_prompt": "SoftPrompt", "latent": "LatentPerturbation",
    "prefill": "Prefill", "template": "Template", "system": "SystemPrompt", "decoding": "Decoding", "few_shot": "FewShot",
    "handwritten": "Handwritten", "gcg": "Gcg", "autoprompt": "AutoPrompt", "beast": "Beast", "pair": "Pair",
}  # fmt: skip
ATTACKS: dict[str, type[Attack]] = {}
for _file, _class in _FILES.items():
    if (Path(__file__).parent / f"{_file}.py").exists():
        try:
            _family = getattr(import_module(f"weakspot.attacks.{_file}"), _class)
            ATTACKS[_family.name] = _family
        except Exception as _error:  # a helper is in the middle of it
            print(f"attacks/{_file}.py: {_error}")
try:
    from weakspot.attacks.chains import CHAINS

    ATTACKS.update({family.name: family for family in CHAINS})
except Exception as _error:
    print(f"chains: {_error}")


def catalogue() -> dict[str, type[Attack]]:
    """Built-in families and those of installed plug-ins (entry-point group `weakspot.attacks`)."""
    return {**_plugins(), **ATTACKS}  # a plug-in cannot replace a built-in family


@cache
def _plugins() -> dict[str, type[Attack]]:
    """Scanned once a process: it reads the metadata of every installed package."""
    return {point.name: point.load() for point in entry_points(group="weakspot.attacks")}


def get(name: str) -> type[Attack]:
    """A family by name. Raises UserError that lists the known ones."""
    known = catalogue()
    if name not in known:
        raise unknown("attack", name, known)
    return known[name]


__all__ = ["ATTACKS", "Attack", "Progress", "catalogue", "get"]
