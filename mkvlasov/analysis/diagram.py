"""What a continuation of fixed points returns: branches, bifurcations, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.order_parameters import cosine_similarity
from mkvlasov.problem.contrastive import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class FixedPointBranch:
    """Fixed points along a curve, one of each class of symmetric copies.

    Attributes
    ----------
    name : str
        Which feature each output has learnt in the middle of the branch, as in `FixedPoint`.
    parameter : ndarray, shape (n,)
        Not monotonic where the branch turns back.
    Q, R : ndarray, shapes (n, m, m) and (n, m, K)
    loss : ndarray, shape (n,)
    eigenvalues : ndarray of complex, shape (n, f)
        Of the Jacobian, by falling real part; on the sphere of the entries that can move.
    unstable_dimension : ndarray of int, shape (n,)
        Number of eigenvalues with a positive real part.
    centre_dimension : ndarray of int, shape (n,)
        Number of eigenvalues whose real part is zero within its error: along rotations, and next to a bifurcation.
    residual : ndarray, shape (n,)
        Largest entry of (dQ/dt, dR/dt).
    copies : int
        Number of symmetric copies in the middle of the branch, itself included.
    is_continuum : bool
        Whether rotations make a continuum of such branches.
    ends : pair of str
        Why it begins and ends where it does.
    """

    name: str
    parameter: Array
    Q: Array
    R: Array
    loss: Array
    eigenvalues: npt.NDArray[np.complex128]
    unstable_dimension: npt.NDArray[np.int64]
    centre_dimension: npt.NDArray[np.int64]
    residual: Array
    copies: int
    is_continuum: bool
    ends: tuple[str, str]

    def __len__(self) -> int:
        return len(self.parameter)

    @property
    def cosine_similarity(self) -> Array:
        """q_jk = R_jk / sqrt(Q_jj), shape (n, m, K)."""
        return cosine_similarity(self.Q, self.R)

    @property
    def is_stable(self) -> npt.NDArray[np.bool_]:
        """Where no real part is positive beyond its error, shape (n,); rotations do not count."""
        return self.unstable_dimension == 0

    def __str__(self) -> str:
        low, high = float(self.parameter.min()), float(self.parameter.max())
        dimensions = [str(self.unstable_dimension[0])]
        for before, after in zip(self.unstable_dimension[:-1], self.unstable_dimension[1:], strict=True):
            if after != before:
                dimensions.append(str(after))
        copies = (
            "continuum" if self.is_continuum else f"{self.copies} symmetric {'copies' if self.copies > 1 else 'copy'}"
        )
        return (
            f"{self.name}: {len(self)} points in [{low:.6g}, {high:.6g}], {copies}, unstable dimension "
            f"{' -> '.join(dimensions)}; from {self.parameter[0]:.6g} ({self.ends[0]}) to {self.parameter[-1]:.6g} "
            f"({self.ends[1]})"
        )


@dataclass(frozen=True, eq=False)
class Bifurcation:
    """A value of the parameter at which fixed points appear, meet, or start to oscillate.

    Attributes
    ----------
    kind : str
        "fold"; "pitchfork" (a symmetry is broken); "transcritical" (a branch point that breaks none); "Hopf".
    criticality : str or None
        Of a pitchfork: "supercritical" if the new branches lie where the old one has become less stable, so that the
        state moves away gradually; "subcritical" if they lie where it is more stable, so that it jumps. None where
        several eigenvalues vanish together, new branches are not known, or the states are those of the PDE.
    value, error : float
        Of the parameter; the error is an estimate.
    Q, R : ndarray, shapes (m, m) and (m, K)
    directions : tuple of pairs (dQ, dR)
        Null vectors of the Jacobian, of unit length in entries; none at Hopf points. More than one where symmetries
        make several eigenvalues vanish together.
    frequency : float or None
        Of the oscillations that appear at a Hopf point, in radians per unit of time.
    broken : tuple of str
        Symmetries of the state that new branches do not have.
    branches : tuple of int
        Indices of the branches of the diagram that pass through or end there.
    """

    kind: str
    criticality: str | None
    value: float
    error: float
    Q: Array
    R: Array
    directions: tuple[tuple[Array, Array], ...]
    frequency: float | None
    broken: tuple[str, ...]
    branches: tuple[int, ...]

    def __str__(self) -> str:
        kind = f"{self.criticality} {self.kind}" if self.criticality else self.kind
        text = f"{kind} at {self.value:.10g} +- {self.error:.1g} of branch(es) {', '.join(map(str, self.branches))}"
        if self.broken:
            text += f", breaks {', '.join(self.broken)}"
        if self.frequency is not None:
            text += f", frequency {self.frequency:.6g}"
        if len(self.directions) > 1:
            text += f", {len(self.directions)} null vectors"
        return text


@dataclass(frozen=True, eq=False)
class BifurcationDiagram:
    """Fixed points of the closed ODEs as functions of one parameter of the problem.

    Attributes
    ----------
    problem : Problem
    name : str
        Path of the parameter.
    bounds : pair of floats
    logarithmic : bool
        Whether the parameter was followed on a logarithmic axis.
    branches : tuple of FixedPointBranch
    bifurcations : tuple of Bifurcation
        By value.
    symmetries : tuple of str
        Symmetries of the problem at every value of the parameter.
    searched : ndarray
        Values of the parameter at which fixed points were searched, so that branches apart from the others are seen.
    unfinished : tuple of str
        Where a branch could not be followed or a change of stability not located, in words; empty if all went well.
    """

    problem: Problem
    name: str
    bounds: tuple[float, float]
    logarithmic: bool
    branches: tuple[FixedPointBranch, ...]
    bifurcations: tuple[Bifurcation, ...]
    symmetries: tuple[str, ...]
    searched: Array
    unfinished: tuple[str, ...]

    def of_kind(self, kind: str) -> tuple[Bifurcation, ...]:
        """Return the bifurcations of a kind: "fold", "pitchfork", "transcritical" or "Hopf"."""
        return tuple(b for b in self.bifurcations if b.kind == kind)

    def plot(self, entry: str = "cosine") -> Figure:
        """Return the figure of `mkvlasov.plotting.bifurcations.plot_bifurcations`."""
        from mkvlasov.plotting.bifurcations import plot_bifurcations

        return plot_bifurcations(self, entry)

    def __str__(self) -> str:
        head = (
            f"{len(self.branches)} branch(es) and {len(self.bifurcations)} bifurcation(s) of fixed points for "
            f"{self.name} in [{self.bounds[0]:g}, {self.bounds[1]:g}], up to symmetry; searched at "
            f"{', '.join(f'{value:.6g}' for value in self.searched)}"
        )
        lines = [head, f"symmetries: {', '.join(self.symmetries) or 'none'}"]
        lines += [f"[{i}] {branch}" for i, branch in enumerate(self.branches)]
        lines += map(str, self.bifurcations)
        lines += [f"unfinished: {reason}" for reason in self.unfinished]
        return "\n".join(lines)
