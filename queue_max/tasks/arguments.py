"""Arguments of tasks: checked where a job is enqueued, written as JSON, made anew in the worker."""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from queue_max import checks
from queue_max.exceptions import Permanent

CONTEXT = "ctx"
"""The parameter that is given the running job; whoever calls a task leaves it out."""

_JSON = (Any, object, str, int, float, bool, None, type(None), dict, list, inspect.Parameter.empty)


class Arguments:
    """What a function takes.

    Parameters whose annotation says more than JSON does, such as a dataclass, a pydantic model, a
    datetime or a set, are written and read by pydantic; all others are passed on as they are.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function

    @cached_property
    def takes_context(self) -> bool:
        """Whether the function wants to be given the running job."""
        return CONTEXT in inspect.signature(self._function).parameters

    def with_context(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], running: object
    ) -> tuple[list[Any], dict[str, Any]]:
        """Add the running job to the arguments, if the function takes it."""
        if not self.takes_context:
            return list(args), dict(kwargs)
        names = list(inspect.signature(self._function).parameters)
        at = names.index(CONTEXT)
        if at < len(args) + 1 and CONTEXT in self._positional:
            return [*args[:at], running, *args[at:]], dict(kwargs)
        return list(args), {**kwargs, CONTEXT: running}

    @property
    def _positional(self) -> list[str]:
        parameters = inspect.signature(self._function).parameters.values()
        return [each.name for each in parameters if each.kind in _POSITIONAL]

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Give arguments, some or all, as they are written, by the names of their parameters."""
        bound = self._signature.bind_partial(*args, **kwargs)
        by_kind = {each.name: each.kind for each in self._signature.parameters.values()}
        rest = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        return {
            name: value if by_kind[name] in rest else self._dump(name, value)
            for name, value in bound.arguments.items()
        }

    def dump(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Check arguments against the signature; gives them in a form that JSON has.

        Raises TypeError where they do not fit.
        """
        names = self._bind(args, kwargs)
        return (
            [self._dump(name, value) for name, value in zip(names, args, strict=True)],
            {name: self._dump(name, value) for name, value in kwargs.items()},
        )

    def load(self, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        """Make arguments anew of what was written; raises Permanent where they do not fit."""
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise Permanent(
                f"{self._name}: its payload should have args, a list, and kwargs, a dict"
            )
        try:
            names = self._bind(args, kwargs)
            return (
                [self._load(name, value) for name, value in zip(names, args, strict=True)],
                {name: self._load(name, value) for name, value in kwargs.items()},
            )
        except (TypeError, ValidationError) as error:
            raise Permanent(f"{self._name} cannot take its arguments: {error}") from error

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """Check that the arguments fit; names the parameter of each positional one."""
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"Invalid arguments for {self._name}: {error}") from None
        parameters = self._signature.parameters.values()
        names = [each.name for each in parameters if each.kind in _POSITIONAL]
        rest = [each.name for each in parameters if each.kind is inspect.Parameter.VAR_POSITIONAL]
        return (names + rest * len(args))[: len(args)]

    @cached_property
    def _signature(self) -> inspect.Signature:
        signature = inspect.signature(self._function)
        parameters = [each for name, each in signature.parameters.items() if name != CONTEXT]
        return signature.replace(parameters=parameters)

    @cached_property
    def _adapters(self) -> Mapping[str, TypeAdapter[Any]]:
        """How values are written and read, by name of parameter, where JSON alone will not do."""
        try:
            hints = get_type_hints(self._function, include_extras=True)
        except (NameError, TypeError, AttributeError):  # names that only type checkers import
            hints = {}
        adapters = {}
        for name, parameter in self._signature.parameters.items():
            hint = hints.get(name, parameter.annotation)
            if isinstance(hint, str) or _is_json(hint):
                continue
            try:
                adapters[name] = TypeAdapter(hint)
            except PydanticUserError:  # a class pydantic knows nothing of
                continue
        return adapters

    def _adapter(self, name: str) -> TypeAdapter[Any] | None:
        if name not in self._signature.parameters:  # one of **kwargs
            name = self._rest
        return self._adapters.get(name)

    @cached_property
    def _rest(self) -> str:
        kind = inspect.Parameter.VAR_KEYWORD
        return next((p.name for p in self._signature.parameters.values() if p.kind is kind), "")

    def _dump(self, name: str, value: Any) -> Any:
        adapter = self._adapter(name)
        if adapter is None:
            return value
        try:
            checked = adapter.validate_python(value)
            text = adapter.dump_python(checked, mode="json", by_alias=True, round_trip=True)
            is_same = bool(adapter.validate_python(text) == checked)
        except ValidationError as error:
            raise self._refusal(name, value, error.errors(include_url=False)[0]["msg"]) from error
        except ValueError as error:  # such as bytes that are no text
            raise self._refusal(name, value, str(error)) from error
        if not is_same:  # a secret, a field that is left out, a subclass
            raise self._refusal(name, value, "does not stay the same when it is written as JSON")
        return text

    def _refusal(self, name: str, value: Any, what: str) -> TypeError:
        return TypeError(
            f"Invalid arguments for {self._name}: {name}={checks.shown(value)}: {what}"
        )

    def _load(self, name: str, value: Any) -> Any:
        adapter = self._adapter(name)
        return value if adapter is None else adapter.validate_python(value)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_json(hint: Any) -> bool:
    """Tell whether a value of that type is the same after it was written as JSON and read."""
    origin = get_origin(hint)
    if origin is None:
        return any(hint is each for each in _JSON)
    if origin is Literal:
        return all(isinstance(each, str | int | None) for each in get_args(hint))
    if origin in (dict, list, Union, types.UnionType):
        return all(_is_json(each) for each in get_args(hint))
    return False
