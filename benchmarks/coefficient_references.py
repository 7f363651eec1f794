"""Limit coefficients by other means than the package's: many-node tensor rules, mpmath, and closed forms.

Nothing here is shared with `mkvlasov.limit`. Problems have Gaussian noise and background, and B = 1 unless said
otherwise. Every function returns a dictionary with G, Gbar, H, Lambda and the loss at one state.
"""

import numpy as np
from scipy import special


def joint_law(problem, Q, R):
    """Return points and weights of the hidden law, and the covariance (2m, 2m) of the pre-activations given one."""
    points, weights, inner = problem.hidden.nodes(1)
    shared = R @ inner @ R.T + problem.background_variance * (Q - R @ R.T)
    return points, weights, np.kron(np.ones((2, 2)), shared) + np.kron(problem.noise_covariance, Q), inner


def _assembled(problem, R, inner, D, signal, squares, loss):
    """Combine blocks (2m, 2m) of E[d alpha / d h], E[alpha alpha^T] with E[sum_v alpha^(v) c^T] (theory, section 3)."""
    m, eta = problem.outputs, problem.background_variance
    T = eta + problem.noise_covariance
    D, squares = (x.reshape(2, m, 2, m) for x in (D, squares))
    G, Gbar = np.einsum("vw,vjwk->jk", T, D), np.einsum("vjwk->jk", D)
    Lambda = problem.rate(0.0) ** 2 / problem.batch_size * np.einsum("vw,vjwk->jk", T, squares)
    H = signal + Gbar @ R @ (inner - eta * np.eye(R.shape[1]))
    return {"G": G, "Gbar": Gbar, "H": H, "Lambda": Lambda, "loss": np.array(loss)}


def trapezoidal(deviation):
    """Return nodes and weights for a standard normal variable that moves a pre-activation by `deviation` at most."""
    # Below 1e-14 for poles at a distance of pi / 2: found by halving the spacing.
    n = int(np.ceil(8.5 / min(0.3, 0.2 / max(deviation, 1e-3))))
    x = 8.5 / n * np.arange(-n, n + 1)
    w = np.exp(-0.5 * x * x)
    return x, w / w.sum()


def hermite(order):
    """Return a function that gives a Gauss-Hermite rule, exact for polynomials of degree 2 order - 1."""
    x, w = np.polynomial.hermite_e.hermegauss(order)
    return lambda deviation: (x, w / w.sum())


def literal(problem, Q, R, rule=trapezoidal):
    """Average the literal gradient of one sample over a tensor rule in as many variables as the covariance has rank.

    For the covariance loss with any decorrelation. The work grows like (nodes)^rank.
    """
    m, strength, sigma = problem.outputs, problem.loss.decorrelation, problem.activation
    points, weights, covariance, inner = joint_law(problem, Q, R)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-13 * values[-1]
    factor = (vectors[:, kept] * np.sqrt(values[kept])).T
    rules = [rule(np.abs(row).max()) for row in factor]
    # The outermost variable is looped over, which bounds the memory.
    x, w = rules[0] if rules else (np.zeros(1), np.ones(1))
    first = factor[:1] if rules else np.zeros((1, 2 * m))
    others = list(rules[1:])
    grid = np.meshgrid(*[r[0] for r in others], indexing="ij") if others else [np.zeros(1)]
    rest = np.stack([g.ravel() for g in grid], axis=-1) @ (factor[1:] if others else np.zeros((1, 2 * m)))
    weight = np.ones(1)
    for _, v in others:
        weight = np.multiply.outer(weight, v).ravel()
    heavy = weight > 1e-18
    rest, weight = rest[heavy], weight[heavy]

    D, squares, signal, loss = np.zeros((2 * m, 2 * m)), np.zeros((2 * m, 2 * m)), np.zeros((m, R.shape[1])), 0.0
    off = strength * (1.0 - np.eye(m))
    for c, chance in zip(points, weights, strict=True):
        for node, share in zip(x, w, strict=True):
            h = np.tile(R @ c, 2) + node * first[0] + rest
            p = chance * share * weight
            y, d, s = sigma.value(h), sigma.derivative(h), sigma.second_derivative(h)
            (y1, y2), (d1, d2), (s1, s2) = ((z[:, :m], z[:, m:]) for z in (y, d, s))
            C = y1[:, :, None] * y2[:, None, :]
            M = off * C - np.eye(m)
            slope1, slope2 = (M * y2[:, None, :]).sum(axis=2), (M * y1[:, :, None]).sum(axis=1)
            alpha = np.hstack([d1 * slope1, d2 * slope2])
            squares += (alpha * p[:, None]).T @ alpha
            signal += np.outer(p @ alpha[:, :m] + p @ alpha[:, m:], c)
            own1 = s1 * slope1 + d1**2 * (off * y2[:, None, :] ** 2).sum(axis=2)
            own2 = s2 * slope2 + d2**2 * (off * y1[:, :, None] ** 2).sum(axis=1)
            D[:m, :m] += np.diag(p @ own1)
            D[m:, m:] += np.diag(p @ own2)
            mixed = np.einsum("n,njk,nj,nk->jk", p, M + off * C, d1, d2)
            D[:m, m:] += mixed
            D[m:, :m] += mixed.T
            loss += p @ (0.5 * (off * C**2).sum(axis=(1, 2)) - np.trace(C, axis1=1, axis2=2))
    return _assembled(problem, R, inner, D, signal, squares, loss)


