"""The guard of the pairs: those of a tested patient are never read in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from histostudy.features.pairs import PairReader, Pairs
from histostudy.training.guard import LeakError


class GuardedPairs:
    """The pairs of a run, without those of its test part.

    Parameters
    ----------
    read : PairReader
        Pairs of all patients.
    tested : sequence of str
        The run's test part, in the units of the splits.
    patient_of : mapping of str to str
        Whose each spot is, where the units are spots.
    """

    def __init__(self, read: PairReader, tested: Sequence[str], patient_of: Mapping[str, str] | None = None) -> None:
        self._read, self._patient_of = read, patient_of or {}
        self._tested = frozenset(map(self._patient, tested))

    def _patient(self, unit: str) -> str:
        return self._patient_of.get(unit, unit)

    def __call__(self, units: Sequence[str]) -> Pairs:
        """The pairs of training patients.

        Raises
        ------
        LeakError
            If one of them is tested, before any file is read: a bug, never the user's.
        """
        patients = list(dict.fromkeys(map(self._patient, units)))
        if leaked := sorted(self._tested.intersection(patients)):
            raise LeakError(f"pairs of the tested patient {leaked[0]} were asked for in training")
        return self._read(patients)
