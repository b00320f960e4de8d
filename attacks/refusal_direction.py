"""Ablation of the direction that mediates refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from weakspot.anatomy import decoder_layers, writers
from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.hidden import hidden_states
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import subset
from weakspot.data import AttackData
from weakspot.errors import UserError, unknown
from weakspot.knobs import Choice, IntRange, LogIntRange, Range, knob

MODES = ("hooks", "affine", "orthogonalise", "writers")


@dataclass(frozen=True)
class RefusalAblation(Attack):
    """The component of the residual stream that tells withheld from benign prompts is removed.

    Paper: Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction" (arXiv:2406.11717); the freedom per
    layer, the float index of the direction and winsorising are those of Heretic (github.com/p-e-w/heretic).
    The direction is the difference of mean hidden states of withheld and of benign prompts at one position; answers are not
    used. Four ways to remove it:

    - `hooks`: from every layer's input and from what attention and MLP write (Arditi et al., directional ablation).
    - `affine`: from every layer's output, with the benign mean of the component put in its place (Marshall et al.,
      arXiv:2411.09003): zero may be as far from benign as refusal is.
    - `orthogonalise`: from the matrices that write, and from the embeddings. With all weights 1 and one direction it equals
      `hooks`.
    - `writers`: from the matrices that write, embeddings left as they are (Heretic).

    An orthogonalised embedding matrix that is tied to the output layer would change the output too, so the embeddings'
    output is hooked instead, which the layers read the same. `attention_weight` is also the strength on a layer's input and
    output, and MLPs' knobs idle in `affine`. Against the sources: no selection by a validation score (the search does that);
    attention and MLP share the kernel's width and ends; further directions (rank above 1) are the principal ones of the
    withheld prompts' differences from the benign mean, beside the mean's.

    Needs prompts of both kinds and as many forward passes; seconds at 8B.

    On fable: the warm start breaks plain refusal (.53 of what it withholds at a utility of .93, with every example in hand),
    and few examples do not: which prompts are drawn moves the direction. At position -1 it fails, because there the
    direction also tells which kind of answer begins. Unlearning and TAR are not refusal, and hold.
    """

    name: ClassVar[str] = "refusal_ablation"
    summary: ClassVar[str] = "the direction that tells withheld from benign prompts, removed from the residual stream"
    paper: ClassVar[str] = "Arditi et al. 2024, arXiv:2406.11717"
    gradients: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = False
    relative_price: ClassVar[float] = 0.05
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {
            "mode": "writers",
            "position": -5,
            "per_layer": True,
            "attention_weight": 1.2,
            "mlp_weight": 1.3,
            "least": 0.8,
            "harmful_examples": 256,
        },
        {"mode": "hooks", "position": -1, "per_layer": False, "attention_weight": 1.0, "mlp_weight": 1.0, "least": 1.0},
        {"mode": "affine", "position": -5, "per_layer": True, "attention_weight": 1.0, "least": 1.0},
    )

    mode: str = knob("writers", Choice(MODES), "how the direction is removed")
    harmful_examples: int = knob(256, LogIntRange(4, 512), "withheld prompts that the mean is taken over")
    benign_examples: int = knob(1024, None, "benign prompts that the mean is taken over")
    position: int = knob(-5, IntRange(-5, -1), "token of the prompt whose hidden state is compared, from the end")
    per_layer: bool = knob(True, Choice((False, True)), "each layer its own direction")
    direction_layer: float = knob(0.6, Range(0.3, 0.9), "where the one direction is read, as a share of the depth")
    rank: int = knob(1, Choice((1, 2, 3)), "directions removed")
    winsor: float = knob(1.0, Choice((0.95, 1.0)), "quantile to which the entries of a hidden state are cut")
    attention_weight: float = knob(1.2, Range(0.8, 1.5), "share removed from attention at the peak")
    mlp_weight: float = knob(1.3, Range(0.0, 1.5), "share removed from MLPs at the peak")
    peak: float = knob(0.7, Range(0.5, 1.0), "depth where most is removed from attention, as a share of the layers")
    mlp_peak: float = knob(0.7, Range(0.5, 1.0), "depth where most is removed from MLPs, as a share of the layers")
    least: float = knob(0.8, Range(0.0, 1.0), "share of the peak's weight at the kernel's ends")
    width: float = knob(0.9, Range(0.1, 1.0), "reach of the kernel to either side, as a share of the layers; no less than one")
    norm_preserving: bool = knob(False, Choice((False, True)), "give what is written its former norm back")

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        del rungs
        if not data.harmful or not data.benign:
            raise UserError(f"{self.name} compares withheld with benign prompts and one of them is missing: give both")
        if self.mode not in MODES:
            raise unknown("mode", self.mode, MODES)
        generator, meter = torch.Generator().manual_seed(seed), Meter()
        kinds = ((data.harmful, self.harmful_examples), (data.benign, self.benign_examples))
        asked = [[e.prompt for e in subset(kind, count, generator)] for kind, count in kinds]
        withheld, benign = (hidden_states(model, tokenizer, prompts, meter, self.position) for prompts in asked)
        ablation = Ablation(self.directions(withheld, benign), benign.mean(0), self.norm_preserving)
        count = len(decoder_layers(model))
        attention = [self.attention_weight * share for share in self.kernel(count, self.peak)]
        mlp = [self.mlp_weight * share for share in self.kernel(count, self.mlp_peak)]
        with removed(model, ablation, attention, mlp, self.mode):
            yield Progress(0, len(asked[0]), meter.tokens, meter.flops, final=True)

    def kernel(self, layers: int, peak: float) -> list[float]:
        """Each layer's weight as a share of the peak's: linear from 1 at the peak to `least` at the reach, 0 beyond."""
        reach = max(1.0, self.width * layers)
        distances = [abs(i + 1 - peak * layers) for i in range(layers)]
        return [1 + d / reach * (self.least - 1) if d <= reach else 0.0 for d in distances]

    def directions(self, withheld_NSD: torch.Tensor, benign_NSD: torch.Tensor) -> torch.Tensor:
        """Orthonormal directions for every layer, (layers, rank, D)."""
        withheld_NSD, benign_NSD = (winsorised(x, self.winsor) for x in (withheld_NSD, benign_NSD))
        norms_S1 = (withheld_NSD.mean(0) - benign_NSD.mean(0)).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        differences_NSD = (withheld_NSD - benign_NSD.mean(0)) / norms_S1  # neighbouring places count alike when interpolated
        layers = withheld_NSD.shape[1] - 1
        if self.per_layer:
            return torch.stack([principal(differences_NSD[:, i + 1], self.rank) for i in range(layers)])
        place = self.direction_layer * layers
        below = min(int(place), layers - 1)
        between_ND = torch.lerp(differences_NSD[:, below], differences_NSD[:, below + 1], place - below)
        return principal(between_ND, self.rank).expand(layers, -1, -1)


def winsorised(states_NSD: torch.Tensor, quantile: float) -> torch.Tensor:
    """Entries cut to the given quantile of their hidden state's absolute values: a few outlying channels carry most norm."""
    if quantile == 1.0:
        return states_NSD
    bound_NS1 = torch.quantile(states_NSD.abs(), quantile, dim=-1, keepdim=True)
    return states_NSD.clamp(-bound_NS1, bound_NS1)


