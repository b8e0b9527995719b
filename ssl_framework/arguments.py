"""What the arguments of constructors may be: ranges as annotations, and the one guard that holds values against them.

A class says in its annotations what it takes (``temperature: Positive``); pydantic checks, strictly: true is no number,
1.5 and 1e9 are no whole numbers, text is no number, NaN and infinity are refused everywhere, null only goes where the
annotation has None. ``guarded`` does so wherever a class is called, ``refuse_arguments`` before a config is built, so
that the sentence names the key. Only values are checked: what is built, or will be, passes wherever a part belongs.
"""

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar, Union

from annotated_types import BaseMetadata, Ge, Gt, Interval, Le, Len, Lt, MultipleOf

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
"""A momentum, a smoothing, a probability that must leave something."""
PositiveFraction = Annotated[float, Interval(gt=0, le=1)]
OpenFraction = Annotated[float, Interval(gt=0, lt=1)]
Cosine = Annotated[float, Interval(gt=-1, lt=1)]
AtLeastOne = Annotated[float, Ge(1)]
Count = Annotated[int, Ge(1)]
Several = Annotated[int, Ge(2)]
Repeats = Annotated[int, Interval(ge=1, le=1000)]
"""How often something is done anew, each time at its whole cost."""
Natural = Annotated[int, Ge(0)]
"""A position, or a number of things that may be none."""
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
"""Of any generator; NumPy's take no larger ones."""
Channels = Annotated[int, Interval(ge=1, le=4096)]
Bits = Annotated[int, Interval(ge=9, le=16)]
"""That values of 16 bits use."""
Pixels = Annotated[int, Interval(ge=2, le=2**16)]
"""Side of an image."""
Classes = Annotated[int, Ge(2), "set data.num_classes to the number of classes"]
"""How many; a text among the annotations is what to do beside giving another value."""

NOUNS = {float: "number", int: "whole number", str: "text", bool: "true or false", type(None): "null"}
"""What a user calls the values of a type."""

SAID: dict[type[BaseMetadata], tuple[str, str]] = {
    Gt: ("above", "gt"),
    Ge: ("at least", "ge"),
    Lt: ("below", "lt"),
    Le: ("at most", "le"),
    MultipleOf: ("a multiple of", "multiple_of"),
}
"""Limit -> the words for it, and where it keeps its number."""

OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of")
"""Pydantic's names of errors of values that are of the right type."""

Class = TypeVar("Class", bound=type)


class Part:
    """Stands for a part that a config will build, while the values around it are checked."""

    def __repr__(self) -> str:
        return "..."


PART = Part()


class AlgorithmArguments(TypedDict):
    """What every optimizer's arguments must be, by name: torch's own annotations have no ranges."""

    lr: Positive
    momentum: BelowOne
    dampening: BelowOne
    betas: Annotated[list[BelowOne], Len(2, 3)]
    eps: NonNegative
    alpha: Fraction
    weight_decay: NonNegative
    trust: Positive
    nesterov: bool


class Wanted(NamedTuple):
    """What an argument must be."""

    hint: Any  # its annotation
    required: bool


def guarded(cls: Class) -> Class:
    """Class decorator: calls of the class refuse values that its annotations do not allow.

    Raises:
        ValueError: when the class is called, in a sentence that names the argument.
    """
    init = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(init)

    @functools.wraps(init)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        wanted = wanted_by(cls)
        for name, value in list(given.items())[1:]:
            if name in wanted:
                refuse_value(f"{cls.__name__}'s {name}", value, wanted[name].hint)
        init(self, *args, **kwargs)

    cls.__init__ = call  # type: ignore[misc]
    return cls


def refuse_arguments(target: Callable[..., Any], given: Mapping[str, Any], key: str, partial: bool) -> None:
    """Refuses what a config gives to a constructor and it does not take.

    Args:
        target: the class.
        given: argument -> plain value; ``PART`` in place of what will be built.
        key: of the node in the config.
        partial: whether further arguments are given later.

    Raises:
        ValueError: an argument is unknown or missing, or its value is not what the annotation says.
    """
    wanted = wanted_by(target)
    for name, value in given.items():
        where = f"{key}.{name}" if key else name
        if name not in wanted:
            if ANYTHING_ELSE not in wanted:
                near = get_close_matches(name, wanted, n=1)
                meant = f" (did you mean {near[0]}?)" if near else ""
                raise ValueError(f"{where} is no argument of {target.__name__}{meant}; it takes: {', '.join(wanted)}")
            continue
        refuse_value(where, value, wanted[name].hint)
    missing = [name for name, one in wanted.items() if one.required and name not in given]
    if missing and not partial:
        where = f"{key}.{missing[0]}" if key else missing[0]
        raise ValueError(f"{where} is missing: {target.__name__} needs {described(wanted[missing[0]].hint)}")


