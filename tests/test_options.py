"""Options: strict, frozen, and the same in Python and in files."""

from typing import Any

import pytest

from skipfx.errors import OptionError, UsageError
from skipfx.options import GATES, DynConv, Gumbel, Hold, InputNorm, OutputNorm, TransformOptions, gate_from

WRONG: dict[str, tuple[type, dict[str, Any], str]] = {
    "negative": (Hold, {"threshold": -0.1}, r"Hold: threshold: .*greater than or equal to 0 \(got -0.1\)"),
    "NaN": (Hold, {"threshold": float("nan")}, "threshold: .*finite"),
    "infinite": (Hold, {"input_threshold": float("inf")}, "input_threshold: .*finite"),
    "even dilation": (Hold, {"dilation": 2}, r"dilation: .*it must be odd \(got 2\)"),
    "dilation 0": (Hold, {"dilation": 0}, "dilation: "),
    "norm": (Hold, {"norm": "l1"}, "norm: .*'rms' or 'max'"),
    "unknown": (Hold, {"treshold": 0.1}, "treshold: Extra inputs are not permitted"),
    "missing": (InputNorm, {}, "InputNorm: eps: Field required"),
    "order": (OutputNorm, {"eps": 0.1, "p": 3}, "p: .*1 or 2"),
    "reference": (InputNorm, {"eps": 0.1, "reference": "next"}, "reference: .*'held' or 'previous'"),
    "block": (TransformOptions, {"gate": Hold(), "block": 3}, "block: .*1, 2, 4, 8 or 16"),
    "gate": (TransformOptions, {"gate": {"name": "magic"}}, "gate: .*'hold', 'input_norm', 'output_norm'"),
    "text for a tuple": (TransformOptions, {"gate": Hold(), "exclude": "stem"}, "exclude: .*tuple"),
    "no budget": (DynConv, {"target": 0}, r"DynConv: target: .*greater than 0 \(got 0\)"),
    "too large a budget": (DynConv, {"target": 1.5}, "target: .*less than or equal to 1"),
    "temperature": (DynConv, {"target": 0.5, "temperatures": (1.0, 0.0)}, "temperatures.1: "),
    "no temperature": (DynConv, {"target": 0.5, "temperatures": ()}, "temperatures: .*at least 1 item"),
    "gumbel's block": (Gumbel, {"block": 3}, "Gumbel: block: .*1, 2, 4, 8 or 16"),
    "layer threshold": (TransformOptions, {"gate": Hold(), "thresholds": {"stem": -1}}, "thresholds.stem: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_in_one_line(name: str) -> None:
    record, values, message = WRONG[name]
    with pytest.raises(OptionError, match=message) as caught:
        record(**values)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError) and caught.value.exit_code == 2


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(OptionError, match=r"threshold: .*; dilation: "):
        Hold(threshold=-1, dilation=4)


def test_options_do_not_change() -> None:
    gate = Hold()
    with pytest.raises(ValueError, match="frozen"):
        gate.threshold = 0.5


def test_defaults_are_those_of_the_documentation() -> None:
    assert Hold() == Hold(threshold=0.1, input_threshold=None, norm="rms", dilation=3)
    assert InputNorm(eps=0.1) == InputNorm(eps=0.1, p=1, reference="held")
    options = TransformOptions(gate=Hold())
    assert (options.block, options.update, options.exclude, options.thresholds) == (1, "recompute", (), {})


@pytest.mark.parametrize(
    "gate",
    [
        Hold(threshold=0.3),
        InputNorm(eps=0.1),
        OutputNorm(eps=0.2, p=2, reference="previous"),
        Gumbel(block=4, reference="previous"),
        DynConv(target=0.25, squeeze=True, temperatures=(5, 2.5, 1), hold=Hold(threshold=0.1)),
    ],
)
def test_options_go_through_json(gate: Any) -> None:
    options = TransformOptions(gate=gate, block=4, exclude=("a", "b.*"), thresholds={"c": 0.5})
    assert TransformOptions.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize("name", GATES)
def test_gates_are_made_by_name(name: str) -> None:
    gate = gate_from(name, {"dynconv": {"target": 0.5}}.get(name, {"eps": 0.1} if name.endswith("norm") else {}))
    assert (gate.name, type(gate)) == (name, GATES[name])


def test_dynconv_takes_the_values_of_a_hold_gate() -> None:
    gate = gate_from("dynconv", {"target": 0.5, "threshold": 0.2, "dilation": 1})
    assert gate == DynConv(target=0.5, hold=Hold(threshold=0.2, dilation=1))
    assert DynConv(target=1).hold == Hold(threshold=0, input_threshold=0)


def test_an_unknown_gate_is_told_which_there_are() -> None:
    with pytest.raises(OptionError, match="'magic' is unknown; expected one of hold, input_norm, output_norm"):
        gate_from("magic", {})
