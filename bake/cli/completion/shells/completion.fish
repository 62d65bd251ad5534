# Completion of `invoke` in fish, also for other projects that use Invoke.
# In this shell:  invoke completion fish | source
# In all shells:  invoke completion fish > ~/.config/fish/completions/invoke.fish

function __bake_invoke
    set -l program (commandline --tokenize --current-process --cut-at-cursor)
    while string match --quiet --regex '^\w+=' -- $program[1]
        set --erase program[1]
    end
    type --query -- $program[1]; or return
    set -l line (commandline --current-process --cut-at-cursor | string collect)
    set -l names (BAKE_COMPLETION=1 $program[1] --complete -- "$line" 2>/dev/null </dev/null)
    if test $status -eq 0 -a (count $names) -eq 0
        __fish_complete_path (commandline --current-token --cut-at-cursor)
    else
        printf '%s\n' $names
    end
end

complete --command invoke --command inv --no-files --arguments '(__bake_invoke)'
