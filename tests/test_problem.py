"""The pieces of a problem: values, what they promise to the limit, and what they do to samples."""

import copy
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mkvlasov as mv
from mkvlasov.order_parameters import cosine_error, cosine_similarity, match_overlaps, orthonormalize, overlaps
from mkvlasov.problem.initial import GaussianMixture

ROWS = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
DRAWS = 400_000

HIDDEN = [
    mv.hidden.Rademacher([4.0, 3.0]),
    mv.hidden.Gaussian([2.0, 0.5]),
    mv.hidden.Uniform([1.0, 0.1]),
    mv.hidden.Laplace([1.5, 3.0]),
    mv.hidden.Sparse([1.0, 2.0], [3.0, 1.5]),
    mv.hidden.Discrete([[1.0, 2.0], [-1.0, 1.0], [0.0, -1.5]], [0.25, 0.25, 0.5]),
    mv.hidden.Empirical([[1.0, 2.0], [-1.0, 1.0], [2.0, -1.5], [-2.0, -1.5]]),
]
LOADINGS = [
    mv.loadings.Gaussian(),
    mv.loadings.Rademacher(),
    mv.loadings.Sparse(0.2),
    mv.loadings.Discrete([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], [0.25] * 4),
    mv.loadings.Empirical(ROWS),
]
REGULARIZERS = [
    mv.regularizers.Zero(),
    mv.regularizers.L1(0.4),
    mv.regularizers.L2(0.3),
    mv.regularizers.ElasticNet(0.2, 0.5),
    mv.regularizers.Huber(0.7, 0.5),
    mv.regularizers.DoubleWell(0.6),
    mv.regularizers.GroupLasso(0.5),
    mv.regularizers.Custom(np.cosh, np.sinh),
]
ACTIVATIONS = [
    *mv.activations.NAMED.values(),
    mv.activations.LeakyReLU(-0.3),
    mv.activations.Polynomial([0.5, 1.0, 0.2, -0.1]),
    mv.activations.Polynomial([2.0]),
    mv.activations.Custom(np.arctan),
    mv.activations.Custom(np.arctan, lambda h: 1.0 / (1.0 + h * h)),
]
AUGMENTATIONS = [
    mv.augmentations.GaussianNoise(0.0),
    mv.augmentations.GaussianNoise(0.5, -0.6),
    mv.augmentations.GaussianNoise([0.2, 0.9], 1.0),
    mv.augmentations.GaussianNoise([0.3, 0.3], -1.0),
    mv.augmentations.RandomMask(0.7),
    mv.augmentations.RandomMask(0.5, 0.0),
    mv.augmentations.RandomMask(0.6, 0.6),
    mv.augmentations.RandomMask(0.8, 0.65),
    mv.augmentations.RandomMask(1.0),
]


def _product_loss(y1, y2):
    return -np.tanh((y1 * y2).sum(axis=-1)) + 0.1 * (y1**2 + y2**4).sum(axis=-1)


LOSSES = [
    mv.losses.Covariance(),
    mv.losses.Covariance(decorrelation=0.7),
    mv.losses.Covariance(centered=True),
    mv.losses.Covariance(decorrelation=0.7, centered=True),
    mv.losses.Custom(_product_loss),
]


def _problem(**changes):
    arguments = {"hidden": mv.hidden.Rademacher([4.0, 3.0]), "activation": "tanh", "learning_rate": 0.4}
    return mv.Problem(**{**arguments, **changes})


def _names(pieces):
    return [f"{type(piece).__name__}{i}" for i, piece in enumerate(pieces)]


def _within_errors(sample_values, expected, errors=5.0):
    """Compare a mean over the first axis with its expectation; five standard errors are a chance of 6e-7 an entry."""
    mean = sample_values.mean(axis=0)
    error = sample_values.std(axis=0, ddof=1) / np.sqrt(len(sample_values))
    np.testing.assert_array_less(np.abs(mean - expected), errors * error + 1e-12)


# values


