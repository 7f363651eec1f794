"""Stability of a fixed point, read off the eigenvalues of the Jacobian with their errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.limit.derivatives import ClosedRates


@dataclass(frozen=True, eq=False)
class Stability:
    """Eigenvalues of a Jacobian and what they say.

    Attributes
    ----------
    type : str
        "stable node", "stable focus", "unstable node", "unstable focus", "saddle", "saddle focus", or "degenerate":
        the linearization does not decide, because a real part is zero within its error.
    unstable_dimension : int
        Number of eigenvalues with a positive real part: dimension of the unstable manifold.
    centre_dimension : int
        Number of eigenvalues whose real part is zero within `error`.
    eigenvalues : ndarray of complex, shape (n,)
        By falling real part.
    eigenvectors : ndarray of complex, shape (n, n)
        Columns, in the same order.
    error : float
        Bound on the error of the eigenvalues that the error of the Jacobian causes.
    jacobian : ndarray, shape (n, n)
    """

    type: str
    unstable_dimension: int
    centre_dimension: int
    eigenvalues: npt.NDArray[np.complex128]
    eigenvectors: npt.NDArray[np.complex128]
    error: float
    jacobian: Array

    @property
    def is_stable(self) -> bool:
        """Whether every real part is negative beyond its error."""
        return not self.unstable_dimension and not self.centre_dimension

    def __str__(self) -> str:
        values = ", ".join(_show(value) for value in self.eigenvalues)
        text = self.type
        if self.centre_dimension:
            text += f" ({self.centre_dimension} real part(s) zero within {self.error:.1g})"
        if self.unstable_dimension:
            text += f", {self.unstable_dimension} unstable direction(s)"
        return f"{text}; eigenvalues {values}"


def classify(jacobian: ArrayLike, error: ArrayLike = 0.0) -> Stability:
    """Return the type of a fixed point with this Jacobian.

    Parameters
    ----------
    jacobian : array, shape (n, n)
    error : float or array, shape (n, n)
        Absolute error of its entries; rounding is added.

    Notes
    -----
    The eigenvalues err by at most the smaller of two bounds, for a perturbation of spectral norm e (Stewart and Sun,
    Matrix Perturbation Theory, 1990, theorems IV.1.3 and IV.3.3): (2 |J| + e)^(1 - 1/n) e^(1/n), which holds for
    defective matrices too, and e times the condition number of the eigenvectors.
    """
    matrix = _checks.array("jacobian", jacobian, ndim=2)
    n = len(matrix)
    matrix = _checks.array("jacobian", matrix, shape=(n, n))
    size = float(np.linalg.norm(matrix, 2))
    spread = np.broadcast_to(np.asarray(error, dtype=np.float64), (n, n))
    disturbance = float(np.linalg.norm(spread)) + n * np.finfo(float).eps * size
    values, vectors = np.linalg.eig(matrix)
    order = np.lexsort((-values.imag, -values.real))
    values, vectors = values[order].astype(np.complex128), vectors[:, order].astype(np.complex128)
    any_matrix = (2.0 * size + disturbance) ** (1.0 - 1.0 / n) * disturbance ** (1.0 / n)
    bound = min(any_matrix, disturbance * float(np.linalg.cond(vectors)))
    unstable = int((values.real > bound).sum())
    centre = int((np.abs(values.real) <= bound).sum())
    turning = bool((np.abs(values.imag) > bound).any())
    if centre:
        kind = "degenerate"
    elif 0 < unstable < n:
        kind = "saddle focus" if turning else "saddle"
    else:
        kind = ("unstable " if unstable else "stable ") + ("focus" if turning else "node")
    return Stability(kind, unstable, centre, values, vectors, bound, matrix)


def stability_at(closed: ClosedRates, x: Array, tau: float) -> Stability:
    """Return the stability of a fixed point x (d,) of the closed system, on the sphere within Q_jj = 1."""
    derivative = closed.jacobian(x, tau)
    free = closed.free
    block = np.ix_(free, free)
    return classify(derivative.value[block], derivative.error[block])


def _show(value: complex) -> str:
    if not value.imag:
        return f"{value.real:.4g}"
    return f"{value.real:.4g}{value.imag:+.4g}i"
