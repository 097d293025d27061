"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sim import broker as sim_broker


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on."""
    return sim_broker.free_port()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[sim_broker.Broker]:
    """A running mosquitto that lets anyone in and remembers nothing."""
    if sim_broker.MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path / "broker"
    folder.mkdir()
    running = sim_broker.Broker(folder).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real models, labels and images, beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/data beside the checkout")
    return folder