@pytest.mark.parametrize(
    "piece",
    [
        *HIDDEN,
        *LOADINGS,
        *REGULARIZERS,
        *ACTIVATIONS,
        *AUGMENTATIONS,
        *LOSSES,
        mv.schedules.PowerDecay(1.0, 2.0),
        mv.schedules.PiecewiseLinear([0.0, 2.0], [1.0, 0.1]),
    ],
    ids=repr,
)
def test_pieces_are_values(piece):
    twin = copy.deepcopy(piece)
    assert twin == piece
    assert hash(twin) == hash(piece)
    assert piece != "something else"
    assert type(piece).__name__ in repr(piece)
    assert "\n" not in repr(piece)
    for field in piece.__dataclass_fields__:
        with pytest.raises(AttributeError):
            setattr(piece, field, None)
        stored = getattr(piece, field)
        if isinstance(stored, np.ndarray):
            assert not stored.flags.writeable


def test_pieces_with_other_content_differ():
    assert mv.hidden.Rademacher([4.0, 3.0]) != mv.hidden.Rademacher([4.0, 3.1])
    assert mv.hidden.Rademacher([4.0, 3.0]) != mv.hidden.Gaussian([4.0, 3.0])
    assert mv.regularizers.L1(0.3) != mv.regularizers.L2(0.3)
    assert _problem() == _problem()
    assert hash(_problem()) == hash(_problem())
    assert _problem() != _problem(batch_size=2)
    assert _problem() != _problem(learning_rate=np.exp)


def test_a_problem_prints_so_that_it_can_be_typed_again():
    names = {name: item for module in (mv.hidden, mv.activations, mv.regularizers, mv.augmentations, mv.losses)
             for name, item in vars(module).items() if inspect.isclass(item)}  # fmt: skip
    names |= {"Problem": mv.Problem, "Sparse": mv.loadings.Sparse}
    problem = _problem(
        loadings=mv.loadings.Sparse(0.25),
        regularizer=mv.regularizers.ElasticNet(0.1, 0.2),
        augmentation=mv.augmentations.GaussianNoise([0.1, 0.2], 0.3),
    )
    assert eval(repr(problem), names) == problem


def test_arrays_that_are_passed_in_stay_with_their_owner():
    variance = np.array([4.0, 3.0])
    law = mv.hidden.Rademacher(variance)
    variance[0] = 100.0
    assert law == mv.hidden.Rademacher([4.0, 3.0])


# hidden variables


@pytest.mark.parametrize("law", HIDDEN, ids=_names(HIDDEN))
def test_samples_of_hidden_variables_have_the_stated_moments(law):
    c = law.sample(np.random.default_rng(1), (DRAWS,))
    assert c.shape == (DRAWS, law.n_features)
    assert law.sample(np.random.default_rng(1), (3, 4)).shape == (3, 4, law.n_features)
    _within_errors(c, 0.0)
    _within_errors(c[:, :, None] * c[:, None, :], law.covariance)
    _within_errors(c**4, law.kurtosis * np.diag(law.covariance) ** 2)


@pytest.mark.parametrize("law", HIDDEN, ids=_names(HIDDEN))
def test_nodes_of_hidden_variables_have_the_stated_moments(law):
    nodes = law.nodes(40)
    assert nodes.weights.sum() == pytest.approx(1.0, abs=1e-13)
    np.testing.assert_allclose(nodes.weights @ nodes.points, 0.0, atol=1e-12)
    second = (nodes.points * nodes.weights[:, None]).T @ nodes.points
    np.testing.assert_allclose(second + nodes.covariance, law.covariance, rtol=1e-11, atol=1e-12)
    v, g = np.diag(law.covariance), np.diag(nodes.covariance)
    fourth = nodes.weights @ (nodes.points**4 + 6.0 * nodes.points**2 * g) + 3.0 * g**2
    np.testing.assert_allclose(fourth, law.kurtosis * v**2, rtol=1e-10)