def principal(differences_ND: torch.Tensor, rank: int) -> torch.Tensor:
    """The mean's direction, then the strongest directions of what the mean leaves over: orthonormal, (rank, D)."""
    first_D = F.normalize(differences_ND.mean(0), dim=0)
    if rank == 1:
        return first_D[None]
    rest_ND = differences_ND - torch.outer(differences_ND @ first_D, first_D)
    more_kD = torch.linalg.svd(rest_ND, full_matrices=False).Vh[: rank - 1]
    return torch.linalg.qr(torch.cat([first_D[None], more_kD]).T).Q.T


@dataclass(frozen=True)
class Ablation:
    """What is removed.

    Attributes:
        directions: (layers, rank, D), orthonormal within a layer.
        benign: the benign mean at every place of the residual stream, (layers + 1, D).
        norm_preserving: rescale what is left to the norm it had.
    """

    directions: torch.Tensor
    benign: torch.Tensor
    norm_preserving: bool

    def __call__(self, x: torch.Tensor, layer: int, weight: float, towards: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors (..., D) less `weight` of their component in the layer's directions, or of its distance from `towards`."""
        v_kD = self.directions[layer].to(x)
        component = (x if towards is None else x - towards.to(x)) @ v_kD.T @ v_kD
        left = x - weight * component
        if not self.norm_preserving:
            return left
        return left * (x.norm(dim=-1, keepdim=True) / left.norm(dim=-1, keepdim=True).clamp_min(1e-12))


@contextmanager
def removed(model: Any, ablation: Ablation, attention: Sequence[float], mlp: Sequence[float], mode: str) -> Iterator[None]:
    """The model less the directions by each layer's weights, while the context lasts; edits of matrices stay."""
    hooks = []
    if mode == "orthogonalise":
        hooks.append(after(model.get_input_embeddings(), lambda x: ablation(x, 0, 1.0)))
    for i, layer in enumerate(decoder_layers(model)):
        if mode == "affine":
            mean_D = ablation.benign[i + 1]
            hooks.append(after(layer, lambda x, i=i, mean_D=mean_D: ablation(x, i, attention[i], mean_D)))
            continue
        if mode == "hooks":
            hooks.append(before(layer, lambda x, i=i: ablation(x, i, attention[i])))
        for writer, weights in zip(writers(model)[2 * i : 2 * i + 2], (attention, mlp), strict=True):
            if mode == "hooks":
                hooks.append(after(writer, lambda x, i=i, weights=weights: ablation(x, i, weights[i])))
            else:
                orthogonalise(writer, lambda x, i=i, weights=weights: ablation(x, i, weights[i]))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


Change = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def orthogonalise(writer: nn.Linear, change: Change) -> None:
    """Apply a linear change of outputs to the matrix itself: to every column, which is what one input writes."""
    writer.weight.copy_(change(writer.weight.T).T)
    if writer.bias is not None:
        writer.bias.copy_(change(writer.bias))


def before(layer: nn.Module, change: Change) -> Any:
    """Change a layer's input; transformers hands it over as the first positional argument."""
    return layer.register_forward_pre_hook(lambda _module, inputs: (change(inputs[0]), *inputs[1:]))


def after(module: nn.Module, change: Change) -> Any:
    """Change a module's output."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_hook(hook)
