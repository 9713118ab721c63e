"""What ``--help`` prints: usage, every option with its default, the arguments, examples."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

METAVARS = {"int": "N", "comma separated list of strings": "A,B", "string": "TEXT"}
"""The placeholder for the value of an absl flag, by the flag's type."""
ABSENT = {None: "none", "": "none", False: "off"}
"""How a default is shown whose value alone says little."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description and ends each option with its default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "default" in text or action.default is argparse.SUPPRESS or not action.option_strings:
            return text
        if action.required:
            return f"{text} (required)".lstrip()
        if "(required)" in text:  # required, unless another option is given
            return text
        shown = ABSENT.get(action.default, action.default)
        return f"{text} (default: {str(shown).replace('%', '%%')})".lstrip()


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one sentence, without printing the usage."""

    def error(self, message: str) -> NoReturn:
        name = self.prog.removeprefix("python -m ")
        self.exit(2, f"{name}: {message} (--help lists the options)\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses an option that is given but empty, except those that are empty by default."""
        options = super().parse_args(args, namespace)
        for action in self._actions:
            if (
                action.option_strings
                and getattr(options, action.dest, None) == "" != action.default
            ):
                optional = "" if action.required else ", or leave it out"
                self.error(f"{action.option_strings[0]}= is empty: give it a value{optional}")
        return options


def create_parser(command: str, about: str, **options: Any) -> argparse.ArgumentParser:
    """The parser of ``python -m mla_jax.COMMAND``; ``about`` says what it does, with examples."""
    return Parser(
        prog=f"python -m mla_jax.{command}",
        description=about,
        formatter_class=HelpFormatter,
        **options,
    )


def of_training_command(
    command: str,
    about: str,
    own_flags: Iterable[Any],
    arguments: Mapping[str, tuple[Any, str]],
    fields: Mapping[str, Any],
) -> str:
    """The help of a command whose flags absl parses.

    Args:
      command: ``main``, as in ``python -m mla_jax.main``.
      about: what it does, with examples.
      own_flags: the ``absl.flags.Flag`` of the command.
      arguments: ``{name: (default, meaning)}``, what may follow the colon of ``--config=FILE:``.
      fields: the configuration's fields with their values; empty if no ``--config`` is given.
    """
    parser = create_parser(
        command,
        about,
        add_help=False,
        usage="%(prog)s --config=FILE[:name=value,...] [--config.FIELD=VALUE ...] "
        "[--OPTION=VALUE ...]",
        epilog=_listed(fields),
    )
    own_flags = list(own_flags)
    without_config = any(flag.name == "runs" for flag in own_flags)
    for flag in own_flags:
        kind = METAVARS.get(flag.flag_type(), "TEXT")
        if flag.name == "config":
            kind = "FILE"
        elif flag.name.endswith(("dir", "cache")):
            kind = "DIR"
        default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
        text = flag.help.replace("%", "%%")
        if flag.name == "config" and without_config:
            text += " (required) unless there is --runs"
        parser.add_argument(
            f"--{flag.name}", metavar=kind, default=default, help=text,
            required=flag.name == "config" and not without_config,
        )  # fmt: skip
    parser.add_argument("--config.FIELD", metavar="VALUE", help="sets a field of the configuration "
                        "(default: what FILE says; --config=FILE --help lists them)")  # fmt: skip
    parser.add_argument("--help", action="help", help="prints this and exits")
    group = parser.add_argument_group(
        "arguments of the configuration, as in --config=FILE:name=value,name=value",
        "A file may have others: its docstring names them.",
    )
    for name, (default, meaning) in arguments.items():
        written = "" if isinstance(default, bool) else "=..."
        shown = ABSENT[default] if isinstance(default, bool) else default
        group.add_argument(
            name, metavar=name + written, nargs="?", help=f"{meaning} (default: {shown})"
        )
    return parser.format_help()


def _listed(fields: Mapping[str, Any]) -> str:
    if not fields:
        return ""
    shown = {name: "" if value is None else value for name, value in fields.items()}
    lines = [f"  --config.{name}={value}" for name, value in shown.items()]
    return "\n".join(["fields of this configuration:", *lines])
