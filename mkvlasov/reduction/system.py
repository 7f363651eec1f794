"""The closed system of a problem as one object: derived, explained, evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.analysis.basins import Basins, basins
from mkvlasov.analysis.continuation import continue_fixed_points
from mkvlasov.analysis.diagram import BifurcationDiagram
from mkvlasov.analysis.fixed_points import FixedPoint, FixedPoints, fixed_points, stability
from mkvlasov.analysis.growth import EscapeGrowth, escape_growth
from mkvlasov.analysis.initial_overlaps import StartGrid
from mkvlasov.analysis.learnability import Learnability, learnability
from mkvlasov.analysis.noise import NoiseStudy, noise_study
from mkvlasov.analysis.portrait import PhasePortrait, phase_portrait
from mkvlasov.analysis.selection import Selection, selection_probability
from mkvlasov.analysis.stability import Stability
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.closure import require_closure
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates, Derivative, parameter_derivative
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.reduction.derivation import explain
from mkvlasov.reduction.fluctuations import Fluctuations, fluctuations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mkvlasov.reduction.symbolic import SymbolicSystem


@dataclass(frozen=True, eq=False)
class ReducedSystem:
    """The closed ODEs of the order parameters of a problem with L2 regularization or none.

    Made by `reduce`. The independent entries of (R, Q) are listed in `names`: R row by row, then the upper triangle
    of Q; vectors and matrices over them have the length d of that list.

    Attributes
    ----------
    problem : Problem
    """

    problem: Problem

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the d independent entries, such as ``R[0,1]``."""
        return self._rates.entries.names

    def rates(self, Q: ArrayLike, R: ArrayLike, t: float = 0.0) -> tuple[Array, Array]:
        """Return (dQ/dt, dR/dt) at order parameters Q (..., m, m), R (..., m, K)."""
        x, tau = self._state(Q, R, t)
        return self._rates.entries.unpack(self._rates.rates(x, tau))

    def jacobian(self, Q: ArrayLike, R: ArrayLike, t: float = 0.0) -> Derivative:
        """Return the Jacobian of the rates over the entries in `names`, shape (..., d, d), with its error."""
        x, tau = self._state(Q, R, t)
        return self._rates.jacobian(x, tau)

    def parameter_derivative(self, name: str, Q: ArrayLike, R: ArrayLike, t: float = 0.0) -> Derivative:
        """Return the derivative of the rates by a parameter such as "regularizer.strength", shape (..., d)."""
        x, _ = self._state(Q, R, t)
        return parameter_derivative(self.problem, name, x, t)

    def explain(self) -> str:
        """Return the derivation from the PDE, step by step, with the formulas and numbers of this problem."""
        return explain(self.problem)

    @cached_property
    def symbolic(self) -> SymbolicSystem:
        """The equations in symbols (sympy): closed forms for polynomials and erf, else with named averages."""
        from mkvlasov.reduction.symbolic import symbolic_system  # sympy takes a second to load

        return symbolic_system(self.problem)

    def latex(self) -> str:
        """Return the equations as a LaTeX ``align`` environment."""
        return self.symbolic.latex()

    def fluctuations(self, initial: InitialLaw, *, t_eval: ArrayLike, exact_overlaps: bool = False) -> Fluctuations:
        """Return covariance and bias of the order parameters at finite N along a trajectory.

        Parameters
        ----------
        initial : InitialLaw
        t_eval : array, shape (T,)
        exact_overlaps : bool
            Whether every run starts from exactly the given overlaps (as in `simulate_sgd`), or from independent rows.
        """
        return fluctuations(self.problem, initial, t_eval=t_eval, exact_overlaps=exact_overlaps)

    def fixed_points(self, *, starts: int | None = None, rng: Seed = 0) -> FixedPoints:
        """Return the fixed points that a search from many starts finds, with their stability.

        Parameters
        ----------
        starts : int, optional
            Number of random starts: 64 for one output, 16 for more.
        rng : seed
        """
        return fixed_points(self.problem, starts=starts, rng=rng)

    def stability(self, point: FixedPoint | tuple[ArrayLike, ArrayLike]) -> Stability:
        """Return eigenvalues and type of a fixed point, one of `fixed_points` or a pair (Q, R)."""
        return stability(self.problem, point)

    def learnability(self, feature: int = 0) -> Learnability:
        """Return how a feature (for correlated hidden variables: a mode) grows at the uninformative state."""
        return learnability(self.problem, feature)

    def noise_study(
        self,
        *,
        stds: ArrayLike,
        correlations: ArrayLike,
        feature: int = 0,
        starts: int | None = None,
        rng: Seed = 0,
        progress: bool = True,
    ) -> NoiseStudy:
        """Return steady performance and learnability over strengths (S,) and correlations (C,) of the noise.

        Parameters are those of `mkvlasov.analysis.noise.noise_study`.
        """
        return noise_study(
            self.problem, stds=stds, correlations=correlations, feature=feature, starts=starts, rng=rng,
            progress=progress,
        )  # fmt: skip

    def continuation(
        self,
        name: str,
        *,
        bounds: tuple[float, float],
        logarithmic: bool | None = None,
        searches: int | None = None,
        starts: int | None = None,
        rng: Seed = 0,
        progress: bool = True,
    ) -> BifurcationDiagram:
        """Return the fixed points as functions of a parameter, with folds, pitchforks and Hopf points.

        Parameters
        ----------
        name : str
            Path of a number, such as "hidden.variance[0]" or "augmentation.std", or "batch_size".
        bounds : pair of floats
        logarithmic, searches, starts, rng, progress
            As in `mkvlasov.analysis.continue_fixed_points`.
        """
        return continue_fixed_points(
            self.problem, name, bounds=bounds, logarithmic=logarithmic, searches=searches, starts=starts, rng=rng,
            progress=progress,
        )  # fmt: skip

    def basins(
        self,
        starts: StartGrid | tuple[ArrayLike, ArrayLike] | None = None,
        *,
        t_max: float = 100.0,
        rtol: float = 1e-6,
        tolerance: float = 0.01,
        points: FixedPoints | None = None,
        progress: bool = True,
    ) -> Basins:
        """Return at which fixed point each start ends, and when; see `mkvlasov.analysis.basins.basins`."""
        return basins(
            self.problem, starts, t_max=t_max, rtol=rtol, tolerance=tolerance, points=points, progress=progress
        )

    def phase_portrait(
        self, plane: StartGrid | None = None, *, trajectories: int = 8, points: FixedPoints | None = None
    ) -> PhasePortrait:
        """Return vector field, nullclines, fixed points and separatrices in a plane of two entries of (R, Q).

        See `mkvlasov.analysis.portrait.phase_portrait`.
        """
        return phase_portrait(self.problem, plane, trajectories=trajectories, points=points)

    def plot_phase_portrait(
        self, plane: StartGrid | None = None, *, trajectories: int = 8, points: FixedPoints | None = None
    ) -> Figure:
        """Draw the phase portrait in a plane of two entries of (R, Q); the arguments are those of `phase_portrait`."""
        return self.phase_portrait(plane, trajectories=trajectories, points=points).plot()

    def selection_probability(
        self,
        *,
        dimension: int = 1000,
        initial: InitialLaw | None = None,
        samples: int = 2000,
        level: float = 0.5,
        t_max: float | None = None,
        points: FixedPoints | None = None,
        rng: Seed = 0,
        progress: bool = True,
    ) -> Selection:
        """Return where random starts of dimension N end; see `mkvlasov.analysis.selection.selection_probability`."""
        return selection_probability(
            self.problem, dimension=dimension, initial=initial, samples=samples, level=level, t_max=t_max,
            points=points, rng=rng, progress=progress,
        )  # fmt: skip

    def escape_growth(
        self,
        *,
        dimensions: Sequence[int] = (200, 2000, 20_000),
        initial: InitialLaw | None = None,
        samples: int = 1000,
        level: float = 0.5,
        rng: Seed = 0,
        progress: bool = True,
    ) -> EscapeGrowth:
        """Return how escape times grow with log N; see `mkvlasov.analysis.growth.escape_growth`."""
        return escape_growth(
            self.problem, dimensions=dimensions, initial=initial, samples=samples, level=level, rng=rng,
            progress=progress,
        )  # fmt: skip

    @cached_property
    def _rates(self) -> ClosedRates:
        return ClosedRates(self.problem)

    def _state(self, Q: ArrayLike, R: ArrayLike, t: float) -> tuple[Array, float]:
        q, r = _checks.overlaps(Q, R, self.problem.outputs, self.problem.n_features)
        smallest = float(np.linalg.eigvalsh(q - r @ r.mT).min())
        if smallest < -1e-9 * float(np.abs(q).max()):
            allowed = f"overlaps with Q - R R^T positive semidefinite (its smallest eigenvalue is {smallest:.6g})"
            raise InvalidInput("R", R, allowed)
        return self._rates.entries.pack(q, r), self.problem.rate(_checks.number("t", t, minimum=0.0))


def reduce(problem: Problem) -> ReducedSystem:
    """Reduce the PDE to the closed ODEs of the order parameters.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    ReducedSystem

    Raises
    ------
    ClosureError
        Unless the moments close (L2 regularizer or none); names the terms that do not and points to the PDE.
    UnsupportedError
        For a loss whose limit is not known.

    Notes
    -----
    docs/theory.md, section 4.
    """
    require_closure(problem)
    LimitCoefficients(problem)  # refuses a loss whose limit is not known
    return ReducedSystem(problem)