@pytest.mark.parametrize("law", HIDDEN, ids=_names(HIDDEN))
def test_nodes_and_samples_of_hidden_variables_are_of_one_law(law):
    """Compare characteristic functions: sensitive to all moments and to dependence."""
    c = law.sample(np.random.default_rng(2), (DRAWS,))
    nodes = law.nodes(40)
    for k in np.array([[0.5, 0.0], [0.3, -0.7], [0.0, 1.1]]):
        gaussian = np.exp(-0.5 * k @ nodes.covariance @ k)
        _within_errors(np.cos(c @ k), nodes.weights @ np.cos(nodes.points @ k) * gaussian)
        _within_errors(np.sin(c @ k), nodes.weights @ np.sin(nodes.points @ k) * gaussian)


@pytest.mark.parametrize("law", [law for law in HIDDEN if law.is_exact], ids=repr)
def test_exact_laws_have_the_same_nodes_whatever_the_order(law):
    for a, b in zip(law.nodes(1), law.nodes(30), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sparse_law_of_kurtosis_one_is_a_rademacher_law():
    a, b = mv.hidden.Sparse(2.0, 1.0).nodes(1), mv.hidden.Rademacher(2.0).nodes(1)
    np.testing.assert_allclose(a.points, b.points)
    np.testing.assert_allclose(a.weights, b.weights)


# loadings


@pytest.mark.parametrize("law", LOADINGS, ids=_names(LOADINGS))
def test_loadings_have_identity_second_moments_and_nodes_of_the_same_law(law):
    a = law.sample(np.random.default_rng(3), DRAWS, 2)
    nodes = law.nodes(2, 30)
    assert a.shape == (DRAWS, 2)
    _within_errors(a, law.mean(2))
    _within_errors(a[:, :, None] * a[:, None, :], np.eye(2))
    np.testing.assert_allclose(nodes.weights.sum(), 1.0, atol=1e-13)
    np.testing.assert_allclose(nodes.weights @ nodes.points, law.mean(2), atol=1e-13)
    np.testing.assert_allclose((nodes.points * nodes.weights[:, None]).T @ nodes.points, np.eye(2), atol=1e-12)
    k = np.array([0.4, -0.9])
    _within_errors(np.cos(a @ k), nodes.weights @ np.cos(nodes.points @ k))


def test_one_sparse_feature_has_loadings_of_one_sign():
    law = mv.loadings.Sparse(0.25)
    np.testing.assert_array_equal(law.nodes(1, 9).points, [[0.0], [2.0]])
    np.testing.assert_array_equal(law.nodes(1, 9).weights, [0.75, 0.25])
    _within_errors(law.sample(np.random.default_rng(4), DRAWS, 1), law.mean(1))
    assert set(np.unique(law.sample(np.random.default_rng(4), 100, 1))) == {0.0, 2.0}


# activations


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=_names(ACTIVATIONS))
def test_derivatives_of_activations_are_those_of_their_values(activation):
    """Differences of order two with step 1e-4: truncation and rounding both below 1e-7 and 1e-6."""
    h = np.concatenate([np.linspace(-4.0, -0.05, 40), np.linspace(0.05, 4.0, 40)]).reshape(2, 40)
    step = 1e-4
    slope = (activation.value(h + step) - activation.value(h - step)) / (2.0 * step)
    curvature = (activation.derivative(h + step) - activation.derivative(h - step)) / (2.0 * step)
    np.testing.assert_allclose(activation.derivative(h), slope, atol=1e-7)
    np.testing.assert_allclose(activation.second_derivative(h), curvature, atol=1e-6)
    for f in (activation.value, activation.derivative, activation.second_derivative):
        assert f(h).shape == h.shape


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=_names(ACTIVATIONS))
def test_kinks_of_activations_are_the_jumps_of_their_derivatives(activation):
    near = 1e-9
    jumps = dict(activation.kinks)
    sides = activation.derivative(np.array([-near, near]))
    assert jumps.get(0.0, 0.0) == pytest.approx(sides[1] - sides[0], abs=1e-6)
    assert set(jumps) <= {0.0}


