"""Completion for bash, zsh and fish, made from the parsers:
python -m install.completion DIR

What a shell does with a line is the same for all commands and stands in the templates
below; what there is of commands and options is written into them as tables.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from install.words import Command, Option, commands

NAMES = ("fdrun", "fdserver", "flexdirect")

BASH = r"""# bash completion of fdrun, fdserver and flexdirect. Made by install/completion.py.

@TABLES@
_fdcore() {
    local cur=$2 path=${COMP_WORDS[0]##*/} word value="" at=1
    while [ "$at" -lt "$COMP_CWORD" ]; do
        word=${COMP_WORDS[at]}
        if [ -n "${_fdcore_values[$path $word]-}" ]; then
            # An option with a value: --option=value comes as three words.
            if [ "${COMP_WORDS[at+1]}" = "=" ]; then at=$((at + 1)); fi
            at=$((at + 1))
            if [ "$at" -ge "$COMP_CWORD" ]; then value=${_fdcore_values[$path $word]}; fi
        elif [ -n "${_fdcore_known[$path $word]-}" ]; then
            path="$path $word"
        elif [ "${word#-}" = "$word" ] && [ -n "${_fdcore_program[$path]-}" ]; then
            _fdcore_inner "$at"
            return
        fi
        at=$((at + 1))
    done
    [ "$cur" != "=" ] || cur=""
    case $value in
    @file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    @folder) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    @any) return ;;
    ?*) mapfile -t COMPREPLY < <(compgen -W "$value" -- "$cur"); return ;;
    esac
    if [ "${cur#-}" != "$cur" ]; then
        mapfile -t COMPREPLY < <(compgen -W "${_fdcore_options[$path]-}" -- "$cur")
    elif [ -n "${_fdcore_program[$path]-}" ]; then
        _fdcore_inner "$COMP_CWORD"
    else
        mapfile -t COMPREPLY < <(compgen -W "${_fdcore_words[$path]-}" -- "$cur")
    fi
}

# The program that begins at this word, with its own completion where that is to be had.
_fdcore_inner() {
    if declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif [ "$1" = "$COMP_CWORD" ]; then
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
    fi
}

complete -F _fdcore fdrun fdserver flexdirect
"""

ZSH = r"""#compdef fdrun fdserver flexdirect
# zsh completion of fdrun, fdserver and flexdirect. Made by install/completion.py.

