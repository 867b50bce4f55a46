"""The allow-list on the text of an address: what passes, what does not, and under which code."""

import os
from pathlib import Path

import pytest

from pyfi_hpc.envs.repository import Allow, check
from pyfi_hpc.errors import BadInput

RULES = Allow(
    allow=["https://ok.example/group/", "ssh://git@ok.example/", "git://127.0.0.1:9999/", "file:///srv/git"],
    deny=["https://ok.example/group/secret", "bad.example"],
)


def refusal(url: str, rules: Allow = RULES) -> BadInput:
    with pytest.raises(BadInput) as caught:
        check(url, rules)
    return caught.value


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://ok.example/group/repo", "https://ok.example/group/repo"),
        ("HTTPS://OK.example:443/group//repo.git/", "https://ok.example/group/repo.git"),
        ("https://ok.example./group/repo", "https://ok.example/group/repo"),
        ("https://me@ok.example/group/a%20b", "https://me@ok.example/group/a%20b"),
        ("https://ok.example/group/r%65po", "https://ok.example/group/repo"),
        ("git@ok.example:group/repo.git", "git@ok.example:group/repo.git"),
        ("ok.example:/group/repo.git", "ok.example:/group/repo.git"),
        ("ssh://git@ok.example:22/~me/repo", "ssh://git@ok.example/~me/repo"),
        ("git://127.0.0.1:9999/repo", "git://127.0.0.1:9999/repo"),
        ("/srv/git/repo", "file:///srv/git/repo"),
        ("/srv/git/50%/repo", "file:///srv/git/50%25/repo"),
        ("file:/srv/git/repo", "file:///srv/git/repo"),
        ("file://localhost/srv/git/repo/", "file:///srv/git/repo"),
    ],
)
def test_an_allowed_address_is_written_in_one_way(url: str, normal: str) -> None:
    assert check(url, RULES) == normal
    assert check(normal, RULES) == normal


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ext::sh -c id", "E_REPO_SCHEME"),
        ("ext::sh", "E_REPO_SCHEME"),
        ("fd::3", "E_REPO_SCHEME"),
        ("EXT::x", "E_REPO_SCHEME"),
        ("ftp://ok.example/group/r", "E_REPO_SCHEME"),
        ("git+ssh://ok.example/group/r", "E_REPO_SCHEME"),
        ("http://ok.example/group/r", "E_REPO_SCHEME"),
        ("javascript://ok.example/r", "E_REPO_SCHEME"),
        ("", "E_REPO_URL"),
        ("-oProxyCommand=id", "E_REPO_URL"),
        ("--upload-pack=id", "E_REPO_URL"),
        ("ssh://-oProxyCommand=id/r", "E_REPO_URL"),
        ("git@-oProxyCommand=id:r", "E_REPO_URL"),
        ("-oProxyCommand=id@ok.example:r", "E_REPO_URL"),
        ("ssh://-l@ok.example/r", "E_REPO_URL"),
        ("ok.example:--upload-pack=id", "E_REPO_URL"),
        ("https://ok.example/group/r\n", "E_REPO_URL"),
        ("https://ok.example/group/\x1b[31m", "E_REPO_URL"),
        ("https://ok.example/group/\u202er", "E_REPO_URL"),
        ("https://ok.example\\@bad.example/r", "E_REPO_URL"),
        ("https://ok.example/group/r?x=1", "E_REPO_URL"),
        ("https://ok.example/group/r#x", "E_REPO_URL"),
        ("https://ok.example:70000/group/r", "E_REPO_URL"),
        ("https://ok%2eexample/group/r", "E_REPO_URL"),
        ("https:///group/r", "E_REPO_URL"),
        ("https://ok.example", "E_REPO_URL"),
        ("file://elsewhere/srv/git/r", "E_REPO_URL"),
        ("relative/path", "E_REPO_URL"),
        ("../up", "E_REPO_URL"),
    ],
)
def test_what_is_no_usable_address_is_refused_with_its_code(url: str, code: str) -> None:
    assert refusal(url).code == code


