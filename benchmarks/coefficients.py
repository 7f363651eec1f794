"""Limit coefficients and closed ODEs against what one would write by hand, at equal true error, in one run.

    python benchmarks/coefficients.py

(a) One evaluation for one output (tanh, four values of c): tensor Gauss-Hermite in NumPy.
(b) The ODE to t = 50 at rtol 1e-8: scipy's drivers with those coefficients.
(c) One evaluation for two outputs: Sobol points, without and with decorrelation.

Every competitor gets the fewest nodes that reach the error, which is measured against converged values over random
states. Candidates take turns, and the fastest of several turns counts: other work on the machine only ever adds time.
Compilation is not counted.
"""

import time

import numpy as np
from numba import njit
from scipy import special
from scipy.integrate import solve_ivp
from scipy.stats import qmc

import mkvlasov as mv
from mkvlasov.limit import LimitCoefficients
from mkvlasov.limit.line_kernels import rates

HIDDEN = mv.hidden.Rademacher(variance=[1.5, 0.7])
NOISE = mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6)
NAMES = ("G", "Gbar", "H", "Lambda", "loss")


def interleaved(candidates, turns=60, least=0.002):
    """Return the shortest time of a call of each candidate, the candidates taking short turns."""
    repeats, best = {}, dict.fromkeys(candidates, np.inf)
    for name, call in candidates.items():
        call()
        started = time.perf_counter()
        call()
        repeats[name] = max(1, int(least / (time.perf_counter() - started)))
    for _ in range(turns):
        for name, call in candidates.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            best[name] = min(best[name], (time.perf_counter() - started) / repeats[name])
    return best


def worst_gap(found, expected):
    """Return the largest error of an entry of G, Gbar, H, Lambda, loss (all of order one)."""
    return max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(found, expected, strict=True))


def show(rows):
    """Print (label, error, seconds, ratio) as a table."""
    for label, error, seconds, ratio in rows:
        print(f"  {label:62s} {error:9.1e} {1e6 * seconds:12.1f} us {ratio:8.1f} x")


class GaussHermite:
    """Coefficients of one output by the tensor product of Gauss-Hermite rules: batch size 1, no centring."""

    def __init__(self, problem, order):
        x, w = special.roots_hermitenorm(order)
        self.x, self.w = x, w / w.sum()
        nodes = problem.hidden.nodes(1)
        self.c, self.p = nodes.points, nodes.weights
        self.eta, self.S = problem.background_variance, problem.noise_covariance
        self.T = self.eta + self.S

    def __call__(self, Q, R):
        eta, S, T, w = self.eta, self.S, self.T, self.w
        rest = eta * (Q - R @ R)
        v1, v2, v12 = rest + S[0, 0] * Q, rest + S[1, 1] * Q, rest + S[0, 1] * Q
        s1 = np.sqrt(v1)
        mean = (self.c @ R)[:, None]
        y1 = np.tanh(mean + s1 * self.x)
        shift = mean + (v12 / s1) * self.x
        y2 = np.tanh(shift[..., None] + np.sqrt(max(v2 - v12**2 / v1, 0.0)) * self.x)
        d1, d2 = 1.0 - y1 * y1, 1.0 - y2 * y2
        sy1, sy2 = y1 * d1, y2 * d2  # sigma'' = -2 sigma sigma'
        weights = self.p[:, None] * w
        # averages over the second variable, then over the first
        Y2, D2, SY2, YY2, DD2 = (f @ w for f in (y2, d2, sy2, y2 * y2, d2 * d2))
        sy, ys = -2.0 * np.vdot(weights, sy1 * Y2), -2.0 * np.vdot(weights, y1 * SY2)
        dd = np.vdot(weights, d1 * D2)
        G = -(T[0, 0] * sy + T[1, 1] * ys + 2.0 * T[0, 1] * dd)
        Gbar = -(sy + ys + 2.0 * dd)
        H = -np.sum(weights * (d1 * Y2 + y1 * D2), axis=1) @ self.c - eta * Gbar * R
        Lambda = T[0, 0] * np.vdot(weights, d1 * d1 * YY2) + T[1, 1] * np.vdot(weights, y1 * y1 * DD2)
        Lambda += 2.0 * T[0, 1] * np.vdot(weights, sy1 * SY2)
        return G, Gbar, H, Lambda, -np.vdot(weights, y1 * Y2)


