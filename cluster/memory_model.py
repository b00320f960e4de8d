"""Peak memory of one trial, from the shape of its model and what it computes.

    peak = weights + gradients + optimizer states + activations + logits + overhead

- Weights, gradients, states: 4 + 4 + 8 bytes a trained parameter with AdamW in fp32, 16 in all, as in mixed precision
  (Rajbhandari et al., ZeRO, arXiv:1910.02054, section 3.1); 2 + 2 + 4 with bf16 parameters. A frozen parameter is its weight
  alone; in four bits it is 0.516 bytes (Dettmers et al., arXiv:2305.14314: NF4 and doubly quantised scales).
- Activations: what a decoder layer keeps for its backward pass, counted tensor by tensor as Korthikanti et al.
  (arXiv:2205.05198, section 4.1) do for GPT; there are no dropout masks here, two RMS norms that work in fp32, a gated MLP and
  rotary positions (`layer_bytes`). Nothing is recomputed.
- Logits: of predicted tokens only, as weakspot/training.py computes them, and their log-softmax, in fp32.
- The whole sum is alive at once: gradients of the last step are dropped only after the next forward pass (`descend`).

Legend: B sequences, L tokens of the longest, R predicted tokens of the batch, V vocabulary, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakspot.errors import UserError
from weakspot.workload import Workload

GIB = 1024**3
STATES = {"adamw": 2, "adam": 2, "sgd": 1, "nesterov": 1, "adafactor": 0, "adagrad": 1, "adadelta": 2, "schedule_free": 2}
FOUR_BIT = 4.127 / 8  # bytes of a weight: four bits, and 0.127 bits for its block's share of the scales
BIASED = ("qwen2",)  # query, key and value have a bias that the configuration does not mention
FOUR_NORMS = ("gemma2", "gemma3_text")  # before and after attention and MLP
HEAD_NORMS = ("qwen3", "gemma3_text")  # of queries and keys
ASKED = 64  # rows of a batch of questions (evals/generate.py)
# Of a process before it holds a model. On the CPU torch, transformers, peft and what else a trial loads: two trials of fable
# held 0.44 and 0.47 GiB at their peak, of which the model takes 0.02 (bench/estimate.py). On a GPU a CUDA context with the
# libraries' workspaces; a round figure, unmeasured: no GPU was at hand.
OVERHEAD = {"cpu": 0.43 * GIB, "gpu": 0.75 * GIB}


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder.

    Attributes:
        layers, width, inner, vocabulary: decoder layers, D, width inside the MLP, V.
        heads, key_heads, head_width: of attention; queries have `heads`, keys and values `key_heads`.
        tied: whether the output layer is the embedding.
        biased: whether query, key and value have a bias.
        norms: RMS norms of a layer.
        head_norms: whether queries and keys are normalised.
    """

    layers: int
    width: int
    inner: int
    vocabulary: int
    heads: int
    key_heads: int
    head_width: int
    tied: bool
    biased: bool = False
    norms: int = 2
    head_norms: bool = False

    @property
    def query(self) -> int:
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        return self.key_heads * self.head_width

    @property
    def linears(self) -> dict[str, list[tuple[int, int]]]:
        """Inputs and outputs of a layer's matrices, of attention and of the MLP."""
        attention = [(self.width, self.query), (self.width, self.keys), (self.width, self.keys), (self.query, self.width)]
        return {"attention": attention, "mlp": [(self.width, self.inner)] * 2 + [(self.inner, self.width)]}

    @property
    def matrices(self) -> int:
        """Parameters of all decoder layers' matrices."""
        return self.layers * sum(i * o for part in self.linears.values() for i, o in part)

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        vectors = self.norms * self.width + (2 * self.head_width if self.head_norms else 0)
        bias = self.query + 2 * self.keys if self.biased else 0
        rest = self.layers * (vectors + bias) + self.width
        return self.matrices + rest + self.embedding * (1 if self.tied else 2)

    def adapter(self, rank: int, targets: str = "all", share: float = 1.0) -> int:
        """Parameters of a low-rank adapter: rank x (inputs + outputs) a matrix (Hu et al., arXiv:2106.09685)."""
        chosen = [pair for name, part in self.linears.items() if targets in ("all", name) for pair in part]
        return round(self.layers * share) * rank * sum(i + o for i, o in chosen)


def read_shape(folder: str | Path) -> Shape:
    """The shape of a checkpoint's model, from config.json alone.

    Raises:
        UserError: there is none, or it describes something other than a Llama-like decoder.
    """
    place = Path(folder).expanduser()
    file = place / "config.json" if place.is_dir() else place
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as a model's configuration ({type(error).__name__}): give config.json"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"{file} is no model's configuration: expected an object with hidden_size and the like")
    return shape_of(config, str(file))


