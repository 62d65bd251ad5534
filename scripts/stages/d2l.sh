#!/usr/bin/env bash
# The d2l package, Jupyter with a kernel of the environment, and the book's notebooks.
# Needs:  mxnet|pytorch
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX D2L_REQUIREMENTS NOTEBOOKS_URL NOTEBOOKS_SHA256
#         NOTEBOOKS_COMMIT FRAMEWORK PIP_PACKAGES PYPI_MIRROR STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

name=$(basename "$ENVIRONMENT_PREFIX")
python=$ENVIRONMENT_PREFIX/bin/python
notebooks=$(home_of_login_user)/d2l-en

requirements=$ENVIRONMENT_PREFIX/requirements.txt
write_file "$requirements" <<<"$D2L_REQUIREMENTS"$'\n'"$PIP_PACKAGES"
pip_install --prefer-binary --requirement "$requirements"
as_login_user "$python" -m ipykernel install --prefix "$ENVIRONMENT_PREFIX" --name "$name" --display-name "$name ($FRAMEWORK)"

# prepare_notebooks FOLDER: the notebooks for Colab begin with a cell that installs another build of the
# framework, and another d2l: remove these lines. Remove notebooks that are empty upstream (the sections
# that a framework does not have). A notebook that cannot be read is reported and left as it is.
prepare_notebooks() {
    as_login_user "$python" - "$1" <<'EOT'
import json, pathlib, re, sys
replaces = re.compile(r"""\s*!pip install\b.*[\s"'](d2l|mxnet(-cu\d+)?|torch(vision)?)(?![\w-])""")
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.rglob("*.ipynb")):
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
            print(f"{path.relative_to(folder)} is empty upstream: left out")
            continue
        book, changed = json.loads(text), False
        for cell in book["cells"]:
            lines = "".join(cell["source"]).splitlines(keepends=True)
            kept = [line for line in lines if not replaces.match(line)]
            if cell["cell_type"] == "code" and kept != lines:
                cell["source"], cell["outputs"], changed = kept, [], True
        if changed:
            path.write_text(json.dumps(book, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        print(f"warning: the notebook {path.relative_to(folder)} cannot be read: {type(error).__name__}: {error}")
EOT
}

# A user may change the notebooks: an existing folder is left alone.
work=$(as_login_user mktemp --directory)
trap 'rm --recursive --force "$work"' EXIT
if [[ -z $NOTEBOOKS_URL ]]; then
    say "no notebooks requested"
elif [[ -d $notebooks ]]; then
    say "$notebooks exists already"
elif [[ -n $NOTEBOOKS_COMMIT ]]; then
    over_tls "$NOTEBOOKS_URL"
    as_login_user git init --quiet "$work/notebooks"
    as_login_user git -C "$work/notebooks" fetch --quiet --depth 1 "$NOTEBOOKS_URL" "$NOTEBOOKS_COMMIT" ||
        fail "the notebooks cannot be fetched from $NOTEBOOKS_URL: write notebooks = false in [d2l] to leave them out"
    as_login_user git -C "$work/notebooks" -c advice.detachedHead=false checkout --quiet "$NOTEBOOKS_COMMIT"
    note files <<<"${NOTEBOOKS_URL##*/} $NOTEBOOKS_COMMIT"
else
    download "$NOTEBOOKS_URL" "$work/archive.zip" "$NOTEBOOKS_SHA256"
    as_login_user "$python" -m zipfile --extract "$work/archive.zip" "$work/notebooks"
fi
if [[ -d $work/notebooks ]]; then
    prepare_notebooks "$work/notebooks"
    as_login_user mv --no-target-directory "$work/notebooks" "$notebooks"
fi

as_login_user "$python" -m pip check || fail "the environment's packages are not compatible with each other"
as_login_user "$python" -m jupyter kernelspec list | grep "^ *$name " >/dev/null || fail "Jupyter does not list the kernel $name"
as_login_user "$python" -m jupyter --version | sed --quiet '/^\(notebook\|jupyterlab\|ipykernel\)/ p'
[[ -z $NOTEBOOKS_URL ]] || say "notebooks in $notebooks: $(find "$notebooks" -name '*.ipynb' | wc --lines)"
