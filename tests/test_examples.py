"""Every script in examples/ runs as a user would run it, agrees with itself, and draws its figures."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_runs_and_draws(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    figures = list(tmp_path.glob("*.png"))
    assert len(figures) >= 2
    assert all(figure.stat().st_size > 10_000 for figure in figures)
