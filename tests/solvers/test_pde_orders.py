"""Every PDE method converges as fast as it should: in the mesh, kinks included, and in the time step.

A method is enrolled by one entry of `METHODS` in benchmarks/pde_convergence.py, which prints the full table.
"""

import pytest
from pde_convergence import METHODS, kinked_errors, order, smooth_errors, time_errors

import mkvlasov as mv


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_order_in_the_spacing_for_a_smooth_regularizer(entry):
    sizes = entry.sizes[:2]
    assert order(smooth_errors(entry, sizes), sizes) > entry.smooth - 0.3


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_a_kink_does_not_cost_the_order(entry):
    sizes = entry.sizes[:2]
    if entry.kinked is None:
        with pytest.raises(mv.UnsupportedError, match=r"L1\(.*kink at w = 0.*FiniteVolumes"):
            kinked_errors(entry, sizes)
    else:
        assert order(kinked_errors(entry, sizes), sizes) > entry.kinked - 0.3


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_order_in_the_time_step(entry):
    assert order(*time_errors(entry, entry.tolerances[:2])) > entry.time - 0.5
