"""Makes it an error that the host waits for the GPU."""

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Lets every wait of the host for the device raise a RuntimeError, as far as torch notices it."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        # Said once in a process, after the mode is set: where warnings are errors the mode would stay.
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
