"""Which version of a model runs, as another process sees it: nothing is written, no lock is taken.

The service decides that in `edged.startup`; here its journals are only read.
"""

from __future__ import annotations

from pathlib import Path

from edged.config import Config
from edged.errors import StoreError
from edged.inference.loading import load_servable
from edged.inference.servable import Servable
from edged.loader import Loader
from edged.models.deployment import runs
from edged.models.records import Release
from edged.models.store import Store


def release_of(state_dir: Path, name: str) -> tuple[Release | None, str]:
    """Return what the journal says runs, and why that cannot be told, or "".

    None is the configured factory file: where there is no journal, or none that can be read.

    Args:
        state_dir: of the service.
        name: of the model.
    """
    try:
        loaded = Store(state_dir).journal(name).load()
    except StoreError as error:
        return None, error.explain()
    if loaded.journal is not None:
        return runs(loaded.journal), ""
    return loaded.active, loaded.trouble.detail if loaded.trouble and not loaded.active else ""


def load_running(config: Config, name: str) -> tuple[Servable, str]:
    """Load what runs; the configured factory file where that cannot be told, or may not be read.

    Args:
        config: with the model.
        name: of the model.

    Returns:
        The model, and why it may be another one than runs, or "".

    Raises:
        EdgedError: as `Loader.load` and `load_servable`.
    """
    state_dir = Path(config.state_dir)
    release, unknown = release_of(state_dir, name)
    if release is not None:
        try:
            return Loader(config, Store(state_dir), lambda _: None).load_release(name, release), ""
        except StoreError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            unknown = error.explain()
    return load_factory(config, name), unknown


def load_factory(config: Config, name: str) -> Servable:
    """Load the configured factory file.

    Raises:
        EdgedError: as `load_servable`.
    """
    model = next(model for model in config.model if model.name == name)
    library, cameras = config.edgetpu_library, config.cameras_of(name)
    return load_servable(model, edgetpu_library=library, cameras=cameras)
