"""Files that are whole or not there."""

import errno
import os
import stat
import threading

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core import files
from core.errors import UserError


def test_what_is_written_anew_holds_the_old_or_the_new_text(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_whole(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    files.write_whole(path, "new")
    assert path.read_text() == "new"


def test_a_new_name_is_given_only_to_what_is_on_the_disk(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr("pathlib.Path.replace", lambda a, b: (order.append("replace"), replace(a, b)))
    files.write_whole(tmp_path / "file", "text")
    assert order == ["fsync", "replace"]


def test_tensors_may_be_read_by_all_who_may_read_the_folder(tmp_path):
    for mode in (0o750, 0o755, 0o700):
        tmp_path.chmod(mode)
        files.write_tensors({"x": torch.ones(2)}, tmp_path / "x.safetensors")
        assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == mode & 0o666
    assert load_file(tmp_path / "x.safetensors")["x"].tolist() == [1, 1]


def test_only_what_the_system_refused_becomes_its_error(tmp_path):
    with pytest.raises(OSError, match="No such file or directory") as caught:
        files.write_tensors({"x": torch.ones(2)}, tmp_path / "missing" / "x.safetensors")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises((ValueError, SafetensorError)):
        files.write_tensors({"x": torch.ones(2).to_sparse()}, tmp_path / "x.safetensors")


def test_a_lock_that_waits_is_had_once_the_other_lets_go(tmp_path):
    order = []

    def hold():
        with files.lock(tmp_path, waits=True):
            order.append("second")

    with files.lock(tmp_path):
        thread = threading.Thread(target=hold)
        thread.start()
        with pytest.raises(UserError, match="another run is writing here"), files.lock(tmp_path):
            pass
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
