"""The set-up that the scripts share, on machines that are not quite ready."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SETUP = Path(__file__).parents[1] / "scripts" / "setup.sh"


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
