"""Time of every route on the built-in problems, side by side in one run.

    python benchmarks/routes.py [NAME ...]

Prints, for each problem, the median time of one evaluation of the limit coefficients at the start, and the time and
estimated error of each route up to the problem's own final time. Absolute times depend on the machine and on what
else it does; compare them within one run.
"""

import sys
import time

import numpy as np

import mkvlasov as mv
from mkvlasov.configuration import read_problem_file
from mkvlasov.limit.closure import closure_obstacles
from mkvlasov.limit.coefficients import LimitCoefficients


def evaluation(problem, initial, rtol, repeats=50):
    """Return the median time of one evaluation, in milliseconds, after a first one that fills the caches."""
    coefficients = LimitCoefficients(problem, rtol=rtol)
    Q, R = initial.overlaps(problem)
    coefficients(Q, R)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        coefficients(Q, R)
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def routes_of(file):
    """Return the routes that apply to a problem, as functions without arguments."""
    problem, initial, run, t = file.problem, file.initial, file.run, file.run.t_eval
    routes = {}
    if not closure_obstacles(problem):
        routes["ode"] = lambda: mv.solve_ode(problem, initial, t_eval=t)
    if problem.outputs == 1:
        routes["pde"] = lambda: mv.solve_pde(problem, initial, t_eval=t)
    drawn = {"t_eval": t, "runs": run.runs, "rng": 0}
    routes["particles"] = lambda: mv.simulate_particles(problem, initial, particles=run.particles, **drawn)
    routes["sgd"] = lambda: mv.simulate_sgd(problem, initial, dimension=run.dimension, **drawn)
    return routes


def main(names):
    for name in names:
        file = read_problem_file(name)
        print(f"\n{name}")
        for rtol in (1e-5, 1e-8):
            spent = evaluation(file.problem, file.initial, rtol)
            print(f"  coefficients, rtol {rtol:.0e}: {spent:8.3f} ms per evaluation")
        for route, solve in routes_of(file).items():
            started = time.perf_counter()
            solution = solve()
            seconds = time.perf_counter() - started
            print(f"  {route:10s} {seconds:8.2f} s   estimated error {solution.stats['error_estimate']:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(mv.builtin_problems()))
