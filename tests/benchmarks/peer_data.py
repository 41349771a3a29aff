"""The digits as the peers split them: scikit-learn's scans / 16, a seeded permutation, 80/10/10."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def build():
    """Returns training, validation and test part."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, val = int(0.8 * len(images)), int(0.1 * len(images))
    parts = order[:train], order[train : train + val], order[train + val :]
    return dict(
        zip(("train", "val", "test"), [TensorDataset(images[i], labels[i]) for i in parts], strict=True)
    )
