"""What evaluations of a run found, as `evaluation.json` keeps it."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from kitae.config import check_number
from kitae.config.typed import read_dataclass
from kitae.runs.listing import read_json

EVALUATION = "evaluation.json"
MAX_BYTES = 100_000_000  # some millions of episodes


@dataclass(frozen=True)
class Evaluation:
    """Whole episodes that were played with what an agent had learned.

    Attributes:
        env_steps: Of the checkpoint that played.
        episodes: How many.
        returns: `[episodes]`, undiscounted.
        mean: Of them.
        low: The lower end of the mean's interval.
        high: The upper end.
        seed: Of the episodes.
    """

    env_steps: int
    episodes: int
    returns: tuple[float, ...]
    mean: float
    low: float
    high: float
    seed: int

    def __post_init__(self) -> None:
        if len(self.returns) != self.episodes or not self.returns:
            raise ValueError(
                f"returns must be of {self.episodes} episodes, at least 1, got "
                f"{len(self.returns)}"
            )
        for name in ("mean", "low", "high"):
            check_number(name, getattr(self, name))
        for value in self.returns:
            check_number("returns", value)


def read_evaluations(run_dir: str | Path) -> list[Evaluation]:
    """Reads a run's `evaluation.json`, a list of objects with an evaluation's fields.

    Args:
        run_dir: The run's directory.

    Returns:
        One for each evaluation, oldest first; none, if there is no such file. Fields of
        later versions are left out.

    Raises:
        ValueError: The file is damaged.
    """
    path = Path(run_dir) / EVALUATION
    if not os.path.lexists(path):
        return []
    known = {field.name for field in fields(Evaluation)}
    evaluations = []
    for i, entry in enumerate(read_json(path, list, MAX_BYTES)):
        if isinstance(entry, dict):
            entry = {name: entry[name] for name in entry if name in known}
        try:
            evaluations.append(read_dataclass(Evaluation, entry, f"[{i}]"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    return evaluations
