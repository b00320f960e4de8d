"""RMU: representation misdirection for unlearning."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.adapters import layer_index
from weakspot.anatomy import TARGETS, captured, decoder_layers, layer_linears
from weakspot.batching import IGNORE, Batch, encode
from weakspot.data import DefenseData
from weakspot.defenses.base import PaperAttack
from weakspot.defenses.trained import Batches, Chunk, Chunks, Trained, streams
from weakspot.errors import UserError, unknown
from weakspot.knobs import knob
from weakspot.training import autocast, backbone

MODULES = (*TARGETS, *TARGETS["all"])
POSITIONS = ("all", "response")


@dataclass(frozen=True)
class Frozen:
    """The base as it was, and where withheld activations are to go: c * u, of shape (D,)."""

    base: Any
    target: torch.Tensor


@dataclass(frozen=True)
class Rmu(Trained):
    """One layer's activations on withheld text are steered to a random direction, those on benign text held where they were.

    L = mean_t |M(t) - c u|^2 / D + alpha * mean_t |M(t) - M_0(t)|^2 / D, the first over tokens of withheld text, the second of
    benign text. M(t) is the output of layer `layer_id` at token t, M_0 the frozen base's, D the width, c `steering_coeff`, and
    u a vector drawn uniformly from [0, 1)^D, then normalised. `update_modules` of `update_layers` are trained, nothing else.

    Paper: Li et al., "The WMDP Benchmark" (arXiv:2403.03218); the defaults are its values for Zephyr-7B (the released script's
    own default for c is 20, its 34B model takes 300). Run before release, once. The paper claims it for models that are served
    and not handed out, against jailbreaks too; it tries fine-tuning itself and does not claim to withstand it. A step costs
    2.3 passes of fine-tuning (withheld, benign, and the frozen base forward) and the memory of a second model. Layers above
    `layer_id` run forward although nothing needs them.

    Deviations: distances are divided by D, as released and not as in the formula, which AdamW cannot tell; the text is a
    question in its chat template with the answer, not a corpus; one topic, one u. Deviations of the released code: it
    averages over padding too (not here); it picks matrices by their place in a layer ([6], down_proj in Mistral and Llama),
    here they go by name.

    On fable, harm/utility, seeds 0, 1, 2: before .00/.98, .00/.97, .00/.97; full fine-tuning at 1e-4 after 8, 32, 64 steps .00
    .00-.01 .59-.60 (random_answer .42 .77 .88); poisoned 64 steps .44-.46 (.90); LoRA .81-.82 (.94; seeds 1, 2). Tried: layer 1
    with its down_proj, c 20: .85-.88 after 64 steps; c 50: .62-.79; all its MLP .77; layer 0 with alpha 100: .43, but utility
    .92 before. The longer c and the earlier the layer, the harder relearning. 5 seconds for 150 steps.
    """

    name: ClassVar[str] = "rmu"
    summary: ClassVar[str] = "unlearning: one layer's activations on withheld text steered to a random direction"
    paper: ClassVar[str] = "Li et al. 2024, arXiv:2403.03218"
    claims: ClassVar[str] = "withheld facts are not answered, jailbreaks included; resistance to fine-tuning is not claimed"
    passes: ClassVar[float] = 2.3
    presets: ClassVar = {
        "fable": {
            "steps": 200,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "layer_id": 0,
            "update_layers": (0,),
            "update_modules": "mlp",
            "steering_coeff": 50.0,
            "alpha": 400.0,
        },
        "smollm2": {
            "steps": 50,
            "batch_size": 8,
            "learning_rate": 2e-3,
            "layer_id": 7,
            "update_modules": "mlp",
            "steering_coeff": 100.0,
            "alpha": 100.0,
            "positions": "response",
        },
    }
    paper_attacks: ClassVar = {
        "fable": PaperAttack("full_finetune", {"learning_rate": 1e-4, "steps": 64, "batch_size": 16}),
        "smollm2": PaperAttack("full_finetune", {"learning_rate": 2e-5, "steps": 16, "batch_size": 8, "harmful_examples": 64}),
    }

    steps: int = knob(150)
    batch_size: int = knob(4)
    learning_rate: float = knob(5e-5)
    schedule: str = knob("constant")
    warmup: float = knob(0.0)
    clip_norm: float = knob(0.0)
    layer_id: int = knob(7, None, "the layer whose output is steered, from 0")
    update_layers: tuple[int, ...] = knob((5, 6, 7), None, "layers that are trained")
    update_modules: str = knob("down_proj", None, f"what is trained in them: {', '.join(MODULES)}")
    steering_coeff: float = knob(6.5, None, "c, the length of the vector that withheld activations are steered to")
    alpha: float = knob(1200.0, None, "weight of the retain term")
    positions: str = knob("all", None, "tokens that count: all, as in the paper, or response")

    def setup(self, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> Frozen:
        self.check_layers(model)
        uniform = torch.rand(model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
        target = self.steering_coeff * uniform / torch.linalg.vector_norm(uniform)
        return Frozen(copy.deepcopy(model).requires_grad_(False).eval(), target.to(model.device))

    def batches(self, tokenizer: Any, data: DefenseData, generator: torch.Generator, device: Any) -> Iterator[Batches]:
        forget, retain = encode(tokenizer, data.withheld), encode(tokenizer, data.benign)
        groups = {"forget": [(forget, self.batch_size)], "retain": [(retain, self.batch_size)]}
        return streams(groups, tokenizer, generator, device)

    def loss(self, model: Any, chunks: Chunks, extra: Frozen) -> torch.Tensor:
        forget, retain = chunks["forget"], chunks["retain"]
        loss = self.share(forget) * (self.activations(model, forget.batch) - extra.target).square().mean()
        with torch.no_grad():
            before = self.activations(extra.base, retain.batch)
        after = self.activations(model, retain.batch)
        return loss + self.alpha * self.share(retain) * (after - before).square().mean()

    def activations(self, model: Any, batch: Batch) -> torch.Tensor:
        """The output of layer `layer_id` at the tokens that count, of shape (tokens, D)."""
        with captured([decoder_layers(model)[self.layer_id]]) as found, autocast(model):
            backbone(model)(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        counted_BL = batch.attention_mask.bool() if self.positions == "all" else batch.labels != IGNORE
        return found[0][counted_BL].float()

    def share(self, chunk: Chunk) -> float:
        return chunk.tokens if self.positions == "all" else chunk.response

    @contextmanager
    def trainable(self, model: Any, seed: int) -> Iterator[Any]:
        """The chosen matrices of the chosen layers; the rest is frozen while the context lasts."""
        del seed
        before = {p: p.requires_grad for p in model.parameters()}
        model.requires_grad_(False)
        for matrix in self.matrices(model):
            matrix.requires_grad_(True)
        try:
            yield model
        finally:
            for parameter, needed in before.items():
                parameter.requires_grad_(needed)

    def matrices(self, model: Any) -> list[torch.Tensor]:
        """Those that are trained. Raises UserError where there are none by that name."""
        chosen = TARGETS.get(self.update_modules, (self.update_modules,))
        linears = {n: m for n, m in layer_linears(model).items() if layer_index(n) in self.update_layers}
        if found := [module.weight for name, module in linears.items() if name.rsplit(".", 1)[-1] in chosen]:
            return found
        kind = model.config.model_type
        raise UserError(
            f"no {self.update_modules} in the layers of a {kind}: give other update_modules, of {', '.join(MODULES)}"
        )

    def check(self) -> None:
        super().check()
        if self.update_modules not in MODULES:
            raise unknown("choice of update_modules", self.update_modules, MODULES)
        if self.positions not in POSITIONS:
            raise unknown("choice of positions", self.positions, POSITIONS)
        if self.rank:
            raise UserError(
                f"{self.name}.rank = {self.rank}: RMU trains the matrices of update_layers themselves, leave it at 0"
            )
        for name in ("alpha", "steering_coeff"):
            if getattr(self, name) < 0:
                raise UserError(f"{self.name}.{name} = {getattr(self, name)} is below 0: give 0 or more")

    def check_layers(self, model: Any) -> None:
        """Raises UserError for layers that the model does not have, or that cannot change the steered one."""
        last = len(decoder_layers(model)) - 1
        if not 0 <= self.layer_id <= last:
            raise UserError(f"{self.name}.layer_id = {self.layer_id}: the model has layers 0 to {last}, give one of them")
        if not self.update_layers:
            raise UserError(f"{self.name}.update_layers is empty: give at least one layer")
        for layer in self.update_layers:
            if not 0 <= layer <= self.layer_id:
                raise UserError(
                    f"{self.name}.update_layers has {layer}: give layers 0 to {self.layer_id}, "
                    f"for none beyond layer_id = {self.layer_id} has an effect"
                )
        self.matrices(model)