@pytest.mark.parametrize(
    "url",
    [
        "https://ok.example@evil.example/r",
        "https://evil.example/group/r",
        "https://ok.example.evil.example/group/r",
        "https://ok.example:8443/group/r",
        "https://ok.example/groupies/r",
        "https://ok.example/GROUP/r",
        "https://ok.example/group/../other/r",
        "https://ok.example/group/%2e%2e/other/r",
        "https://ok.example/group/%2E./other/r",
        "https://ok.example/group/%252e%252e/other/r",
        "https://ok.example/group/..%2fother/r",
        "https://ok.example/group/./r",
        "https://ok.example/group/secret/r",
        "https://ok.example/group/SECRET/r",
        "https://ok.example/group/secret.git",
        "git@bad.example:r",
        "git@elsewhere.example:r",
        "/srv/gitolite/r",
        "/srv/git/../../etc",
        "/etc",
        "git://127.0.0.1/repo",
    ],
)
def test_an_address_outside_the_allow_list_is_denied(url: str) -> None:
    assert refusal(url).code == "E_REPO_DENIED"


def test_the_denial_names_the_real_host_and_the_setting_to_change() -> None:
    error = refusal("https://ok.example@evil.example/r")
    assert "host evil.example" in error.what
    assert "git.allow" in str(error)


def test_a_denial_by_the_deny_list_wins_and_says_so() -> None:
    error = refusal("https://ok.example/group/secret/r", Allow(allow=["https://"], deny=RULES.deny))
    assert (error.code, "git.deny" in str(error)) == ("E_REPO_DENIED", True)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@ok.example/group/r",
        "ssh://git:hunter2@ok.example/r",
        "gopher://me:hunter2@x/r",
        "https://me:hunter2@ok.example/group/r@x",
        "me:hunter2@ok.example:r",
        "https://hunter2hunter2hunter2@ok.example/group/r",
        "https://ok.example/group/r?token=hunter2",
    ],
)
def test_a_secret_in_the_address_is_refused_and_never_shown(url: str) -> None:
    error = refusal(url)
    assert error.code in ("E_REPO_SECRET", "E_REPO_URL")
    assert "hunter2" not in f"{error!s}{error!r}{error.facts}"


def test_nothing_is_allowed_until_somebody_names_it() -> None:
    assert refusal("https://ok.example/group/r", Allow()).code == "E_REPO_DENIED"
    assert refusal(f"/{'x'}", Allow()).code == "E_REPO_DENIED"


def test_plain_http_needs_an_entry_of_its_own() -> None:
    rules = Allow(allow=["http://inside.example/"])
    assert check("http://inside.example/r", rules) == "http://inside.example/r"


def test_an_entry_can_name_a_whole_scheme_or_leave_it_out() -> None:
    assert check("https://any.example/r", Allow(allow=["https://"])) == "https://any.example/r"
    assert check("https://any.example/r", Allow(allow=["any.example"])) == "https://any.example/r"
    assert check("git@any.example:g/r", Allow(allow=["git@any.example:g"])) == "git@any.example:g/r"
    assert refusal("git@any.example:r", Allow(allow=["any.example"])).code == "E_REPO_DENIED"


def test_an_entry_that_cannot_be_understood_is_a_fault_of_the_settings() -> None:
    assert refusal("https://ok.example/r", Allow(allow=["gopher://x/"])).code == "E_CONFIG"


def test_own_folders_are_allowed_in_embedded_mode_unless_denied(tmp_path: Path) -> None:
    own = Allow(own_files=True)
    assert check(str(tmp_path), own) == f"file://{tmp_path}"
    assert refusal(str(tmp_path)).code == "E_REPO_DENIED"
    assert refusal(str(tmp_path), Allow(own_files=True, deny=[f"file://{tmp_path.parent}"])).code == "E_REPO_DENIED"
    assert refusal(str(tmp_path / "absent"), own).code == "E_REPO_URL"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_ones_own(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    assert refusal(str(tmp_path), Allow(own_files=True)).code == "E_REPO_DENIED"
