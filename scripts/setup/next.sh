#!/usr/bin/env bash
# Print what to do after the installation, or after the rehearsal, in commands for the user's shell.
# Usage: next.sh setup|rehearsal
set -o errexit -o nounset -o pipefail

case ${SHELL:-} in
    */fish)
        activate="source .venv/bin/activate.fish"
        complete="invoke completion fish | source"
        ;;
    */zsh)
        activate="source .venv/bin/activate"
        complete="source <(invoke completion zsh)"
        ;;
    *)
        activate="source .venv/bin/activate"
        complete="source <(invoke completion bash)"
        ;;
esac

if [[ ${1:-} == rehearsal ]]; then
    cat <<END

The local cloud keeps running. Next:
  $activate
  invoke launch-from-ami --local --ami mxnet-cu101   # start a machine
  invoke local.down   # end the local cloud and its machines
To continue: docs/tutorial.md
END
else
    cat <<END

bake is installed in .venv. Next:
  $activate
  $complete
  make rehearsal   # bake an image on this computer, without AWS
  invoke doctor    # report what is missing for a bake on AWS
END
fi
