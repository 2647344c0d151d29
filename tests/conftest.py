from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_trials import Server

torch.set_num_threads(1)  # the cores are shared; more threads only wait for each other

COVERING = {"core", "procedural_pretraining"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The core is to be covered by its own tests and its first user's; counting lines would slow the others down."""
    for item in items:
        if Path(item.path).parent.name not in COVERING:
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """A run switches them off for its process; hypothesis, which draws them, would complain in the tests after it."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _pictures_are_not_drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where a test looks at them: to draw takes longer than most of the runs that end with it."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", save_nothing)


def save_nothing(_: Any, path: Path, **__: Any) -> None:
    path.write_bytes(b"a picture")
