"""Optuna's own tests of a storage, on the one that a driver opens."""

import gc

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase


# Not on MySQL, where Optuna's times have no fractions of a second, which these tests ask for.
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
class TestStorage(StorageTestCase):
    """The fixture `storage` opens it."""

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_pickle_storage(self, storage: BaseStorage) -> None:
        super().test_pickle_storage(storage)
        gc.collect()  # of the unpickled one, which is left open
