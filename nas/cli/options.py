"""The parts that commands share: options, also from the fields of settings, and output."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
import sys
import types
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from typer import BadParameter, Option

from nas.printing import print_line
from nas.report.following import Following
from nas.space import SearchSpace

Returned = TypeVar("Returned")
Given = Mapping[str, Any]
"""The fields of settings that the user set, by their names."""

Space = Annotated[str, Option(help="Name of a built-in space, or a YAML file.")]
ArchitectureName = Annotated[str, Option(help="Name or JSON file.")]
Weights = Annotated[Path, Option(help="Its weights: .safetensors or .pth.")]
PretrainedWeights = Annotated[
    str | None,
    Option("--weights", help="Start from pretrained weights: .safetensors, .pth or hf:timm/NAME."),
]
Json = Annotated[bool, Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, Option("--force", help="Replace the result that is there.")]
Resume = Annotated[bool, Option("--resume", help="Continue from where it was stopped.")]
Seed = Annotated[int, Option(min=0, help="Same seed, same result.")]
Device = Annotated[
    str, Option(help="Device to measure on, such as cpu, cuda, ssh:HOST or adb:SERIAL.")
]
RuntimeName = Annotated[str, Option(help="Runtime that executes networks.")]
Threads = Annotated[int, Option(min=1, help="Threads of one inference.")]
Batch = Annotated[int, Option(min=1, help="Images of one inference.")]
MovedData = Annotated[
    str | None, Option("--data", help="Where the run's images are now, if they have moved.")
]
TrainingDevice = Annotated[
    Literal["cpu", "cuda"], Option(help="Device to train on; torchrun starts several processes.")
]


def one_of(option: str, names: Collection[str], help_text: str) -> Any:  # noqa: ANN401 (typer's)
    """An option that takes one of ``names``, such as the keys of a registry."""

    def check(name: str | None) -> str | None:
        if name is not None and name not in names:
            raise BadParameter(f"'{name}' is not one of {', '.join(map(repr, names))}.")
        return name

    return Option(option, help=help_text, callback=check, metavar=f"<{'|'.join(names)}>")


def options_of(
    *, without: Collection[str] = (), show_defaults: bool = True, **settings: type[BaseModel]
) -> Callable[[Callable[..., Returned]], Callable[..., Returned]]:
    """Replace parameters of a command by options with the types, bounds and help of fields.

    The keywords in ``settings`` name the parameters, which receive the fields that the user set,
    validated. Fields of one name share an option; one in ``without``, or with a model, has none.
    ``show_defaults`` is for settings whose own defaults hold where the user sets nothing.
    """
    options = {
        name: {
            field: option
            for field, info in model.model_fields.items()
            if field not in without and (option := _option(field, info, show_default=show_defaults))
        }
        for name, model in settings.items()
    }

    def decorate(command: Callable[..., Returned]) -> Callable[..., Returned]:
        parameters: dict[str, Parameter] = {}
        for name, own in inspect.signature(command, eval_str=True).parameters.items():
            parameters |= options.get(name, {name: own.replace(kind=Parameter.KEYWORD_ONLY)})

        @functools.wraps(command)
        def run(**arguments: object) -> Returned:
            fields = {field for of_model in options.values() for field in of_model}
            given = {field: arguments.pop(field) for field in fields}
            for name, of_model in options.items():
                words = {field: given[field] for field in of_model}
                arguments[name] = {field: it for field, it in words.items() if it is not None}
            return command(**arguments)

        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        return run

    return decorate


def print_result(
    result: object,
    paths: Mapping[str, str | Path] = types.MappingProxyType({}),
    *,
    as_json: bool,
    show: Callable[[], object] = lambda: None,
    following: Following | None = None,
) -> None:
    """Print a result as JSON; or show it to a person, then its files, and what may follow."""
    if as_json:
        added = {"next": following.command} if following and isinstance(result, dict) else {}
        told = {**result, **added} if isinstance(result, dict) else result
        print(json.dumps(told, indent=2))  # noqa: T201 - JSON escapes control characters itself
        return
    show()
    for name, path in paths.items():
        print_line(f"{name + ':':<14}{path}")
    if following:
        print_line(f"next, {following.purpose}:")
        print_line(f"  {following.command}")


def command_line() -> str:
    """The command that this process runs, quoted for the shell."""
    return shlex.join(["nas", *sys.argv[1:]])


def default_run(space: SearchSpace, data: str) -> Path:
    """The folder that ``train-supernet`` writes and ``slim`` reads."""
    name = Path(data.partition(":")[2]).name or data
    return Path("runs") / f"{space.name}_{name.replace(':', '_')}"  # hf:NAME:CONFIG


def _option(name: str, field: FieldInfo, *, show_default: bool) -> Parameter | None:
    """The option for a field of settings; None if no word can express the field's values."""
    kind, bounds = _type_and_bounds(field)
    if not (kind in (int, float, bool, str) or get_origin(kind) in (Literal, tuple)):
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]

    def validate(word: object) -> object:
        if word is None:
            return None
        value = word.split(",") if isinstance(word, str) and get_origin(kind) is tuple else word
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise BadParameter(f"{message}, got '{word}'") from None

    flag = "--data" if name == "spec" else f"--{name.replace('_', '-')}"
    default = field.get_default() if show_default and not field.is_required() else None
    option = Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=" ".join(filter(None, (field.description, bounds))) or None,
        callback=validate,
        metavar="<n,n,...>" if get_origin(kind) is tuple else None,
        show_default=str(default) if default not in (None, (), "") else False,
    )
    shown = str if get_origin(kind) is tuple else kind
    annotation = Annotated[shown | None, option]  # type: ignore[valid-type]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _type_and_bounds(field: FieldInfo) -> tuple[Any, str]:
    """The type of a field that may be None, and its bounds, such as ``[x>=0, x<1]``."""
    kind, limits = field.annotation, list(field.metadata)
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        limits += [limit for it in more for limit in getattr(it, "metadata", [it])]
    texts = [
        f"x{sign}{getattr(limit, name):g}"
        for limit in limits
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if hasattr(limit, name)
    ]
    return kind, f"[{', '.join(texts)}]" if texts else ""
