"""`rtaccel completion`: a script that completes verbs, options and their choices in a shell, made from the parsers."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

HELP = "print a completion script for bash, zsh or fish: source <(rtaccel completion bash)"

SHELLS = ("bash", "zsh", "fish")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh: source <(...), fish: ... | source")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    text = script(args.shell)
    print(json.dumps({"shell": args.shell, "script": text}) if args.json else text)
    return 0


@dataclass(frozen=True)
class Option:
    """flags: as they are written, empty for a positional. choices: words that may follow; files where there are none."""

    flags: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    takes_value: bool


def verbs() -> dict[str, tuple[str, list[Option]]]:
    """Verb -> (its help, its arguments), read from the parser that the command itself uses."""
    from rtaccel.cli.main import build_parser, verb_names

    parser = build_parser(verb_names())
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                found[name] = (texts[name], [_option(child, a) for a in child._actions])
    return found


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    choices = tuple(str(choice) for choice in action.choices or ())
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    return Option(tuple(action.option_strings), " ".join(text.split()), choices, action.nargs != 0)


def script(shell: str) -> str:
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


_HEAD = "# Completion of rtaccel for {}. Made by `rtaccel completion {}`.\n"


def _bash() -> str:
    """Options of the verb where a word begins with a dash, choices after their option, file names elsewhere."""
    cases = []
    for name, (_, options) in verbs().items():
        flags = " ".join(flag for option in options for flag in option.flags)
        words = " ".join(choice for option in options if not option.flags for choice in option.choices)
        after = "".join(
            f"          {'|'.join(option.flags)}) choices='{' '.join(option.choices)}' ;;\n"
            for option in options if option.flags and option.choices
        )  # fmt: skip
        inner = f"        case $previous in\n{after}        esac\n" if after else ""
        cases.append(f"      {name})\n        flags='{flags}' choices='{words}'\n{inner}        ;;\n")
    return (
        _HEAD.format("bash", "bash")
        + f"""_rtaccel() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} flags='' choices=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    choices='{" ".join(verbs())}' flags='--help --version'
  else
    case ${{COMP_WORDS[1]}} in
{"".join(cases)}    esac
  fi
  case $word in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$choices" -- "$word")) ;;
  esac
}}
complete -o default -F _rtaccel rtaccel"""
    )


def _zsh() -> str:
    """The function of bash in zsh's own frame for such."""
    body = _bash().partition("\n")[2]
    return (
        _HEAD.format("zsh", "zsh")
        + "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
        + body
    )


def _fish() -> str:
    lines = [_HEAD.format("fish", "fish").rstrip()]
    alone = "__fish_use_subcommand"
    for name, (text, options) in verbs().items():
        lines.append(f"complete -c rtaccel -f -n {alone} -a {name} -d {_quoted(text)}")
        inside = _quoted(f"__fish_seen_subcommand_from {name}")
        for option in options:
            choices = f" -f -a {_quoted(' '.join(option.choices))}" if option.choices else ""
            if not option.flags:
                lines += [f"complete -c rtaccel -n {inside}{choices}"] if choices else []
                continue
            flags = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags)
            value = " -r" if option.takes_value else ""
            lines.append(f"complete -c rtaccel -n {inside} {flags}{value}{choices} -d {_quoted(option.help)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
