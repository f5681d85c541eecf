"""What a pass is, and the runner that holds every pass to it.

A pass is a frozen dataclass whose fields are its options. It edits a stream graph in place and says whether it changed
anything. After each pass the runner cleans the graph, checks it against the stage table (`skipfx.spec`) and tells the
observer, so verification, dumps and timing all live in one place.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from torch import fx

from skipfx.errors import InternalError, SkipfxError
from skipfx.spec import Stage, verify


@dataclass(frozen=True)
class Pass(ABC):
    """One step of the compiler.

    Attributes:
        name: how logs, dumps and errors call it.
        stage: what the graph is once the pass has run.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]

    @abstractmethod
    def apply(self, gm: fx.GraphModule) -> bool:
        """Edits the graph in place; returns whether it changed."""


Observer = Callable[[Pass, fx.GraphModule, bool, float], None]


def run_passes(gm: fx.GraphModule, passes: Sequence[Pass], observe: Observer | None = None) -> fx.GraphModule:
    """Runs the passes in order and verifies the graph after each.

    Args:
        gm: a stream graph; it is edited in place.
        passes: what to run.
        observe: called after each pass with the pass, the graph, whether it changed, and the seconds it took.

    Raises:
        SkipfxError: what a pass says of the user's model.
        InternalError: a pass failed or broke the stage's rules; the message names it and the passes before it.
    """
    done: list[str] = []
    for step in passes:
        start = perf_counter()
        try:
            modified = step.apply(gm)
            gm.graph.eliminate_dead_code()
            gm.graph.lint()
            gm.recompile()
            verify(gm, step.stage)
        except SkipfxError:
            raise
        except Exception as error:
            raise InternalError(
                f"pass {step.name} failed after {', '.join(done) or 'no other pass'}: {error}"
            ) from error
        done.append(step.name)
        if observe is not None:
            observe(step, gm, modified, perf_counter() - start)
    return gm
