"""Data sets as tensors: `load` gives the training and the validation part, ready to be indexed in batches.

catalogue.py   what a source knows of its samples; content hashes
sources.py     all kinds of data by name, and their catalogues in the cache
idx.py         digits and the MNIST family
torchvision_sets.py  all others by name
folder.py      photographs (listing.py, parts.py: which there are; pictures.py, decode.py: their pixels)
stacks.py      .npz, .npy and .mrc (arrays.py: images that lie in arrays)
builders.py    the user's own (objects.py: images that are items; survey.py: what they turn out to be)
labels.py      targets and groups (tables.py: CSV and STAR files)
splits.py      train, val and test; nested subsets
assembly.py    catalogue and split together; duplicates; the digest
pixels.py      layout, number type, channels, size, statistics
cache.py       decoded arrays on disk, mapped into memory by all workers
store.py       images of one size in the cache
shelves.py     pictures in the cache, found by content
threads.py     decoding side by side
progress.py    how far it has come
loading.py     `load` and `TrainingData`
prepared.py    `Prepared`: batches by index
stream.py      data sets that do not fit anywhere
sealed.py      the test part
"""

from hpsearch.training.data.loading import TrainingData, load
from hpsearch.training.data.prepared import Batches, Part, Prepared

__all__ = ["Batches", "Part", "Prepared", "TrainingData", "load"]
