"""Data sets as tensors: `load` gives the training and the validation part, ready to be indexed in batches.

catalogue.py   what a source knows of its samples; content hashes
sources.py     all kinds of data by name, and their catalogues in the cache
torchvision_sets.py  all others by name
folder.py      photographs (pictures.py, decode.py: their pixels, decoded; series.py: which belong together)
stacks.py      .npz, .npy and .mrc (arrays.py: images that lie in arrays; digits, the MNIST family)
builders.py    the user's own (objects.py: images that are items, read once to learn what they are)
labels.py      targets and groups; CSV and STAR files
inspection.py  a look at a folder before there is a study
splits.py      train, val and test; nested subsets
assembly.py    catalogue and split together; duplicates; the digest
pixels.py      layout, number type, channels, size, statistics
cache.py       decoded arrays on disk, mapped into memory by all workers
store.py       images of one size in the cache; pictures in it, found by content
loading.py     `load` and `TrainingData`
prepared.py    `Prepared`: batches by index; data sets that do not fit anywhere
sealed.py      the test part
"""

from hpsearch.training.data.loading import TrainingData, load
from hpsearch.training.data.prepared import Batches, Part, Prepared

__all__ = ["Batches", "Part", "Prepared", "TrainingData", "load"]
