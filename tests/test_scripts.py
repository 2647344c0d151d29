"""The set-up that the scripts share, on machines that are not quite ready."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "scripts" / "setup.sh"


@pytest.mark.slow
def test_a_venv_that_was_left_without_pip_is_made_anew(tmp_path):
    """As Debian's python3 without python3-venv leaves it: it makes .venv/bin/python, and then fails."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SETUP, tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", f"source {tmp_path}/scripts/setup.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / "bin" / "pip").exists()


@pytest.mark.slow
def test_mathematics_is_made_the_same_whoever_makes_it_and_however_often_it_is_cut_off(tmp_path):
    """Installs the published generator from the package index."""
    script = SETUP.parent / "make_mathematics.py"
    words = ["--train", "6", "--test", "2", "--modules", "polynomials__add,numbers__gcd", "--env", tmp_path / "env"]

    def made(name: str, *more: str) -> dict[str, str]:
        subprocess.run([sys.executable, script, "--out", tmp_path / name, *words, *more], check=True)
        return {str(p.relative_to(tmp_path / name)): p.read_text() for p in (tmp_path / name).rglob("*.txt")}

    whole = made("one")
    assert len(whole) == 12
    assert made("other", "--processes", "2") == whole
    (tmp_path / "one" / "train-easy" / "polynomials__add.txt").unlink()
    assert made("one") == whole
    assert made("another", "--seed", "1") != whole
