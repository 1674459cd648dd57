"""A phase that learns: its optimizers, the average of its weights, and one step of them on one device or many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from vqrae.runtimes.errors import VqraeError
from vqrae.training.config import PhaseConfig, StageConfig
from vqrae.training.phase import Outcome, Phase, trainable, transformer_blocks
from vqrae.training.processes import Processes, Share, whole

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def learning_rate_factor(step: int, config: PhaseConfig, end_factor: float) -> float:
    """Linear warm-up to 1, then cosine towards `end_factor`, which the step after the last one would have."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return end_factor + (1 - end_factor) * (1 + math.cos(math.pi * progress)) / 2


class Learner:
    """A phase on its device, with all that changes while it is trained."""

    def __init__(self, phase: Phase, processes: Processes) -> None:
        """Changes the phase's modules in place: they are moved, compiled, checkpointed and sharded as it asks for."""
        self.phase, self.processes = phase, processes
        config = phase.config
        blocks = transformer_blocks(phase.objective)
        _prepare(blocks, config)
        self.objective = processes.distributed(phase.objective, blocks)
        adam = partial(AdamW, betas=config.betas, weight_decay=config.weight_decay)
        self.optimizers: dict[str, Optimizer] = {GENERATOR: adam(phase.parameter_groups())}
        self.adversary: nn.Module | None = None
        adversarial = phase.adversarial
        if phase.adversary is not None and adversarial is not None:
            self.adversary = processes.distributed(phase.adversary, (), shard=False)
            rates = {"lr": adversarial.discriminator_learning_rate, "end_factor": adversarial.discriminator_end_factor}
            group = {"params": trainable(phase.adversary), **rates}
            self.optimizers[DISCRIMINATOR] = adam([group])
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        self.average = MovingAverage(phase.module, config.ema_decay) if config.ema_decay else None

    def step(self, step: int) -> dict[str, float]:
        """One step of the optimizers; returns the terms of the loss and the norm of the gradient.

        Raises:
            VqraeError: a term or a gradient is not finite; no weight has seen it.
        """
        joining = self.phase.adversarial
        adversarial = joining if joining is not None and step >= (joining.discriminator_start or 0) else None
        active = [GENERATOR] if adversarial is None else [GENERATOR, DISCRIMINATOR]
        self._set_rates(step)
        for name in active:
            self.optimizers[name].zero_grad(set_to_none=True)
        terms = self._backward(step, adversarial)
        _check_finite(step, {f"{name} loss": value for name, value in terms.items()})
        norms = {self._norm_name(name): self._clip(name) for name in active}
        _check_finite(step, {name.replace("_", " "): norm for name, norm in norms.items()})
        for name in active:
            self.optimizers[name].step()
        if self.average is not None:
            self.average.update()
        return terms | norms

    def _backward(self, step: int, adversarial: StageConfig | None) -> dict[str, float]:
        """Add the gradients of a step, part by part; returns each term's mean over parts and processes."""
        accumulation = self.phase.config.accumulation
        rows = self.processes.share.rows(self.phase.config.batch_size)
        sums: dict[str, Tensor] = {}
        for part in range(accumulation):
            more = part + 1 < accumulation
            batch = self.phase.batch(step, Share(part, accumulation).rows(rows))
            batch = tuple(tensor.to(self.processes.device, non_blocking=True) for tensor in batch)
            terms, decoded = self._objective_backward(batch, adversarial, more=more)
            if adversarial is not None and decoded is not None:
                terms |= self._adversary_backward(decoded.detach(), batch[0], adversarial, more=more)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
        return self.processes.means({name: total / accumulation for name, total in sums.items()})

    def _objective_backward(self, batch: tuple[Tensor, ...], adversarial: StageConfig | None, *, more: bool) -> Outcome:
        with self.processes.accumulating(self.objective, more=more):
            terms, decoded = self.objective(*batch)
            if adversarial is not None and self.phase.adversary is not None and decoded is not None:
                terms["adversarial"] = adversarial.weights.adversarial * self.phase.adversary.generator_loss(decoded)
            self._scaled(terms).backward()
        return Outcome(terms, decoded)

    def _adversary_backward(
        self, decoded: Tensor, pixels: Tensor, adversarial: StageConfig, *, more: bool
    ) -> dict[str, Tensor]:
        if self.adversary is None:
            return {}
        with self.processes.accumulating(self.adversary, more=more):
            terms: dict[str, Tensor] = self.adversary(decoded, pixels)
            terms["lecam"] = adversarial.weights.lecam * terms["lecam"]
            self._scaled(terms).backward()
        return terms

    def _scaled(self, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(terms.values())).sum() / self.phase.config.accumulation

    def _set_rates(self, step: int) -> None:
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_factor(step, self.phase.config, group["end_factor"])

    def _clip(self, name: str) -> float:
        parameters = [p for group in self.optimizers[name].param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.phase.config.clip_norm)
        return whole(norm).item()

    @staticmethod
    def _norm_name(optimizer: str) -> str:
        return "gradient_norm" if optimizer == GENERATOR else f"{optimizer}_gradient_norm"

    def result(self) -> dict[str, Tensor]:
        """The phase's weights on the CPU, whole, averaged where the phase asks for it. All processes call it."""
        state = {name: whole(tensor) for name, tensor in self.phase.module.state_dict().items()}
        if self.average is not None:
            state |= {name: whole(tensor) for name, tensor in self.average.tensors.items()}
        return {name: tensor.detach().cpu() for name, tensor in state.items()}


class MovingAverage:
    """average ← decay · average + (1 − decay) · weights, after every step, in the weights' own dtype and sharding.

    It is less noisy than the last step's weights, and what is evaluated (TiTok).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Begin at the weights as they are."""
        self.decay = decay
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._weights.items()}
        """Name of each trained parameter -> its average."""

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        for name, average in self.tensors.items():
            average.lerp_(self._weights[name].detach(), 1 - self.decay)


def _prepare(blocks: Sequence[nn.Module], config: PhaseConfig) -> None:
    for block in blocks:
        learns = any(parameter.requires_grad for parameter in block.parameters())
        if config.activation_checkpointing and learns:
            # In place of the method, not around the module: the names of the weights stay.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if config.compile:
            block.compile()


def _check_finite(step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            remedy = "lower the learning rate; the last saved state is kept"
            raise VqraeError(f"step {step}", got=f"{name} {value}", expected="finite numbers", remedy=remedy)
