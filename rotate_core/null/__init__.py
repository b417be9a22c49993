"""Channels held against what means nothing: evidence, two nulls, p- and q-values (ours)."""

from rotate_core.null.calibration import (
    SIGNIFICANT,
    Calibration,
    CalibrationWarning,
    calibrate,
    p_values,
    q_values,
)
from rotate_core.null.directions import read_directions
from rotate_core.null.evidence import STATISTICS, TailEvidence, statistics, support, tail_evidence
from rotate_core.null.labels import Labels, label
from rotate_core.null.matched import matched_rotations, matched_vectors, own_seed

__all__ = [
    "SIGNIFICANT",
    "STATISTICS",
    "Calibration",
    "CalibrationWarning",
    "Labels",
    "TailEvidence",
    "calibrate",
    "label",
    "matched_rotations",
    "matched_vectors",
    "own_seed",
    "p_values",
    "q_values",
    "read_directions",
    "statistics",
    "support",
    "tail_evidence",
]