@njit
def loop(Q, R, data):
    """Evaluate states one after the other without Python in between."""
    total = 0.0
    for i in range(len(Q)):
        total += rates(Q[i], R[i], data)[0]
    return total


def states_of_one_output(count):
    """Return random states with Q near 1."""
    rng = np.random.default_rng(1)
    Q = rng.uniform(0.6, 1.4, count)
    R = rng.normal(size=(count, 2))
    R *= np.sqrt(Q * rng.uniform(0.05, 0.9, count) / (R**2).sum(axis=1))[:, None]
    return Q, R


def fewest(make, options, states, exact, wanted):
    """Return the first option whose true error over the states is small enough, with that error and the evaluator."""
    for option in options:
        evaluate = make(option)
        error = max(worst_gap(evaluate(*state), expected) for state, expected in zip(states, exact, strict=True))
        if error <= wanted:
            return option, error, evaluate
    raise SystemExit(f"no option reaches {wanted}")


def plain(coefficients):
    """Return the coefficients of one output as a function of a number and a vector."""

    def evaluate(q, r):
        c = coefficients(np.array([[q]]), r[None])
        return tuple(np.squeeze(getattr(c, name)) for name in NAMES)

    return evaluate


def one_output(wanted=1e-7):
    """Print part (a)."""
    problem = mv.Problem(hidden=HIDDEN, activation="tanh", learning_rate=1.0, augmentation=NOISE)
    Q, R = states_of_one_output(24)
    states = list(zip(Q, R, strict=True))
    reference = plain(LimitCoefficients(problem, rtol=1e-12))
    exact = [reference(*state) for state in states]
    print(f"\n(a) one output, tanh, four values of c: true error at most {wanted:.0e} over {len(Q)} states near Q = 1")
    dense = GaussHermite(problem, 128)
    print(f"  the two agree to {max(worst_gap(dense(*s), e) for s, e in zip(states, exact, strict=True)):.1e}")
    order, gh_error, gh = fewest(lambda n: GaussHermite(problem, n), range(20, 129, 4), states, exact, wanted)
    rtol, error, _ = fewest(
        lambda rtol: plain(LimitCoefficients(problem, rtol=rtol)), (1e-4, 1e-5, 1e-6, 1e-7, 1e-8), states, exact, wanted
    )
    limit = LimitCoefficients(problem, rtol=rtol)
    data = limit.line_kernel().data
    stacked = Q[:, None, None], R[:, None]
    best = interleaved({
        "gh": lambda: [gh(q, r) for q, r in states],
        "compiled": lambda: loop(Q, R, data),
        "stacked": lambda: limit(*stacked),
        "single": lambda: [limit(q, r) for q, r in zip(*stacked, strict=True)],
    })  # fmt: skip
    best = {name: seconds / len(Q) for name, seconds in best.items()}
    show([
        (f"NumPy, {order} x {order} Gauss-Hermite nodes", gh_error, best["gh"], 1.0),
        (f"in a compiled loop (rtol {rtol:.0e})", error, best["compiled"], best["gh"] / best["compiled"]),
        ("LimitCoefficients, states stacked", error, best["stacked"], best["gh"] / best["stacked"]),
        ("LimitCoefficients, one state per call", error, best["single"], best["gh"] / best["single"]),
    ])  # fmt: skip


