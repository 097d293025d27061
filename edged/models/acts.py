"""What is done for a deployment: fetched, checked, installed, tried, put on the stage.

Each action belongs to one state and one model, and runs on a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edged.board import memory_bytes
from edged.config import Config, ModelConfig
from edged.errors import AcceleratorError, FetchError, StoreError, Trouble, VerifyError
from edged.inference.edgetpu import list_edgetpus
from edged.inference.factory import read_model
from edged.inference.interpreter import choose_runtime
from edged.inference.modelfile import read_model_file
from edged.inference.servable import Servable
from edged.models.deployment import return_to, under_way
from edged.models.examination import Examination
from edged.models.files import Files, storing
from edged.models.findings import found, restored, validated
from edged.models.fit import Board, check_fit
from edged.models.golden import read_golden
from edged.models.handover import Handover
from edged.models.journal import Journal
from edged.models.loading import read_file, read_manifest
from edged.models.manifest import GOLDEN, MANIFEST, MODEL, MODEL_EDGETPU, Manifest, Processor
from edged.models.package import read_package, unpack
from edged.models.records import Origin
from edged.models.store import Store
from edged.models.target import Target, target_path
from edged.models.task import Task
from edged.models.transitions import Event, Kind
from edged.models.trial import TrialLimits, Verdict
from edged.models.validation import Limits, validate

if TYPE_CHECKING:  # python-tuf behind it is 20 MB: loaded where a repository is first asked
    from edged.models.repository import Refreshed, Repository

log = logging.getLogger(__name__)

# Of the memory that is free, what a candidate may take while it is tried.
_MEMORY_SHARE = 0.8


class Loads(Protocol):
    """Loads versions of models."""

    def load(self, name: str, version: str, sha256: str) -> Servable:
        """Load a version."""
        ...

    def needs_edgetpu(self, name: str, *, compiled: bool) -> bool:
        """Say whether a model will take an Edge TPU for itself."""
        ...


class Scene(Protocol):
    """Where models change places: `edged.pipeline.stage.Stage`."""

    def try_out(
        self,
        name: str,
        load: Callable[[], Servable],
        limits: TrialLimits,
        *,
        alone: bool,
        examine: Callable[[Servable], Examination | None],
        canceled: Callable[[], bool],
    ) -> None:
        """Load a candidate, examine it where that is asked, and let it serve, on trial."""
        ...

    def verdict(self, name: str) -> tuple[Verdict, dict[str, object]]:
        """Return how the trial stands."""
        ...

    def measured(self, name: str, resident_bytes: int) -> None:
        """Record the memory of the process."""
        ...

    def commit(self, name: str) -> None:
        """End the trial; the candidate stays."""
        ...

    def restore(
        self, name: str, sha256: str | None, load: Callable[[], Servable], *, alone: bool
    ) -> None:
        """Let a version serve that is not on trial."""
        ...


class LiveActs:
    """The actions, on the real device.

    Attributes:
        forgotten: said from when it was found that the versions seen before were lost.

    Args:
        config: of the device.
        store: where versions are kept.
        loader: loads them.
        stage: where they serve.
        handover: what persons handed over to be installed.
        remote: makes a client of the operator's repository; raises ConfigError, `updates_off`.
        stick: the same of what a stick carries.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        loader: Loads,
        stage: Scene,
        *,
        handover: Handover,
        remote: Callable[[], Repository],
        stick: Callable[[Path], Repository],
    ) -> None:
        self._config = config
        self._models = {model.name: model for model in config.model}
        self._store = store
        self._files = Files()
        self._loader = loader
        self._stage = stage
        self.forgotten: Trouble | None = None
        self._handover = handover
        self._remote = remote
        self._stick = stick
        # The metadata are shared by all models; packages are not.
        self._metadata = threading.Lock()
        self._targets: dict[str, tuple[str, Repository, Target]] = {}
        # By model, the deployment whose candidate gave the golden answers in a child, on the CPU.
        self._passed: dict[str, str] = {}

    def latest(
        self, order: Callable[[str], object], canceled: Callable[[], bool]
    ) -> Mapping[str, str]:
        """Return the newest published version by model, of those that are published.

        Raises:
            EdgedError: the repository cannot be asked.
        """
        repository = self._remote()
        newest = {}
        with self._metadata:
            self._heed(repository.refresh(cancelled=canceled))
            for name in self._models:
                target = repository.latest(name, order)
                if target is not None and target.release is not None:
                    newest[name] = target.release.version
        return newest

    def sync(self, journal: Journal, task: Task) -> Event:
        """Find the target."""
        current = under_way(journal)
        if current.origin is Origin.LOCAL:
            path, bare = self._handover.find(journal.model, current.deployment_id)
            if bare:
                with storing(f"cannot read {path}"):
                    return found(journal, self._files.sha256(path), downgrade_ok=True)
        target = self._find(journal, task)
        release = target.release
        if release is None or (release.name, release.version) != (journal.model, current.version):
            raise VerifyError("target_invalid", f"{target.path} does not say what it is")
        return found(journal, target.wanted.sha256, downgrade_ok=release.downgrade_ok)

    def download(self, journal: Journal, task: Task) -> Event:
        """Fetch the package into `staging/<sha256>`."""
        current = under_way(journal)
        if current.origin is Origin.LOCAL:
            if self._handover.is_staged(current.sha256):
                return Event(Kind.DOWNLOADED)
            path, bare = self._handover.find(journal.model, current.deployment_id)
            if bare:
                self._handover.stage(path, current.sha256)
                return Event(Kind.DOWNLOADED)
        known = self._targets.get(journal.model)
        if known is None or known[0] != current.deployment_id:
            self._find(journal, task)
        _, repository, target = self._targets[journal.model]
        if target.wanted.sha256 != current.sha256:
            raise VerifyError("target_changed", f"{target.path} is another package now")
        self._store.require_space(target.wanted.length_bytes)
        left_s = max(1.0, self._config.update.deadline_s - current.used_s)
        repository.download(target, task.advanced, task.canceled, deadline_s=left_s)
        return Event(Kind.DOWNLOADED)

    def verify(self, journal: Journal, task: Task) -> Event:  # noqa: ARG002 - too quick to cancel
        """Check the package and install it."""
        current = under_way(journal)
        package = read_package(self._store.staging / current.sha256)
        manifest = package.manifest
        if (manifest.name, manifest.version) != (journal.model, current.version):
            raise VerifyError(
                "package_mismatch",
                f"it says that it is {manifest.name} {manifest.version}, and was asked for as"
                f" {journal.model} {current.version}",
            )
        check_fit(manifest, self._board(self._models[journal.model]))
        self._store.install(
            journal.model,
            current.version,
            current.sha256,
            package.unpacked_bytes,
            lambda directory: unpack(package, directory, self._files),
        )
        return Event(Kind.VERIFIED)

    def validate(self, journal: Journal, task: Task) -> Event:
        """Try it in a child; of a bare factory file only its structure can be looked at."""
        current = under_way(journal)
        place = self._store.check(journal.model, current.version, current.sha256)
        if not (place / MANIFEST).exists():
            first = place / MODEL
            read_model_file(read_model(first if first.exists() else place / MODEL_EDGETPU))
            return validated(journal)
        model = self._models[journal.model]
        limits = Limits(
            memory_bytes=int(_MEMORY_SHARE * memory_bytes().available_bytes),
            invoke_s=model.invoke_limit_s,
        )
        said = validate(
            model, place, limits, edgetpu=self._alone(journal, place), cancelled=task.canceled
        )
        if said.reason is None:
            if not said.structure_only:
                self._passed[journal.model] = current.deployment_id
            return validated(journal)
        return Event(Kind.BROKEN if said.marks else Kind.REFUSED, said.reason, said.detail)

    def try_out(self, journal: Journal, task: Task) -> None:
        """Let it serve, on trial; what was made for an Edge TPU shows its golden set first."""
        current = under_way(journal)
        model, version, sha256 = journal.model, current.version, current.sha256
        place = self._store.check(model, version, sha256)
        manifest = read_manifest(place) if (place / MANIFEST).exists() else None

        def examine(candidate: Servable) -> Examination | None:
            # A child runs what is for the CPU only; after a restart nobody knows whether it did.
            passed = self._passed.get(model) == current.deployment_id
            asked = (place / MODEL_EDGETPU).exists()
            if manifest is None or not asked or (passed and candidate.accelerator == "cpu"):
                return None
            golden = read_golden(read_file(place, GOLDEN), manifest.golden.samples)
            named = self._models[model].labels is None
            return Examination(candidate, golden, manifest, named=named)

        self._stage.try_out(
            model,
            lambda: self._loader.load(model, version, sha256),
            self._limits(manifest),
            alone=self._alone(journal, place),
            examine=examine,
            canceled=task.canceled,
        )

    def restore(self, journal: Journal, task: Task) -> Event:  # noqa: ARG002 - must come to an end
        """Let what `return_to` says serve."""
        target, model = return_to(journal), journal.model
        alone = self._loader.needs_edgetpu(model, compiled=True)
        if target is None:
            self._stage.restore(model, None, _nothing, alone=alone)
            return restored(journal)
        try:
            self._stage.restore(
                model,
                target.sha256,
                lambda: self._loader.load(model, target.version, target.sha256),
                alone=alone,
            )
        except AcceleratorError as error:
            if error.reason == "model_busy":
                raise
            # The version is sound as far as anybody knows; the recovery goes on trying.
        return restored(journal)

    def settle(self, journal: Journal, task: Task) -> None:  # noqa: ARG002 - must come to an end
        """After a trial: free what ran before."""
        self._stage.commit(journal.model)

    def verdict(self, model: str) -> tuple[Verdict, dict[str, object]]:
        """Return how the trial stands."""
        return self._stage.verdict(model)

    def measure(self, model: str) -> None:
        """Record the memory in a trial."""
        self._stage.measured(model, memory_bytes().resident_bytes)

    def _find(self, journal: Journal, task: Task) -> Target:
        current = under_way(journal)
        local = current.origin is Origin.LOCAL
        if local:
            path, _ = self._handover.find(journal.model, current.deployment_id)
        repository = self._stick(path) if local else self._remote()
        with self._metadata:
            self._heed(repository.refresh(local=local, cancelled=task.canceled))
            target = repository.find(target_path(journal.model, current.version))
        if target is None:
            raise FetchError(
                "not_published", f"{journal.model} {current.version} is not in the repository"
            )
        self._targets[journal.model] = (current.deployment_id, repository, target)
        return target

    def _heed(self, refreshed: Refreshed) -> None:
        if refreshed.forgotten:
            said = (
                "what the device knew of the repository was damaged: it began anew from root.json,"
                " and could not tell whether it is shown something old"
            )
            self.forgotten = Trouble.of(StoreError("trust_forgotten", said))
            log.error("%s (%s)", said, self.forgotten.reason)

    def _board(self, model: ModelConfig) -> Board:
        processors: list[Processor] = []
        if model.accelerator in {"auto", "cpu"}:
            processors.append("cpu")
        if model.accelerator != "cpu" and (model.accelerator != "auto" or list_edgetpus()):
            processors.append("edgetpu")
        runtime = choose_runtime(model.runtime, edgetpu="cpu" not in processors)
        free_bytes = memory_bytes().available_bytes
        return Board(processors, runtime.name, runtime.version, free_bytes)

    def _alone(self, journal: Journal, place: Path) -> bool:
        compiled = (place / MODEL_EDGETPU).exists()
        return self._loader.needs_edgetpu(journal.model, compiled=compiled)

    def _limits(self, manifest: Manifest | None) -> TrialLimits:
        update = self._config.update
        frames, seconds = update.trial_frames, update.trial_seconds
        if manifest is None:
            return TrialLimits(frames, seconds, update.no_frames_s, max_disagreement=None)
        terms = manifest.trial
        return TrialLimits(
            frames=max(frames, terms.frames),
            seconds=max(seconds, terms.seconds),
            no_frames_s=update.no_frames_s,
            p95_ratio=terms.p95_ratio,
            max_disagreement=terms.max_disagreement,
        )


def _nothing() -> Servable:
    raise AssertionError("there is nothing to load")
