"""Releases as a versioned DAG bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion
from airflow.exceptions import AirflowException

from airstrip.release import folder as releases


class ReleaseBundle(BaseDagBundle):
    """The releases below `root`; a DAG run stays on the one that it began with.

    Its path is the release's folder, so that `etl` is imported from the release that the DAG is of.
    """

    supports_versioning = True

    def __init__(self, *, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)
        self._live = None if self.version else releases.live(self.root)

    def initialize(self) -> None:
        """Make sure that a release which a task asks for is there; raise AirflowException if it is not."""
        if self.version and not self.path.is_dir():
            raise AirflowException(
                f"Release {self.version} is no longer on this host. Clear the task with 'run on latest version', "
                "and raise release_keep to keep more releases"
            )
        super().initialize()

    def refresh(self) -> None:
        """Look which release is live. Nothing else does, so that no parse straddles two releases."""
        self._live = releases.live(self.root)

    @property
    def path(self) -> Path:
        """The folder of the release."""
        return releases.path(self.root, self.version or self._live or "none")

    def file(self, dag: str, otherwise: str) -> str:
        """Return the file that a DAG has in this release, which may be elsewhere in the live one."""
        return releases.manifest(self.root, self.path.name)["dags"].get(dag, otherwise)

    def get_current_version(self) -> BundleVersion | None:
        """Return the id of the release as the version."""
        release = self.version or self._live
        return BundleVersion(release) if release else None