def ode(rtol=1e-8):
    """Print part (b)."""
    tau, kappa, start, t = 0.5, 0.1, np.array([0.3, 0.2]), np.linspace(0.0, 50.0, 51)
    problem = mv.Problem(
        hidden=HIDDEN, activation="tanh", learning_rate=tau, augmentation=NOISE, regularizer=mv.regularizers.L2(kappa)
    )
    initial = mv.initial.Gaussian(1.0, start)
    exact = mv.solve_ode(problem, initial, t_eval=t, rtol=1e-12, progress=False)
    exact = np.column_stack([exact.R[:, 0], exact.Q[:, 0, 0]])

    def by_hand(order, driver):
        gh = GaussHermite(problem, order)

        def slope(_, x):
            R, Q = x[:2], x[2]
            G, _, H, Lambda, _ = gh(Q, R)
            M, force = tau * (G + kappa), tau * H
            return np.array([*(-M * R - force), -2.0 * (M * Q + force @ R) + tau**2 * Lambda])

        y0 = np.append(start, start @ start + initial_variance(initial, problem))
        return solve_ivp(slope, (0.0, t[-1]), y0, method=driver, t_eval=t, rtol=rtol, atol=0.01 * rtol).y.T

    def ours():
        found = mv.solve_ode(problem, initial, t_eval=t, rtol=rtol, progress=False)
        return np.column_stack([found.R[:, 0], found.Q[:, 0, 0]])

    print(f"\n(b) ODE to t = 50, rtol {rtol:.0e}: largest error of Q and R at 51 times")
    candidates, errors = {}, {}
    for order, driver in ((64, "LSODA"), (96, "LSODA"), (128, "LSODA"), (128, "DOP853")):
        name = f"scipy {driver}, {order} x {order} Gauss-Hermite nodes"
        candidates[name] = lambda order=order, driver=driver: by_hand(order, driver)
    candidates["solve_ode: the law of the weights and a second run included"] = ours
    for name, call in candidates.items():
        errors[name] = np.abs(call() - exact).max()
    best = interleaved(candidates, turns=3)
    mine = list(candidates)[-1]
    show([(name, errors[name], best[name], best[name] / best[mine]) for name in candidates])


def initial_variance(initial, problem):
    """Return Q - |R|^2 of an initial law."""
    Q, R = initial.overlaps(problem)
    return float(Q[0, 0] - R[0] @ R[0])


class Sobol:
    """Coefficients of two outputs from scrambled Sobol points in the four pre-activations."""

    def __init__(self, problem, log2, seed=0):
        normal = qmc.Sobol(4, seed=seed).random_base2(log2)
        self.x = special.ndtri(normal)
        nodes = problem.hidden.nodes(1)
        self.c, self.p = nodes.points, nodes.weights
        self.eta, self.S = problem.background_variance, problem.noise_covariance
        self.strength = problem.loss.decorrelation

    def __call__(self, Q, R):
        """Return the coefficients for batch size 1; derivatives of alpha by hand, for tanh."""
        eta, S, strength = self.eta, self.S, self.strength
        covariance = eta * np.kron(np.ones((2, 2)), Q - R @ R.T) + np.kron(S, Q)
        values, vectors = np.linalg.eigh(covariance)
        g = self.x @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
        T, n = eta + S, len(g)
        D, A, AC, loss = np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((2, 2)), 0.0
        for c, p in zip(self.c, self.p, strict=True):
            y = np.tanh(g + np.tile(R @ c, 2))
            d = 1.0 - y * y
            y1, y2, d1, d2 = y[:, :2], y[:, 2:], d[:, :2], d[:, 2:]
            swapped1, swapped2 = y1[:, ::-1], y2[:, ::-1]
            # dF/dC = -1 on the diagonal, strength C_jl off it, with C_jl = y1_j y2_l
            g1 = -y2 + strength * y1 * swapped2**2
            g2 = -y1 + strength * y2 * swapped1**2
            a = np.concatenate([d1 * g1, d2 * g2], axis=1)
            A += (p / n) * a.T @ a
            AC += (p / n) * np.outer(a[:, :2].sum(axis=0) + a[:, 2:].sum(axis=0), c)
            own1, own2 = strength * swapped2**2, strength * swapped1**2
            D[0, 0] += (p / n) * np.sum(-2.0 * y1[:, 0] * d1[:, 0] * g1[:, 0] + d1[:, 0] ** 2 * own1[:, 0])
            D[1, 1] += (p / n) * np.sum(-2.0 * y1[:, 1] * d1[:, 1] * g1[:, 1] + d1[:, 1] ** 2 * own1[:, 1])
            D[2, 2] += (p / n) * np.sum(-2.0 * y2[:, 0] * d2[:, 0] * g2[:, 0] + d2[:, 0] ** 2 * own2[:, 0])
            D[3, 3] += (p / n) * np.sum(-2.0 * y2[:, 1] * d2[:, 1] * g2[:, 1] + d2[:, 1] ** 2 * own2[:, 1])
            D[:2, 2:] += (p / n) * (-np.diag((d1 * d2).sum(axis=0)))
            if strength:
                cross = 2.0 * strength * y1 * swapped2 * d1 * d2[:, ::-1]
                D[0, 3] += (p / n) * cross[:, 0].sum()
                D[1, 2] += (p / n) * cross[:, 1].sum()
            loss += p * (-(y1 * y2).sum() + 0.5 * strength * ((y1 * swapped2) ** 2).sum()) / n
        D[2:, :2] = D[:2, 2:].T
        blocks = D.reshape(2, 2, 2, 2)  # view, output, view, output
        G = np.einsum("vw,vjwk->jk", T, blocks)
        Gbar = blocks.sum(axis=(0, 2))
        Lambda = np.einsum("vw,vjwk->jk", T, A.reshape(2, 2, 2, 2))
        return G, Gbar, AC - eta * Gbar @ R, Lambda, loss