def test_named_activations_are_the_functions_of_that_name():
    h = np.array([-1.3, 0.4])
    values = {name: _problem(activation=name).activation.value(h) for name in mv.activations.NAMED}
    np.testing.assert_allclose(values["tanh"], np.tanh(h))
    np.testing.assert_allclose(values["erf"], [-0.8063990308287797, 0.3108434832206484], rtol=1e-13)  # erf(h / sqrt 2)
    np.testing.assert_allclose(values["relu"], [0.0, 0.4])
    np.testing.assert_allclose(values["leaky_relu"], [-0.013, 0.4])
    np.testing.assert_allclose(values["softplus"], np.log(1.0 + np.exp(h)))
    np.testing.assert_allclose(values["sigmoid"], 1.0 / (1.0 + np.exp(-h)))
    np.testing.assert_allclose(values["identity"], h)


@pytest.mark.parametrize("name", ["softplus", "sigmoid", "tanh", "erf"])
def test_activations_do_not_overflow(name):
    activation = mv.activations.NAMED[name]
    h = np.array([-1e4, 1e4])
    for f in (activation.value, activation.derivative, activation.second_derivative):
        assert np.isfinite(f(h)).all()


# regularizers


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=_names(REGULARIZERS))
def test_gradients_of_regularizers_are_those_of_their_values(regularizer):
    w = np.random.default_rng(5).uniform(-2.0, 2.0, size=(50, 3))
    w[np.abs(w) < 1e-3] = 0.1
    step = 1e-5
    gradient = regularizer.gradient(w)
    assert regularizer.value(w).shape == (50,)
    assert gradient.shape == w.shape
    for j in range(3):
        shift = step * np.eye(3)[j]
        slope = (regularizer.value(w + shift) - regularizer.value(w - shift)) / (2.0 * step)
        # Huber's second derivative jumps: a difference across the jump is off by strength / delta * step / 4 = 4e-6.
        np.testing.assert_allclose(gradient[:, j], slope, atol=5e-6)


@pytest.mark.parametrize("regularizer", [r for r in REGULARIZERS if r.has_proximal], ids=repr)
@pytest.mark.parametrize("step", [0.01, 0.7])
def test_proximal_operators_minimize_what_they_should(regularizer, step):
    """No point of a cloud around prox(w) does better, and the point itself does not lose to where it came from."""
    rng = np.random.default_rng(6)
    w = rng.uniform(-2.0, 2.0, size=(200, 2))
    w[:20] *= 0.02
    u = regularizer.proximal(w, step)

    def objective(point):
        return regularizer.value(point) + ((point - w) ** 2).sum(axis=-1) / (2.0 * step)

    best = objective(u)
    for size in (1e-4, 1e-2, 0.3):
        for _ in range(40):
            assert (best <= objective(u + size * rng.standard_normal(u.shape)) + 1e-12).all()
    assert (best <= objective(np.zeros_like(u)) + 1e-12).all()


@pytest.mark.parametrize("regularizer", [r for r in REGULARIZERS if r.has_proximal and not r.kinks], ids=repr)
def test_smooth_proximal_operators_solve_their_equation(regularizer):
    w = np.linspace(-3.0, 3.0, 61)[:, None]
    for step in (1e-6, 0.3, 1.1):
        u = regularizer.proximal(w, step)
        np.testing.assert_allclose(u + step * regularizer.gradient(u), w, atol=1e-9)


def test_sparse_regularizers_give_exact_zeros_and_group_lasso_whole_rows():
    w = np.array([[0.3, -0.05], [0.03, 0.04], [0.0, 0.0]])
    np.testing.assert_allclose(mv.regularizers.L1(1.0).proximal(w, 0.1), [[0.2, 0.0], [0.0, 0.0], [0.0, 0.0]])
    rows = mv.regularizers.GroupLasso(1.0).proximal(w, 0.1)
    assert (rows[0] != 0.0).all()
    np.testing.assert_array_equal(rows[1:], 0.0)
    one = np.linspace(-1.0, 1.0, 9)[:, None]
    np.testing.assert_allclose(
        mv.regularizers.GroupLasso(0.5).proximal(one, 0.4), mv.regularizers.L1(0.5).proximal(one, 0.4), atol=1e-15
    )


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=_names(REGULARIZERS))
def test_the_linear_strength_says_whether_the_gradient_is_linear(regularizer):
    w = np.array([[-1.5], [-0.2], [0.7], [2.0]])
    ratio = regularizer.gradient(w) / w
    linear = np.ptp(ratio) < 1e-12
    assert linear == (regularizer.linear_strength is not None)
    if linear:
        np.testing.assert_allclose(ratio, regularizer.linear_strength)


