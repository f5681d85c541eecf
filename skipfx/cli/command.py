"""Commands as functions whose parameters may be whole records of options."""

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def with_records(run: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter whose type is a dataclass by the fields of that class.

    Args:
        run: takes keyword arguments; its docstring is the help of the command.

    Returns:
        A function with a signature that Typer reads: each option is declared once, in the record it belongs to.
    """
    hints = get_type_hints(run, include_extras=True)
    records: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[Parameter] = []
    for name, own in signature(run).parameters.items():
        if name not in records:
            parameters.append(own.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(records[name], include_extras=True)
        parameters += [_parameter(field.name, types[field.name], field.default) for field in fields(records[name])]

    def call(**values: Any) -> None:
        for name, record in records.items():
            values[name] = record(**{field.name: values.pop(field.name) for field in fields(record)})
        run(**values)

    call.__doc__ = paragraphs(run.__doc__ or "")
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call


def paragraphs(text: str) -> str:
    """A docstring with one line per paragraph, which a terminal may break anew."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    default = Parameter.empty if default is MISSING else default
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
