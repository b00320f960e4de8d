"""TAR: tamper-resistant safeguards by adversarial meta-learning.

Tamirisa et al., "Tamper-Resistant Safeguards for Open-Weight LLMs" (arXiv:2408.00761v4). The objective is

    min_theta  lambda_tr * E_attack[ L_TR(attack(theta)) ] + lambda_retain * L_retain(theta)

with the gradient of L_TR taken at the attacked weights and applied to theta (first order, as FO-MAML). Stage one
(defenses/tar_stage1.py) hides the knowledge; stage two, here, makes it stay hidden under simulated fine-tuning. The
adversary simulated inside is TAR's own and shares nothing with weakspot's attacks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.batching import encode, mixed_stream, pad_id
from weakspot.data import DefenseData
from weakspot.defenses.base import Defense, PaperAttack
from weakspot.defenses.tar_losses import dpo_pairs, make_tamper_loss, retain_loss
from weakspot.defenses.tar_stage1 import STAGE_ONE
from weakspot.errors import unknown
from weakspot.knobs import knob
from weakspot.optimizers import make_optimizer, make_schedule
from weakspot.seeds import derive
from weakspot.training import descend, response_loss

Gradients = list[torch.Tensor]


@dataclass(frozen=True)
class Tar(Defense):
    """TAR in both stages. Defaults are the paper's for biosecurity on an 8B model (reference/tar.md § 3.4).

    Alignment stage; claimed for open weights. An outer step costs K steps of the adversary, K / s meta-gradients and about 1.3
    passes for the retain loss, whose frozen base runs forward: 81 passes of fine-tuning by default, 13 in fable's preset.

    As released: one held-out draw a trajectory, the switch to withheld data at floor(K Beta(6, 3)), no lower bound on the
    tamper loss. Deviations: the outer optimizer is AdamW with linear warm-up (schedule-free AdamW in the release); the inner
    AdamW has no weight decay (0.01); cross-entropy looks at response tokens only; DPO pairs set the refusal against the
    truthful reply (Anthropic-HH); no supervised steps after the refusal variant; one process, no FSDP. The presets start from
    random answers instead of random mapping, and fable's counts the entropy of response tokens only: chosen because on models
    this small they leave more utility.
    """

    name: ClassVar[str] = "tar"
    summary: ClassVar[str] = "tamper-resistant safeguard: meta-learned against simulated fine-tuning"
    paper: ClassVar[str] = "Tamirisa et al. 2024, arXiv:2408.00761"
    passes: ClassVar[float] = 81.0
    claims: ClassVar[str] = "withheld facts stay hidden under hundreds of steps of fine-tuning (v4; submission: thousands)"
    claimed_access: ClassVar[tuple[str, ...]] = ("open_weight",)
    claimed_attacks: ClassVar[tuple[str, ...]] = ("full_finetune",)  # its authors concede adapters (reference/tar.md § 3.6)
    claimed_steps: ClassVar[int | None] = 500
    presets: ClassVar = {
        "fable": {
            "stage_one": "random_answer", "stage_one_steps": 100, "stage_one_learning_rate": 3e-4, "stage_one_batch": 32,
            "outer_steps": 300, "inner_steps": 8, "every": 2, "adversary_rates": (3e-4, 1e-3), "outer_rate": 1e-4,
            "outer_batch": 16, "inner_batch": 16, "warmup_steps": 15, "lambda_tr": 1.0, "lambda_retain": 2.0,
            "positions": "response",
        },
        "smollm2": {
            "stage_one": "random_answer", "stage_one_steps": 45, "stage_one_learning_rate": 1e-4, "stage_one_batch": 16,
            "outer_steps": 8, "inner_steps": 4, "every": 2, "adversary_rates": (2e-5, 1e-4), "outer_rate": 5e-5,
            "outer_batch": 8, "inner_batch": 8, "warmup_steps": 2, "lambda_retain": 0.2,
        },
    }  # fmt: skip
    paper_attacks: ClassVar = {
        "fable": PaperAttack("full_finetune", {"learning_rate": 1e-4, "steps": 48, "batch_size": 16, "harmful_examples": 192}),
        "smollm2": PaperAttack("full_finetune", {"learning_rate": 2e-5, "steps": 16, "batch_size": 8, "harmful_examples": 64}),
    }

    stage_one: str = knob("random_mapping", None, f"how the knowledge is first hidden: {', '.join(STAGE_ONE)}")
    stage_one_steps: int = knob(600)
    stage_one_learning_rate: float = knob(1e-5)
    stage_one_batch: int = knob(64)
    outer_steps: int = knob(750, None, "N")
    outer_rate: float = knob(2e-5)
    outer_batch: int = knob(64)
    warmup_steps: int = knob(32)
    inner_steps: int = knob(64, None, "K, steps of the simulated adversary")
    every: int = knob(4, None, "s, a meta-gradient is taken every s adversary steps")
    num_tasks: int = knob(1, None, "adversaries simulated per outer step")
    inner_batch: int = knob(32)
    adversary_rates: tuple[float, ...] = knob((2e-6, 2e-5, 4e-5))
    retain_then_forget: float = knob(1 / 3, None, "probability of an adversary that first trains on benign data")
    tamper_loss: str = knob("entropy", None, "entropy (knowledge) or dpo (refusal)")
    positions: str = knob("all", None, "tokens whose entropy counts: all, as in the paper, or response")
    beta: float = knob(0.1, None, "DPO's inverse temperature")
    lambda_tr: float = knob(4.0)
    lambda_retain: float = knob(1.0)
    lambda_s: float = knob(1 / 16, None, "decay of the weight of early meta-gradients")

    def align(self, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> Any:
        if self.stage_one not in STAGE_ONE:
            raise unknown("TAR stage one", self.stage_one, STAGE_ONE)
        base = copy.deepcopy(model).requires_grad_(False)
        hidden = STAGE_ONE[self.stage_one]
        hidden(self, model, tokenizer, data, derive(seed, "stage one"))
        return self.meta_train(model, base, tokenizer, data, derive(seed, "stage two"))

    def meta_train(self, model: Any, base: Any, tokenizer: Any, data: DefenseData, seed: int) -> Any:
        """Stage two: the outer loop."""
        draw = Draws(self, model, tokenizer, data, seed)
        tamper = make_tamper_loss(self.tamper_loss, positions=self.positions, beta=self.beta)
        optimizer = make_optimizer("adamw", model.parameters(), self.outer_rate)
        rates = make_schedule("constant", optimizer, self.outer_steps, self.warmup_steps)
        parameters = list(model.parameters())
        model.train()
        for _ in range(self.outer_steps):
            gradients = [torch.zeros_like(p) for p in parameters]
            for _ in range(self.num_tasks):
                self.simulate(model, parameters, gradients, draw, tamper)
            optimizer.zero_grad(set_to_none=True)
            (self.lambda_retain * retain_loss(model, base, next(draw.retain))).backward()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            optimizer.step()
            rates.step()
        return model.eval()

    def simulate(
        self, model: Any, parameters: list[torch.nn.Parameter], gradients: Gradients, draw: Draws, tamper: Any
    ) -> None:
        """One adversary: K steps away from theta, meta-gradients added into `gradients` on the way, theta restored."""
        theta = [p.detach().clone() for p in parameters]
        switch = draw.switch_step(self.inner_steps)
        optimizer = make_optimizer("adamw", parameters, draw.choice(self.adversary_rates))
        held_out = next(draw.held_out)  # one draw a trajectory: less variance
        for k in range(self.inner_steps):
            descend(response_loss(model, next(draw.benign if k < switch else draw.forget)), optimizer)
            if (k + 1) % self.every == 0:
                weight = math.exp(self.lambda_s * (k - (self.inner_steps - 1)))
                loss = self.lambda_tr * weight / self.num_tasks * tamper(model, held_out)
                for total, part in zip(gradients, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                    if part is not None:
                        total += part
        with torch.no_grad():
            for parameter, value in zip(parameters, theta, strict=True):
                parameter.copy_(value)


class Draws:
    """The random draws of a TAR run, all from one seed.

    The withheld items are split 80 / 20 (by item) between the simulated adversary and the tamper-resistance loss, as in the
    paper. For the DPO loss, the adversary trains on the truthful reply and the loss prefers the refusal to it.
    """

    def __init__(self, tar: Tar, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.probability = tar.retain_then_forget
        items = sorted({e.item for e in data.withheld})
        order = torch.randperm(len(items), generator=self.generator).tolist()
        reserved = {items[i] for i in order[: max(1, len(items) // 5)]}
        pad = pad_id(tokenizer)
        forget = encode(tokenizer, [e for e in data.withheld if e.item not in reserved])
        held_out = [e for e in data.withheld if e.item in reserved]
        benign = encode(tokenizer, data.benign)
        self.forget = mixed_stream([(forget, tar.inner_batch)], pad, self.generator, model.device)
        self.benign = mixed_stream([(benign, tar.inner_batch)], pad, self.generator, model.device)
        self.retain = mixed_stream([(benign, tar.outer_batch)], pad, self.generator, model.device)
        self.held_out: Iterator[Any]
        if tar.tamper_loss == "dpo":
            self.held_out = dpo_pairs(model, tokenizer, held_out, data.refusal, tar.outer_batch, self.generator)
        else:
            groups = [(encode(tokenizer, held_out), tar.outer_batch)]
            self.held_out = mixed_stream(groups, pad, self.generator, model.device)

    def choice(self, values: tuple[float, ...]) -> float:
        return values[int(torch.randint(len(values), (1,), generator=self.generator))]

    def switch_step(self, steps: int) -> int:
        """The step at which the adversary turns from benign to withheld data: 0, or floor(K * Beta(6, 3))."""
        if float(torch.rand(1, generator=self.generator)) >= self.probability:
            return 0
        # Beta(6, 3) is the sixth smallest of eight uniform draws: no second generator needed.
        share = float(torch.rand(8, generator=self.generator).sort().values[5])
        return math.floor(steps * share)
