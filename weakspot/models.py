"""Model weights: load, reset in place, digest, save."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from weakspot.errors import UserError

Weights = Mapping[str, np.ndarray]  # parameter name -> values; may be read-only shared memory


def load_pretrained(path: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A causal language model and its tokenizer from a folder of safetensors, on the CPU, in eval mode.

    Raises:
        UserError: the folder does not exist or holds no safetensors (pickled weights are never loaded).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_checkpoint(path)
    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype, use_safetensors=True, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(str(path), local_files_only=True)


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU. The GPU path is unmeasured: no GPU was at hand."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_checkpoint(path: str | Path) -> Path:
    """The path as a folder that holds a model, or a UserError in one line. Reads no weights."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: give a folder with config.json and *.safetensors")
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no model: expected config.json and *.safetensors (pickled weights are not loaded)")
    try:
        json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json cannot be read ({error}): save the model again with save_pretrained") from error
    return folder.absolute()


def save_pretrained(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights as safetensors with config and tokenizer, so that `load_pretrained` gives the same model."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint as float32 numpy arrays, without importing transformers (for the driver's object store).

    Half-precision checkpoints are widened: numpy has no bfloat16, and trainable parameters are fp32.

    Raises:
        UserError: a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            weights.update({name: tensor.float().numpy() for name, tensor in load_file(file).items()})
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} cannot be read ({error}): save the model again") from error
    return weights


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, from the headers alone. Raises UserError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}): save the model again") from error
    return shapes


def check_same_architecture(folder: Path, base: Path) -> None:
    """Raises UserError, naming the first tensor that differs, if a checkpoint does not have the base's tensors."""
    given, wanted = shapes_of(folder), shapes_of(base)
    tied = {"lm_head.weight"}  # stored or not, depending on who saved a tied model
    for name in sorted(({*given, *wanted} - tied) | (tied & given.keys() & wanted.keys())):
        if given.get(name) != wanted.get(name):
            raise UserError(
                f"{folder} does not fit the testbed: {name} is {given.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} in the base: give a checkpoint made from the testbed's base"
            )


def reset_weights(model: nn.Module, weights: Weights) -> None:
    """Copy stored values into the model's own memory, in place.

    A true copy: `torch.from_numpy` on shared memory and an in-place optimizer step would silently change the weights that
    every later trial starts from. A tied parameter may stand in `weights` once or
    under both of its names.

    Raises:
        UserError: a parameter is missing, unexpected or of another shape.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    if unknown := set(weights) - set(own):
        raise UserError(f"weights do not fit the model: unexpected {sorted(unknown)[:3]}: use the checkpoint's own config")
    given = {id(own[name]) for name in weights}
    if missing := [name for name, parameter in own.items() if id(parameter) not in given]:  # would keep the last trial's values
        raise UserError(f"weights do not fit the model: missing {missing[:3]}: use the checkpoint's own config")
    for name, array in weights.items():
        if array.shape != tuple(own[name].shape):  # copy_ broadcasts without a word
            shapes = f"{name} has shape {array.shape} instead of {tuple(own[name].shape)}"
            raise UserError(f"weights do not fit the model: {shapes}: use the checkpoint's own config")
    with torch.no_grad():
        for name, array in weights.items():
            own[name].copy_(torch.tensor(array))  # torch.tensor copies; never a view
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None


def arrays_digest(weights: Weights) -> str:
    """A digest of stored parameters, bit for bit, in order of name."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()


def weights_digest(model: nn.Module, names: Iterable[str] | None = None) -> str:
    """The same digest of a model's own parameters: all of them (tied ones once), or those named."""
    own = dict(model.named_parameters(remove_duplicate=names is None))
    chosen = own if names is None else {name: own[name] for name in names}
    return arrays_digest({name: tensor.detach().cpu().numpy() for name, tensor in chosen.items()})


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, or of those that an optimizer may change. Tied tensors count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
