"""The study file as frozen values: parsed once at the edge, passed as an object everywhere else."""

from hpsearch.study.data import DataSpec, Split
from hpsearch.study.direction import Direction
from hpsearch.study.file import (
    differences,
    digest,
    load_study_file,
    parse_stored,
    parse_study,
    stored_form,
    stored_tree,
)
from hpsearch.study.search import Choices, Entry, FloatRange, IntRange, SamplerSpec
from hpsearch.study.specification import METRICS, ConfirmSpec, StudySection, StudySpec
from hpsearch.study.stopping import EarlyStopping, Pruner
from hpsearch.study.train import CheckpointSpec, FitSpec, ModelSpec, TrainSpec

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
