# shellcheck shell=bash
# Completion of `invoke` in bash 4 or newer, also for other projects that use Invoke.
# In this shell:  source <(invoke completion bash)
# In all shells:  invoke completion bash > ~/.local/share/bash-completion/completions/invoke

_bake_invoke() {
    local line=${COMP_LINE:0:COMP_POINT} typed before name names status
    typed=${line##*[[:space:]]}
    typed=${typed#[\"\']} # a quote that is still open is not a part of the candidates
    # bash takes `=` and `:` as the beginning of a word, which is $2; a candidate is the whole word.
    before=${typed%"${2#[\"\']}"}
    names=$("${COMP_WORDS[0]/#\~/$HOME}" --complete -- "$line" 2>/dev/null </dev/null)
    status=$?
    COMPREPLY=()
    if [[ $status == 0 && -z $names ]]; then
        compopt -o default # names of files
        return
    fi
    while read -r name; do
        if [[ $name && $name == "$typed"* ]]; then
            COMPREPLY+=("${name#"$before"}")
            [[ $name != *: ]] || compopt -o nospace # a path follows
        fi
    done <<<"$names"
}

complete -F _bake_invoke invoke inv
