"""Loads models: those that the configuration names, and those that came over the air.

Whatever is being loaded is noted in the breadcrumb, and how long it takes for the watchdog.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from edged.config import Config, ModelConfig
from edged.errors import EdgedError, StoreError, ValidationError
from edged.inference.edgetpu import list_edgetpus
from edged.inference.factory import factory_path, variants
from edged.inference.loading import load_servable
from edged.inference.servable import Servable
from edged.models.loading import load_package, read_manifest
from edged.models.manifest import MANIFEST, MODEL, MODEL_EDGETPU
from edged.models.records import Release
from edged.models.seal import bare_digest
from edged.models.store import Store
from edged.models.version import Version
from edged.prediction import ModelId


class Loader:
    """Loads the models of one configuration.

    Args:
        config: how they are loaded.
        store: where the versions are.
        noted: told the digest of what is being loaded, and "" when that has ended.
    """

    def __init__(self, config: Config, store: Store, noted: Callable[[str], None]) -> None:
        self._config = config
        self._models = {model.name: model for model in config.model}
        self._store = store
        self._noted = noted
        self._lock = threading.Lock()
        self._begun_s: dict[int, float] = {}

    def busy_s(self) -> float:
        """Return for how long the longest present load has been running, seconds; 0 when idle."""
        begun = list(self._begun_s.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def load(self, name: str, version: str, sha256: str) -> Servable:
        """Load a version of a model, after its files were checked.

        Raises:
            StoreError: it is missing or damaged.
            EdgedError: as `load_servable` and `load_package`.
        """
        return self._load(self._models[name], self._config.cameras_of(name), version, sha256)

    def loads_plainly(self, name: str, release: Release) -> bool:
        """Say whether a version can be loaded where the owner asks nothing of it.

        What cannot be loaded otherwise then fails for the configuration.
        """
        plain = ModelConfig(name=name, factory=self._models[name].factory)
        try:
            self._load(plain, (), release.version, release.sha256).close()
        except EdgedError:
            return False
        return True

    def _load(
        self, model: ModelConfig, cameras: tuple[str, ...], version: str, sha256: str
    ) -> Servable:
        name = model.name
        with self._loading(sha256):
            # Looking into the factory file takes as long as loading: only where it can be it.
            if version == Version.factory(sha256).text and self._is_configured(model, sha256):
                servable = self._bare(model, cameras)
            else:
                place = self._store.check(name, version, sha256)
                if (place / MANIFEST).exists():
                    return load_package(
                        model,
                        place,
                        read_manifest(place),
                        sha256,
                        edgetpu_library=self._config.edgetpu_library,
                        cameras=cameras,
                    )
                first = place / MODEL
                factory = first if first.exists() else place / MODEL_EDGETPU
                servable = self._bare(replace(model, factory=str(factory)), cameras)
        servable.id = ModelId(name, version, sha256)
        return servable

    def load_release(self, name: str, release: Release | None) -> Servable:
        """Load what the journal says is to run.

        Raises:
            StoreError: `no_model_left`, and as `load`.
            EdgedError: as `load`.
        """
        if release is None:
            raise StoreError(
                "no_model_left",
                f"no version of {name} is left that could run.",
                advice="Deploy another, or put a sound factory model there and restart.",
            )
        return self.load(name, release.version, release.sha256)

    def needs_edgetpu(self, name: str, *, compiled: bool) -> bool:
        """Say whether a model will take an Edge TPU for itself.

        Args:
            name: of the model.
            compiled: whether it has a file for one.
        """
        wanted = self._models[name].accelerator
        return compiled and wanted != "cpu" and (wanted != "auto" or bool(list_edgetpus()))

    def _is_configured(self, model: ModelConfig, sha256: str) -> bool:
        try:
            return bare_digest(factory_contents(model)) == sha256
        except (ValidationError, StoreError):
            return False

    def _bare(self, model: ModelConfig, cameras: tuple[str, ...]) -> Servable:
        return load_servable(model, edgetpu_library=self._config.edgetpu_library, cameras=cameras)

    @contextmanager
    def _loading(self, sha256: str) -> Iterator[None]:
        me = threading.get_ident()
        with self._lock:
            # One at a time: the breadcrumb has one place for what is being loaded.
            self._begun_s[me] = time.monotonic()
            self._noted(sha256)
            try:
                yield
            finally:
                self._noted("")
                del self._begun_s[me]


def factory_contents(model: ModelConfig) -> Mapping[str, bytes]:
    """Return the configured factory files by the names they have in a package.

    Raises:
        ValidationError, StoreError: as `variants`.
    """
    return {
        MODEL_EDGETPU if one.file.needs_edgetpu else MODEL: one.data
        for one in variants(factory_path(model.factory))
    }