def refuse_value(key: str, value: Any, hint: Any) -> None:
    """Refuses one value.

    Raises:
        ValueError: it is not what the annotation ``hint`` says.
    """
    found = errors_of(plain(value), hint)
    if found:
        right_type = any(error in OUT_OF_RANGE for error in found)
        advice = "".join(f": {extra}" for extra in metadata(hint) if isinstance(extra, str))
        raise ValueError(f"{key} is {shown(value)}: it must be {described(hint, noun=not right_type)}{advice}")


def plain(value: Any) -> Any:
    """Any sequence as a list and any mapping as a dict, such as those of a config."""
    if isinstance(value, collections.abc.Mapping) and not isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, collections.abc.Sequence) and not isinstance(value, str | bytes | list | tuple):
        return [plain(one) for one in value]
    return value


def refuse_values(values: Mapping[str, Any], record: type, key: str) -> None:
    """Refuses values of a config's node that no constructor takes; keys that are not in the record pass.

    Args:
        values: name -> plain value.
        record: a TypedDict that says what each must be.
        key: of the node, "" at the top.

    Raises:
        ValueError: one is not what the record says.
    """
    for name, hint in typing.get_type_hints(record, include_extras=True).items():
        if name in values:
            refuse_value(f"{key}.{name}" if key else name, values[name], hint)


def errors_of(value: Any, hint: Any) -> list[str]:
    """Pydantic's names of what is wrong with a value; [] if nothing is."""
    from pydantic import ValidationError  # a tenth of a second: only where something is built

    try:
        adapter_of(hint).validate_python(value)
    except ValidationError as error:
        return [
            one["type"] for one in error.errors(include_url=False, include_context=False) if one["input"] is not PART
        ]
    return []


@functools.lru_cache(maxsize=None, typed=True)
def adapter_of(hint: Any) -> "TypeAdapter[Any]":
    """What validates values of an annotation."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(strict(hint), config=ConfigDict(strict=True, allow_inf_nan=False))


def strict(hint: Any) -> Any:
    """An annotation as pydantic is given it: lists do for tuples, and whatever is no plain value is a part."""
    from pydantic import BeforeValidator, Strict

    base, extra, origin, args = *unpacked(hint), typing.get_origin(bare(hint)), typing.get_args(bare(hint))
    if origin in (Union, types.UnionType):
        new: Any = Union[tuple(strict(one) for one in args)]  # noqa: UP007
    elif origin is tuple:
        new = Annotated[tuple[tuple(one if one is ... else strict(one) for one in args)], Strict(False)]  # type: ignore[misc]
    elif origin in SEQUENCES:
        new = collections.abc.Sequence[strict(args[0])]  # type: ignore[misc]
    elif origin in MAPPINGS:
        new = collections.abc.Mapping[strict(args[0]), strict(args[1])]  # type: ignore[misc]
    elif base in NOUNS or base is Any or origin is Literal:
        new = base
    elif base in MAPPINGS:
        new = dict
    else:
        new = Annotated[Any, BeforeValidator(built)]
    limits = tuple(one for one in extra if not isinstance(one, str))
    return Annotated[(new, *limits)] if limits else new


SEQUENCES = (list, collections.abc.Sequence, collections.abc.Iterable)
MAPPINGS = (dict, collections.abc.Mapping)


def built(value: Any) -> Any:
    """Passes what has been built; plain values are no parts."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        raise ValueError("no part")
    return value


