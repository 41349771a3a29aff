"""Data sets as tensors: `load` gives the training and the validation part, ready to be indexed in batches.

catalogue.py   what a source knows of its samples; content hashes
sources.py     all kinds of data by name, and their catalogues in the cache
idx.py         digits and the MNIST family
torchvision_sets.py  all others by name
folder.py      photographs (decode.py: single pictures)
stacks.py      .npz, .npy and .mrc (arrays.py: images that lie in arrays)
builders.py    the user's own (objects.py: images that are items)
labels.py      targets, tables and groups
splits.py      train, val and test; nested subsets
assembly.py    catalogue and split together; duplicates; the digest
pixels.py      layout, number type, channels, size, statistics
cache.py       decoded arrays on disk, mapped into memory by all workers
loading.py     `load` and `TrainingData`
prepared.py    `Prepared`: batches by index
stream.py      data sets that do not fit anywhere
sealed.py      the test part
"""

from hpsearch.training.data.loading import TrainingData, load
from hpsearch.training.data.prepared import Batches, Part, Prepared

__all__ = ["Batches", "Part", "Prepared", "TrainingData", "load"]
