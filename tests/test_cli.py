"""The command line: what is printed where, what is written, and the exit status."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov import cli, configuration

SMALL = """
[problem]
activation = "tanh"
learning_rate = {rate}
[problem.hidden]
law = "Rademacher"
variance = 4.0
[problem.regularizer]
name = "L2"
strength = 0.3
[initial]
law = "Gaussian"
R = 0.3
[run]
t_final = 0.4
times = 3
dimension = 100
runs = 4
particles = 400
seed = 1
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(rate=0.4))
    return path


@pytest.fixture
def run(capsys):
    """Call the command line in this process; returns exit status, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return call


def test_validate_writes_a_report_and_ends_with_status_zero(run, small, tmp_path):
    status, out, _ = run("validate", small, "-o", tmp_path / "report")
    assert status == 0
    assert "PASSED" in out
    assert "report" in out.splitlines()[-1]
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["passed"] is True
    settings = summary["settings"]
    wanted = {"t_final": 0.4, "times": 3, "dimension": 100, "runs": 4, "particles": 400}
    assert {name: settings[name] for name in wanted} == wanted
    assert (tmp_path / "report" / "report.md").is_file()
    again = mv.load(tmp_path / "report" / "results" / "ode.nc")
    assert again.problem == mv.read_problem(small)[0]


def test_a_validation_that_does_not_pass_ends_with_status_one(run, small, tmp_path, monkeypatch):
    wrong = mv.read_problem(small)[0]
    object.__setattr__(wrong, "learning_rate", 2.0)
    import mkvlasov.validation.validate as module

    monkeypatch.setattr(module, "simulate_sgd", lambda problem, *args, **more: mv.simulate_sgd(wrong, *args, **more))
    status, out, _ = run("validate", small, "-o", tmp_path / "report")
    assert status == 1
    assert "NOT PASSED" in out
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["passed"] is False


def test_validate_without_a_file_takes_the_first_built_in_problem(run, tmp_path, monkeypatch):
    taken = []

    def stop(problem, *rest, **more):
        taken.append(problem)
        raise mv.UnsupportedError("far enough")

    monkeypatch.setattr(mv, "validate", stop, raising=False)
    assert run("validate", "-o", tmp_path / "report") == (2, "", "mkvlasov: far enough\n")
    assert taken == [mv.read_problem("contrastive")[0]]
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("method", ["pde", "ode", "particles", "sgd"])
def test_solve_saves_what_the_python_call_gives(run, small, tmp_path, method):
    status, out, _ = run("solve", small, "--method", method, "-o", tmp_path / "out.nc")
    assert status == 0
    assert str(tmp_path / "out.nc") in out
    solution = mv.load(tmp_path / "out.nc")
    problem, initial = mv.read_problem(small)
    t = np.linspace(0.0, 0.4, 3)
    expected = {
        "pde": lambda: mv.solve_pde(problem, initial, t_eval=t),
        "ode": lambda: mv.solve_ode(problem, initial, t_eval=t),
        "particles": lambda: mv.simulate_particles(problem, initial, t_eval=t, particles=400, runs=4, rng=1),
        "sgd": lambda: mv.simulate_sgd(problem, initial, t_eval=t, dimension=100, runs=4, rng=1),
    }[method]()
    assert solution.route == method
    np.testing.assert_array_equal(solution.R, expected.R)
    np.testing.assert_array_equal(solution.Q, expected.Q)


def test_solve_prints_the_order_parameters(run, small):
    status, out, _ = run("solve", small, "--method", "sgd")
    assert status == 0
    header, *rows, message = out.splitlines()
    assert header.split() == ["t", "R[0,0]", "+-", "Q[0,0]", "+-", "q[0,0]", "+-", "loss"]
    assert len(rows) == 3
    assert [float(row.split()[0]) for row in rows] == [0.0, 0.2, 0.4]
    assert "reached" in message


def test_a_route_that_cannot_honour_the_problem_says_so_in_one_line(run, tmp_path):
    status, out, err = run("solve", "sparse", "--method", "ode", "-o", tmp_path / "out.nc")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "L1" in err
    assert not list(tmp_path.iterdir())


def test_examples_lists_and_prints_the_built_in_files(run, tmp_path):
    status, out, _ = run("examples")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(mv.builtin_problems())
    for name in mv.builtin_problems():
        status, text, _ = run("examples", name)
        assert status == 0
        (tmp_path / "copy.toml").write_text(text)
        assert mv.read_problem(tmp_path / "copy.toml") == mv.read_problem(name)


def test_version(run):
    status, out, _ = run("--version")
    assert status == 0
    assert re.fullmatch(r"mkvlasov \d+\.\d+\.\d+\n", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing command"),
        (["validat"], "'validat'"),
        (["validate", "a.toml", "b.toml"], "b.toml"),
        (["validate", "--fast"], "--fast"),
        (["solve", "sparse"], "--method"),
        (["solve", "--method", "pde"], "PROBLEM.toml"),
        (["solve", "sparse", "--method", "rk4"], "'pde', 'particles', 'ode', 'sgd'"),
        (["examples", "nothing"], "'contrastive', 'sparse', 'two_outputs', 'unregularized'"),
    ],
)
def test_bad_usage_is_one_line_and_status_two(run, arguments, said):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


def test_an_output_that_cannot_be_written_is_refused_before_any_work(run, small, tmp_path, monkeypatch):
    def never(*args, **more):
        raise AssertionError("work was done")

    for name in ("validate", "solve_ode"):
        monkeypatch.setattr(mv, name, never, raising=False)
    other = tmp_path / "of_mine"
    other.mkdir()
    (other / "thesis.tex").write_text("important")
    for output in (small, other, small / "report"):
        status, out, err = run("validate", small, "-o", output)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert str(output) in err
    for output in (other, tmp_path / "no_such_folder" / "out.nc", small / "out.nc"):
        status, out, err = run("solve", small, "--method", "ode", "-o", output)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert str(output) in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["of_mine", "small.toml"]
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("setting", "field"), [("runs = 1", "run.runs"), ("dimension = 3", "run.dimension")])
def test_run_settings_that_do_not_fit_the_command_are_named_as_in_the_file(run, tmp_path, setting, field):
    name = setting.split()[0]
    path = tmp_path / "small.toml"
    path.write_text(re.sub(rf"(?m)^{name} = .*$", setting, SMALL.format(rate=0.4)))
    status, out, err = run("validate", path, "-o", tmp_path / "report")
    assert (status, out) == (2, "")
    assert err.startswith(f"mkvlasov: {field}: got ")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "report"), 2, "report: No space left on device"),
        (MemoryError("Unable to allocate 1. TiB"), 2, "not enough memory"),
    ],
)
def test_what_happens_on_the_way_is_one_line(run, small, monkeypatch, raised, status, said):
    def fails(*args, **more):
        raise raised

    monkeypatch.setattr(mv, "solve_ode", fails, raising=False)
    code, _, err = run("solve", small, "--method", "ode")
    assert code == status
    assert err.count("\n") == 1
    assert said in err


def test_a_solution_that_stopped_short_ends_with_status_one(run, tmp_path):
    # Linear outputs without weight decay blow up in finite time.
    text = SMALL.format(rate=0.4).replace('"tanh"', '"identity"').replace("strength = 0.3", "strength = 0.0")
    path = tmp_path / "blow_up.toml"
    path.write_text(text.replace("t_final = 0.4", "t_final = 10.0"))
    status, out, _ = run("solve", path, "--method", "sgd")
    assert status == 1
    assert "diverged" in out.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes as on Unix")
def test_the_installed_program_can_be_interrupted_and_piped(tmp_path):
    # Jobs in the background of a shell inherit that interrupts are ignored.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = [sys.executable, "-c", heed + "from mkvlasov.cli import main; main()"]
    listing = subprocess.run(f"{sys.executable} -c 'from mkvlasov.cli import main; main()' examples contrastive | true",
                             shell=True, capture_output=True, text=True, check=False)  # fmt: skip
    assert listing.stderr == ""
    brief, long = tmp_path / "brief.toml", tmp_path / "long.toml"
    brief.write_text(SMALL.format(rate=0.4))
    # Compiled and kept, so that what is interrupted is the simulation.
    subprocess.run([*program, "solve", str(brief), "--method", "sgd"], capture_output=True, check=True)
    long.write_text(SMALL.format(rate=0.4).replace("t_final = 0.4", "t_final = 4e8"))
    started = subprocess.Popen(
        [*program, "solve", str(long), "--method", "sgd"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    time.sleep(4.0)
    for _ in range(5):
        # Python drops an interrupt that arrives in a callback, such as those of a compiler.
        started.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = started.communicate(timeout=15)
            break
    else:
        started.kill()
        pytest.fail("interrupts were not heeded")
    assert (started.returncode, out, err) == (130, "", "mkvlasov: interrupted\n")


def test_the_default_problem_exists():
    assert configuration.DEFAULT_PROBLEM in mv.builtin_problems()


def test_reduce_prints_words_rates_and_latex(run):
    status, out, err = run("reduce", "contrastive")
    assert (status, err) == (0, "")
    assert "The closed system" in out
    assert "dR/dt = [[" in out
    assert r"\begin{align*}" in out
    assert "5 fixed point(s) up to symmetry" in out
    assert "stable focus; eigenvalues -0.5068" in out
    assert "feature 1 of variance 3: learnt, growth rate 0.2877" in out


def test_reduce_of_moments_that_do_not_close_is_one_line_with_the_way_out(run):
    status, out, err = run("reduce", "sparse")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "solve_pde" in err


def test_basins_prints_fractions_and_draws(run, small, tmp_path):
    code, out, err = run("basins", small, "-o", tmp_path / "figures")
    assert (code, err) == (0, "")
    assert "Labels that change with half the steps and tolerances: 0" in out
    assert "this plane is the whole phase space" in out
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {"small_basins.png", "small_portrait.png", "small_selection.png"}


def test_basins_refuses_before_any_work(run, small, tmp_path):
    (tmp_path / "taken").write_text("")
    code, out, err = run("basins", small, "-o", tmp_path / "taken")
    assert (code, out) == (2, "")
    assert err.startswith("mkvlasov: output: got")
    code, _, err = run("basins", "sparse", "-o", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
