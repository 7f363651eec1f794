"""The literal algorithm with its coordinates on a device of PyTorch, such as a GPU.

Samples, features and weights stay on the device, where all their normals are drawn; hidden variables and the gradient
alpha of the loss, which are few numbers per step, are those of the host, so that every activation and loss works.
Imported only when it is asked for: PyTorch is an optional dependency.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.solvers.sgd.literal import LiteralBlock
from mkvlasov.solvers.sgd.penalties import EntryPenalty, RowPenalty, builtin_penalty
from mkvlasov.solvers.sgd.plan import Plan, factor
from mkvlasov.solvers.sgd.start import Streams

# Coordinates of the views that a block holds on the device at a time.
_BLOCK_COORDINATES = 2**25


def open_device(name: str) -> torch.device:
    """Return a device by name; raise `InvalidInput` if PyTorch cannot use it here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] or type(error).__name__
        raise InvalidInput("device", name, f"a device that PyTorch can use here ({reason})") from error
    return device


class DeviceBlock(LiteralBlock):
    """Runs advanced by the literal algorithm on a device: a `Block`; `weights` are a copy, renewed by `advance`."""

    def __init__(self, plan: Plan, streams: list[Streams], loadings: Array) -> None:
        super().__init__(plan, streams, loadings)
        assert plan.device is not None
        self._device = open_device(plan.device)
        self._dtype = torch.float32 if plan.dtype == np.float32 else torch.float64
        problem = plan.problem
        noise = factor(problem.noise_covariance)
        self._scale = math.sqrt(problem.background_variance)
        self._mixing = self._upload(np.column_stack([np.full(2, self._scale), noise]))
        self._penalty = builtin_penalty(problem.regularizer)

    @staticmethod
    def most_runs(plan: Plan) -> int:
        """Return how many runs fit into a block."""
        return max(1, _BLOCK_COORDINATES // max(plan.dimension * int(plan.problem.batch_size), 2**13))

    def advance(self, first: int, last: int) -> None:
        self._w, self._u = self._upload(self.weights), self._upload(self.features)
        super().advance(first, last)
        self.weights[...] = self._w.cpu().numpy()

    def _upload(self, values: Array) -> torch.Tensor:
        return torch.as_tensor(values, dtype=self._dtype, device=self._device)

    def _draw(self) -> Any:
        problem, n = self._plan.problem, self._plan.dimension
        batch, rank = int(problem.batch_size), self._mixing.shape[1]
        shape = (self.chunk, rank, batch * n)
        normals = torch.empty((len(self.streams), *shape), dtype=self._dtype, device=self._device)
        hidden = []
        for run, stream in enumerate(self.streams):
            hidden.append(problem.hidden.sample(stream.samples, (self.chunk, batch)))
            # Seeded by the run's own stream, so that neither other runs nor a resumption change the numbers.
            generator = torch.Generator(self._device).manual_seed(int(stream.samples.integers(2**63)))
            torch.randn(shape, generator=generator, out=normals[run])
        background = normals[:, :, 0].reshape(len(hidden), self.chunk, batch, n)
        u = self._u[:, None]
        along = (self._upload(np.array(hidden)) - self._scale * (background @ u.mT)) @ u
        views = (self._mixing @ normals).reshape(len(hidden), self.chunk, 2, batch, n)
        return views + along[:, :, None]

    def _step(self, views: Any, rate: float) -> None:
        plan, n = self._plan, self._plan.dimension
        batch = int(plan.problem.batch_size)
        rows = views.reshape(len(self._w), 2 * batch, n)
        h = (rows @ self._w.mT / math.sqrt(n)).to(torch.float64).cpu().numpy()
        alpha = self._upload(np.concatenate(plan.problem.alpha(h[:, :batch], h[:, batch:]), axis=-2))
        change = -rate / math.sqrt(n) * (alpha.mT @ rows)
        self._w = self._w + change - rate / n * self._penalty_gradient()
        if plan.problem.constraint == "sphere":
            self._w = self._w * (math.sqrt(n) / torch.linalg.vector_norm(self._w, dim=-1, keepdim=True))

    def _penalty_gradient(self) -> torch.Tensor | float:
        w, penalty = self._w, self._penalty
        if isinstance(penalty, RowPenalty):
            norm = torch.linalg.vector_norm(w, dim=-2, keepdim=True)
            return penalty.strength * torch.where(norm > 0.0, w / norm, 0.0)
        assert isinstance(penalty, EntryPenalty)
        linear = penalty.linear * w + penalty.cubic * w**3
        if penalty.kink == 0.0:
            return linear
        kink = torch.sign(w) if penalty.width == 0.0 else torch.clamp(w / penalty.width, -1.0, 1.0)
        return linear + penalty.kink * kink
