"""One training stage: the loop, its averaged weights, its log, and a state on disk that a kill at any moment leaves whole."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import TrainingError
from diffpose_edge.reading import open_file
from diffpose_edge.reference.checkpoints import MOST_BYTES
from diffpose_edge.reference.training.plans import StagePlan

# Given the number of the batch, returns the loss and figures for the log.
Loss = Callable[[int], tuple[Tensor, dict[str, float]]]
# Given the averaged network, returns figures for the log.
Validation = Callable[[nn.Module], dict[str, float]]
# Told the stage, the batches done and in all, and figures: none when the stage begins (batches done: it goes on from there),
# the loss now and then, and what the log has once an epoch is on disk.
Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclass
class _State:
    """Everything that changes while a stage runs."""

    network: nn.Module
    ema: nn.Module
    optimiser: torch.optim.AdamW
    epoch: int = 0


def learning_rate(plan: StagePlan, step: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine down to a hundredth."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    phase = (step - plan.warmup) / max(1, plan.total - plan.warmup)
    return plan.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * phase)))


def train_stage(
    name: str, network: nn.Module, loss_of: Loss, validate: Validation, plan: StagePlan, folder: Path, identity: str, progress: Progress
) -> nn.Module:
    """Train ``network`` for ``plan.epochs`` epochs and return its averaged weights as a network.

    After every epoch ``<name>.state.safetensors`` in ``folder`` is replaced: weights, averaged weights, the optimiser's
    moments, the epoch. A later call goes on from it, and gives bit for bit what an uninterrupted one gives: a batch
    depends on its number alone. ``identity`` names what is being trained; a state of anything else is refused.
    The log is ``<name>.log.jsonl``, one line for each epoch.

    Raises TrainingError when the state on disk belongs to another training, or the loss is no longer finite; OutputError.
    """
    state = _State(network, copy.deepcopy(network).requires_grad_(False), _optimiser(network, plan))
    path, log = folder / f"{name}.state.safetensors", folder / f"{name}.log.jsonl"
    lines = _resume(state, path, log, identity)
    progress(name, state.epoch * plan.steps, plan.total, {})
    while state.epoch < plan.epochs:
        began = perf_counter()
        figures = _epoch(name, state, loss_of, plan, progress)
        state.epoch += 1
        figures |= validate(state.ema.eval())
        figures |= {"seconds": perf_counter() - began, "learning_rate": learning_rate(plan, state.epoch * plan.steps - 1)}
        lines.append(json.dumps({"epoch": state.epoch, **{k: round(v, 6) for k, v in figures.items()}}))
        # The log first: a kill between the two costs an epoch of work, and resuming cuts the log to the state's epoch.
        with atomic_file(log) as temporary:
            temporary.write_text("\n".join(lines) + "\n")
        _save(state, path, identity)
        progress(name, state.epoch * plan.steps, plan.total, figures)
    return state.ema.eval()


def _optimiser(network: nn.Module, plan: StagePlan) -> torch.optim.AdamW:
    decayed = [p for p in network.parameters() if p.dim() > 1]
    plain = [p for p in network.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.99), fused=True)


def _epoch(name: str, state: _State, loss_of: Loss, plan: StagePlan, progress: Progress) -> dict[str, float]:
    sums: dict[str, float] = {}
    state.network.train()
    for i in range(plan.steps):
        step = state.epoch * plan.steps + i
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(plan, step)
        state.optimiser.zero_grad(set_to_none=True)
        loss, figures = loss_of(step)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(state.network.parameters(), plan.clip))
        value = float(loss.detach())
        if not math.isfinite(value) or not math.isfinite(norm):
            raise TrainingError(
                f"the loss of {name} is no longer finite (batch {step}, loss {value}, gradient {norm}). "
                f"The last whole epoch is kept; lower the learning rate ({plan.learning_rate}) or check the data"
            )
        state.optimiser.step()
        with torch.no_grad():
            # Early on the average follows closely; later it forgets slowly.
            keep = min(plan.ema, (1.0 + step) / (10.0 + step))
            torch._foreach_lerp_(list(state.ema.parameters()), list(state.network.parameters()), 1.0 - keep)
        for key, figure in {"loss": value, "gradient": norm, **figures}.items():
            sums[key] = sums.get(key, 0.0) + figure / plan.steps
        if i % 10 == 9:
            progress(name, step + 1, plan.total, {"loss": value})
    return sums


def _save(state: _State, path: Path, identity: str) -> None:
    tensors = {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in state.ema.state_dict().items()}
    for i, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in moments.items()}
    content = save({k: v.contiguous() for k, v in tensors.items()}, metadata={"epoch": str(state.epoch), "identity": identity})
    with atomic_file(path) as temporary:
        # Not with save_file: what it raises on a full disk is no OSError.
        temporary.write_bytes(content)


def _resume(state: _State, path: Path, log: Path, identity: str) -> list[str]:
    """Bring ``state`` to where the last whole epoch left it; return the log's lines up to there."""
    if not path.exists():
        return []
    try:
        open_file(path, MOST_BYTES).close()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as err:
        raise TrainingError(f"{path} cannot be read ({err}); it was not written by this program. Remove it to start again") from err
    if metadata.get("identity") != identity:
        raise TrainingError(
            f"{path} belongs to another training (plan, data or seed differ). Use another --out, or remove the folder to start again"
        )
    state.epoch = int(metadata["epoch"])
    try:
        for prefix, module in (("network.", state.network), ("ema.", state.ema)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    except RuntimeError as err:
        raise TrainingError(
            f"{path} was written for another network, by another version of this program; use another --out. {err}"
        ) from None
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, i, kind = key.split(".")
            moments.setdefault(int(i), {})[kind] = value
    state.optimiser.load_state_dict({**state.optimiser.state_dict(), "state": moments})
    return log.read_text().splitlines()[: state.epoch] if log.exists() else []
