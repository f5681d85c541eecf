"""What a legal graph is at each stage: a table, verified after every pass."""

import operator
from collections.abc import Callable
from enum import IntEnum

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import InternalError


class Stage(IntEnum):
    """The stages of a graph, in the order of the road."""

    CAPTURED = 0
    CANONICAL = 1
    CLASSIFIED = 2
    RESIDUAL = 3
    GATED = 4
    MASKED = 5
    STREAM = 6


Rule = Callable[[fx.Node], bool]
aten = torch.ops.aten

GONE_WHEN_CANONICAL = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
}


def _is_functional(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or not schema.is_mutable


def _is_known_call(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) or target is operator.getitem or target in ops.OPS


def _has_role(node: fx.Node) -> bool:
    return node.op == "output" or g.record(node).role != "unknown"


def _no_identity(node: fx.Node) -> bool:
    return node.target not in GONE_WHEN_CANONICAL


def _local_is_map(node: fx.Node) -> bool:
    return g.record(node).role != "local" or g.is_map(node)


def _island_has_reason(node: fx.Node) -> bool:
    return g.record(node).role != "island" or bool(g.record(node).reason)


# from this stage on | every node must satisfy | said when it does not
TABLE: tuple[tuple[Stage, Rule, str], ...] = (
    (Stage.CAPTURED, lambda node: node.op not in ("call_module", "call_method"), "calls are functions"),
    (Stage.CAPTURED, lambda node: node.op != "call_function" or _is_known_call(node), "calls are ATen or skipfx.ops"),
    (Stage.CAPTURED, _is_functional, "no operator writes to its inputs"),
    (Stage.CANONICAL, _no_identity, "dropout, copies and other identities are gone"),
    (Stage.CLASSIFIED, _has_role, "every node has a role"),
    (Stage.CLASSIFIED, _local_is_map, "a local node is a float map [1, C, H, W]"),
    (Stage.CLASSIFIED, _island_has_reason, "an island has a reason"),
)


def verify(gm: fx.GraphModule, stage: Stage) -> None:
    """Checks a graph against the table and the signature of a stream graph.

    Raises:
        InternalError: names the stage, the rule and the node.
    """
    for node in gm.graph.nodes:
        for since, rule, text in TABLE:
            if since <= stage and not rule(node):
                raise InternalError(f"stage {stage.name}: {text}, but {node.name} is {node.format_node()}")
    states, following = g.states(gm.graph), g.next_states(gm.graph)
    if len(states) != len(following):
        raise InternalError(f"stage {stage.name}: {len(states)} states but {len(following)} next states")
    for before, after in zip(states, following, strict=True):
        if g.value(before).shape != g.value(after).shape:
            raise InternalError(f"stage {stage.name}: {before.name} changes shape")
