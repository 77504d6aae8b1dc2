# Completion of forge for bash(1); printed by `forge completion bash`.

_forge() {
    local found
    mapfile -t found < <("${1/#\~\//$HOME/}" --complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    case ${found[0]-} in
        files) compopt -o default ;;
        folders) compopt -o dirnames ;;
    esac
    COMPREPLY=("${found[@]:1}")
    case ${COMPREPLY[*]-} in
        *=) compopt -o nospace ;; # a value follows
    esac
}

complete -F _forge forge