def test_the_linear_strength_sees_regularizers_that_are_switched_off():
    off = [mv.regularizers.L1(0.0), mv.regularizers.GroupLasso(0.0), mv.regularizers.ElasticNet(0.0, 0.0)]
    off += [mv.regularizers.Huber(0.0, 1.0), mv.regularizers.DoubleWell(0.0)]
    assert [r.linear_strength for r in off] == [0.0] * len(off)
    assert mv.regularizers.ElasticNet(0.0, 0.3).linear_strength == 0.3


# losses


@pytest.mark.parametrize("loss", LOSSES, ids=_names(LOSSES))
@pytest.mark.parametrize("shape", [(1, 2), (3, 1), (5, 4, 3)])
def test_gradients_of_losses_are_those_of_their_values(loss, shape):
    rng = np.random.default_rng(7)
    y = [rng.standard_normal(shape), rng.standard_normal(shape)]
    gradients = loss.output_gradient(*y)
    step = 1e-5
    assert loss.value(*y).shape == shape[:-2]
    for view in (0, 1):
        for b in range(shape[-2]):
            for j in range(shape[-1]):
                moved = [[x.copy() for x in y] for _ in range(2)]
                moved[0][view][..., b, j] += step
                moved[1][view][..., b, j] -= step
                slope = (loss.value(*moved[0]) - loss.value(*moved[1])) / (2.0 * step)
                # Rounding 1e-16 / step and truncation step^2, times values of order ten.
                np.testing.assert_allclose(gradients[view][..., b, j], slope, atol=1e-8)


def test_the_covariance_loss_is_the_formula():
    rng = np.random.default_rng(8)
    y1, y2 = rng.standard_normal((2, 5, 3))
    c = sum(np.outer(a, b) for a, b in zip(y1, y2, strict=True)) / 5
    off = sum(c[j, k] ** 2 for j in range(3) for k in range(3) if j != k)
    assert mv.losses.Covariance(0.7).value(y1, y2) == pytest.approx(-np.trace(c) + 0.35 * off)
    centred = mv.losses.Covariance(centered=True).value(y1, y2)
    assert centred == pytest.approx(-np.trace(np.cov(y1.T, y2.T, ddof=0)[:3, 3:]))
    shifted = mv.losses.Covariance(0.7, True)
    assert shifted.value(y1 + 1.0, y2 - 2.0) == pytest.approx(shifted.value(y1, y2))


def test_a_custom_loss_takes_the_gradient_that_it_is_given():
    y1, y2 = np.random.default_rng(9).standard_normal((2, 4, 2))
    given_gradient = mv.losses.Custom(lambda a, b: -(a * b).sum(axis=-1), gradient=lambda a, b: (-b, -a))
    for mine, built_in in zip(
        given_gradient.output_gradient(y1, y2), mv.losses.Covariance().output_gradient(y1, y2), strict=True
    ):
        np.testing.assert_allclose(mine, built_in)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
