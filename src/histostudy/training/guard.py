"""The guard of the test part: its labels come out once, after the predictions went in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histostudy.training.targets import targets_of, truth_frame

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from histostudy.cohort.outcomes import Outcome


class LeakError(RuntimeError):
    """Code asked for a test label before it had predicted, or predicted twice: a bug, never the user's."""


class TestPart:
    """The test patients of a run.

    Parameters
    ----------
    outcome : Outcome
        The outcome of all patients, which only this object may ask about its own.
    patient_ids : sequence of str
        Test patients.
    """

    __test__ = False  # not a test class

    def __init__(self, outcome: Outcome, patient_ids: Sequence[str]) -> None:
        self.__outcome = outcome
        self.__submitted = False
        self.patient_ids = tuple(patient_ids)

    def __repr__(self) -> str:
        return f"TestPart({len(self.patient_ids)} patients)"

    @property
    def targets(self) -> dict[str, Tensor]:
        """The test labels.

        Raises
        ------
        LeakError
            Before `submit`.
        """
        if not self.__submitted:
            raise LeakError("test labels asked for before the predictions were submitted")
        return targets_of(self.__outcome, self.patient_ids)

    def submit(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Hand in the predictions, one row a test patient, and get them back beside the truth.

        Raises
        ------
        LeakError
            If they are of other patients, not finite, or the second ones.
        """
        if self.__submitted:
            raise LeakError("the test part is predicted once; a second prediction was submitted")
        if list(predictions["patient_id"]) != list(self.patient_ids):
            raise LeakError("predictions must hold each test patient once, in order")
        if not np.isfinite(predictions.drop(columns="patient_id").to_numpy(float)).all():
            raise LeakError("predictions must be finite")
        self.__submitted = True
        return truth_frame(self.__outcome, self.patient_ids).merge(predictions, on="patient_id", validate="1:1")
