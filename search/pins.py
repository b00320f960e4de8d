"""What an audit was made of: commits and digests of data, models and tokenizer, for result.json and the pitfall card.

A name says nothing once what it stands for has changed (P9 and P10 of Qi et al., arXiv:2412.07097).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from weakspot.files import file_digest
from weakspot.search.jobs import BASE, NEVER_TAUGHT
from weakspot.testbeds.base import Testbed

WEIGHTS, TOKENIZER, MODEL = "weights", "tokenizer", "model"
NOT_DATA = (WEIGHTS, TOKENIZER, MODEL, "judge", "measure", "code")


def pins(testbed: Testbed, folders: Mapping[str, Path]) -> dict[str, str]:
    """Digests and commits by name: the testbed's own, then of each subject's weights, then of the tokenizer.

    A prepared folder's name ends in the key of all that made it; the digest is of the weights as they lie there. Where the base
    was published by somebody, its commit stands beside it.

    Args:
        folders: where each subject's weights are.
    """
    found = testbed.pins()
    for name in (BASE, NEVER_TAUGHT):
        if name in folders and (source := published(folders[name])):
            found[f"{MODEL}.{name}"] = source
    for name, folder in folders.items():
        found[f"{WEIGHTS}.{name}"] = f"{folder.name} {file_digest(sorted(folder.glob('*.safetensors')))[:16]}"
    found[TOKENIZER] = tokenizer_digest(folders[BASE])
    return found


def published(folder: Path) -> str:
    """Repository and commit of a base that was fetched; for a folder of one's own the digest of its files, without its path."""
    try:
        source = json.loads((folder / "source.json").read_text())
        repository, commit = source["repository"], source["commit"]
    except (OSError, ValueError, KeyError):
        return ""
    return commit if Path(repository).is_absolute() else f"{repository}@{commit}"


def tokenizer_digest(folder: Path) -> str:
    """Of the tokenizer's files, chat template included."""
    from weakspot.checkpoints import TOKENIZER_FILES

    return file_digest([folder / name for name in TOKENIZER_FILES if (folder / name).is_file()])[:16]


def of_weights(found: Mapping[str, str], subject: str) -> list[str]:
    """The pins behind a subject's weights, in words: the base's, its own, the tokenizer's."""
    named = [f"{MODEL}.{BASE}", f"{WEIGHTS}.{BASE}", f"{WEIGHTS}.{subject}", TOKENIZER]
    return [f"{name} {found[name]}" for name in dict.fromkeys(named) if name in found]


def of_data(found: Mapping[str, str]) -> list[str]:
    """The pins of data, in words."""
    return [f"{name} {pin}" for name, pin in found.items() if name.partition(".")[0] not in NOT_DATA]
