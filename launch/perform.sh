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
