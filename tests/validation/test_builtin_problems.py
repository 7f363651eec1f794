"""Every built-in problem validates, and SGD of a slightly different problem is told from it.

Seeds were fixed before looking. One validation per problem is run and shared by the tests of this module.
"""

import dataclasses
import functools

import pytest

import mkvlasov as mv
from mkvlasov.configuration import read_problem_file

NAMES = list(mv.builtin_problems())


@functools.cache
def report_of(name):
    file = read_problem_file(name)
    run = file.run
    return mv.validate(
        file.problem, file.initial, run.t_final, times=run.times, dimension=1000, runs=16, particles=run.particles,
        rng=20261123, progress=False,
    )  # fmt: skip


def faster(problem):
    return dataclasses.replace(problem, learning_rate=1.1 * problem.learning_rate)


def stronger(problem):
    return dataclasses.replace(
        problem, hidden=dataclasses.replace(problem.hidden, variance=1.1 * problem.hidden.variance)
    )


@pytest.mark.parametrize("name", NAMES)
def test_all_routes_agree(name):
    report = report_of(name)
    assert report.passed, str(report)
    assert "sgd" in report.solutions


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [faster, stronger])
def test_sgd_of_a_problem_that_differs_by_ten_percent_is_rejected(name, wrong):
    report = report_of(name)
    reference = next(iter(report.solutions.values()))
    other = mv.simulate_sgd(
        wrong(report.problem), report.initial, t_eval=reference.t, dimension=1000, runs=16, rng=20261124,
        exact_overlaps=True, progress=False,
    )  # fmt: skip
    comparison = mv.compare(reference, other)
    assert not comparison.passed
    assert not comparison.failures  # rejected for its numbers, not because it ended early
