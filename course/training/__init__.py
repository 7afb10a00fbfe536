"""The training toolkit that the lessons share: encode chats, put an adapter on, train, resume, save, merge."""

from course.training.adapters import add_adapter, load_adapter, merge_adapter, merge_checked_adapter, save_adapter
from course.training.checkpoint import CheckpointError
from course.training.config import TrainingConfig
from course.training.encoding import IGNORED, Encoded, EncodedRows, EncodingError, RowTooLongError, encode, encode_rows
from course.training.log import read_log
from course.training.loop import train
from course.training.run import TrainingDivergedError, TrainingRun

__all__ = [
    "IGNORED",
    "CheckpointError",
    "Encoded",
    "EncodedRows",
    "EncodingError",
    "RowTooLongError",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingRun",
    "add_adapter",
    "encode",
    "encode_rows",
    "load_adapter",
    "merge_adapter",
    "merge_checked_adapter",
    "read_log",
    "save_adapter",
    "train",
]
