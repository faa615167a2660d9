"""A training state on disk: weights and optimizer moments as safetensors, replaced whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NAME = "state.safetensors"


def save_state(folder: Path, step: int, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Write the state after `step` steps. A kill leaves the old state or the new one."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{_NAME}.new"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft, {"step": str(step)})
    draft.replace(folder / _NAME)


def load_state(folder: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Read the state into the model and its optimizers; returns the steps it has seen, 0 where there is none."""
    from safetensors import safe_open

    path = folder / _NAME
    if not path.exists():
        return 0
    moments: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    weights = {}
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        for name in file.keys():  # noqa: SIM118 - not a mapping
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[rest] = file.get_tensor(name)
            else:
                i, index, value = rest.split(".")
                moments[int(i)].setdefault(int(index), {})[value] = file.get_tensor(name)
    model.load_state_dict(weights)
    for optimizer, state in zip(optimizers, moments, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return step