@pytest.mark.parametrize("loss", LOSSES, ids=_names(LOSSES))
def test_alpha_is_the_derivative_of_the_literal_loss(activation, loss):
    problem = _problem(activation=activation, loss=loss, outputs=2, batch_size=3)
    rng = np.random.default_rng(10)
    h = [rng.standard_normal((3, 2)), rng.standard_normal((3, 2))]
    alphas = problem.alpha(*h)
    step = 1e-5

    def literal(h1, h2):
        return problem.batch_loss(problem.activation.value(h1), problem.activation.value(h2))

    for view, b, j in np.ndindex(2, 3, 2):
        up, down = [x.copy() for x in h], [x.copy() for x in h]
        up[view][b, j] += step
        down[view][b, j] -= step
        slope = (literal(*up) - literal(*down)) / (2.0 * step)
        assert alphas[view][b, j] == pytest.approx(slope, abs=1e-8)


# augmentations


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=_names(AUGMENTATIONS))
def test_views_have_the_noise_that_the_limit_sees(augmentation):
    """For x ~ N(0, eta) per coordinate the noises of the views have covariance S, and are uncorrelated with x."""
    eta = 1.7
    rng = np.random.default_rng(11)
    x = np.sqrt(eta) * rng.standard_normal((40, 10_000))
    views = augmentation.views(rng, x)
    noise = np.stack([(view - x).ravel() for view in views], axis=1)
    S = augmentation.noise_covariance(eta)
    _within_errors(noise, 0.0)
    _within_errors(noise[:, :, None] * noise[:, None, :], S)
    _within_errors(noise * x.ravel()[:, None], 0.0)
    assert np.linalg.eigvalsh(S).min() > -1e-12


def test_masks_keep_as_often_and_as_often_together_as_stated():
    x = np.ones((100, 5000))
    for mask in (a for a in AUGMENTATIONS if isinstance(a, mv.augmentations.RandomMask)):
        first, second = mask.views(np.random.default_rng(12), x)
        for view in (first, second):
            assert set(np.unique(view)) <= {0.0, 1.0 / mask.keep}
            _within_errors((view > 0.0).ravel().astype(float), mask.keep)
        _within_errors(((first > 0.0) & (second > 0.0)).ravel().astype(float), mask.overlap)


def test_perfectly_correlated_noise_is_the_same_in_both_views():
    rng = np.random.default_rng(13)
    x = np.zeros(100)
    first, second = mv.augmentations.GaussianNoise([0.2, 0.9], 1.0).views(rng, x)
    np.testing.assert_allclose(second, 4.5 * first)
    first, second = mv.augmentations.GaussianNoise(0.3, -1.0).views(rng, x)
    np.testing.assert_allclose(second, -first)


# initial laws


INITIAL = [
    mv.initial.Gaussian([[1.5, 0.3], [0.3, 1.0]], [[0.6, 0.1], [0.2, 0.5]]),
    mv.initial.Gaussian(2.0, 0.0),
    mv.initial.Point([0.5, -1.0]),
    mv.initial.Mixture([0.3, 0.7], [mv.initial.Point([0.5, -1.0]), mv.initial.Gaussian(1.0, [[0.4, 0.0], [0.0, 0.3]])]),
    mv.initial.Empirical([[1.0, 2.0], [0.5, 0.0], [-1.0, 1.0], [2.0, -0.5]], ROWS),
]


@pytest.mark.parametrize("law", INITIAL, ids=_names(INITIAL))
@pytest.mark.parametrize("loadings", [mv.loadings.Rademacher(), mv.loadings.Gaussian()], ids=repr)
def test_initial_laws_have_the_stated_overlaps(law, loadings):
    problem = _problem(outputs=2, loadings=loadings)
    Q, R = law.overlaps(problem)
    w, a = law.sample_rows(np.random.default_rng(14), DRAWS, problem)
    _within_errors(w[:, :, None] * w[:, None, :], Q)
    _within_errors(w[:, :, None] * a[:, None, :], R)
    nodes = law.loading_nodes(problem, 20)
    mixtures = [law.conditional(point, problem) for point in nodes.points]
    first = np.array([m.weights @ m.means for m in mixtures])
    second = np.array(
        [np.einsum("j,jab->ab", m.weights, m.covariances + m.means[:, :, None] * m.means[:, None, :]) for m in mixtures]
    )
    np.testing.assert_allclose(np.einsum("l,lab->ab", nodes.weights, second), Q, atol=1e-12)
    np.testing.assert_allclose(np.einsum("l,la,lk->ak", nodes.weights, first, nodes.points), R, atol=1e-12)


