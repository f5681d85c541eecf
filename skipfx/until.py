"""Cutting a model before its end: `until` names modules, or nodes of the graph, whose values become the outputs.

A module is cut while it runs, so that what stands behind the cut is never captured: non-maximum suppression, loops over
detections, anything. A saved program is cut in its graph.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from skipfx import graph as g
from skipfx.errors import OptionError

SHOWN = 6
Hook = Callable[[str, Any, Any], None]


def are_modules(model: Any, names: Sequence[str]) -> bool:
    """Whether all names are those of modules of `model`."""
    return isinstance(model, nn.Module) and set(names) <= {name for name, _ in model.named_modules() if name}


@contextmanager
def stopped(model: nn.Module, inputs: Sequence[Any], names: Sequence[str]) -> Iterator[None]:
    """Makes a call of the model end behind the named modules and return their values, for as long as it lasts.

    Args:
        model: it is run on `inputs` once, to count how often each module is called.
        inputs: example inputs.
        names: of modules.

    Raises:
        OptionError: one of the modules is never called.
    """
    if not names:
        yield
        return
    calls: list[str] = []
    with torch.no_grad(), suppress(Exception), _hooks(model, lambda name, args, value: calls.append(name)):
        model(*inputs)
    if idle := [name for name in names if name not in calls]:
        raise OptionError(f"until: {', '.join(idle)} is never called on the example")
    cutter = _Cutter(names, sum(name in names for name in calls))
    own = [(module, vars(module).get("forward")) for _, module in model.named_modules()]
    for name, module in list(model.named_modules()):
        module.forward = cutter.guarded(name, module.forward)
    try:
        yield
    finally:
        for module, forward in own:
            del module.forward
            if forward is not None:
                module.forward = forward


class _Cutter:
    """Lets a model run up to the last call of the named modules.

    An exception that ends it there would leave torch's tracer in disorder. So from then on modules return None, which
    soon fails whatever reads it, and every failure ends at the module that it arose in.
    """

    def __init__(self, names: Sequence[str], calls: int) -> None:
        self.names, self.calls = names, calls
        self.values: list[Any] = []

    @property
    def done(self) -> bool:
        """Whether every named module has made its last call."""
        return len(self.values) == self.calls

    def guarded(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """The `forward` of a module, up to the cut."""

        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not name:
                self.values = []
            value = None
            if not self.done:
                try:
                    value = original(*args, **kwargs)
                except Exception:
                    if not self.done:
                        raise
            if name in self.names:
                self.values.append(value)
            if name:
                return None if self.done else value
            return self.values[0] if self.calls == 1 else self.values

        return forward


def ends(model: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Modules of which `run` used the values outside of modules when it failed: where a cut would make sense.

    Args:
        model: whose modules are watched.
        run: calls the model, and may fail.
    """
    open_ends: dict[int, tuple[str, Tensor]] = {}

    def watch(name: str, args: Any, value: Any) -> None:
        for tensor in pytree.tree_leaves(args):
            open_ends.pop(id(tensor), None)
        for key in [key for key, (inner, _) in open_ends.items() if inner.startswith(f"{name}.")]:
            del open_ends[key]
        open_ends.update({id(t): (name, t) for t in pytree.tree_leaves(value) if isinstance(t, Tensor)})

    with _hooks(model, watch), suppress(Exception):
        run()
    return list(dict.fromkeys(name for name, _ in open_ends.values()))[:SHOWN]


def cut(graph: fx.Graph, names: Sequence[str]) -> pytree.TreeSpec:
    """Makes the values of the named modules or nodes the outputs of a graph; returns their structure.

    Raises:
        OptionError: a name is that of no module and no node.
    """
    chosen: set[fx.Node] = set()
    for name in names:
        named = [node for node in graph.nodes if node.name == name and node.op == "call_function"]
        inside = [node for node in graph.nodes if g.matches(g.layer(node), name)]
        found = named or [node for node in inside if any(user not in inside for user in node.users)]
        if not found:
            raise OptionError(f"until: {name!r} is no module or node of the graph; skipfx inspect names them")
        chosen.update(found)
    graph.output_node().args = (tuple(node for node in graph.nodes if node in chosen),)
    graph.eliminate_dead_code()
    return pytree.tree_structure(0 if len(chosen) == 1 else [0] * len(chosen))


@contextmanager
def _hooks(model: nn.Module, hook: Hook) -> Iterator[None]:
    """Calls `hook(name, arguments, value)` after every call of a module inside `model`."""

    def bound(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, args, value: hook(name, args, value)

    handles = [module.register_forward_hook(bound(name)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