def unpacked(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without what ``Annotated`` adds, and that."""
    return (hint.__origin__, hint.__metadata__) if typing.get_origin(hint) is Annotated else (hint, ())


def bare(hint: Any) -> Any:
    """An annotation without what ``Annotated`` adds."""
    return unpacked(hint)[0]


def metadata(hint: Any) -> Iterator[Any]:
    """What ``Annotated`` adds anywhere in an annotation's alternatives, intervals taken apart."""
    base, extra = unpacked(hint)
    for one in extra:
        yield from one if isinstance(one, Interval) else (one,)
    if typing.get_origin(base) in (Union, types.UnionType):
        for alternative in typing.get_args(base):
            yield from metadata(alternative)


ANYTHING_ELSE = "**"
"""Stands among a constructor's arguments if it takes any name."""


@functools.cache
def wanted_by(target: Callable[..., Any]) -> dict[str, Wanted]:
    """The arguments of a constructor by name; an annotation that cannot be read allows anything."""
    from torch.optim import Optimizer

    found = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found[ANYTHING_ELSE] = Wanted(Any, False)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            hint = read(parameter.annotation, target)
            hint = hint | None if parameter.default is None else hint
            found[name] = Wanted(hint, parameter.default is parameter.empty)
    if isinstance(target, type) and issubclass(target, Optimizer):
        ranges = typing.get_type_hints(AlgorithmArguments, include_extras=True)
        found |= {name: found[name]._replace(hint=hint) for name, hint in ranges.items() if name in found}
    return found


def read(annotation: Any, target: Callable[..., Any]) -> Any:
    """What an annotation of a constructor says; ``Any`` where it says nothing or names what is only there for mypy."""
    if annotation is inspect.Parameter.empty:
        return Any
    carrier = types.SimpleNamespace(__annotations__={"one": annotation})
    scope = vars(inspect.getmodule(target)) if inspect.getmodule(target) else {}
    try:
        return typing.get_type_hints(carrier, scope, include_extras=True)["one"]
    except NameError:
        return Any


def described(hint: Any, noun: bool = True) -> str:
    """What an annotation allows, in words: "a number above 0, or null"; without the noun "above 0, or null"."""
    base, origin, args = bare(hint), typing.get_origin(bare(hint)), typing.get_args(bare(hint))
    if origin in (Union, types.UnionType):
        others = [described(one, noun or bare(one) not in (int, float)) for one in args if one is not type(None)]
        return ", or ".join(dict.fromkeys([*others, *(["null"] if type(None) in args else [])]))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}" if len(args) > 1 else str(args[0])
    if origin in (*SEQUENCES, tuple):
        return list_described(hint, [one for one in args if one is not ...])
    if origin in MAPPINGS or base in MAPPINGS:
        kind = described(args[1]) if args and args[1] is not Any else "values"
        return f"a mapping of names to {kind}" if kind == "values" else f"a mapping, of each name to {kind}"
    if base in (bool, type(None)):
        return NOUNS[base]
    if base not in NOUNS:
        return "anything" if base is Any else "a part of its own (a node with _target_, or a choice of its group)"
    limits = " and ".join(limits_of(hint))
    if not noun and limits:
        return limits
    return f"a {NOUNS[base]}{', ' if limits.startswith('at ') else ' '}{limits}".strip()


def list_described(hint: Any, items: Iterable[Any]) -> str:
    """What an annotation of a list allows."""
    item = next(iter(items))
    size = next((extra for extra in metadata(hint) if isinstance(extra, Len)), Len(0, None))
    if typing.get_origin(bare(hint)) is tuple and ... not in typing.get_args(bare(hint)):
        size = Len(len(list(items)), len(list(items)))
    count = count_described(size)
    if bare(item) not in (int, float, str):
        return f"a list of {count}entries, each {described(item)}"
    limits = " and ".join(limits_of(item))
    return f"a list of {count}{NOUNS[bare(item)]}s{', each ' if limits else ''}{limits}"


def count_described(size: Len) -> str:
    """ "2 " and so on; nothing where any number will do."""
    if size.max_length is None:
        return "one or more " if size.min_length else ""
    least = f"{size.min_length} to " if size.min_length < size.max_length else ""
    return f"{least}{size.max_length} "


def limits_of(hint: Any) -> list[str]:
    """ "at least 0" and so on."""
    found = {type(one): one for one in metadata(hint) if type(one) in SAID}
    numbers = {kind: getattr(one, SAID[kind][1]) for kind, one in found.items()}
    if numbers.keys() >= {Ge, Le}:
        return [f"between {numbers[Ge]} and {numbers[Le]}"]
    return [f"{SAID[kind][0]} {number}" for kind, number in numbers.items()]


def shown(value: Any) -> str:
    """A value as a user would type it, not longer than a line."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
