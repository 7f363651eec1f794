"""Estimated against true errors of the PDE methods over a set of problems: the honesty of the estimates, in a figure.

    python benchmarks/pde_errors.py pde_errors.png

True errors: against the closed ODEs and their exact densities under L2 and without a regularizer.
"""

from __future__ import annotations

import sys

import numpy as np
from matplotlib.figure import Figure

import mkvlasov as mv

T_EVAL = [0.5, 2.0, 6.0]
STARTS = {
    "Gaussian": mv.initial.Gaussian(1.0, 0.5),
    "narrow": mv.initial.Gaussian(0.3, 0.5),
    "mixture": mv.initial.Mixture([0.3, 0.7], [mv.initial.Gaussian(2.0, 1.2), mv.initial.Gaussian(0.2, -0.1)]),
    "point": mv.initial.Point(0.5),
}
LOADINGS = {"sparse": mv.loadings.Sparse(0.25), "Gaussian": mv.loadings.Gaussian()}
STRENGTHS = (None, 0.3, 1.0)
METHODS = (
    mv.methods.FiniteVolumes(100),
    mv.methods.FiniteVolumes(400),
    mv.methods.UniformCentral(200),
    mv.methods.Collocation(4, 200),
)


def ratios(method):
    """Return estimate / true error of Q and R and of the densities, at every time of every problem."""
    moments, densities = [], []
    for start in STARTS.values():
        if isinstance(method, mv.methods.Collocation) and start == STARTS["point"]:
            continue
        for loadings in LOADINGS.values():
            for strength in STRENGTHS:
                problem = mv.Problem(
                    hidden=mv.hidden.Rademacher([4.0]),
                    activation="erf",
                    learning_rate=0.5,
                    regularizer=None if strength is None else mv.regularizers.L2(strength),
                    augmentation=mv.augmentations.GaussianNoise(0.6),
                    loadings=loadings,
                )
                pde = mv.solve_pde(problem, start, t_eval=T_EVAL, method=method, rtol=1e-3, progress=False)
                ode = mv.solve_ode(problem, start, t_eval=T_EVAL, progress=False)
                for estimate, gap in ((pde.Q_error, pde.Q - ode.Q), (pde.R_error, pde.R - ode.R)):
                    # Where R vanishes by symmetry there is no error to estimate.
                    seen = np.abs(gap) > 1e-12
                    moments += list(estimate[seen] / np.abs(gap[seen]))
                densities += list(pde.density_error / density_errors(pde, ode))
    return np.array(moments), np.array(densities)


def density_errors(pde, ode):
    """Return the L1 errors (T,) of the densities, mean over the loadings."""
    gaps = np.zeros(len(pde.t))
    for i, t in enumerate(pde.t):
        for j, a in enumerate(pde.loading_points):
            gap = np.abs(pde.densities[i, j] - ode.density(t, a, pde.nodes[i, j]).p)
            gaps[i] += pde.loading_weights[j] * (pde.quadrature[i, j] @ gap)
    return gaps


def main(path):
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    print("| method | what | smallest | median | 95 % | below 1 |")
    print("|---|---|---|---|---|---|")
    for method, ls in zip(METHODS, ("-", "--", ":", "-."), strict=True):
        for ax, title, values in zip(axes, ("Q and R", "densities in L1"), ratios(method), strict=True):
            low, middle, high = np.min(values), np.median(values), np.quantile(values, 0.95)
            print(
                f"| `{method!r}` | {title} | {low:.1f} | {middle:.0f} | {high:.0f} | {(values < 1).mean():.1%} |",
                flush=True,
            )
            ax.step(np.sort(values), np.linspace(0.0, 1.0, len(values)), ls=ls, label=repr(method), where="post")
            ax.set(xscale="log", title=title, xlabel="estimated error / true error")
    for ax in axes:
        ax.axvline(1.0, color="black", lw=0.8, ls=":")
    axes[0].set_ylabel("share of problems and times below")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(METHODS), fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pde_errors.png")
