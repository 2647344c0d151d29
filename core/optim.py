"""Parameter groups, AdamW, Muon, and the optimiser's state as named tensors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def adamw(
    model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter, 2019) that decays matrices only, not biases or LayerNorm gains.

    GPT-2's and nanoGPT's custom: decay pulls gains and biases towards a value that means nothing.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for the matrices of the blocks, AdamW for embeddings, head, biases and gains.

    Muon's updates are scaled to the size of AdamW's, 0.2 in the root mean square (Liu et al., 2025, "Muon is scalable
    for LLM training"), so that one learning rate and one decay do for both. Its momentum is 0.95, Nesterov's.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)):
        parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        inner = [p for name, p in parameters if name.startswith("blocks.") and p.dim() == 2]
        taken = set(inner)
        others = [p for _, p in parameters if p not in taken]
        groups = [
            {"params": [p for p in others if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
        ]
        muon = torch.optim.Muon(inner, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.parts = (muon, torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        for part in self.parts:
            for parameter in (p for group in part.param_groups for p in group["params"]):
                self.state[parameter] = part.state[parameter]  # the very dictionaries that the parts fill

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "muon": MuonAndAdamW}


def stacked(of_each: Sequence[tuple[nn.Module, torch.optim.Optimizer]], stack: nn.Module) -> torch.optim.AdamW:
    """One AdamW for models whose parameters `stack` holds side by side under the same names, along dimension 0.

    It goes on from the states of the optimisers, which must have made equally many steps, and which become views.
    """
    model, optimizer = of_each[0]
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        {**group, "params": [stack.get_parameter(names[p]) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    joint = torch.optim.AdamW(groups, fused=True)
    for name in (names[p] for group in optimizer.param_groups for p in group["params"]):
        parameter, states = stack.get_parameter(name), [o.state[m.get_parameter(name)] for m, o in of_each]
        joint.state[parameter] = {
            slot: torch.stack([state[slot] for state in states]) if value.dim() else value.clone()
            for slot, value in states[0].items()
        } or {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
        for number, state in enumerate(states):
            state.update({slot: x[number] if x.dim() else x for slot, x in joint.state[parameter].items()})
    return joint


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Lets steps be recorded as CUDA graphs, which read the learning rate from memory."""
    for group in optimizer.param_groups:
        group.update(capturable=True, lr=torch.zeros((), device=device))


def state_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state under `parameter name/slot` (`blocks.0.mlp.up.weight/exp_avg`), whatever the groups and their order."""
    return {
        f"{name}/{slot}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    tensors: dict[str, Tensor],
    place: Callable[[Tensor, Tensor], Tensor] = lambda value, parameter: value.to(parameter.device),
) -> None:
    """The inverse of `state_tensors`; `place` puts what belongs to each element of a parameter where those are.

    Raises ValueError if a tensor belongs to no parameter or does not fit it.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"the optimiser's state has {key}, the model no such parameter")
        parameter = parameters[name]
        if value.dim() and value.shape != parameter.shape:
            raise ValueError(f"the optimiser's state has {key} as {tuple(value.shape)}, not {tuple(parameter.shape)}")
        optimizer.state[parameter][slot] = place(value, parameter) if value.dim() else value.to(parameter.device)
