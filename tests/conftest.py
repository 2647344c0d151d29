from collections.abc import Iterator

import pytest
import torch
from fault_trials import Server

torch.set_num_threads(1)  # the cores are shared; more threads only wait for each other


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