def in_many_digits(problem, Q, R, digits=28):
    """Return the coefficients for one output and tanh, by a double trapezoidal sum in mpmath."""
    import mpmath

    points, weights, covariance, inner = joint_law(problem, Q, R)
    D, squares, signal, loss = np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((1, R.shape[1])), 0.0
    with mpmath.workdps(digits):
        s1, s2 = (mpmath.sqrt(covariance[i, i]) for i in (0, 1))
        r = covariance[0, 1] / (s1 * s2)
        q = mpmath.sqrt(max(1 - r * r, 0))
        step = mpmath.mpf("0.25") / max(s1, s2, 1)
        n = int(8 / step)
        x = [step * i for i in range(-n, n + 1)]
        w = [step * mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi) for z in x]
        for c, chance in zip(points, weights, strict=True):
            mean = float((R @ c)[0])
            sums = [mpmath.mpf(0)] * 8
            for u, wu in zip(x, w, strict=True):
                y1 = mpmath.tanh(mean + s1 * u)
                d1 = 1 - y1 * y1
                for z, wz in zip(x, w, strict=True):
                    p = wu * wz
                    if p < 1e-17:
                        continue
                    y2 = mpmath.tanh(mean + s2 * (r * u + q * z))
                    d2 = 1 - y2 * y2
                    a1, a2 = -d1 * y2, -d2 * y1
                    terms = (2 * y1 * y2 * d1, 2 * y1 * y2 * d2, -d1 * d2, a1 * a1, a2 * a2, a1 * a2, a1 + a2, -y1 * y2)
                    sums = [total + p * term for total, term in zip(sums, terms, strict=True)]
            f = chance * np.array([float(total) for total in sums])
            D += [[f[0], f[2]], [f[2], f[1]]]
            squares += [[f[3], f[5]], [f[5], f[4]]]
            signal += f[6] * c
            loss += f[7]
    return _assembled(problem, R, inner, D, signal, squares, loss)


def erf_closed(problem, Q, R):
    """Return the coefficients for erf, Gaussian hidden variables and no decorrelation (theory, section 10)."""
    _, _, C, inner = joint_law(problem, Q, R)
    one = 1.0 + np.diag(C)

    def yy(a, b):
        return 2.0 / np.pi * np.arcsin(C[a, b] / np.sqrt(one[a] * one[b]))

    def dd(a, b):
        return 2.0 / np.pi / np.sqrt(one[a] * one[b] - C[a, b] ** 2)

    def sy(a, b):
        return -2.0 / np.pi * C[a, b] / (one[a] * np.sqrt(one[a] * one[b] - C[a, b] ** 2))

    def ddyy(a, b, c, d):
        L4 = one[a] * one[b] - C[a, b] ** 2
        L0 = L4 * C[c, d] - C[b, c] * C[b, d] * one[a] - C[a, c] * C[a, d] * one[b]
        L0 += C[a, b] * (C[a, c] * C[b, d] + C[a, d] * C[b, c])
        L1, L2 = (
            L4 * one[e] - C[b, e] ** 2 * one[a] - C[a, e] ** 2 * one[b] + 2.0 * C[a, b] * C[a, e] * C[b, e]
            for e in (c, d)
        )
        return 4.0 / np.pi**2 * np.arcsin(L0 / np.sqrt(L1 * L2)) / np.sqrt(L4)

    return _without_decorrelation(problem, R, inner, yy, dd, sy, ddyy)


