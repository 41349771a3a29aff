"""Fixtures of this room: storages and studies on every database."""

from tests.store.fixtures import ended, scene, storage, study_id

__all__ = ["ended", "scene", "storage", "study_id"]