@FUNCTIONS@
_fdcore_of "${service}"
"""

ZSH_WALK = r"""
# Goes down the commands that are named on the line, then completes what the last takes.
_fdcore_of() {
    local function=_fdcore_${${1// /_}//-/_}
    (( $+functions[$function] )) && $function
}
"""


FISH = r"""
# The program behind our own options, as it would be completed without us.
function @NAME@ --argument-names skip
    set -l words (commandline -opc)
    set -e words[1..$skip]
    while set -q words[1]
        if test "$words[1]" = --
            set -e words[1]
            break
        else if contains -- $words[1] @VALUES@
            set -e words[1]
        else if not string match -q -- '-*' $words[1]
            break
        end
        set -e words[1]
    end
    if not set -q words[1]; and string match -q -- '-*' (commandline -ct)
        return
    end
    set -l line (string escape -- $words) (commandline -ct)
    complete -C (string join ' ' -- $line)
end
"""


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- bash ----


def bash_table(name: str, rows: dict[str, str]) -> str:
    lines = [f"    [{quoted(key)}]={quoted(value)}" for key, value in rows.items()]
    return f"declare -A _fdcore_{name}=(\n" + "\n".join(lines) + "\n)\n"


def bash(every: Sequence[Command]) -> str:
    known = {each.path: "1" for each in every if " " in each.path}
    # "flexdirect help run" is no command of its own.
    options = {
        each.path: " ".join(name for option in each.options for name in option.names)
        for each in every
        if each.options
    }
    values = {
        f"{each.path} {name}": option.value
        for each in every
        for option in each.options
        for name in option.names
        # Of --wait[=TIME] the time never stands in a word of its own.
        if option.value and not option.optional
    }
    words = {each.path: " ".join(each.words) for each in every if each.words}
    program = {each.path: "1" for each in every if each.program}
    tables = [
        bash_table("known", known),
        bash_table("options", options),
        bash_table("values", values),
        bash_table("words", words),
        bash_table("program", program),
    ]
    return BASH.replace("@TABLES@", "".join(tables))


# ---- zsh ----


def zsh_word(text: str) -> str:
    for sign in "\\[]:":
        text = text.replace(sign, "\\" + sign)
    return text


def zsh_value(option: Option) -> str:
    if not option.value:
        return ""
    how = {"@file": "_files", "@folder": "_files -/", "@any": " "}
    action = how.get(option.value, f"({option.value})")
    colon = "::" if option.optional else ":"
    return f"{colon}{zsh_word(option.metavar.strip(chr(39)) or 'value')}:{action}"


def zsh_option(option: Option) -> Iterator[str]:
    apart = "" if option.repeated else "(" + " ".join(option.names) + ")"
    star = "*" if option.repeated else ""
    for name in option.names:
        long = (
            "=-"
            if option.optional
            else "="
            if option.value and name[:2] == "--"
            else ""
        )
        text = f"{star}{name}{long}[{zsh_word(option.help)}]{zsh_value(option)}"
        yield quoted(apart + text)


def zsh_function(each: Command, inner: Sequence[Command]) -> str:
    name = "_fdcore_" + each.path.replace(" ", "_").replace("-", "_")
    specs = [text for option in each.options for text in zsh_option(option)]
    if each.program:
        specs += [
            quoted("(-)1:program:_command_names -e"),
            quoted("*::arguments:_normal"),
        ]
    elif inner:
        pairs = " ".join(
            quoted(f"{zsh_word(c.path.rpartition(' ')[2])}:{zsh_word(c.what)}")
            for c in inner
        )
        joined = " ".join([*specs, quoted("1: :->command"), quoted("*:: :->rest")])
        return (
            f"{name}() {{\n"
            "    local context state line; typeset -A opt_args\n"
            f"    local -a below=({pairs})\n"
            f"    _arguments -C {joined} && return\n"
            "    case $state in\n"
            "    command) _describe -t commands command below ;;\n"
            f"    rest) _fdcore_of \"{each.path} $words[1]\" ;;\n"
            "    esac\n}\n"
        )  # fmt: skip
    elif each.words:
        specs.append(quoted(f"1: :({' '.join(each.words)})"))
    # In the inner functions the command's own name stands in front, as _arguments wants.
    stop = "-S " if each.program else ""
    return (
        f"{name}() {{\n    _arguments -s {stop}{' '.join(specs)}\n}}\n" if specs else ""
    )


def zsh(every: Sequence[Command]) -> str:
    made = []
    for each in every:
        inner = [c for c in every if c.path.rpartition(" ")[0] == each.path]
        made.append(zsh_function(each, inner))
    return ZSH.replace("@FUNCTIONS@", "".join(made) + ZSH_WALK)


# ---- fish ----


def fish_when(each: Command, every: Sequence[Command]) -> str:
    """The condition under which a command's words and options are offered."""
    words = each.path.split()[1:]
    inner = [
        c.path.rpartition(" ")[2]
        for c in every
        if c.path.rpartition(" ")[0] == each.path
    ]
    tests = [f"__fish_seen_subcommand_from {word}" for word in words]
    if inner:
        tests.append(f"not __fish_seen_subcommand_from {' '.join(inner)}")
    return f" -n {quoted('; and '.join(tests))}" if tests else ""


def fish_option(name: str, when: str, option: Option) -> str:
    line = f"complete -c {name}{when}"
    for each in option.names:
        kind = "-l" if each[:2] == "--" else "-s" if len(each) == 2 else "-o"
        line += f" {kind} {each.lstrip('-')}"
    if option.value and not option.optional:
        line += {
            "@file": " -rF",
            "@folder": " -x -a '(__fish_complete_directories)'",
        }.get(option.value, " -x")
        if option.value[0] != "@":
            line += f" -a {quoted(option.value)}"
    return f"{line} -d {quoted(option.help)}"


def fish_function(name: str, each: Command) -> str:
    values = [
        word
        for option in each.options
        for word in option.names
        if option.value and not option.optional
    ]
    return FISH.replace("@NAME@", name).replace("@VALUES@", " ".join(values))


def fish(name: str, every: Sequence[Command]) -> str:
    lines = [
        f"# fish completion of {name}. Made by install/completion.py.",
        f"complete -c {name} -f",
    ]
    mine = [each for each in every if each.path.split()[0] == name]
    for each in mine:
        when = fish_when(each, mine)
        inner = [c for c in mine if c.path.rpartition(" ")[0] == each.path]
        for one in inner:
            word, what = one.path.rpartition(" ")[2], one.what
            lines.append(f"complete -c {name}{when} -a {word} -d {quoted(what)}")
        if each.words and not inner:
            lines.append(f"complete -c {name}{when} -a {quoted(' '.join(each.words))}")
        lines += [fish_option(name, when, option) for option in each.options]
        if each.program:
            function = "__fdcore_" + each.path.replace(" ", "_")
            lines += fish_function(function, each).splitlines()
            inside = quoted(f"({function} {len(each.path.split())})")
            lines.append(f"complete -c {name}{when} -x -a {inside}")
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    """By path below /usr/share."""
    every = commands()
    made = {"bash-completion/completions/flexdirect": bash(every)}
    made["zsh/vendor-completions/_flexdirect"] = zsh(every)
    for name in NAMES:
        made[f"fish/vendor_completions.d/{name}.fish"] = fish(name, every)
    return made


def write(folder: Path) -> None:
    for path, text in files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
