"""Data sets as tensors: `load` gives the training and the validation part, ready to be indexed in batches.

catalogue.py   what a source knows of its samples; content hashes
sources.py     all kinds of data by name, and their catalogues in the cache
idx.py  arrays.py  folder.py  decode.py  labels.py  mrc.py  datasets.py     the kinds
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
