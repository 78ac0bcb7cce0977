"""Data-parallel training under torchrun: ranks, gradient sums and other collective operations.

Without torchrun each function works for a single process. Gradients are summed by `backward_together`,
not by `DistributedDataParallel`: phases share networks, and R1 differentiates twice.
"""

import contextlib
import io
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # else imported later, by optimisers; see `joined`
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from training.devices import pick_device


def rank() -> int:
    """Return this process's rank; rank 0 writes the run folder."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes (world size)."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined(device: str | None = None) -> Iterator[torch.device]:
    """Join torchrun's process group, if there is one, inside the block; yield this process's device.

    Each process gets a GPU, with NCCL, where there are GPUs, else gloo. Gloo's threads end with the block: one that
    outlives Python's interpreter aborts the process. `torch.distributed.nn.functional` has the present group as a
    default argument, and would keep them alive if it were imported inside.

    Raises: ValueError for more processes than GPUs, or a missing device.
    """
    where = pick_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield where
        return
    if where.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun started more processes than this machine has GPUs ({torch.cuda.device_count()}); give "
                f"--nproc-per-node {torch.cuda.device_count()}, or --device cpu"
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    store, number, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    with _own_cores() if where.type == "cpu" else contextlib.nullcontext():
        dist.init_process_group(backend, store=_fresh(store, number, count), rank=number, world_size=count)
        try:
            yield where
            any_of(False)  # together: not before the first process has written
        finally:
            dist.destroy_process_group()


@contextlib.contextmanager
def _own_cores() -> Iterator[None]:
    """Pin this process, inside the block, to its share of the machine's cores.

    Gloo's threads then run on the core of their own process and do not interrupt the others.
    """
    local, together = (int(os.environ.get(f"LOCAL_{name}", "0")) for name in ("RANK", "WORLD_SIZE"))
    if not hasattr(os, "sched_setaffinity") or not 0 < together <= len(cores := sorted(os.sched_getaffinity(0))):
        yield
        return
    each = len(cores) // together
    os.sched_setaffinity(0, cores[local * each : (local + 1) * each])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _fresh(store: Store, number: int, count: int) -> Store:
    """Return `store` with a prefix that these processes, and no earlier ones, have agreed on.

    torchrun keeps one store over its restarts, which still has the addresses of dead processes. So each process writes
    a random key; rank 0 answers each key with the prefix, until all have confirmed it.
    """
    word = uuid.uuid4().hex
    store.set(f"word/{number}", word)
    if number > 0:
        name = store.get(f"name/{word}").decode()  # waits for it
        store.set(f"known/{name}/{number}", "")
        return PrefixStore(name, store)
    missing = list(range(1, count))
    while missing:
        for other in missing:
            if store.check([f"word/{other}"]):
                store.set(f"name/{store.get(f'word/{other}').decode()}", word)
        missing = [other for other in missing if not store.check([f"known/{word}/{other}"])]
        time.sleep(0.01)
    return PrefixStore(word, store)


def share_of(batch: int, accumulate: int = 1) -> int:
    """Return how many pictures of the global `batch` one process computes at a time.

    Raises: ValueError if the batch is not divisible.
    """
    if batch % (size() * accumulate):
        steps = f" x loop.accumulate {accumulate}" if accumulate > 1 else ""
        raise ValueError(
            f"loop.batch is {batch}, of all processes together, and does not divide by {size()} processes{steps}; "
            f"give a multiple of {size() * accumulate}"
        )
    return batch // (size() * accumulate)


def batch_mean(mean: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean over processes of each one's `mean`, with the gradient of its own.

    Averaged over processes, f(batch_mean(m)) has the gradient of f of the global batch's mean. It is needed for losses
    that are not means over pictures, such as ratios of sums.
    """
    return mean if size() == 1 else mean + (same_mean(mean) - mean.detach())


def same_mean(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean over processes of each one's `value`: the same numbers in each, without gradient."""
    if size() == 1:
        return value.detach()
    whole = value.detach().float().clone()
    dist.all_reduce(whole)
    return whole / size()


LARGE = 2**16
"""Elements from which a gradient is sent as a message of its own."""


def backward_together(
    loss: Float[Tensor, ""], total: Float[Tensor, ""], optimizer: torch.optim.Optimizer
) -> Float[Tensor, ""]:
    """Do `loss.backward()` and sum the gradients of an optimiser's parameters over processes; return `total`'s sum.

    Large gradients are sent during the backward pass, last layers first and in the same order in all processes; the
    small ones and `total` follow in one message. A parameter without a gradient in any process is left without one.
    """
    if size() == 1:
        loss.backward()
        return total
    parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    large = [p for p in reversed(parameters) if p.numel() >= LARGE]
    ready, sent = set[int](), list[dist.Work]()

    def send(parameter: nn.Parameter) -> None:
        ready.add(id(parameter))
        while len(sent) < len(large) and id(large[len(sent)]) in ready:
            sent.append(dist.all_reduce(_gradient(large[len(sent)]), async_op=True))

    hooks = [p.register_post_accumulate_grad_hook(send) for p in large]
    try:
        loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    has = [float(p.grad is not None) for p in parameters]
    for parameter in large:
        send(parameter)
    small = [p for p in parameters if p.numel() < LARGE]
    flat = [_gradient(p).float().flatten() for p in small]
    message = torch.cat([*flat, loss.new_tensor(has, dtype=torch.float32), total.float()[None]])
    dist.all_reduce(message)
    *flat, had, total = message.split([*(p.numel() for p in small), len(parameters), 1])
    for parameter, gradient in zip(small, flat, strict=True):
        _gradient(parameter).copy_(gradient.view(parameter.shape))
    for work in sent:
        work.wait()
    for parameter, number in zip(parameters, had.tolist(), strict=True):
        if number == 0:
            parameter.grad = None
    return total[0]


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient, which is zero if it had none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def any_of(flag: bool) -> bool:
    """Return whether `flag` is true in any process."""
    if size() == 1:
        return flag
    message = torch.tensor(float(flag))
    dist.all_reduce(message)
    return bool(message)


def mean_of(values: dict[str, float]) -> dict[str, float]:
    """Return the mean of each value over processes, which must have the same names."""
    if size() == 1 or not values:
        return values
    message = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
    dist.all_reduce(message)
    return dict(zip(sorted(values), (message / size()).tolist(), strict=True))


def from_first(value: Any) -> Any:
    """Return the first process's `value`, of tensors and plain values, in every process; the others' is ignored."""
    if size() == 1:
        return value
    buffer = io.BytesIO()
    if rank() == 0:
        torch.save(value, buffer)
    length = torch.tensor(buffer.getbuffer().nbytes)
    dist.broadcast(length, 0)
    content = torch.empty(int(length), dtype=torch.uint8)
    if rank() == 0:
        content.copy_(torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8))
    dist.broadcast(content, 0)
    if rank() == 0:
        return value
    return torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True, map_location="cpu")
