"""Problems a person can fix: which one, what is wrong in one sentence, and what to do."""

from dataclasses import dataclass
from pathlib import Path

TEMPORARY = 75
"""Exit status of what waiting may mend (sysexits)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`id` is stable and can be searched for; `sentence` says what is wrong; `hint` is the one step."""

    id: str
    sentence: str
    hint: str = ""
    where: str = ""

    def __str__(self) -> str:
        return f"{self.place}{self.sentence}" + (f" {self.hint}" if self.hint else "")

    @property
    def place(self) -> str:
        """What stands before the sentence, unless it begins with that itself."""
        return f"{self.where}: " if self.where and not self.sentence.startswith(self.where) else ""


class ProblemError(Exception):
    """Problems, all reported at once. `status` is the exit status (sysexits) the command ends with."""

    def __init__(self, *problems: Problem, status: int = 1) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems
        self.status = status


def problem(id: str, sentence: str, hint: str = "", *, where: str = "", status: int = 1) -> ProblemError:
    """A `ProblemError` holding a single problem."""
    return ProblemError(Problem(id, sentence, hint, where), status=status)


def place_of(cause: BaseException) -> str:
    """For the log: file and line of a fault of ours, without any value that could be a secret."""
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
