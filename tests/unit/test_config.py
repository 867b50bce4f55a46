"""Settings: which source wins, what is refused and where, and that no password is ever shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pika
import pytest

from pyfi_hpc.brokers import amqp
from pyfi_hpc.cli.main import run
from pyfi_hpc.config import Settings, set_value, user_file
from pyfi_hpc.config.sections import KEYS
from pyfi_hpc.config.surroundings import environment
from pyfi_hpc.errors import BadInput

URI = "postgresql://ana:hunter2@db.example:5432/pyfi"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory and a working directory in it."""
    for name in [name for name in os.environ if name.startswith("PYFI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def refusal(ini: Path | None = None, options: Mapping[str, str] | None = None) -> BadInput:
    with pytest.raises(BadInput) as caught:
        Settings.load(ini, options)
    return caught.value


def test_with_nothing_set_the_mode_is_embedded_and_the_folders_are_the_persons_own(home: Path) -> None:
    settings = Settings.load()
    assert settings == Settings()
    assert settings.embedded
    assert settings.state_dir == home / ".local/state/pyfi"
    assert settings.cache_dir == home / ".cache/pyfi"
    assert settings.blob_dir == home / ".cache/pyfi/blobs"


def test_each_source_wins_over_those_before_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    written(
        user_file(), "[agent]\nnetwork = user\npoll_seconds = 1\ncores = 0-3\n[slurm]\ncluster = user\naccount=user\n"
    )
    project = written(home / "pyfi.ini", "[agent]\nnetwork = project\ncores = 1\n[slurm]\ncluster = project\n")
    given = written(home / "given.ini", "[agent]\nnetwork = given\n[slurm]\ncluster = given\n")
    monkeypatch.setenv("PYFI_SLURM_CLUSTER", "variable")
    (home / "below" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(home / "below" / "deeper")

    settings = Settings.load(given, {"slurm.cluster": "option"})

    assert settings.agent.network == "given"
    assert settings.agent.cores == "1"
    assert settings.slurm.cluster == "option"
    assert settings.slurm.account == "user"
    assert Settings.load().slurm.cluster == "variable"
    assert settings.origins == {
        "agent.network": f"{given} line 2",
        "agent.cores": f"{project} line 3",
        "agent.poll_seconds": f"{user_file()} line 3",
        "slurm.cluster": "option",
        "slurm.account": f"{user_file()} line 7",
    }


def test_a_file_named_by_a_variable_is_read_before_the_one_of_the_option(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(home / "pyfi.ini", "[agent]\nnetwork = project\n[slurm]\ncluster = project\naccount = project\n")
    job = written(home / "job.ini", "[agent]\nnetwork = job\n[slurm]\ncluster = job\n")
    given = written(home / "given.ini", "[slurm]\ncluster = given\n")
    monkeypatch.setenv("PYFI_INI", str(job))

    settings = Settings.load(given)

    assert (settings.agent.network, settings.slurm.cluster, settings.slurm.account) == ("job", "given", "project")
    assert settings.origins["agent.network"] == f"{job} line 2"
    monkeypatch.setenv("PYFI_AGENT_NETWORK", "variable")
    assert Settings.load().agent.network == "variable"


def test_a_file_named_by_a_variable_must_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFI_INI", str(home / "gone.ini"))

    assert (refusal().code, refusal().at) == ("E_CONFIG", str(home / "gone.ini"))


def test_a_password_in_a_file_named_by_a_variable_reaches_no_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = written(home / "job.ini", f"[database]\nuri = {URI}\n[agent]\nnetwork = job\n")
    monkeypatch.setenv("PYFI_INI", str(job))
    settings = Settings.load(options={"broker.uri": "amqp://ana:sesame@mq.example/pyfi"})

    handed_on = environment(settings)

    assert "hunter2" not in " ".join(handed_on.values())
    for name in [name for name in os.environ if name.startswith("PYFI_")]:
        monkeypatch.delenv(name)
    for name in [name for name in handed_on if name.startswith("PYFI_")]:
        monkeypatch.setenv(name, handed_on[name])
    assert Settings.load() == settings


def test_values_are_of_their_kinds(home: Path) -> None:
    text = """
[git]
allow = https://a.example/, https://b.example/
  file:///srv
mirror = ~/mirror
[agent]
shared cores = yes
Poll-Seconds = 0.5
[broker]
uri = amqps://ana:x@mq.example:5671/pyfi
ack_timeout_seconds = 60
[client]
timeout_seconds =
"""
    settings = Settings.load(written(home / "a.ini", text))
    assert settings.git.allow == ("https://a.example/", "https://b.example/", "file:///srv")
    assert settings.git.mirror == home / "mirror"
    assert settings.agent.shared_cores is True
    assert settings.agent.poll_seconds == 0.5
    assert settings.broker.ack_timeout_seconds == 60
    assert settings.client.timeout_seconds is None


def test_the_state_directory_has_a_short_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFI_HOME", str(home / "short"))
    assert Settings.load().state_dir == home / "short"
    monkeypatch.setenv("PYFI_PATHS_STATE", str(home / "long"))
    assert Settings.load().state_dir == home / "long"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2", "POSTGRESQL"])
def test_a_database_address_is_written_in_one_way(scheme: str) -> None:
    settings = Settings.load(options={"database.uri": f"{scheme}://ana@h/d?host=/run/x"})
    assert (settings.database.uri, settings.embedded) == ("postgresql://ana@h/d?host=/run/x", False)


@pytest.mark.parametrize(
    "uri",
    [
        "mysql://ana:hunter2@h/d",
        "sqlite:///x",
        "h/d",
        "host=h password=hunter2",
        "postgresql://ana:hunter2@h/a b",
        "postgresql://ana:hunter2/hunter2@h/d",
    ],
)
def test_another_database_scheme_is_refused_without_the_password(uri: str) -> None:
    error = refusal(options={"database.uri": uri})
    assert error.code == "E_DB_URI"
    assert "database.uri" in str(error) and "hunter2" not in f"{error}{error.facts}"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("broker.uri", "http://h", "E_BROKER_URI"),
        ("broker.management_uri", "amqp://h", "E_BROKER_URI"),
        ("broker.ack_timeout_seconds", "0", "E_RANGE"),
        ("broker.ack_timeout_seconds", "1e9", "E_RANGE"),
        ("agent.poll_seconds", "nan", "E_RANGE"),
        ("agent.shared_cores", "perhaps", "E_CHOICE"),
        ("agent.node_pipes", "perhaps", "E_CHOICE"),
        ("agent.node_pipes_network", "10.1/x", "E_CONFIG"),
        ("paths.state", "relative/path", "E_CONFIG"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_under_its_name(name: str, value: str, code: str) -> None:
    error = refusal(options={name: value})
    assert (error.code, error.facts["field"]) == (code, name)
    assert value in str(error)


@pytest.mark.parametrize("port", ["0", "70000", "abc", "-1"])
@pytest.mark.parametrize("name", ["database.uri", "broker.uri"])
def test_a_port_that_is_none_is_refused_by_itself(name: str, port: str) -> None:
    scheme = "postgresql" if name == "database.uri" else "amqp"
    error = refusal(options={name: f"{scheme}://ana:hunter2@h:{port}/d"})
    assert error.code == "E_RANGE"
    assert f"port {port}" in str(error) and "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("amqps://u:hunter2@h/v?verify=verify_none", "without verify_peer anybody could be taken for the broker"),
        ("amqps://u:hunter2@h/v?ssl_options={'protocol':2}", "ssl_options may leave out"),
        ("amqp://u:hunter2@h/v?cacertfile=/etc/ssl/ca.pem", "cacertfile is for amqps://"),
        ("amqps://u:hunter2@h/v?cacertfil=/x", "there is no option cacertfil; did you mean cacertfile?"),
        ("amqps://u:hunter2@h/v?zzz=/x", "there is no option zzz"),
        ("amqps://u:hunter2@h/v?cacertfile=", "cacertfile has no value"),
        ("amqps://u:hunter2@h/v?keyfile=/x", "keyfile is of no use without certfile"),
        ("amqps://u@h/v", "it names a user without a password"),
        ("amqp:///v", "it names no host"),
    ],
)
def test_a_broker_s_address_that_it_would_not_take_is_refused_as_it_is_set(home: Path, address: str, says: str) -> None:
    path = home / "mine.ini"

    with pytest.raises(BadInput) as caught:
        set_value(path, "broker", "uri", address)
    by_hand = refusal(written(home / "hand.ini", f"[broker]\nuri = {address}\n"))

    assert not path.exists()
    for error in (caught.value, by_hand):
        assert error.code == "E_BROKER_URI"
        assert says in str(error) and "hunter2" not in f"{error}{error.facts}"


def test_an_address_s_files_are_looked_for_where_it_is_set_or_checked_not_where_it_is_read(home: Path) -> None:
    address = f"amqps://u:hunter2@h/v?cacertfile={home}/no.pem"

    with pytest.raises(BadInput, match=r"no\.pem cannot be read: No such file"):
        set_value(home / "mine.ini", "broker", "uri", address)

    read = Settings.load(written(home / "hand.ini", f"[broker]\nuri = {address}\n"))
    assert read.broker.uri == address
    with pytest.raises(BadInput, match=r"no\.pem cannot be read: No such file(?s:.*)hand\.ini line 2"):
        read.check_here()
    Settings.load(options={"broker.uri": "amqps://u:hunter2@h/v?heartbeat=5", "database.uri": URI}).check_here()


@pytest.mark.parametrize("text", ["a-b", "3-1", "0,,1", "-1"])
def test_what_is_no_list_of_cores_is_refused_with_its_place(home: Path, text: str) -> None:
    with pytest.raises(BadInput, match="cores are written as in 0-3,8") as set_:
        set_value(home / "mine.ini", "agent", "cores", text)
    with pytest.raises(BadInput, match=r"hand\.ini line 2") as read:
        Settings.load(written(home / "hand.ini", f"[agent]\ncores = {text}\n"))
    assert (set_.value.code, read.value.code) == ("E_RANGE", "E_RANGE")


def test_cores_must_be_there_only_where_this_host_works_alone(home: Path) -> None:
    with pytest.raises(BadInput, match="may not use core 9999"):
        Settings.load(options={"agent.cores": "0,9999"}).check_here()
    Settings.load(options={"agent.cores": "0,9999", "database.uri": URI}).check_here()
    set_value(home / "site.ini", "agent", "cores", "9999")
    with pytest.raises(BadInput, match="may not use core 9999"):
        set_value(home / "mine.ini", "agent", "cores", "9999", alone=True)


def test_a_setting_that_is_wrong_can_be_set_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(home / "hand.ini", "[agent]\ncores = a-b\n")
    monkeypatch.setenv("PYFI_INI", str(path))
    assert run(["config", "set", "agent.cores", "0-1", "--file", str(path)]) == 0
    assert Settings.load(path).agent.cores == "0-1"
    assert run(["config", "set", "agent.cores", "9999", "--file", str(path)]) == 2


def test_what_an_address_may_say_besides_tls_is_what_pika_reads() -> None:
    read = {name.removeprefix("_set_url_") for name in dir(pika.URLParameters) if name.startswith("_set_url_")}
    assert set(amqp.OTHERS) == read - {"ssl_options"}


def test_a_network_is_written_in_one_way() -> None:
    settings = Settings.load(options={"agent.node_pipes": "yes", "agent.node_pipes_network": "10.1.2.3/16"})
    assert (settings.agent.node_pipes, settings.agent.node_pipes_network) == (True, "10.1.0.0/16")


def test_an_ipv6_host_and_a_coloned_password_are_no_ports() -> None:
    uri = "postgresql://ana:pa:ss@[::1]:5432/d"
    assert Settings.load(options={"database.uri": uri}).database.uri == uri


def test_a_file_that_is_missing_or_no_text_is_refused_with_its_path(home: Path) -> None:
    (home / "bytes.ini").write_bytes(b"[git]\nallow = \xff\n")
    for path in (home / "absent.ini", home, home / "bytes.ini"):
        error = refusal(path)
        assert (error.code, error.at) == ("E_CONFIG", str(path))


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("[git]\n[agent]\n[git]\n", 3, "twice"),
        ("[git]\nallow = a\n\nallow = b\n", 4, "twice"),
        ("[broker]\nmanagement uri = http://a\nmanagement_uri = http://b\n", 3, "twice"),
        ("allow = a\n", 1, "section"),
        ("[git]\nallow\n", 2, "key = value"),
        ("[git]\n# a comment\nallow = %(x)s\n", 3, "%(name)s"),
        ("[git]\nalow = a\n", 2, "git.allow"),
        ("\n[gti]\nallow = a\n", 2, "[git]"),
        ("[DEFAULT]\nallow = a\n", 1, "DEFAULT"),
        ("[git]\nallow = a\n[agent]\n\npoll_seconds = x\n", 5, "x"),
    ],
)
def test_a_broken_file_is_refused_with_the_line(home: Path, text: str, line: int, word: str) -> None:
    error = refusal(written(home / "broken.ini", text))
    assert f"broken.ini line {line}" in (error.at or "")
    assert word in str(error)
    assert error.code in ("E_CONFIG", "E_RANGE")


def test_a_percent_sign_in_a_password_stays(home: Path) -> None:
    ini = written(home / "a.ini", "[database]\nuri = postgresql://ana:%40%@h/d\n")
    assert Settings.load(ini).database.uri == "postgresql://ana:%40%@h/d"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_with_a_password_must_be_the_readers_alone(home: Path, mode: int) -> None:
    ini = written(home / "a.ini", f"[database]\nuri = {URI}\n", mode)
    error = refusal(ini)
    assert (error.code, error.at) == ("E_CONFIG_MODE", str(ini))
    ini.chmod(0o600)
    assert Settings.load(ini).database.uri == URI


def test_a_file_without_a_password_may_be_read_by_all(home: Path) -> None:
    assert Settings.load(written(home / "a.ini", "[slurm]\npartition = gpu\n", 0o644)).slurm.partition == "gpu"


def test_a_project_file_that_others_can_write_is_not_obeyed(home: Path) -> None:
    project = written(home / "pyfi.ini", "[slurm]\npython = /tmp/evil\n", 0o666)
    error = refusal()
    assert (error.code, error.at) == ("E_CONFIG", str(project))
    assert Settings.load(project).slurm.python == "/tmp/evil"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_project_file_of_somebody_else_is_not_obeyed(home: Path) -> None:
    os.chown(written(home / "pyfi.ini", "[slurm]\npython = /tmp/evil\n"), 12345, -1)
    assert refusal().code == "E_CONFIG"


@pytest.mark.parametrize("variable", ["PYFI_DATABASE_URL", "PYFI_GIT_ALOW", "PYFI_BROKER_MANAGEMENT"])
def test_a_misspelt_variable_is_refused_with_the_nearest(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "x")
    error = refusal()
    assert (error.code, error.at) == ("E_CONFIG", variable)
    assert "did you mean PYFI_" in str(error)


def test_variables_of_our_own_that_are_no_settings_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFI_FAILPOINT", "x")
    monkeypatch.setenv("PYFI_ACCEPTED_LOG", "x")
    assert Settings.load() == Settings()


def test_an_unknown_option_is_refused() -> None:
    assert "did you mean database.uri" in str(refusal(options={"database.url": "x"}))


def test_no_password_is_shown() -> None:
    settings = Settings.load(
        options={"database.uri": URI + "?password=hunter2", "broker.uri": "amqp://u:hun%2Fter2@h/v"}
    )
    shown = {name: value for name, value, _ in settings.shown()}
    assert shown["database.uri"] == "postgresql://ana:•••@db.example:5432/pyfi?password=•••"
    assert shown["broker.uri"] == "amqp://u:•••@h/v"
    assert list(shown) == list(KEYS)


def test_a_stored_value_is_read_back_and_other_lines_stay(home: Path) -> None:
    before = "# mine\n[git]\nallow = a\n  b\ndeny = c  ; why\n\n[agent]\nnetwork = n\n"
    path = written(user_file(), before, 0o644)
    set_value(path, "git", "allow", "x, y")
    set_value(path, "git", "mirror", "~/m")
    set_value(path, "database", "uri", URI)
    assert path.read_text() == (
        "# mine\n[git]\nmirror = ~/m\nallow = x, y\ndeny = c  ; why\n\n[agent]\nnetwork = n\n"
        f"\n[database]\nuri = {URI}\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Settings.load().git.allow == ("x", "y")


def test_a_new_file_is_its_owners_alone(home: Path) -> None:
    set_value(user_file(), "slurm", "partition", "gpu")
    assert stat.S_IMODE(user_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(user_file().parent.stat().st_mode) == 0o700
    assert Settings.load().slurm.partition == "gpu"


def test_a_value_that_is_none_is_not_stored(home: Path) -> None:
    for section, key, value in [
        ("git", "alow", "x"),
        ("database", "uri", "mysql://h"),
        ("agent", "poll_seconds", "-1"),
    ]:
        with pytest.raises(BadInput):
            set_value(user_file(), section, key, value)
    assert not user_file().exists()


def test_a_value_with_a_line_end_cannot_add_a_setting(home: Path) -> None:
    set_value(user_file(), "slurm", "partition", "gpu\n[git]\nallow = x")
    assert Settings.load().git.allow == ()