def _without_decorrelation(problem, R, inner, yy, dd, sy, ddyy):
    """Combine expectations over pre-activations numbered 0 ... 2m - 1, view 1 first, whose points are zero."""
    m = problem.outputs
    D, squares = np.zeros((2 * m, 2 * m)), np.zeros((2 * m, 2 * m))
    for j in range(m):
        D[j, j], D[m + j, m + j] = -sy(j, m + j), -sy(m + j, j)
        D[j, m + j] = D[m + j, j] = -dd(j, m + j)
        for k in range(m):
            squares[j, k], squares[m + j, m + k] = ddyy(j, k, m + j, m + k), ddyy(m + j, m + k, j, k)
            squares[j, m + k] = squares[m + k, j] = ddyy(j, m + k, m + j, k)
    return _assembled(problem, R, inner, D, np.zeros_like(R), squares, -sum(yy(j, m + j) for j in range(m)))


def relu_by_sectors(problem, Q, R, panels=40, order=20):
    """Return the coefficients for ReLU, Gaussian hidden variables, no decorrelation, and views that differ.

    E[1(a > 0) 1(b > 0) c_+ d_+] in polar coordinates of the quadrant c, d > 0, where the probability of a, b > 0 given
    c and d is Owen's bivariate normal one.
    """
    _, _, C, inner = joint_law(problem, Q, R)

    def angle(a, b):
        return np.arccos(np.clip(C[a, b] / np.sqrt(C[a, a] * C[b, b]), -1.0, 1.0))

    def yy(a, b):
        t = angle(a, b)
        return np.sqrt(C[a, a] * C[b, b]) / (2.0 * np.pi) * (np.sin(t) + (np.pi - t) * np.cos(t))

    def dd(a, b):
        return (np.pi - angle(a, b)) / (2.0 * np.pi)

    def sy(a, b):  # a point mass at zero, where b is half a normal variable
        left = max(C[b, b] - C[a, b] ** 2 / C[a, a], 0.0)
        return np.sqrt(left) / (2.0 * np.pi * np.sqrt(C[a, a]))

    x, w = np.polynomial.legendre.leggauss(order)
    x, w = (x + 1.0) / 2.0, w / 2.0

    def composite(breaks):
        widths = np.diff(breaks)
        return (breaks[:-1, None] + widths[:, None] * x).ravel(), (widths[:, None] * w).ravel()

    radius, radial = composite(np.linspace(0.0, 9.0, 10))
    half = np.concatenate([[0.0], 0.5 ** np.arange(panels, 0, -1.0)])
    portion, angular = composite(np.concatenate([half, 1.0 - half[-2::-1]]))

    def ddyy(a, b, c, d):
        if c == d and a == b:
            t = angle(a, c)
            return C[c, c] / (2.0 * np.pi) * (np.pi - t + np.sin(t) * np.cos(t))
        if (a, b) in ((c, d), (d, c)):
            return yy(c, d)
        root = np.linalg.cholesky(C[np.ix_([c, d], [c, d])])
        slope = C[np.ix_([a, b], [c, d])] @ np.linalg.inv(root).T
        left = C[np.ix_([a, b], [a, b])] - slope @ slope.T
        s = np.sqrt(np.maximum(np.diag(left), 1e-300))
        # The quadrant is the sector around e_1 + ... where both rows of root are positive.
        start, end = np.arctan2(-root[1, 0], root[1, 1]), np.pi / 2.0
        theta = (start + (end - start) * portion)[:, None]
        z = np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=-1)
        h, k = np.moveaxis(z @ slope.T / s, -1, 0)
        p = bivariate_cdf(h, k, np.clip(left[0, 1] / (s[0] * s[1]), -1.0, 1.0))
        value = np.prod(z @ root.T, axis=-1) * p * np.exp(-0.5 * radius**2) * radius / (2.0 * np.pi)
        return (end - start) * angular @ value @ radial

    return _without_decorrelation(problem, R, inner, yy, dd, sy, ddyy)


def bivariate_cdf(h, k, r):
    """Return P(X < h, Y < k) for standard normals with correlation |r| < 1, by Owen's T function."""
    h, k = (np.where(np.abs(x) < 1e-300, 1e-300, x) for x in (h, k))
    q = np.sqrt(max((1.0 - r) * (1.0 + r), 1e-30))
    total = 0.5 * (special.ndtr(h) + special.ndtr(k)) - 0.5 * (h * k < 0.0)
    return total - special.owens_t(h, (k - r * h) / (h * q)) - special.owens_t(k, (h - r * k) / (k * q))
