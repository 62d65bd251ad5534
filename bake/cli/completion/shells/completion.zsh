#compdef invoke inv
# Completion of `invoke` in zsh, also for other projects that use Invoke.
# In this shell:  source <(invoke completion zsh)
# In all shells:  invoke completion zsh > FOLDER/_invoke, in a folder of $fpath

_bake_invoke() {
    local names line result
    local -a described
    names=$(BAKE_COMPLETION=1 ${~words[1]} --complete -- "${(j: :)words[1,CURRENT-1]} $PREFIX" \
        2>/dev/null </dev/null)
    result=$?
    if [[ $result == 0 && -z $names ]]; then
        _files
        return
    fi
    for line in ${(f)names}; do
        # _describe splits at the first colon.
        if [[ $line == *$'\t'* ]]; then
            described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        else
            described+=("${line//:/\\:}")
        fi
    done
    if [[ $names == *:(|$'\t'*) ]]; then
        _describe 'invoke' described -S '' # a path follows
    else
        _describe 'invoke' described
    fi
}

if [[ ${funcstack[1]} == _invoke ]]; then
    _bake_invoke "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    compdef _bake_invoke invoke inv
fi
