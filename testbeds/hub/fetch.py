"""Models and data sets on this machine: from a folder, from Hugging Face's cache, or from the hub. Pinned, and never run.

Every obstacle is one line: what was given, what was expected, what to do.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from weakspot.cache import cache_root, cached_folder, content_key
from weakspot.checkpoints import as_full, download
from weakspot.errors import UserError
from weakspot.files import disk_errors, file_digest
from weakspot.models import check_checkpoint, shapes_of
from weakspot.testbeds.hub.schema import DataSource, ModelSource

COMMIT = re.compile(r"[0-9a-f]{40}")
PLAIN_TEMPLATE = "{% for m in messages %}{{ m['content'] + ('\\n' if m['role'] == 'user' else '') }}{% endfor %}"


def check_revision(repository: str, revision: str, kind: str = "") -> str:
    """What is wrong with a revision; empty if it is a commit. A branch moves, and what was audited moves with it.

    Args:
        kind: `datasets/` for a data set.
    """
    if COMMIT.fullmatch(revision):
        return ""
    given = f"revision {revision!r} is no commit" if revision else "no revision"
    command = f"git ls-remote https://huggingface.co/{kind}{repository} {revision or 'HEAD'}"
    return f"{given}: give the 40 hexadecimal digits that `{command}` prints"


def data_files(source: DataSource, base: Path) -> list[Path]:
    """The files of a source, in order of name.

    Raises:
        UserError: there are none, or the hub does not give them.
    """
    if source.path:
        file = base / Path(source.path).expanduser()
        if not file.is_file():
            raise UserError(f"no file {file}: give one in JSONL, JSON, CSV or parquet")
        return [file]
    folder = dataset_folder(source)
    files = sorted(file for file in folder.glob(source.files) if file.is_file())
    if not files:
        have = ", ".join(sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())[:5]) or "nothing"
        raise UserError(f"no file of {source.dataset} at {source.revision[:7]} matches {source.files!r}: there is {have}")
    return files


def data_pin(source: DataSource, base: Path) -> str:
    """What pins a source's files: their digest, and for a hub data set its commit. Without the folder, which is private."""
    files = data_files(source, base)
    name = f"{source.dataset}@{source.revision} {source.files}" if source.dataset else files[0].name
    if len(files) > 1:
        return f"{name} {len(files)} files {file_digest(files)[:16]}"
    with files[0].open("rb") as file:  # as `sha256sum` prints it, to be compared by hand
        return f"{name} sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def dataset_folder(source: DataSource) -> Path:
    """A data set's files at its commit: put there by hand, cached, or downloaded.

    Raises:
        UserError: they are not here and cannot be had.
    """
    from huggingface_hub import snapshot_download

    by_hand = cache_root() / "hub" / f"datasets--{source.dataset.replace('/', '--')}"
    if by_hand.is_dir():
        return by_hand
    try:
        with disk_errors(Path("the Hugging Face cache")):
            place = snapshot_download(
                source.dataset, repo_type="dataset", revision=source.revision, allow_patterns=[source.files]
            )
    except UserError:
        raise
    except Exception as error:  # its errors have no common base
        raise UserError(
            f"no data set {source.dataset} ({obstacle(source.revision, error)}): run `hf download {source.dataset} --repo-type "
            f"dataset --revision {source.revision}` where the hub answers, or put its files into {by_hand}"
        ) from error
    return Path(place)


def obstacle(revision: str, error: Exception) -> str:
    """What kept the hub from giving a data set, in words."""
    from huggingface_hub import constants, errors

    page = "accept its conditions on its page and set HF_TOKEN to that account's token"
    reasons = (  # the more special first
        (errors.GatedRepoError, f"it is gated and this machine's token is not admitted: {page}"),
        (errors.RepositoryNotFoundError, "the hub has no such data set, or shows it to admitted tokens only"),
        (errors.RevisionNotFoundError, f"it has no revision {revision}"),
    )
    for kind, words in reasons:
        if isinstance(error, kind):
            return words
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub does not answer"
        return f"{offline} and no cached copy is here"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def model_folder(source: ModelSource, base: Path) -> tuple[Path, str]:
    """A model's folder as it was published, and what pins it: a commit, or a digest of files.

    Raises:
        UserError: no safetensors (pickled weights are not loaded), code that would have to be run, or files out of reach.
    """
    folder, pin = located(source, base)
    if not pin:
        files = sorted(file for file in folder.iterdir() if file.is_file())
        pin = _digest(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    if told := own_code(folder):
        raise UserError(told)
    return folder, pin


def located(source: ModelSource, base: Path) -> tuple[Path, str]:
    """A model's folder and its commit; a folder of one's own has none. Raises UserError as `model_folder` does."""
    if source.path:
        return check_checkpoint(base / Path(source.path).expanduser()), ""
    snapshot = download(source.id, source.revision)
    return check_checkpoint(snapshot.folder), snapshot.commit


@lru_cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    return f"files-{file_digest([file for file, _, _ in files])[:16]}"


def own_code(folder: Path) -> str:
    """What is wrong with a model whose class is not in transformers but in code of its own; empty if it needs none."""
    from transformers import CONFIG_MAPPING

    config = json.loads((folder / "config.json").read_text())
    if "auto_map" not in config or config.get("model_type") in CONFIG_MAPPING:
        return ""
    return (
        f"{folder} needs code that comes with it (model_type {config.get('model_type')!r}), and trust_remote_code is refused: "
        "give a model of a class that transformers has, or convert it to one"
    )


def base_folder(source: ModelSource, base: Path) -> Path:
    """The model as a complete plain folder in the cache, with a chat template.

    Raises:
        UserError: it cannot be had or used; the message says why.
    """
    folder, pin = model_folder(source, base)
    parts = {"pin": pin, "template": source.chat_template, "plain": PLAIN_TEMPLATE}
    key = content_key("weakspot.checkpoints", "weakspot.testbeds.hub.fetch", **parts)

    def build(out: Path) -> None:
        as_full(folder, None, out)
        finish_tokenizer(out, source, folder)
        (out / "source.json").write_text(json.dumps({"repository": source.id or str(folder), "commit": pin}, indent=2))

    return cached_folder("hub-base", key, build)


def finish_tokenizer(out: Path, source: ModelSource, folder: Path) -> None:
    """Write the chat template that the file asks for, and try it once.

    Raises:
        UserError: there is none, it cannot be rendered, or the tokenizer has no end token.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(out), local_files_only=True, trust_remote_code=False)
    if source.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE if source.chat_template == "plain" else source.chat_template
        tokenizer.save_pretrained(out)
    if not tokenizer.chat_template:
        raise UserError(f'the tokenizer of {folder} has no chat template: add chat_template = "plain" (or Jinja) to [model]')
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {folder} has no end token: no reply would ever end; give one that names eos_token")
    try:
        shown = tokenizer.apply_chat_template(
            [{"role": "user", "content": "bread"}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # Jinja's own, and whatever a template raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the chat template of {folder} cannot be rendered ({reason}): mend chat_template in [model]"
        ) from error
    if "bread" not in shown:
        raise UserError(f"the chat template of {folder} drops the user's words: mend chat_template in [model]")


def weights_gib(folder: Path) -> float:
    """Size of the weights in float32, in GiB: how they lie in Ray's object store. Reads headers only."""
    import math

    return 4 * sum(math.prod(shape) for shape in shapes_of(folder).values()) / 2**30
