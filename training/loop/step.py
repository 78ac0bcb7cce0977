"""One training step: each phase that is due updates its network, on a whole batch or with gradient accumulation."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from training.batched import fields_of
from training.nn.gan import learning
from training.runtime.distributed import backward_together, size
from training.runtime.sharded_random import ShardedGenerator, sharded_generator
from training.types import Batch, Phase, Step

Gradients = Callable[[Phase], tuple[dict[str, Tensor], Tensor]]
"""Computes a phase's gradients; returns its loss terms, detached, and their sum over all processes."""


def train_step(
    phases: Sequence[Phase], batch: Batch, step: Step, *, gradients: Gradients | None = None, lr_factor: float = 1.0
) -> dict[str, Tensor]:
    """Run the phases due at `step`; return each loss term, detached, as 'phase/term'.

    Gradients are those of the `whole` batch by default. A phase whose loss or gradient is not finite is skipped and
    logs 'phase/skipped'. Learning rates are multiplied by `lr_factor`.
    """
    gradients = gradients or whole(batch, step)
    logged: dict[str, Tensor] = {}
    for phase in phases:
        if not phase.due(step):
            continue
        phase.optimizer.zero_grad(set_to_none=True)
        terms, total = gradients(phase)
        parameters = [p for group in phase.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if bool(torch.isfinite(norm + total)):
            if phase.max_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, phase.max_norm, norm)
            phase.set_rates(step, lr_factor)
            phase.optimizer.step()
        else:
            logged[f"{phase.name}/skipped"] = torch.ones(())
        phase.optimizer.zero_grad(set_to_none=True)
        logged |= {f"{phase.name}/{name}": term for name, term in terms.items()}
    return logged


def whole(batch: Batch, step: Step) -> Gradients:
    """Return a function that computes a phase's gradients on one batch, summed over processes."""

    def backward(phase: Phase) -> tuple[dict[str, Tensor], Tensor]:
        with learning(phase.parameters()):
            terms, loss = _loss(phase, batch, step, parts=1)
            return terms, backward_together(loss, loss.detach(), phase.optimizer)

    return backward


def accumulated(parts: Sequence[tuple[Batch, Step]], begin: Callable[[Batch, Step], None]) -> Gradients:
    """Return a function that accumulates a phase's gradients over the parts of a batch: less memory, more time.

    `begin` is called for each part in each phase, with the random state of the first phase, so that only one part is in
    memory at a time.
    """
    start = [step.rng.get_state() for _, step in parts]
    reached: list[Tensor] = []  # by each part's random source, after the phases so far

    def backward(phase: Phase) -> tuple[dict[str, Tensor], Tensor]:
        total, sums = torch.zeros(()), dict[str, Tensor]()
        for i, (batch, step) in enumerate(parts):
            step.rng.set_state(start[i])
            begin(batch, step)
            if reached:
                step.rng.set_state(reached[i])
            with learning(phase.parameters()):
                terms, loss = _loss(phase, batch, step, parts=len(parts))
                total = total.to(loss) + loss.detach()
                if i + 1 < len(parts):
                    loss.backward()
                else:
                    total = backward_together(loss, total, phase.optimizer)
            sums = {name: sums.get(name, 0.0) + term / len(parts) for name, term in terms.items()}
        reached[:] = [step.rng.get_state() for _, step in parts]
        return sums, total

    return backward


def _loss(phase: Phase, batch: Batch, step: Step, *, parts: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return a phase's terms, detached, and their sum with gradient, divided by the number of parts and processes."""
    terms = phase.losses(batch, step)  # named scalars, already weighted
    total = torch.stack([term.float() for term in terms.values()]).sum()
    return {name: term.detach() for name, term in terms.items()}, phase.every * total / (parts * size())


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move `average` towards `network`: w_avg = decay * w_avg + (1 - decay) * w; buffers are copied."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for buffer, source in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(source)


def batch_indices(n: int, batch: int, images: int, seed: int) -> list[int]:
    """Return the indices of the next batch after `images` pictures: consecutive shuffled epochs, independent of
    resumes."""
    picks: list[int] = []
    while len(picks) < batch:
        epoch, start = divmod(images + len(picks), n)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        picks += order[start : start + batch - len(picks)].tolist()
    return picks


def step_rng(seed: int, index: int, part: int = 0, parts: int = 1) -> ShardedGenerator:
    """Return the generator of one step, for a share of its batch, seeded by the run's seed and the step."""
    return sharded_generator((seed * 2_654_435_761 + index * 40_503 + 12_345) % 2**63, part, parts)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    tensors = {name: value for name, value in fields_of(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})
