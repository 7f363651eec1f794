"""Budgets: what they cost does not depend on the problem, and what they decide is stated."""

import json

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov import cli
from mkvlasov.validation.levels import LEVELS, sizes_of

CLOSED, START = mv.read_problem("unregularized")
OPEN, _ = mv.read_problem("sparse")
WIDE_BATCH = mv.Problem(
    hidden=mv.hidden.Rademacher(3.0), activation="tanh", learning_rate=0.4, batch_size=64,
    augmentation=mv.augmentations.GaussianNoise(0.5),
)  # fmt: skip


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("problem", [CLOSED, OPEN, WIDE_BATCH])
@pytest.mark.parametrize("t_final", [1.0, 6.0])
def test_sizes_stay_within_the_budget_and_share_their_times(name, problem, t_final):
    level = LEVELS[name]
    sizes = sizes_of(level, problem, t_final, 31)
    assert all(n % sizes.literal == 0 for n in sizes.deciding)
    assert sizes.literal >= 30 / t_final  # the times differ
    samples = level.literal_runs * t_final * sizes.literal**2 * problem.batch_size
    assert samples <= 1.01 * level.literal_samples
    steps = level.deciding_runs * t_final * np.array(sizes.deciding)
    if len(sizes.deciding) == 1:
        # Rounded to a multiple of the dimension of literal SGD, at least twice it.
        assert steps.sum() * problem.batch_size <= 1.5 * level.chain_samples or sizes.deciding[0] == 2 * sizes.literal
    else:
        assert sizes.deciding[0] == 2 * sizes.deciding[1]
        assert (steps * sizes.deciding).sum() <= 2.5 * level.updates


def test_a_quick_validation_decides_by_the_chain_and_prints_json(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["validate", "unregularized", "--level", "quick", "--json", "-o", str(tmp_path / "report")])
    found = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 0
    assert (found["verdict"], found["passed"]) == ("agree", True)
    assert found["settings"]["level"] == "quick"
    joint = {row["other"]: row for row in found["rows"] if row["quantity"] == "order parameters"}
    assert {name.split(" (")[0] for name in joint} == {"particles", "SGD"}
    assert all(row["power"] > 0.9 for name, row in joint.items() if "64 runs" in name)
    assert found == json.loads((tmp_path / "report" / "summary.json").read_text())
    assert (tmp_path / "report" / "results" / "chain.nc").is_file()


def test_the_exit_status_of_a_level_follows_its_verdict(monkeypatch, capsys, tmp_path):
    import mkvlasov.validation.validate as module

    statuses = {}
    for verdict in ("agree", "disagree", "undecided"):
        monkeypatch.setattr(module.Report, "verdict", property(lambda self, word=verdict: word))
        report = module.Report(
            problem=CLOSED, initial=START, solutions={}, skipped={}, settings={"level": "quick"}, seconds=0.0,
            versions={}, comparison=mv.Comparison((), (), 0.01),
        )  # fmt: skip
        statuses[verdict] = report.exit_status
    assert statuses == {"agree": 0, "disagree": 1, "undecided": 3}
