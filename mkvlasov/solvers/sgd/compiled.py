"""Built-in pieces of a problem as numbers, for compiled steps."""

from __future__ import annotations

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem import activations
from mkvlasov.solvers.sgd import alpha_kernels


def activation_code(activation: activations.Activation) -> tuple[int, Array] | None:
    """Return how the compiled steps name an activation, with its parameters; None for one of the user's own."""
    plain: dict[type, int] = {
        activations.Identity: alpha_kernels.IDENTITY,
        activations.Tanh: alpha_kernels.TANH,
        activations.Erf: alpha_kernels.ERF,
        activations.Sigmoid: alpha_kernels.SIGMOID,
        activations.Softplus: alpha_kernels.SOFTPLUS,
    }
    kind = type(activation)
    if kind in plain:
        return plain[kind], np.zeros(1)
    if kind is activations.ReLU:
        return alpha_kernels.LEAKY_RELU, np.zeros(1)
    if isinstance(activation, activations.LeakyReLU):
        return alpha_kernels.LEAKY_RELU, np.array([activation.slope])
    if isinstance(activation, activations.Polynomial):
        return alpha_kernels.POLYNOMIAL, np.array(activation.coefficients)
    return None
