"""Makes the state minimal: one state per value, none that nothing reads, numbered in order."""

from dataclasses import dataclass

from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.spec import Stage


@dataclass(frozen=True)
class MergeStates(Pass):
    """Merges states with the same next value (all start from zero and a refresh) and drops unread ones."""

    name = "merge_states"
    stage = Stage.STREAM

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        before = len(g.states(gm.graph))
        _merge(gm.graph)
        while _drop_unread(gm.graph):
            gm.graph.eliminate_dead_code()
        for index, state in enumerate(g.states(gm.graph)):
            state.name = state.target = f"state_{index:03d}"
        return len(g.states(gm.graph)) != before


def _merge(graph: fx.Graph) -> None:
    first: dict[fx.Node, fx.Node] = {}
    for state, following in zip(g.states(graph), g.next_states(graph), strict=True):
        kept = first.setdefault(following, state)
        if kept is not state:
            state.replace_all_uses_with(kept)


def _drop_unread(graph: fx.Graph) -> bool:
    pairs = list(zip(g.states(graph), g.next_states(graph), strict=True))
    kept = [(state, following) for state, following in pairs if state.users]
    g.set_outputs(graph, g.outputs(graph), tuple(following for _, following in kept))
    for state in {state for state, _ in pairs} - {state for state, _ in kept}:
        graph.erase_node(state)
    return len(kept) != len(pairs)
