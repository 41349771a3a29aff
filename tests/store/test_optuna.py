"""Optuna's own tests of a storage, on the one that a driver opens."""

import pytest
from optuna.testing.pytest_storages import StorageTestCase


# Not on MySQL, where Optuna's times have no fractions of a second, which these tests ask for.
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
class TestStorage(StorageTestCase):
    """The fixture `storage` opens it."""
