from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.errors import Finding, RecipeError
from bake.recipe import recipes
from bake.recipe.fields import MAX_TAGS
from bake.recipe.override import override
from bake.recipe.project import Project, built_in
from bake.recipe.recipe import Recipe, environment_name, validated
from tests.support.environment import REPOSITORY

MANIFESTS = REPOSITORY / "manifests"

GOOD = """
name = "mine"
base = "ubuntu-18.04"
stages = ["base", "drivers", "cuda", "conda", "mxnet", "d2l", "seal"]
[builder]
instance_types = ["g4dn.xlarge"]
[driver]
branch = "470"
[cuda]
version = "10.1"
[python]
manager = "miniconda"
installer = "py310_24.9.2-0"
version = "3.7"
[framework]
name = "mxnet"
version = "1.7.0"
[d2l]
version = "0.17.0"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    return tmp_path / "manifests"


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def read(folder: Path, text: str) -> Recipe:
    return recipes.load(write(folder, text), built_in())


def findings(text: str, tmp_path: Path) -> dict[str, str]:
    """Return the text of each finding by its place, for a recipe that is refused."""
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    assert caught.value.exit_code == 2
    return {f.place: str(f).removeprefix(f"{f.place}: ") for f in caught.value.findings}


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_recipe_has_the_defaults_that_the_documentation_names(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    assert recipe.builder.disk_gb == 64
    assert recipe.builder.market == "on-demand"
    assert environment_name(recipe) == "d2l"
    assert recipe.driver.modules == "proprietary"
    assert recipe.d2l.notebooks
    assert recipe.gpu is None
    assert not recipe.default
    assert recipe.checkpoints.after is None
    assert recipe.checkpoints.keep == 8
    assert recipe.checkpoints.max_age_days == 30


def test_the_included_recipes_are_valid_and_complete() -> None:
    names = {recipe.name: recipe for recipe in recipes.all_recipes(built_in())}
    assert set(names) == {path.stem for path in MANIFESTS.glob("*.toml")}
    assert {"mxnet-cu101", "pytorch-cu126"} < set(names)
    for name, recipe in names.items():
        assert recipe.description, name
        assert recipe.builder.disk_gb == (24 if name == "jupyter-cpu" else 64)
        assert recipe.stages[0] == "base"
        assert recipe.stages[-1] == "seal"


def test_all_findings_come_at_once_with_their_places(tmp_path: Path) -> None:
    text = changed("18.04", "18.4").replace('"470"', "470").replace("g4dn.xlarge", "g4dn")
    text = text.replace("[cuda]", "[cuda]\nverson = 1").replace('name = "mxnet"', 'name = "mxnt"')
    text += "[tags]\n'aws:x' = 'y'\n[mirrors]\npypy = 'https://x'\n"
    found = findings(text, tmp_path)
    assert set(found) == {
        "base",
        "builder.instance_types[0]",
        "driver.branch",
        "cuda.verson",
        "framework.name",
        'tags."aws:x"',
        "mirrors.pypy",
    }


@pytest.mark.parametrize("version", ["10.1", "10.10", "10"])
def test_a_version_that_is_written_as_a_number_is_refused_with_the_reason(
    tmp_path: Path, version: str
) -> None:
    found = findings(changed('version = "10.1"', f"version = {version}"), tmp_path)
    assert "10.10 as a number is 10.1" in found["cuda.version"]
    assert "in quotes" in found["cuda.version"]


@pytest.mark.parametrize(
    ("old", "new", "place", "says"),
    [
        ('"ubuntu-18.04"', '"ubuntu-1804"', "base", "Did you mean ubuntu-18.04"),
        ('version = "10.1"', 'version = "10.4"', "cuda.version", "Did you mean 10.2"),
        ('branch = "470"', 'branch = "471"', "driver.branch", "Did you mean 470"),
        ('version = "1.7.0"', 'version = "1.7"', "framework.version", "Did you mean 1.7.0"),
        ('version = "0.17.0"', 'version = "0.17"', "d2l.version", "Did you mean 0.17.0"),
        ("py310_24.9.2-0", "py310_24.9.2", "python.installer", "Did you mean py310_24.9.2-0"),
        ("g4dn.xlarge", "g4dn", "builder.instance_types[0]", "something like g4dn.xlarge"),
        ("[builder]", "[builder]\nmarke = 1", "builder.marke", "Did you mean market?"),
        ("[builder]", "[builder]\nmarket = 'sport'", "builder.market", "'on-demand' or 'spot'"),
        ("[builder]", "[builder]\ndisk_gb = '64'", "builder.disk_gb", "a whole number of GB"),
        ("[builder]", "[builder]\ndisk_gb = 4", "builder.disk_gb", "greater than or equal to 8"),
        ("[builder]", "[builder]\ntimeout_hours = 0", "builder.timeout_hours", "greater than 0"),
        ('["g4dn.xlarge"]', "[]", "builder.instance_types", "Name at least one"),
        ('"d2l", "seal"', '"seal", "d2l"', "stages", "An image must be sealed"),
        ('"cuda",', '"cuda", "cuda",', "stages", "more than once: cuda"),
        ('"conda"', '"venv"', "stages[3]", "Write conda"),
        ('"mxnet", "d2l"', '"pytorch", "d2l"', "stages[4]", "Write mxnet"),
        ('name = "mine"', 'name = "M ine"', "name", "a-z, digits and hyphens"),
        ('name = "mine"', 'name = "mine"\nregion = "us"', "region", "us-west-2"),
        ('name = "mine"', 'name = "mine"\ngpu = "no"', "gpu", "'if-present' or 'none'"),
        ('name = "mine"', "", "name", "is missing"),
        ('name = "mine"', 'name = "mine"\npackages = 3', "packages", "Write [packages]"),
        ('name = "mine"', 'name = "mine"\ninputs = 3', "inputs", "Write [inputs]"),
        ('name = "mine"', 'name = "mine"\ninputs.A = true', "inputs.A", "Write it in quotes"),
        ('name = "mine"', 'name = "mine"\ninputs.PATH = ""', "inputs.PATH", "Use capitals"),
        (
            'name = "mine"',
            f'name = "mine"\ninputs.A{".a" * 3000} = 1',
            "inputs.A",
            "it is not text",
        ),
        ('base = "ubuntu-18.04"', "base = {}", "base.os", "Write the operating system"),
    ],
)
def test_a_finding_says_how_to_correct_the_value(
    tmp_path: Path, old: str, new: str, place: str, says: str
) -> None:
    found = findings(changed(old, new), tmp_path)
    assert list(found) == [place]
    assert says in found[place]


@pytest.mark.parametrize(
    ("base", "place", "says"),
    [
        ("3", "base", "is not a table"),
        ('"ami-12345678"', "base", 'Write a table, with its system: { ami = "ami-12345678", os'),
        ("{}", "base.os", "is missing"),
        ('{ os = "debian-14" }', "base.os", "Did you mean debian-1"),
        ('{ os = "debian-12", ami = "ami-x" }', "base.ami", "ami-0123456789abcdef0"),
        ('{ ami = "ami-12345678" }', "base.os", "Write the operating system"),
        ('{ os = "debian-12", owner = "self" }', "base.name", "Write both"),
        ('{ os = "debian-12", name = "x-*" }', "base.owner", "Write both"),
        ('{ os = "debian-12", ami = "ami-12345678", recipe = "x" }', "base", "Write one of"),
        ('{ recipe = "x", os = "debian-12" }', "base.os", "Leave it out"),
        ('{ recipe = "x", login_user = "me" }', "base.login_user", "Leave it out"),
        ('{ os = "debian-12", login_user = "Me" }', "base.login_user", "user name"),
        ('{ os = "debian-12", ssm_parameter = "a b" }', "base.ssm_parameter", "SSM parameter"),
    ],
)
def test_a_base_names_one_image(tmp_path: Path, base: str, place: str, says: str) -> None:
    found = findings(changed('base = "ubuntu-18.04"', f"base = {base}"), tmp_path)
    assert list(found) == [place]
    assert says in found[place]


def test_a_base_is_written_as_in_the_recipe(tmp_path: Path) -> None:
    text = changed('base = "ubuntu-18.04"', 'base = { os = "ubuntu-18.04" }')
    assert read(tmp_path, text) == read(tmp_path, GOOD)
    assert read(tmp_path, text).model_dump()["base"] == "ubuntu-18.04"
    of_ami = {"os": "ubuntu-18.04", "ami": "ami-12345678"}
    text = changed('base = "ubuntu-18.04"', f"base = {of_ami}".replace(":", " ="))
    recipe = read(tmp_path, text)
    assert recipe.model_dump(exclude_unset=True)["base"] == of_ami
    assert str(recipe.base) == "ami-12345678 (ubuntu-18.04)"
    assert override(recipe, region="eu-west-1").base == recipe.base


@pytest.mark.parametrize("version", ["1" * 5000, "10.", "v10", "١٠", "10.1\\n", "", "-1"])
def test_an_invalid_version_is_refused(tmp_path: Path, version: str) -> None:
    found = findings(changed('version = "10.1"', f'version = "{version}"'), tmp_path)
    assert list(found) == ["cuda.version"]


def test_the_finding_about_a_missing_installer_names_the_known_ones(tmp_path: Path) -> None:
    found = findings(changed('installer = "py310_24.9.2-0"\n', ""), tmp_path)
    assert "py310_24.9.2-0" in found["python.installer"]


def test_an_installer_for_a_venv_is_refused(tmp_path: Path) -> None:
    text = changed('"miniconda"', '"venv"').replace('"conda"', '"venv"')
    assert "leave it out" in findings(text, tmp_path)["python.installer"]


@pytest.mark.parametrize("package", ["-o APT::x=1", "a b", "Über", "x;rm", "../x.deb", ""])
def test_an_apt_package_that_is_an_option_or_contains_a_blank_is_refused(
    tmp_path: Path, package: str
) -> None:
    assert "packages.apt[0]" in findings(f"{GOOD}[packages]\napt = ['{package}']\n", tmp_path)


@pytest.mark.parametrize(
    "package",
    ["openssh-server-", "htop=3.0.5-", "htop=3.0.5+", "htop:amd64-", "htop/bookworm", "lib^", "a*"],
)
def test_an_apt_package_with_another_meaning_to_apt_is_refused(
    tmp_path: Path, package: str
) -> None:
    assert "packages.apt[0]" in findings(f"{GOOD}[packages]\napt = ['{package}']\n", tmp_path)


def test_the_removal_of_a_package_is_refused_with_the_reason(tmp_path: Path) -> None:
    found = findings(f"{GOOD}[packages]\napt = ['htop', 'openssh-server-']\n", tmp_path)
    assert "a command of apt" in found["packages.apt[1]"]
    assert "a recipe cannot remove a package" in found["packages.apt[1]"]


@pytest.mark.parametrize("package", ["g++", "libstdc++6", "memtest86+", "htop=1:3.0.5-7+b1"])
def test_names_of_real_apt_packages_are_accepted(tmp_path: Path, package: str) -> None:
    recipe = read(tmp_path, f"{GOOD}[packages]\napt = ['{package}']\n")
    assert recipe.packages.apt == (package,)


@pytest.mark.parametrize("package", ["--channel=evil", "a b", "$(x)", ""])
def test_a_conda_package_that_is_an_option_or_contains_a_blank_is_refused(
    tmp_path: Path, package: str
) -> None:
    assert "packages.conda[0]" in findings(f"{GOOD}[packages]\nconda = ['{package}']\n", tmp_path)


@pytest.mark.parametrize("package", ["-r /etc/passwd", "a b c", "--index-url=x", "a\\nb", ""])
def test_a_pip_package_that_is_not_one_requirement_on_one_line_is_refused(
    tmp_path: Path, package: str
) -> None:
    assert "packages.pip[0]" in findings(f'{GOOD}[packages]\npip = ["{package}"]\n', tmp_path)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.org/x-1.whl", "does not use TLS"),
        ("HTTP://example.org/x-1.whl", "does not use TLS"),
        ("ftp://example.org/x-1.whl", "does not use TLS"),
        ("git+http://example.org/x.git", "does not use TLS"),
        ("git+git://example.org/x.git", "does not use TLS"),
        ("git+ssh://example.org/x.git", "does not use TLS"),
        ("git+file+http://example.org/x.git", "does not use TLS"),
        ("https://user:secret@example.org/x-1.whl", "has a user, a password or a variable"),
        ("https://secret@example.org/x-1.whl", "has a user, a password or a variable"),
        ("git+ssh://git@example.org/x.git", "has a user, a password or a variable"),
        ("https://${TOKEN}:@example.org/x.whl", "has a user, a password or a variable"),
        ("https://example.org/x.whl?token=${TOKEN}", "has a user, a password or a variable"),
        ("https://[example.org/x.whl", "is not valid"),
    ],
)
def test_a_pip_package_is_downloaded_over_tls_without_credentials(
    tmp_path: Path, url: str, says: str
) -> None:
    found = findings(f'{GOOD}[packages]\npip = ["x @ {url}"]\n', tmp_path)
    assert says in found["packages.pip[0]"]
    assert "secret" not in found["packages.pip[0]"]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/x-1.whl#sha256=ab",
        "git+https://github.com/o/x.git@v1",
        "file:///opt/x-1.whl",
    ],
)
def test_a_pip_package_may_come_over_tls_from_anywhere(tmp_path: Path, url: str) -> None:
    recipe = read(tmp_path, f'{GOOD}[packages]\npip = ["x @ {url}"]\n')
    assert recipe.packages.pip == (f"x @ {url}",)


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff" + GOOD) == read(tmp_path, GOOD)


def test_a_marker_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    marker = f"{'(' * 3000}os_name == 'x'{')' * 3000}"
    found = findings(f'{GOOD}[packages]\npip = ["x; {marker}"]\n', tmp_path)
    assert "is not a pip requirement" in found["packages.pip[0]"]


def test_pip_packages_may_have_markers_and_urls(tmp_path: Path) -> None:
    wanted = ("scipy==1.7.3; python_version < '3.8'", "x @ https://example.org/x-1.whl")
    listed = ", ".join(f'"{line}"' for line in wanted)
    recipe = read(tmp_path, f"{GOOD}[packages]\npip = [{listed}]\n")
    assert recipe.packages.pip == wanted


@pytest.mark.parametrize(
    ("mirror", "good"),
    [
        ("pypi = 'https://mirror.example.org/simple/'", True),
        ("ubuntu = 'http://mirror.example.org/ubuntu'", True),
        ("pypi = 'http://mirror.example.org/simple'", False),
        ("nvidia = 'http://mirror.example.org'", False),
        ("pypi = 'ftp://mirror.example.org'", False),
        ("pypi = 'https://user:secret@mirror.example.org/simple'", False),
        ("pypi = 'https://mirror.example.org/simple?a=b'", False),
        ("pypi = 'https://mirror.example.org/si mple'", False),
    ],
)
def test_a_mirror_needs_tls_unless_its_packages_are_signed(
    tmp_path: Path, mirror: str, good: bool
) -> None:
    text = f"{GOOD}[mirrors]\n{mirror}\n"
    if good:
        read(tmp_path, text)
    else:
        assert list(findings(text, tmp_path)) == [f"mirrors.{mirror.split()[0]}"]


@pytest.mark.parametrize(
    ("tag", "good"),
    [
        (("team", "research"), True),
        (("größe", "«$(x)» '\""), True),
        (("k" * 128, "v" * 256), True),
        (("k" * 129, ""), False),
        (("k", "v" * 257), False),
        (("", "v"), False),
        (("AWS:x", "v"), False),
        (("bake:run", "v"), False),
        (("k", "a\nb"), False),
    ],
)
def test_tags_that_ec2_does_not_accept_are_refused(
    tmp_path: Path, tag: tuple[str, str], good: bool
) -> None:
    document = read(tmp_path, GOOD).model_dump() | {"tags": dict([tag])}
    if good:
        assert Recipe.model_validate(document).tags == dict([tag])
    else:
        with pytest.raises(ValueError, match="tags"):
            Recipe.model_validate(document)


def test_a_recipe_leaves_room_for_the_tags_of_bake(tmp_path: Path) -> None:
    tags = "".join(f"t{n} = 'v'\n" for n in range(MAX_TAGS + 1))
    assert "at most 25" in findings(f"{GOOD}[tags]\n{tags}", tmp_path)["tags"]


def test_invalid_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="line 2"):
        read(tmp_path, "a = 1\nb = = 2\n")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml cannot be read: No such file"):
        recipes.load(tmp_path / "none.toml", built_in())


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(RecipeError, match="cannot be read"):
        recipes.load(tmp_path / "x.toml", built_in())


@pytest.mark.parametrize(
    ("line", "place", "says"),
    [
        ("after = ['base', 'mxnt']", "checkpoints.after[1]", "Did you mean mxnet?"),
        ("after = ['venv']", "checkpoints.after[0]", "no stage venv"),
        ("after = ['seal']", "checkpoints.after[0]", "a sealed disk cannot be a checkpoint"),
        ("after = ['base', 'base']", "checkpoints.after", "more than once: base"),
        ("after = 'base'", "checkpoints.after", "a list of the recipe's stages"),
        ("keep = 101", "checkpoints.keep", "less than or equal to 100"),
        ("keep = -1", "checkpoints.keep", "greater than or equal to 0"),
        ("keep = 2.5", "checkpoints.keep", "a whole number, 0 to 100"),
        ("max_age_days = 0", "checkpoints.max_age_days", "greater than 0"),
        ("max_age_days = inf", "checkpoints.max_age_days", "less than or equal to 3650"),
        ("max_age_days = nan", "checkpoints.max_age_days", "a number of days"),
        ("kep = 3", "checkpoints.kep", "Did you mean keep?"),
    ],
)
def test_a_finding_about_checkpoints_says_how_to_correct_the_value(
    tmp_path: Path, line: str, place: str, says: str
) -> None:
    found = findings(f"{GOOD}[checkpoints]\n{line}\n", tmp_path)
    assert list(found) == [place]
    assert says in found[place]


def test_a_recipe_chooses_the_stages_after_which_checkpoints_are_taken(tmp_path: Path) -> None:
    text = f"{GOOD}[checkpoints]\nafter = ['cuda', 'mxnet']\nkeep = 0\nmax_age_days = 0.5\n"
    checkpoints = read(tmp_path, text).checkpoints
    assert (checkpoints.after, checkpoints.keep) == (("cuda", "mxnet"), 0)
    assert checkpoints.max_age_days == 0.5
    none = read(tmp_path, f"{GOOD}[checkpoints]\nafter = []\n")
    assert none.checkpoints.after == ()


def test_another_framework_moves_the_checkpoint_after_its_own_stage(tmp_path: Path) -> None:
    text = f"{GOOD}[checkpoints]\nafter = ['conda', 'mxnet']\n"
    recipe = read(tmp_path, text)
    changed = override(recipe, framework="pytorch", cuda="11.8")
    assert changed.checkpoints.after == ("conda", "pytorch")
    assert changed.checkpoints.keep == 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(Recipe.model_fields)), JSON)
def test_any_value_in_a_recipe_is_accepted_or_refused_with_findings(key: str, value: Any) -> None:
    document = recipes.find("mxnet-cu101", built_in()).model_dump() | {key: value}
    found: tuple[Finding, ...] | None = None
    try:
        validated(document, "no good")
    except RecipeError as error:
        found = error.findings
    assert found is None or (found and all(f.place and f.message for f in found))


# ---- choosing


def test_a_cuda_version_alone_chooses_its_default_recipe() -> None:
    assert recipes.choose(built_in(), cuda="10.1").name == "mxnet-cu101"
    assert recipes.choose(built_in(), cuda="12.6").name == "pytorch-cu126"


def test_a_framework_narrows_the_choice() -> None:
    assert recipes.choose(built_in(), framework="tensorflow").name == "tensorflow-cu129"
    assert recipes.choose(built_in(), cuda="13.0").name == "pytorch-cu130"
    assert recipes.choose(built_in(), cuda="13.0", framework="jax").name == "jax-cu130"
    with pytest.raises(RecipeError, match=r"CUDA 10\.1 and pytorch"):
        recipes.choose(built_in(), cuda="10.1", framework="pytorch")


def test_the_error_about_an_unknown_cuda_lists_the_known_versions() -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.choose(built_in(), cuda="10.5")
    assert "No recipe for CUDA 10.5" in caught.value.message
    assert "CUDA 10.0, 10.1, 11.2, " in caught.value.hint


def test_the_error_about_an_unknown_recipe_suggests_the_nearest_names() -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.choose(built_in(), name="mxnet-cu110")
    assert "mxnet-cu101" in caught.value.hint


def test_without_a_choice_the_error_lists_all_recipes() -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.choose(built_in())
    assert "mxnet-cu101" in caught.value.hint


def test_the_default_recipe_is_preferred_to_another_one_with_the_same_cuda(folder: Path) -> None:
    write(folder, GOOD)
    assert recipes.choose(Project(folder.parent), cuda="10.1").name == "mxnet-cu101"


def test_two_default_recipes_that_fit_are_refused(folder: Path) -> None:
    write(folder, changed('name = "mine"', 'name = "mine"\ndefault = true'))
    with pytest.raises(RecipeError, match="Several recipes match: mine, mxnet-cu101"):
        recipes.choose(Project(folder.parent), cuda="10.1")


def test_mxnet_is_preferred_if_several_frameworks_have_a_recipe_for_the_cuda(folder: Path) -> None:
    text = (folder / "pytorch-cu126.toml").read_text()
    write(folder, text.replace("pytorch-cu126", "other").replace("12.6", "10.1"))
    assert recipes.choose(Project(folder.parent), cuda="10.1").name == "mxnet-cu101"
    assert recipes.choose(Project(folder.parent), cuda="10.1", framework="pytorch").name == "other"


def test_two_recipes_with_one_name_are_refused(folder: Path) -> None:
    write(folder, changed('"mine"', '"mxnet-cu101"'))
    with pytest.raises(RecipeError, match=r"two recipes have the name mxnet-cu101: mine\.toml"):
        recipes.find("mxnet-cu101", Project(folder.parent))
    with pytest.raises(RecipeError, match="two recipes have the name mxnet-cu101"):
        recipes.find("mine", Project(folder.parent))
    with pytest.raises(RecipeError) as caught:
        recipes.all_recipes(Project(folder.parent))
    assert "two recipes have the name mxnet-cu101" in str(caught.value.findings[0])


def test_a_recipe_can_be_used_although_another_file_is_invalid(folder: Path) -> None:
    write(folder, "name = = 1", "broken.toml")
    assert recipes.find("mxnet-cu101", Project(folder.parent)).name == "mxnet-cu101"
    with pytest.raises(RecipeError) as caught:
        recipes.all_recipes(Project(folder.parent))
    assert "broken.toml" in caught.value.findings[0].place


@pytest.mark.parametrize(
    "text", ["", 'name = "mine"', 'name = ["mine"]', GOOD], ids=["empty", "short", "list", "whole"]
)
def test_a_recipe_is_found_by_its_file_if_it_has_another_name_or_none(
    text: str, folder: Path
) -> None:
    write(folder, text, "copy.toml")
    if text == GOOD:
        assert recipes.find("copy", Project(folder.parent)).name == "mine"
    else:
        with pytest.raises(RecipeError, match=r"copy\.toml is not valid"):
            recipes.find("copy", Project(folder.parent))
    with pytest.raises(RecipeError) as caught:
        recipes.find("nosuch", Project(folder.parent))
    assert not set("[]") & set(caught.value.hint)
    assert "None" not in caught.value.hint


def test_broken_recipes_are_left_out_and_reported_and_the_others_are_read(folder: Path) -> None:
    before = {recipe.name for recipe in recipes.all_recipes(Project(folder.parent))}
    write(folder, "name = = 1", "syntax.toml")
    write(folder, changed('version = "10.1"', 'version = "10.5"'), "invalid.toml")
    write(folder, changed('"mine"', '"pytorch-cu126"'), "same-name.toml")
    read, broken = recipes.read_all(Project(folder.parent))
    assert {recipe.name for recipe in read} == before - {"pytorch-cu126"}
    messages = {each.name: str(each.error) for each in broken}
    assert messages.keys() == {"syntax", "invalid", "same-name", "pytorch-cu126"}
    assert "is not valid TOML" in messages["syntax"]
    assert "two recipes have the name pytorch-cu126" in messages["same-name"]
    assert recipes.choose(Project(folder.parent), cuda="10.1").name == "mxnet-cu101"


def test_a_missing_folder_of_recipes_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Folder of recipes not found"):
        recipes.choose(Project(tmp_path / "none"), cuda="10.1")


# ---- changing


@pytest.fixture
def mxnet() -> Recipe:
    return recipes.find("mxnet-cu101", built_in())


def test_overriding_nothing_changes_nothing(mxnet: Recipe) -> None:
    assert override(mxnet) == mxnet


def test_overrides_change_the_fields_of_the_recipe(mxnet: Recipe) -> None:
    changed = override(
        mxnet,
        cuda="11.2",
        region="eu-west-1",
        instance_types=["g5.xlarge"],
        spot=True,
        name="other",
    )
    assert changed.cuda.version == "11.2"
    assert changed.region == "eu-west-1"
    assert changed.builder.instance_types == ("g5.xlarge",)
    assert changed.builder.market == "spot"
    assert changed.name == "other"
    assert override(changed, spot=False).builder.market == "on-demand"
    assert mxnet.cuda.version == "10.1"


def test_another_framework_sets_its_stage_and_the_version_that_fits_the_cuda() -> None:
    pytorch = recipes.find("pytorch-cu126", built_in())
    mxnet = override(pytorch, framework="mxnet", cuda="10.1")
    assert (mxnet.framework.name, mxnet.framework.version) == ("mxnet", "1.7.0")
    assert "mxnet" in mxnet.stages
    assert "pytorch" not in mxnet.stages
    assert override(pytorch, framework="mxnet", cuda="11.2").framework.version == "1.9.1"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"cuda": "10.7"}, "cuda.version"),
        ({"framework": "caffe"}, "framework.name"),
        ({"region": "mars"}, "region"),
        ({"instance_types": ["g4dn"]}, "builder.instance_types[0]"),
        ({"name": "a b"}, "name"),
    ],
)
def test_an_invalid_override_is_refused(mxnet: Recipe, change: dict[str, Any], place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override(mxnet, **change)
    assert place in {finding.place for finding in caught.value.findings}


# ---- secrets


def test_a_secret_comes_from_exactly_one_place(tmp_path: Path) -> None:
    secrets = """
