# Completion of forge for fish(1); printed by `forge completion fish`.

function __forge_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l plain (string unescape -- $current 2>/dev/null; or echo $current)
    set -l forge (string replace -r '^~/' "$HOME/" -- $words[1])
    set -l found ($forge --complete fish $words[2..] "$plain" 2>/dev/null </dev/null)
    # What fish completes for a command that it does not know: files.
    set -l value (string replace -r '^--[^=]*=' '' -- $current)
    set -l prefix (string match -r -- '^--[^=]*=' $current)
    switch "$found[1]"
        case files
            string replace -r '^' -- "$prefix" (complete -C "__forge_files $value")
        case folders
            string replace -r '^' -- "$prefix" (complete -C "__forge_files $value" | string match -r '.*/$')
    end
    printf '%s\n' $found[2..]
end

complete --command forge --no-files --arguments '(__forge_complete)'