def two_outputs(strength, wanted=5e-6):
    """Print part (c)."""
    problem = mv.Problem(
        hidden=HIDDEN, activation="tanh", learning_rate=1.0, augmentation=NOISE, outputs=2,
        loss=mv.losses.Covariance(decorrelation=strength),
    )  # fmt: skip
    rng = np.random.default_rng(2)
    states = []
    for _ in range(3):
        W = rng.normal(size=(2, 5)) / np.sqrt(5.0)
        states.append((W @ W.T, W[:, :2]))

    def packed(coefficients):
        def evaluate(Q, R):
            c = coefficients(Q, R)
            return tuple(getattr(c, name) for name in NAMES)

        return evaluate

    reference = packed(LimitCoefficients(problem, rtol=1e-10))
    exact = [reference(*state) for state in states]
    print(f"\n(c) two outputs, lambda = {strength:g}: true error at most {wanted:.0e} over {len(states)} states")
    rtol, error, ours = fewest(
        lambda rtol: packed(LimitCoefficients(problem, rtol=rtol)),
        (1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        states,
        exact,
        wanted,
    )
    log2, sobol_error, sobol = fewest(lambda n: Sobol(problem, n), range(10, 21), states, exact, wanted)
    limit = LimitCoefficients(problem, rtol=rtol)
    stacked = np.stack([Q for Q, _ in states]), np.stack([R for _, R in states])
    best = interleaved({
        "sobol": lambda: [sobol(*state) for state in states],
        "stacked": lambda: limit(*stacked),
        "single": lambda: [ours(*state) for state in states],
    }, turns=3, least=0.0)  # fmt: skip
    best = {name: seconds / len(states) for name, seconds in best.items()}
    show([
        (f"NumPy, 2^{log2} Sobol points", sobol_error, best["sobol"], 1.0),
        (f"LimitCoefficients, stacked (rtol {rtol:.0e})", error, best["stacked"], best["sobol"] / best["stacked"]),
        ("LimitCoefficients, one state per call", error, best["single"], best["sobol"] / best["single"]),
    ])  # fmt: skip


def main():
    """Run all parts."""
    print(f"  {'':62s} {'error':>9s} {'time':>15s} {'ratio':>8s}")
    one_output()
    ode()
    for strength in (0.0, 0.7):
        two_outputs(strength)


if __name__ == "__main__":
    main()
