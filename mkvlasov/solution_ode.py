"""The solution of the closed ODEs, with the exact density that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.density import Density, density_of_law
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.conditional import ConditionalLaw, GaussianMixture
from mkvlasov.problem.continued import Affine, on_constraint
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.solution import Solution


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OdeSolution(Solution):
    """Order parameters from the closed ODEs (L2 or no regularizer) and the whole law of the weights.

    Given its loading a and its start w_0, a row of weights is at time t distributed as

        w_t = A_t w_0 + C_t a + N(0, P_t).

    Attributes
    ----------
    A, C, P : ndarray, shapes (T, m, m), (T, m, K), (T, m, m)

    Notes
    -----
    docs/theory.md, section 5.
    """

    A: Array
    C: Array
    P: Array

    @property
    def final(self) -> InitialLaw:
        """The exact law at the last time: an initial law to go on from, along any route."""
        if not len(self.t):
            raise InvalidInput("final", self.status.message, "a solution that reached a time")
        return on_constraint(Affine(self.initial, self.A[-1], self.C[-1], self.P[-1]), self.problem)

    def law(self, t: float, loading: ArrayLike) -> ConditionalLaw:
        """Return the exact law of w given the loading (K,) at a stored time.

        A `GaussianMixture` in R^m; after a start from densities in tables, those with the noise of the equation.
        """
        i = self.time_index(t)
        k = self.R.shape[2]
        a = np.atleast_1d(_checks.array("loading", loading, ndim=(0, 1)))
        if a.shape != (k,):
            raise InvalidInput("loading", loading, f"{k} number(s), one per feature")
        start = self.initial.conditional(a, self.problem)
        return start.affine(self.A[i], self.C[i] @ a, self.P[i])

    def density(self, t: float, loading: ArrayLike, w: ArrayLike | None = None) -> Density:
        """Return the exact density p(w | a) of one output (m = 1) at a stored time.

        Parameters
        ----------
        t : float
            One of the stored times.
        loading : float or array, shape (K,)
        w : array, shape (n,), optional
            Where, increasing; by default 801 points that cover all components to a mass of 1e-15.

        Raises
        ------
        InvalidInput
            For a time that was not stored, or a law with an atom (a point mass before any diffusion), which has no
            density.
        """
        law = self.law(t, loading)
        m = self.R.shape[1]
        if m != 1:
            raise InvalidInput("outputs", m, "1 (for more outputs use the law that law() gives)")
        if isinstance(law, GaussianMixture) and not law.is_smooth:
            raise InvalidInput("t", t, "a time at which the law has a density (here part of it is a point mass)")
        if w is not None:
            w = _checks.array("w", w, ndim=1)
            if (np.diff(w) <= 0.0).any():
                raise InvalidInput("w", w, "increasing weights")
        return density_of_law(law, w)
