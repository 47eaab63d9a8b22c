"""A test whose need is missing is left out by name with the reason, and fails where CI=true."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
A_TEST = "import pytest\n\n@pytest.mark.needs('swaks')\ndef test_with_swaks() -> None: pass\n"
NOTHING_HERE = (
    "import tests.support.needs as n; n.SEARCHED = ''; import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
)


def run(directory: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    path = directory / "test_it.py"
    path.write_text(test)
    words = (sys.executable, "-c", NOTHING_HERE, "-p", "no:cacheprovider", "--rootdir", directory,
             "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", path)  # fmt: skip
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        words, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_it_is_named_with_the_reason(tmp_path: Path, ci: str, status: int) -> None:
    ended = run(tmp_path, A_TEST, ci)
    assert ended.returncode == status, ended.stdout + ended.stderr
    summary = ended.stdout.partition("= left out =")[2]
    assert "1 left out, because swaks is not installed (swaks):" in summary
    assert "test_it.py::test_with_swaks" in summary


def test_a_need_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    ended = run(tmp_path, A_TEST.replace("swaks", "swax"), "")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert "nobody knows how to get swax" in ended.stderr
