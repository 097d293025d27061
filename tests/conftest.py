"""Fixtures for all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from sim import broker as sim_broker
from sim.desk import Desk
from sim.device import BELT, Device, P
from sim.disk import SmallDisk

# The same cases every time and no limit of time for one: a busy machine changes nothing.
settings.register_profile("edged", deadline=None, derandomize=True, database=None)
settings.load_profile("edged")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the sweeps marked slow as well")
    parser.addoption("--device", action="store_true", help="run the rigs marked device as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name, what in (("slow", "a sweep"), ("device", "a rig")):
        if not config.getoption(f"--{name}"):
            for item in items:
                if name in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=f"{what}: run with --{name}"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that everybody may enter, and all above it: those of pytest are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def stranger() -> Callable[[], AbstractContextManager[None]]:
    """Makes this process another user for a while, in no group that owns anything."""
    if os.getuid() != 0:
        pytest.skip("only root can be another user")

    @contextmanager
    def another() -> Iterator[None]:
        groups, group = os.getgroups(), os.getegid()
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)

    return another


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


@pytest.fixture
def subscriber(broker: sim_broker.Broker) -> Iterator[sim_broker.Subscriber]:
    """Records all that a device says."""
    listening = sim_broker.Subscriber(broker.port, f"{P}/#").connect()
    yield listening
    listening.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Makes devices that are gone after the test."""
    made: list[Device] = []

    def factory(port: int, body: str = BELT, **settings) -> Device:
        device = Device(tmp_path / f"device{len(made)}", port, body, **settings)
        made.append(device)
        return device

    yield factory
    for device in made:
        device.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """The operator's: a signed repository behind a web server."""
    made = Desk(tmp_path / "desk")
    yield made
    made.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of one megabyte."""
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real models, labels and images, beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/data beside the checkout")
    return folder
