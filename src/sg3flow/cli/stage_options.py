"""Shared parts of all commands: options generated from settings, and one-line errors.

Imports no heavy library, so that ``--help`` answers at once.
"""

import dataclasses
import errno
import inspect
import json
import os
import re
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sg3flow.config import SWITCH
from sg3flow.errors import Sg3flowError, bounded_message, cut, prints_error, report_failure
from sg3flow.interrupts import EXIT_CODE, has_raised_interrupt, say_interrupted
from sg3flow.params_file import load_settings
from sg3flow.settings import LAUNCHED, stage_times_path

_given: list[str] = []  # arguments of the running command
# Options of version 0.1 under their present names; `stage_command` adds the renamed settings.
_renamed = {"--anew": "--clean", "--anyway": "--force"}
_BOOL_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def stage_app(help: str | None, *, completion: bool = False) -> typer.Typer:
    """A typer application that also accepts ``--snap_every`` for ``--snap-every``, and ``-h``.

    Args:
        completion: add the options that install and show the completion of a shell.
    """
    return typer.Typer(
        help=help,
        add_completion=completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={
            "token_normalize_func": lambda token: token.replace("_", "-"),
            "help_option_names": ["-h", "--help"],
        },
    )


def stage_command(
    app: typer.Typer,
    section: str,
    config_type: type[Any],
    *,
    name: str | None = None,
    params: bool = True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function into a command with its own options and those of ``config_type``.

    The function takes the settings as its first argument, then its paths as keyword arguments.
    ``--params FILE`` reads the settings from that file's ``section``; options on the command line
    override it. Without ``--params`` the defaults of ``config_type`` apply. ``params=False`` is for
    commands without a section in the params file.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        paths = list(inspect.signature(function).parameters.values())[1:]
        fields = dataclasses.fields(config_type)
        _renamed.update(
            {_flag(f.metadata["former"]): _flag(f.name) for f in fields if f.metadata["former"]}
        )

        def command(**given: Any) -> None:
            debug, params_path = given.pop("debug"), given.pop("params", None)
            settings = {f.name: given.pop(f.name) for f in fields}
            overrides = {
                key: _split_commas(value) if isinstance(value, list) else value
                for key, value in settings.items()
                if value is not None and value != []
            }
            _limit_spinning()
            named = {} if params_path is None else {_flag(f.name): f.name for f in fields}
            with one_line_errors(debug, {flag: f"{section}.{n}" for flag, n in named.items()}):
                config = load_settings(config_type, section, params_path, overrides)
                start = time.time()
                function(config, **given)
                _record_stage_time(section, start)

        options = [_option(field, config_type) for field in fields]
        common = [_PARAMS_OPTION, _DEBUG_OPTION] if params else [_DEBUG_OPTION]
        signature = inspect.Signature([*paths, *options, *common])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        command.__doc__ = function.__doc__
        app.command(name or section, cls=_Command)(command)
        return function

    return decorate


def complete_recipe(incomplete: str) -> list[str]:
    """The names of recipes that a shell offers; loaded when it asks."""
    from sg3flow.cli.recipes import recipe_names

    return recipe_names(incomplete)


def given_arguments() -> list[str]:
    """The arguments of the running command, without the program."""
    return list(_given)


def is_given(setting: str) -> bool:
    """Whether a switch or its opposite is among the arguments of the running command."""
    flags = (_flag(setting), _flag(f"no_{setting}"))
    return any(each.partition("=")[0].replace("_", "-") in flags for each in _given)


def _limit_spinning() -> None:
    """Let OpenMP threads spin only briefly before they sleep; torch reads this when it loads.

    With libgomp's default a training step took three times as long as soon as another process used
    the CPU, such as the data loader; on an idle machine the default is a few percent faster.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def run(app: typer.Typer, help: str | None = None, program: str | None = None) -> None:
    """Run a command-line application; a wrong option ends in one line and exit code 2.

    Args:
        help: description for ``--help``; None: the application's own.
        program: name of the program for ``--help``; None: as it was called.
    """
    if help is not None:
        _describe_app(app, help)
    # No command shows a window, and a notebook passes on a backend that may not be installed here:
    # with that, matplotlib cannot even be imported.
    os.environ["MPLBACKEND"] = "agg"
    try:
        code = app(standalone_mode=False, prog_name=program)
    except typer.TyperException as error:
        _print_error(_renaming(error) or error.format_message())
        sys.exit(error.exit_code)
    except typer.Abort:  # typer's KeyboardInterrupt
        say_interrupted()
        sys.exit(EXIT_CODE)
    sys.exit(code if isinstance(code, int) else 0)


def _describe_app(app: typer.Typer, help: str) -> None:
    """Set the description of an application; indented paragraphs keep their line breaks."""
    paragraphs = inspect.cleandoc(help).split("\n\n")
    text = "\n\n".join(f"\b\n{each}" if each.startswith(" ") else each for each in paragraphs)
    app.info.help = text
    if len(app.registered_commands) == 1:  # then the help is that of the command
        app.registered_commands[0].help = text


def _renaming(error: typer.TyperException) -> str:
    """What an unknown option is called now, if the command has it; otherwise empty."""
    # By attribute: typer does not export the class of this error.
    given, context = getattr(error, "option_name", ""), getattr(error, "ctx", None)
    present = _renamed.get(given)
    if context is None or not any(present in param.opts for param in context.command.params):
        return ""
    return f"{given} is now {present}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


class one_line_errors:
    """Turn an error into one line and a non-zero exit; ``--debug`` shows the traceback too.

    Args:
        settings: names in the params file of this command by option. The user of a params file
            gives no options, so a message that tells to pass one adds its name there.
    """

    def __init__(self, debug: bool, settings: Mapping[str, str] | None = None) -> None:
        self.debug = debug
        self.settings = settings or {}

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, typer.Exit | typer.TyperException):
            return
        if self.debug:
            traceback.print_exception(error)
        # A library that was being imported may raise an error of its own.
        hidden = has_raised_interrupt() and not isinstance(error, Sg3flowError)
        if isinstance(error, KeyboardInterrupt) or hidden:
            say_interrupted()
            raise typer.Exit(EXIT_CODE) from None
        if isinstance(error, Exception):
            message = _describe(error)
            message += _settings_words(message, self.settings)
            report_failure(error, message)
            if prints_error(error, has_launcher=LAUNCHED.is_set()):
                _print_error(message)
            raise typer.Exit(1) from None


def _describe(error: Exception) -> str:
    if isinstance(error, Sg3flowError):
        return str(error)
    # Some libraries wrap the error of the disk in their own; torch.save does.
    disk = next((e for e in _causes(error) if isinstance(e, OSError)), None)
    if disk is not None:
        from sg3flow.files import final_path

        where = f" {cut(final_path(str(disk.filename)), 300)}" if disk.filename else ""
        if disk.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return (
                f"no space left on the disk for{where or ' the output'}; free space and run again"
            )
        return f"{disk.strerror or disk}:{where or ' (no file named)'}"
    # By name: torch must not be imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; lower --batch-gpu (training), --batch or the resolution"
    if type(error).__name__ == "AcceleratorError":
        reason = cut(str(error).partition("\n")[0], 300)
        return (
            f"the GPU failed ({reason}); run the same command again, and if it fails again, look "
            "at `nvidia-smi` and the kernel log (Xid); --debug shows where"
        )
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if missing and not missing.startswith("sg3flow"):
        return (
            f"the Python package {cut(missing.partition('.')[0], 60)} is not installed; `pip "
            "install .` in a clone, or installing sg3flow again, brings all packages that it needs"
        )
    reason = cut(str(error), 300)
    return f"unexpected {type(error).__name__}: {reason} (this is a bug; --debug shows where)"


def _settings_words(message: str, settings: Mapping[str, str]) -> str:
    """`` (in the params file: pack.mode)`` for the options in a message; empty: there are none."""
    flags = re.findall(r"(?<![\w-])--[a-z][a-z-]*", message)
    names = dict.fromkeys(settings[flag] for flag in flags if flag in settings)
    missing = [name for name in names if name not in message]
    return f" (in the params file: {', '.join(missing)})" if missing else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, from the last to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _print_error(message: str) -> None:
    print("error: " + bounded_message(" ".join(message.split())), file=sys.stderr)


_PARAMS_OPTION = inspect.Parameter(
    "params",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, typer.Option(help="params file to read the settings from")],
)
_DEBUG_OPTION = inspect.Parameter(
    "debug",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--debug", help="show tracebacks")],
)


def _option(field: "dataclasses.Field[Any]", config_type: type[Any]) -> inspect.Parameter:
    kind = typing.get_type_hints(config_type)[field.name]
    help_text = field.metadata["help"]
    is_switch = field.metadata["choices"] == SWITCH
    if field.metadata["choices"] and not is_switch:
        help_text += f" ({'|'.join(field.metadata['choices'])})"
    is_list = typing.get_origin(kind) is tuple
    if field.default is dataclasses.MISSING:
        help_text += "  [required]"
    elif field.default not in ("", ()):
        shown = ",".join(field.default) if is_list else field.default
        help_text += f"  [default: {shown}]"
    # None stands for "not given": the params file or the default decides then.
    kind = str if field.metadata["words"] else bool if is_switch else kind
    kind = list[str] | None if is_list else kind | None
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, typer.Option(help=help_text, show_default=False)],
    )


class _Command(TyperCommand):
    """A command whose flags also accept a value, as StyleGAN users write it: ``--mirror=1``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _given[:] = args
        flags = {name for param in self.params if param.secondary_opts for name in param.opts}
        return super().parse_args(ctx, _without_values(args, flags))


def _without_values(args: Sequence[str], flags: set[str]) -> list[str]:
    """``--mirror=1`` and ``--mirror 1`` become ``--mirror``; with 0, ``--no-mirror``."""
    rewritten: list[str] = []
    pending = list(args)
    while pending:
        argument = pending.pop(0)
        name, equals, word = argument.partition("=")
        name = name.replace("_", "-")
        if name in flags:
            if not equals and pending and pending[0].lower() in _BOOL_WORDS:
                word = pending.pop(0)
            if word.lower() in _BOOL_WORDS:
                argument = name if _BOOL_WORDS[word.lower()] else f"--no-{name[2:]}"
        rewritten.append(argument)
    return rewritten


def _split_commas(values: list[str]) -> list[str]:
    return [part for value in values for part in value.split(",") if part]


def _record_stage_time(section: str, start: float) -> None:
    """Record the duration of a stage that DVC runs, for the table of ``sg3flow summary``."""
    if "DVC_STAGE" not in os.environ:
        return
    path = stage_times_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"stage": section, "start": round(start), "sec": round(time.time() - start, 1)}
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
