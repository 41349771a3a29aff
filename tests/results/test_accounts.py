"""The file of the dashboard's users."""

import hashlib
import io
import stat

import pytest

from hpsearch.errors import UserError
from hpsearch.results.dashboard.accounts import (
    add_user,
    add_user_with_prompt,
    hash_password,
    read_users,
    remove_user,
)


def test_a_user_that_was_added_gets_in_with_the_password_alone(tmp_path):
    file = tmp_path / "users"
    assert add_user(file, "zoë", "pässwörd 1")
    assert add_user(file, "ada", "another password")
    users = read_users(file)
    assert users.admit("zoë", "pässwörd 1")
    assert users.admit(
        "zoe\N{COMBINING DIAERESIS}", "pa\N{COMBINING DIAERESIS}sswo\N{COMBINING DIAERESIS}rd 1"
    )
    assert not users.admit("ada", "pässwörd 1")
    assert not users.admit("zoë", "")
    text = file.read_text(encoding="utf-8")
    assert "password" not in text
    assert "wörd" not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["users"]


def test_adding_a_user_again_changes_the_password(tmp_path):
    file = tmp_path / "users"
    add_user(file, "ada", "first password")
    assert not add_user(file, "ada", "second password")
    users = read_users(file)
    assert users.admit("ada", "second password")
    assert not users.admit("ada", "first password")


def test_the_same_password_has_another_hash_each_time():
    one, other = hash_password("a password"), hash_password("a password")
    assert one.salt != other.salt
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("name", "password", "complaint"),
    [
        ("", "a password", "--add-user ''"),
        ("a:b", "a password", "--add-user 'a:b'"),
        ("a b", "a password", "no space"),
        ("#ada", "a password", "no space"),
        ("a\nroot", "a password", "no space"),
        ("a" * 65, "a password", "64 characters"),
        ("ada", "", "0 characters"),
        ("ada", "short", "5 characters"),
        ("ada", "a password\0", "control"),
        ("ada", "x" * 1025, "1025 characters"),
    ],
)
def test_names_and_passwords_that_are_no_good_are_refused(tmp_path, name, password, complaint):
    with pytest.raises(UserError, match=complaint):
        add_user(tmp_path / "users", name, password)
    assert not list(tmp_path.iterdir())


GOOD = "scrypt:32768:8:3:c2FsdHNhbHRzYWx0c2FsdA==:aGFzaGhhc2hoYXNoaGFzaA=="


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no user in it"),
        ("# nobody\n\n", "no user in it"),
        ("ada:secret\n", "line 1 is not name:scrypt"),
        (f"# users\nada:{GOOD.replace('scrypt', 'md5')}\n", "line 2 is not"),
        (f"ada:{GOOD}:more\n", "line 1 is not"),
        (f"ada:{GOOD.replace('c2Fs', '!!!!')}\n", "line 1 is not"),
        (f"ada:{GOOD.replace('32768', 'many')}\n", "line 1 is not"),
        (f"ada:{GOOD.replace('32768', '1024')}\n", "out of bounds"),
        (f"ada:{GOOD.replace('32768', '1073741824')}\n", "out of bounds"),
        (f"ada:{GOOD.replace('32768', '32769')}\n", "out of bounds"),
        ("ada:scrypt:32768:8:3::\n", "line 1 is not"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, text, complaint):
    file = tmp_path / "users"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(UserError, match=complaint):
        read_users(file)


def test_a_missing_file_says_how_it_is_made(tmp_path):
    with pytest.raises(UserError, match="--add-user NAME"):
        read_users(tmp_path / "users")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_file_that_others_may_use_is_refused(tmp_path, mode):
    file = tmp_path / "users"
    add_user(file, "ada", "a password")
    file.chmod(mode)
    with pytest.raises(UserError, match="chmod 600"):
        read_users(file)
    with pytest.raises(UserError, match="chmod 600"):
        add_user(file, "eve", "a password")


def test_without_a_terminal_the_password_is_the_first_line(tmp_path):
    file = tmp_path / "users"
    assert "added ada" in add_user_with_prompt(file, "ada", io.StringIO(" with spaces \r\nrest\n"))
    assert read_users(file).admit("ada", " with spaces ")
    assert "changed the password" in add_user_with_prompt(file, "ada", io.StringIO("other password"))
    with pytest.raises(UserError, match="--auth FILE"):
        add_user_with_prompt(None, "ada", io.StringIO("a password"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_password_is_asked_twice(tmp_path, monkeypatch):
    answers = ["first password", "first password", "one password", "other password"]
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers.pop(0))
    add_user_with_prompt(tmp_path / "users", "ada", Terminal())
    assert read_users(tmp_path / "users").admit("ada", "first password")
    with pytest.raises(UserError, match="differ"):
        add_user_with_prompt(tmp_path / "users", "ada", Terminal())
    assert read_users(tmp_path / "users").admit("ada", "first password")


def test_an_unknown_name_costs_the_same_work(tmp_path, monkeypatch):
    add_user(tmp_path / "users", "ada", "a password")
    users, costs, scrypt = read_users(tmp_path / "users"), [], hashlib.scrypt

    def counted(secret, **cost):
        costs.append({**cost, "salt": len(cost["salt"])})
        return scrypt(secret, **cost)

    monkeypatch.setattr("hashlib.scrypt", counted)
    assert not users.admit("ada", "wrong")
    assert not users.admit("eve", "wrong")
    assert len(costs) == 2
    assert costs[0] == costs[1]


def test_a_user_is_removed_and_the_others_stay(tmp_path):
    file = tmp_path / "users"
    for name in ("ada", "zoë"):
        add_user(file, name, "a password")
    with pytest.raises(UserError, match=r"--remove-user 'eve': not a user in .*users; in it: ada, zoë"):
        remove_user(file, "eve")
    assert remove_user(file, "zoe\N{COMBINING DIAERESIS}") == f"removed zoë from {file}"
    assert read_users(file).admit("ada", "a password")
    assert not read_users(file).admit("zoë", "a password")
    assert "the last user: nobody can log in until --add-user" in remove_user(file, "ada")
    with pytest.raises(UserError, match="no user in it"):
        read_users(file)
    with pytest.raises(UserError, match="in it: nobody"):
        remove_user(file, "ada")
    assert add_user(file, "ada", "a password")
    assert read_users(file).admit("ada", "a password")


def test_to_remove_a_user_the_file_must_be_named_and_be_there(tmp_path):
    with pytest.raises(UserError, match="--remove-user: name the file"):
        remove_user(None, "ada")
    with pytest.raises(UserError, match="no such file"):
        remove_user(tmp_path / "users", "ada")
    assert not list(tmp_path.iterdir())