[secrets]
A = { env = "A_KEY" }
B = { ssm = "/team/b:3" }
C = { ssm = "arn:aws:ssm:us-west-2:123456789012:parameter/team/c" }
D = { secretsmanager = "team/d", key = "password" }
E = { secretsmanager = "arn:aws:secretsmanager:us-west-2:123456789012:secret:d-AbCdEf" }
"""
    recipe = read(tmp_path, GOOD + secrets)
    assert recipe.secrets["D"].key == "password"
    again = override(recipe, region="us-west-2")
    assert again.secrets == recipe.secrets


BAD_SECRETS = {
    "a text": ('A = "hunter2!"', "secrets.A", "is not a table. Write [secrets.A]"),
    "no place": ("A = {}", "secrets.A", "names no place. Write one of env, ssm, secretsmanager"),
    "two places": ('A = { env = "A", ssm = "/a" }', "secrets.A", "names env and ssm"),
    "a key of none": (
        'A = { env = "A", key = "k" }',
        "secrets.A.key",
        "works only with secretsmanager",
    ),
    "an unknown key": ('A = { environ = "A" }', "secrets.A.environ", "Did you mean env?"),
    "a name of the shell": ('PATH = { env = "A" }', "secrets.PATH", "cannot be the name"),
    "a small name": ('token = { env = "A" }', "secrets.token", "Use capitals"),
    "a value for env": ('A = { env = "hunter2!" }', "secrets.A.env", "has no place in a recipe"),
    "a value for ssm": (
        'A = { ssm = "hunter2!" }',
        "secrets.A.ssm",
        "is not a valid name of an SSM",
    ),
    "a value for sm": (
        'A = { secretsmanager = "hunter2!" }',
        "secrets.A.secretsmanager",
        "is not a",
    ),
    "a number": ("A = { env = 3 }", "secrets.A.env", "should be a valid string"),
    "an empty key": ('A = { secretsmanager = "a", key = "" }', "secrets.A.key", "at least 1"),
}


def test_invalid_secrets_are_all_found_and_their_values_never_shown(tmp_path: Path) -> None:
    for table, place, says in BAD_SECRETS.values():
        found = findings(f"{GOOD}[secrets]\n{table}\n", tmp_path)
        assert says in found[place]
        assert "hunter2" not in str(found)
    numbered = (table.replace("A =", f"A{n} =") for n, (table, _, _) in
                enumerate(BAD_SECRETS.values()))  # fmt: skip
    assert len(findings(f"{GOOD}[secrets]\n" + "\n".join(numbered), tmp_path)) == len(BAD_SECRETS)