@pytest.mark.parametrize("law", INITIAL, ids=_names(INITIAL))
def test_rows_follow_the_conditional_law_given_their_loading(law):
    problem = _problem(outputs=2, loadings=mv.loadings.Rademacher())
    w, a = law.sample_rows(np.random.default_rng(15), DRAWS, problem)
    k = np.array([0.7, -0.4])
    for loading in ROWS:
        mixture = law.conditional(np.array(loading), problem)
        chosen = w[(a == loading).all(axis=1)]
        spread = np.exp(-0.5 * np.einsum("a,jab,b->j", k, mixture.covariances, k))
        _within_errors(np.cos(chosen @ k), mixture.weights @ (np.cos(mixture.means @ k) * spread))
        _within_errors(np.sin(chosen @ k), mixture.weights @ (np.sin(mixture.means @ k) * spread))


def test_a_gaussian_start_at_the_edge_of_what_is_possible_is_allowed():
    law = mv.initial.Gaussian(1.0, [0.6, 0.8])
    w, a = law.sample_rows(np.random.default_rng(16), 50, _problem())
    # The covariance is zero up to rounding, 1e-16, whose square root is seen.
    np.testing.assert_allclose(w[:, 0], a @ [0.6, 0.8], atol=1e-6)


def test_densities_and_distribution_functions_of_mixtures_agree():
    mixture = GaussianMixture(np.array([0.25, 0.75]), np.array([[-1.0], [0.5]]), np.array([[[0.3]], [[1.2]]]))
    w = np.linspace(-12.0, 12.0, 4001)
    middle = 0.5 * (w[1:] + w[:-1])
    # Midpoint rule against differences: error below width^2 / 24 times the second derivative, 3e-6.
    np.testing.assert_allclose(np.diff(mixture.cdf(w)) / np.diff(w), mixture.pdf(middle), atol=1e-5)
    assert mixture.cdf(np.array([50.0]))[0] == pytest.approx(1.0)
    point = GaussianMixture(np.ones(1), np.array([[0.5]]), np.zeros((1, 1, 1)))
    np.testing.assert_array_equal(point.cdf(np.array([0.4, 0.6])), [0.0, 1.0])


def test_affine_images_of_mixtures_are_those_of_their_samples():
    rng = np.random.default_rng(17)
    mixture = INITIAL[3].conditional(np.array([1.0, -1.0]), _problem(outputs=2))
    A, shift, P = rng.normal(size=(2, 2)), rng.normal(size=2), np.array([[0.5, 0.2], [0.2, 0.4]])
    image = mixture.affine(A, shift, P)
    np.testing.assert_allclose(image.means, (A @ mixture.means.T).T + shift)
    for before, after in zip(mixture.covariances, image.covariances, strict=True):
        np.testing.assert_allclose(after, A @ before @ A.T + P)


# order parameters


