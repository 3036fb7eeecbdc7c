"""Muon, an optimiser with orthogonalised momentum, for convolution kernels. Other parameters are trained with AdamW.

A CPU does about a thousand steps in the few minutes of a training, so progress per step matters most.
``performance/train.py --optimisers`` compares Muon with AdamW by the held-out denoising error after equally many steps.
``torch.optim.Muon`` takes matrices only, hence this module.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration: steep at 0, so that five rounds enlarge small singular values.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrix.

    The iteration runs on the small Gram matrix and uses the matrix itself only twice. A kernel is much wider than tall,
    so this halves the arithmetic. It needs float32, because the Gram matrix of a bfloat16 product may have negative
    eigenvalues, on which the iteration diverges.

    Args:
        matrix: Matrix, (rows, columns) float32, not zero.

    Returns:
        Matrix of the same shape with singular values between about 0.7 and 1.2.

    Example:
        >>> bool((orthogonalise(torch.eye(3) * 5) - torch.eye(3)).abs().max() < 0.35)
        True

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    first, third, fifth = _QUINTIC
    for index in range(_ROUNDS):
        factor = torch.addmm(first * identity + third * gram, gram, gram, beta=1.0, alpha=fifth)
        product = factor @ product if index else factor
        if index + 1 < _ROUNDS:
            gram = factor @ (gram @ factor)
    result = torch.mm(product, wide)
    return result.T if matrix.shape[0] > matrix.shape[1] else result


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for kernels and matrices.

    Args:
        params: Parameters of two or more dimensions; all but the first are flattened.
        lr: Learning rate: about the length by which every singular direction moves in a step.
        momentum: Momentum of the moving average of gradients.
        weight_decay: Decoupled weight decay, multiplied by ``lr``.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(average, group["momentum"])
                # Channels last: for kernels in that memory format flattening is free.
                if update.ndim == 4:
                    update = update.permute(0, 2, 3, 1)
                direction = orthogonalise(update.flatten(1)).reshape(update.shape)
                if update.ndim == 4:
                    direction = direction.permute(0, 3, 1, 2)
                rows, columns = len(update), update[0].numel()
                length = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-length)
