#!/usr/bin/env bash
# Runs commands, or prints them so that they can be read and pasted.  Sourced by the other scripts:
# perform COMMAND ... does what $dry_run says; show COMMAND ... always prints.

quote() { # WORD, as a shell reads it; $inside: it is part of a text in single quotes
    local option='' value="$1"
    if [[ "$value" =~ ^(--[a-zA-Z0-9_.-]+=)(.*)$ ]]; then # --option='its value'
        option="${BASH_REMATCH[1]}" value="${value#*=}"
    fi
    case "$value" in
        '') [ -n "$option" ] || value="''" ;;
        *[!a-zA-Z0-9_@%+=:,./-]*)
            if [ -n "${inside:-}" ] && [[ "$value" != *[\"\$\`\\!]* ]]; then
                value="\"$value\""
            else
                value="'${value//\'/\'\\\'\'}'"
            fi
            ;;
    esac
    printf '%s%s' "$option" "$value"
}

show() { # COMMAND ..., with a line for each option; $behind comes at the end
    local word before='' long=0 separator=''
    for word in "$@"; do
        [[ "$word" != --* ]] || long=1
        [[ "$word" != --* && "$before" != --*=* ]] || separator=$' \\\n    '
        printf '%s' "$separator" && quote "$word"
        separator=' ' before="$word"
    done
    printf '%s\n' "${behind:-}"
    [ "$long" -eq 0 ] || echo
}

line() { # COMMAND ..., on one line, to be part of a text in single quotes
    local word separator=''
    for word in "$@"; do
        printf '%s' "$separator" && inside=1 quote "$word"
        separator=' '
    done
}

perform() {
    if [ "${dry_run:-0}" -eq 1 ]; then show "$@"; else "$@"; fi
}

# shellcheck disable=SC2034  # for the script that calls it, which has a usage
read_command() { # COMMAND [--dry-run] [-- OPTION ...]: sets $command, $dry_run and $options
    command="${1:-}" dry_run=0 options=()
    [ "$#" -gt 0 ] && shift
    while [ "$#" -gt 0 ]; do
        case "$1" in
            --dry-run) dry_run=1 ;;
            -h | --help) usage && exit 0 ;;
            --) shift && options=("$@") && break ;;
            *) echo "error: unknown option $1 (see --help)" >&2 && exit 2 ;;
        esac
        shift
    done
}