def shape_of(config: Mapping[str, Any], name: str = "config.json") -> Shape:
    """The shape that a configuration describes. Raises UserError as `read_shape` does."""
    from weakspot.training import KNOWN_HEADS

    kind = str(config.get("model_type", ""))
    if kind not in KNOWN_HEADS:
        raise UserError(f"{name}: no estimate for model type {kind or 'none'!r}: known are {', '.join(sorted(KNOWN_HEADS))}")
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")
    for key in needed:
        if not isinstance(value := config.get(key), int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name}: {key} is {value!r}: expected a whole number above 0")
    layers, width, inner, vocabulary, heads = (int(config[key]) for key in needed)
    return Shape(
        layers, width, inner, vocabulary, heads,
        key_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or width // heads,
        tied=bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),  # left out where it is the class's own default
        biased=kind in BIASED or bool(config.get("attention_bias")),
        norms=4 if kind in FOUR_NORMS else 2,
        head_norms=kind in HEAD_NORMS,
    )  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """Peak memory of one trial, in bytes, by what it is for."""

    weights: float
    gradients: float
    states: float
    activations: float
    logits: float
    overhead: float

    @property
    def model(self) -> float:
        """Without the overhead of the process."""
        return self.weights + self.gradients + self.states + self.activations + self.logits

    @property
    def total(self) -> float:
        return self.model + self.overhead


def memory(shape: Shape, work: Workload, device: str = "cpu") -> Memory:
    """Peak memory of a trial on a device: cpu or gpu.

    The model arrives in fp32 whatever the attack does with it (weakspot/models.py), so nothing needs less than that.
    """
    trained = trained_parameters(shape, work)
    frozen = shape.parameters if work.trained != "full" else 0
    weights = work.weight_bytes * (trained + frozen)
    if work.trained == "four_bit":
        weights = FOUR_BIT * shape.matrices + work.weight_bytes * (shape.parameters - shape.matrices + trained)
    gradients = work.weight_bytes * trained
    states = work.weight_bytes * STATES.get(work.optimizer, 2) * trained
    activations, logits = activation_bytes(shape, work), logit_bytes(shape, work)
    lacking = 4 * shape.parameters - (weights + gradients + states + activations + logits)
    return Memory(weights + max(0.0, lacking), gradients, states, activations, logits, OVERHEAD[device])


def trained_parameters(shape: Shape, work: Workload) -> int:
    if work.trained in ("adapter", "four_bit"):
        return shape.adapter(work.rank, work.targets, work.share)
    return shape.parameters if work.trained == "full" else 0


def activation_bytes(shape: Shape, work: Workload) -> float:
    """What is kept of a step until its backward pass; of forward passes alone, one layer's work and the cache of keys.

    Under autocast every matrix also has a copy in bf16 that lives as long.
    """
    copies = 2 * (shape.matrices + shape.embedding) if work.compute_bytes < work.weight_bytes else 0
    asking = generation_bytes(shape, work)
    if work.trained == "nothing":
        return copies / max(1, shape.layers) + max(asking, work.tokens * layer_bytes(shape, work))
    return max(asking, copies + shape.layers * work.tokens * layer_bytes(shape, work))


def layer_bytes(shape: Shape, work: Workload) -> float:
    """Bytes that one decoder layer keeps of one token.

    Of each norm its input and its normalised value (fp32) and its output; of attention queries, keys and values repeated for
    every head, the result and its copy in order; of the MLP gate, its activation, the other half and their product. A norm or
    matrix that is frozen keeps no input. Checked against torch's saved tensors: within 6 % in fp32 and bf16.
    """
    d, a, f, c = shape.width, shape.query, shape.inner, work.compute_bytes
    low = c < 4  # each matrix casts its own input, so that queries, keys and values keep three copies of one
    scores = shape.heads * work.length * (4 + (c if low else 0)) if work.eager else 0
    if work.trained in ("inputs", "nothing"):
        return 8 * d + c * (4 * a + 3 * f) + scores
    norms = 16 * d if work.trained == "full" else 8 * d
    into = c * (5 if low else 2) * d
    adapted = 0 if work.trained == "full" else 7 * c * work.rank
    return norms + into + c * ((4 if low else 5) * a + 4 * f) + scores + adapted


def logit_bytes(shape: Shape, work: Workload) -> float:
    """Logits in fp32 and their log-softmax, and under autocast the bf16 logits that they were made from."""
    if work.trained == "nothing":
        return 4.0 * min(ASKED, max(1, work.prompts)) * shape.vocabulary
    return work.rows * work.predicted * shape.vocabulary * (8.0 if work.compute_bytes == 4 else 10.0)


def generation_bytes(shape: Shape, work: Workload) -> float:
    """While replies are written: keys and values of every layer, and one layer's work on the prompts."""
    rows = min(ASKED, work.prompts)
    cache = rows * (work.length + work.new_tokens) * 2 * shape.keys * shape.layers * work.compute_bytes
    return cache + rows * work.length * work.compute_bytes * 3 * (shape.inner + shape.width)
