"""The study file as frozen values: parsed once at the edge, passed as an object everywhere else."""

from hpsearch.spec.data import DataSpec, Split
from hpsearch.spec.load import (
    differences,
    digest,
    load_study_file,
    parse_stored,
    parse_study,
    stored_form,
    stored_tree,
)
from hpsearch.spec.sampler import SamplerSpec
from hpsearch.spec.search import Choices, Entry, FloatRange, IntRange
from hpsearch.spec.stopping import EarlyStopping, Pruner
from hpsearch.spec.study import METRICS, ConfirmSpec, Direction, StudySection, StudySpec
from hpsearch.spec.train import CheckpointSpec, FitSpec, ModelSpec, TrainSpec

__all__ = [
    "METRICS",
    "CheckpointSpec",
    "Choices",
    "ConfirmSpec",
    "DataSpec",
    "Direction",
    "EarlyStopping",
    "Entry",
    "FitSpec",
    "FloatRange",
    "IntRange",
    "ModelSpec",
    "Pruner",
    "SamplerSpec",
    "Split",
    "StudySection",
    "StudySpec",
    "TrainSpec",
    "differences",
    "digest",
    "load_study_file",
    "parse_stored",
    "parse_study",
    "stored_form",
    "stored_tree",
]
