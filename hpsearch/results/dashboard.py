"""optuna-dashboard on a cached storage, served by waitress."""

import logging
import webbrowser
from pathlib import Path

import optuna_dashboard
import waitress
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import get_storage

from hpsearch.errors import UserError
from hpsearch.search.storage import open_storage
from hpsearch.spec.folders import RunFolder

logger = logging.getLogger(__name__)


class Dashboard:
    """A dashboard that is bound to its port, so that its address can be told before it serves.

    Raises:
        StudyNotFound: the storage holds no studies yet.
        UserError: the host or the port cannot be had.
    """

    def __init__(self, url: str, run_folder: Path, host: str = "127.0.0.1", port: int = 8080) -> None:
        # Read-only leaves out SQLite's write lock: with it the driver would wait for the dashboard.
        storage = get_storage(open_storage(url, readonly=True))
        artifacts = RunFolder(run_folder, "").artifacts
        store = FileSystemArtifactStore(str(artifacts)) if artifacts.is_dir() else None
        app = optuna_dashboard.wsgi(storage, artifact_store=store)
        try:
            self._server = waitress.create_server(app, host=host, port=port, threads=8)
        except OSError as error:
            raise UserError(
                f"--host {host} --port {port}: {error.strerror}; choose another with --port"
            ) from None
        self.address = f"http://{host}:{self._server.effective_port}/"

    def serve(self, open_browser: bool = False) -> None:
        """Serves until it is interrupted."""
        if open_browser:
            webbrowser.open(self.address)
        self._server.run()

    def close(self) -> None:
        """Gives the port back."""
        self._server.close()