@st.composite
def _rows(draw):
    m, k, n = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(20, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w, a = rng.normal(size=(n, m)), orthonormalize(rng.normal(size=(n, k)))
    R = 0.3 * rng.normal(size=(m, k))
    root = rng.normal(size=(m, m))
    return w, a, root @ root.T + 0.1 * np.eye(m) + R @ R.T, R


@settings(max_examples=50, deadline=None, derandomize=True)
@given(_rows())
def test_overlaps_can_be_matched_exactly(rows):
    w, a, Q, R = rows
    np.testing.assert_allclose(a.T @ a / len(a), np.eye(a.shape[1]), atol=1e-12)
    Q_found, R_found = overlaps(match_overlaps(w, a, Q, R), a)
    np.testing.assert_allclose(Q_found, Q, atol=1e-10 * np.abs(Q).max())
    np.testing.assert_allclose(R_found, R, atol=1e-10)


def test_matching_overlaps_moves_typical_weights_little():
    """The correction is that of the fluctuations, O(1 / sqrt N); factor 5 for the sum over a few directions."""
    problem = _problem()
    law = mv.initial.Gaussian(1.0, [0.3, 0.2])
    n = 10_000
    w, a = law.sample_rows(np.random.default_rng(18), n, problem)
    a = orthonormalize(a)
    moved = match_overlaps(w, a, *law.overlaps(problem))
    assert np.sqrt(np.mean((moved - w) ** 2)) < 5.0 / np.sqrt(n)


def test_overlaps_of_fully_learned_features_can_be_matched():
    a = orthonormalize(np.random.default_rng(19).normal(size=(50, 2)))
    w = np.random.default_rng(20).normal(size=(50, 1))
    R = np.array([[0.6, 0.8]])
    np.testing.assert_allclose(match_overlaps(w, a, R @ R.T, R), a @ R.T, atol=1e-7)


def test_overlaps_of_a_start_without_spread_cannot_be_matched():
    a = orthonormalize(np.random.default_rng(21).normal(size=(50, 1)))
    with pytest.raises(ValueError, match="spread"):
        match_overlaps(0.0 * a, a, np.eye(1), np.full((1, 1), 0.3))


def test_cosine_similarity_is_the_cosine_of_an_angle():
    rng = np.random.default_rng(22)
    a = orthonormalize(rng.normal(size=(100, 2)))
    w = rng.normal(size=(100, 3))
    Q, R = overlaps(w, a)
    angle = (w.T @ a) / np.outer(np.linalg.norm(w, axis=0), np.linalg.norm(a, axis=0))
    np.testing.assert_allclose(cosine_similarity(Q, R), angle, atol=1e-12)
    np.testing.assert_array_equal(cosine_similarity(np.zeros((1, 1)), np.zeros((1, 2))), 0.0)
    Q_error, R_error = 1e-6 * rng.random(Q.shape), 1e-6 * rng.random(R.shape)
    worst = np.abs(cosine_similarity(Q - Q_error, R + np.sign(R) * R_error) - cosine_similarity(Q, R))
    np.testing.assert_allclose(cosine_error(Q, R, Q_error, R_error), worst, rtol=1e-4)


# schedules and the rest of the problem


def test_schedules_are_their_formulas():
    assert mv.schedules.ExponentialDecay(1.0, 2.0, 0.2)(0.0) == 1.0
    assert mv.schedules.ExponentialDecay(1.0, 2.0, 0.2)(2.0) == pytest.approx(0.2 + 0.8 / np.e)
    assert mv.schedules.PowerDecay(0.5, 2.0, 0.5)(6.0) == pytest.approx(0.25)
    linear = mv.schedules.PiecewiseLinear([1.0, 2.0, 4.0], [0.5, 0.3, 0.1])
    assert [linear(t) for t in (0.0, 1.5, 3.0, 9.0)] == pytest.approx([0.5, 0.4, 0.2, 0.1])
    problem = _problem(learning_rate=mv.schedules.PowerDecay(0.5, 2.0))
    assert not problem.rate_is_constant
    assert problem.rate(2.0) == pytest.approx(0.25)
    assert _problem().rate_is_constant
    assert _problem().rate(17.0) == 0.4


def test_defaults_of_a_problem_are_those_of_the_documentation():
    problem = _problem()
    assert problem.regularizer == mv.regularizers.Zero()
    assert problem.loss == mv.losses.Covariance(0.0, False)
    assert problem.loadings == mv.loadings.Gaussian()
    assert (problem.outputs, problem.batch_size, problem.background_variance) == (1, 1, 1.0)
    assert problem.constraint is None
    assert problem.n_features == 2
    np.testing.assert_array_equal(problem.noise_covariance, np.zeros((2, 2)))


def test_noise_of_a_mask_scales_with_the_background():
    mask = mv.augmentations.RandomMask(0.5, 0.0)
    problem = _problem(augmentation=mask, background_variance=2.0)
    np.testing.assert_allclose(problem.noise_covariance, [[2.0, -2.0], [-2.0, 2.0]])
