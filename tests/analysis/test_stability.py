"""Types of fixed points on Jacobians with known answers."""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.analysis import classify

ROTATION = np.array([[0.0, 1.0], [-1.0, 0.0]])

TABLE = [
    (np.diag([-1.0, -2.0]), "stable node", 0, 0),
    (np.diag([1.0, 2.0, 0.5]), "unstable node", 3, 0),
    (np.diag([1.0, -2.0, 3.0]), "saddle", 2, 0),
    (-0.1 * np.eye(2) + ROTATION, "stable focus", 0, 0),
    (0.1 * np.eye(2) + ROTATION, "unstable focus", 2, 0),
    (np.block([[-0.1 * np.eye(2) + ROTATION, np.zeros((2, 1))], [np.zeros((1, 2)), np.eye(1)]]), "saddle focus", 1, 0),
    (ROTATION, "degenerate", 0, 2),  # centre: Hopf
    (np.diag([0.0, -1.0]), "degenerate", 0, 1),  # fold or pitchfork
    (np.diag([0.0, 1.0, -1.0]), "degenerate", 1, 1),
    (np.array([[0.0, 1.0], [0.0, 0.0]]), "degenerate", 0, 2),  # Takens-Bogdanov, defective
    (np.array([[-1.0, 1.0], [0.0, -1.0]]), "stable node", 0, 0),  # defective, and still decided
    (np.array([[-2.0]]), "stable node", 0, 0),
]


@pytest.mark.parametrize(("jacobian", "kind", "unstable", "centre"), TABLE)
def test_types_do_not_depend_on_the_basis(jacobian, kind, unstable, centre):
    rng = np.random.default_rng(5)
    n = len(jacobian)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0] @ np.diag(rng.uniform(0.5, 2.0, n))
    for matrix in (jacobian, basis @ jacobian @ np.linalg.inv(basis)):
        found = classify(matrix)
        assert (found.type, found.unstable_dimension, found.centre_dimension) == (kind, unstable, centre)
        assert (np.diff(found.eigenvalues.real) <= 0.0).all()
        np.testing.assert_allclose(matrix @ found.eigenvectors, found.eigenvectors * found.eigenvalues, atol=1e-12)
        np.testing.assert_allclose(
            np.sort_complex(found.eigenvalues.round(6)),
            np.sort_complex(np.linalg.eigvals(jacobian).round(6)),
            atol=1e-6,
        )


def test_what_the_error_of_the_jacobian_leaves_open_is_degenerate():
    assert classify(np.diag([-1e-3, -1.0]), 1e-5).type == "stable node"
    assert classify(np.diag([-1e-3, -1.0]), 1e-3).type == "degenerate"


def test_the_bound_of_the_eigenvalues_holds_for_defective_matrices():
    """The eigenvalues of [[0, 1], [e, 0]] are +-sqrt(e): far more than e."""
    matrix = np.array([[-1.0, 1.0], [0.0, -1.0]])
    moved = np.linalg.eigvals(matrix + np.array([[0.0, 0.0], [1e-6, 0.0]]))
    bound = classify(matrix, 1e-6).error
    assert np.abs(moved + 1.0).max() <= bound < 1.0


def test_a_state_that_moves_has_no_stability():
    system = mv.reduce(mv.read_problem("contrastive")[0])
    with pytest.raises(mv.InvalidInput, match=r"^point: .*the rates vanish"):
        system.stability(([[1.0]], [[0.3, 0.2]]))
    with pytest.raises(mv.InvalidInput, match=r"^point: .*positive semidefinite"):
        system.stability(([[1.0]], [[0.9, 0.9]]))
    with pytest.raises(mv.InvalidInput, match=r"^point: got 3"):
        system.stability(3)
