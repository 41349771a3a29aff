"""What the dashboard's guard lets through; the application behind it counts what it was asked."""

import base64
import functools
import hashlib
import threading

import pytest

from hpsearch.results.dashboard.accounts import PasswordHash, Users, UsersFile, add_user, remove_user
from hpsearch.results.dashboard.guard import LOCAL_NAMES, Guard
from hpsearch.results.dashboard.login import COOKIE, Delays, Login
from tests.results.requests import ask, basic

NAME, PASSWORD = "zoë", "pässwörd: 1"


class App:
    """Answers everything with a secret, and remembers that it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, environ, start_response):
        self.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        headers = [
            ("Content-Type", "text/html"),
            ("Access-Control-Allow-Origin", "*"),
            ("Content-Security-Policy", "default-src *"),
        ]
        start_response("200 OK", headers)
        return [b"secret"]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@functools.cache
def users():
    digest = hashlib.scrypt(PASSWORD.encode(), salt=b"saltsalt", n=2**14, r=8, p=1, maxmem=2**26, dklen=32)
    return Users({NAME: PasswordHash(b"saltsalt", digest, n=2**14, p=1)})


def guarded(**delays):
    app = App()
    delays = {"free": 10**6, **delays}
    return Guard(app, login=Login(users, Delays(**delays))), app


def encoded(raw: bytes) -> str:
    return "Basic " + base64.b64encode(raw).decode()


REFUSED = {
    "none": None,
    "empty": "",
    "scheme only": "Basic",
    "scheme and space": "Basic ",
    "wrong password": basic(NAME, "wrong"),
    "empty password": basic(NAME, ""),
    "empty name": basic("", PASSWORD),
    "both empty": basic("", ""),
    "unknown name": basic("eve", PASSWORD),
    "name in capitals": basic(NAME.upper(), PASSWORD),
    "name with a space": basic(f" {NAME}", PASSWORD),
    "password with a space": basic(NAME, f"{PASSWORD} "),
    "password with a NUL": basic(NAME, f"{PASSWORD}\0"),
    "password up to its colon": basic(NAME, PASSWORD.partition(":")[0]),
    "long password": basic(NAME, "x" * 2000),
    "long name": basic("x" * 5000, PASSWORD),
    "very long": basic(NAME, "x" * 10**6),
    "right, then long": basic(NAME, PASSWORD + "x" * 3000),
    "non-ASCII": basic("имя", "пароль"),
    "emoji": basic(NAME, "\N{SNOWMAN}" * 100),
    "Latin-1": encoded(f"{NAME}:{PASSWORD}".encode("latin-1")),
    "not UTF-8": encoded(b"\xff\xfe:\xff"),
    "no colon": encoded(b"ada"),
    "not base64": "Basic !!!!",
    "half of base64": basic(NAME, PASSWORD)[:-3],
    "in the clear": f"Basic {NAME}:{PASSWORD}",
    "another scheme": basic(NAME, PASSWORD).replace("Basic", "Bearer"),
    "no scheme": basic(NAME, PASSWORD).partition(" ")[2],
    "two": basic("eve", "x") + ", " + basic(NAME, PASSWORD),
}


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED)
def test_wrong_credentials_are_served_nothing(header):
    guard, app = guarded()
    answer = ask(guard, "/api/studies", **({} if header is None else {"HTTP_AUTHORIZATION": header}))
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')
    assert "Set-Cookie" not in answer.headers
    assert b"secret" not in answer.body
    assert not app.asked


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/dashboard",
        "/dashboard/studies/1",
        "/dashboard/../api/studies",
        "/api/meta",
        "/api/studies",
        "//api/studies",
        "/api/studies/",
        "/api/studies/1",
        "/csv/1",
        "/artifacts/1/aaaa",
        "/static/bundle.js",
        "/static/../../etc/passwd",
        "/favicon.ico",
        "/incompatible-rdb-schema",
        "/\xff/api/studies",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
def test_no_path_is_served_without_login(path, method):
    guard, app = guarded()
    assert ask(guard, path, method).status == 401
    assert not app.asked


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_right_credentials_get_in(scheme):
    guard, app = guarded()
    answer = ask(guard, "/api/studies", HTTP_AUTHORIZATION=basic(NAME, PASSWORD).replace("Basic", scheme))
    assert (answer.status, answer.body) == (200, b"secret")
    assert app.asked == [("GET", "/api/studies")]


def login_cookie(guard, **environ):
    answer = ask(guard, HTTP_AUTHORIZATION=basic(NAME, PASSWORD), **environ)
    value, _, flags = answer.headers["Set-Cookie"].partition(";")
    return value, flags


def test_the_cookie_spares_the_hashing_and_the_delay_but_not_the_password():
    guard, _ = guarded(free=1)
    cookie, flags = login_cookie(guard)
    assert "HttpOnly" in flags
    assert "SameSite=Strict" in flags
    assert "Secure" not in flags
    wrong = basic(NAME, "wrong")
    assert ask(guard, HTTP_COOKIE=cookie).status == 401
    assert ask(guard, HTTP_COOKIE=cookie, HTTP_AUTHORIZATION=wrong).status == 401
    assert ask(guard, HTTP_COOKIE=cookie, HTTP_AUTHORIZATION=wrong).status == 429
    right = basic(NAME, PASSWORD)
    assert ask(guard, HTTP_AUTHORIZATION=right).status == 429
    assert ask(guard, HTTP_COOKIE=f"{COOKIE}=0; {COOKIE}=1", HTTP_AUTHORIZATION=right).status == 429
    assert ask(guard, HTTP_COOKIE=f"\xff; a=b; {cookie}", HTTP_AUTHORIZATION=right).status == 429
    answer = ask(guard, HTTP_COOKIE=f"theme=dark; {cookie}", HTTP_AUTHORIZATION=right)
    assert answer.status == 200
    assert "Set-Cookie" not in answer.headers


def test_a_cookie_of_another_process_is_worthless():
    cookie, _ = login_cookie(guarded()[0])
    guard, app = guarded(free=1)
    assert ask(guard, HTTP_AUTHORIZATION=basic(NAME, "wrong")).status == 401
    assert ask(guard, HTTP_COOKIE=cookie, HTTP_AUTHORIZATION=basic(NAME, PASSWORD)).status == 429
    assert not app.asked


def test_behind_tls_the_cookie_stays_there():
    assert "Secure" in login_cookie(guarded()[0], **{"wsgi.url_scheme": "https"})[1]


def test_failures_delay_their_own_address_longer_and_longer():
    clock = Clock()
    guard, _ = guarded(free=3, longest=10.0, clock=clock)

    def attempt(password="wrong", address="10.0.0.1"):
        return ask(guard, HTTP_AUTHORIZATION=basic(NAME, password), REMOTE_ADDR=address)

    assert [attempt().status for _ in range(4)] == [401, 401, 401, 429]
    waits = []
    for _ in range(6):
        wait = int(attempt(PASSWORD).headers["Retry-After"])
        waits.append(wait)
        clock.now += wait
        assert attempt().status == 401
    assert waits == [2, 3, 5, 9, 11, 11]
    assert attempt(PASSWORD, "10.0.0.2").status == 200
    assert ask(guard).status == 401  # without credentials there is nothing to guess
    clock.now += 11
    assert attempt(PASSWORD).status == 200
    assert attempt().status == 429  # who owns one account must not guess another's password faster
    clock.now += 1000
    assert attempt().status == 401
    assert attempt().status == 401


def test_an_owner_of_a_network_has_one_delay_and_memory_is_bounded():
    delays = Delays(free=1, most=100, clock=Clock())
    assert delays.begin("2001:db8::1") == 0
    assert delays.begin("2001:db8::2") > 0
    assert delays.begin("2001:db8:0:1::1") == 0
    for number in range(1000):
        delays.begin(f"client {number}")
    assert len(delays._failures) == 100


def test_failures_under_one_name_do_not_lock_out_the_others_of_an_address():
    clock = Clock()
    guard, _ = guarded(free=2, names=5, clock=clock)

    def attempt(name, password="wrong", address="10.0.0.1"):
        authorization = basic(name, password)
        return ask(guard, HTTP_AUTHORIZATION=authorization, REMOTE_ADDR=address).status

    assert [attempt("eve") for _ in range(5)] == [401, 401, 429, 429, 429]
    assert attempt(NAME, PASSWORD) == 200
    # But who tries many names from one address is made to wait too, whichever comes next.
    assert [attempt(f"guess {number}") for number in range(8)] == [401] * 8
    assert [attempt(f"another {number}") for number in range(8)] == [429] * 8
    assert attempt(NAME, PASSWORD) == 429
    assert attempt(NAME, PASSWORD, "10.0.0.2") == 200
    clock.now += 1000
    assert attempt(NAME, PASSWORD) == 200


@pytest.mark.parametrize("failures", [100, 2000])
def test_the_wait_stays_bounded_however_often_somebody_fails(failures):
    clock = Clock()
    delays = Delays(longest=5.0, clock=clock)
    for _ in range(failures):
        clock.now += 5.0
        assert delays.begin("10.0.0.1", "eve") == 0
    assert delays.begin("10.0.0.1", "eve") == 5.0


def test_an_ipv4_address_within_ipv6_is_its_own():
    delays = Delays(free=1, clock=Clock())
    assert delays.begin("::ffff:192.0.2.1") == 0
    assert delays.begin("::ffff:192.0.2.2") == 0
    assert delays.begin("192.0.2.1") > 0


def test_a_removed_user_and_an_old_password_are_out_at_once_with_their_cookies(tmp_path):
    file = tmp_path / "users"
    people = {name: basic(name, "a password") for name in ("ada", "bob", "eve")}
    for name in people:
        add_user(file, name, "a password")
    users = UsersFile(file)
    guard = Guard(App(), login=Login(users, Delays(free=10**6)))
    cookies = {
        name: ask(guard, HTTP_AUTHORIZATION=header).headers["Set-Cookie"].partition(";")[0]
        for name, header in people.items()
    }

    def statuses():
        return [
            ask(guard, HTTP_AUTHORIZATION=header, HTTP_COOKIE=cookies[name]).status
            for name, header in people.items()
        ]

    assert statuses() == [200, 200, 200]
    remove_user(file, "bob")
    assert statuses() == [200, 401, 200]
    add_user(file, "eve", "another password")
    assert statuses() == [200, 401, 401]
    assert ask(guard, HTTP_AUTHORIZATION=basic("eve", "another password")).status == 200
    add_user(file, "bob", "a password")
    assert statuses() == [200, 200, 401]
    text = file.read_bytes()
    file.write_text("ada:no hash\n")
    assert statuses() == [401, 401, 401]  # who was removed must not get in because of a slip in the file
    file.write_bytes(text)
    assert statuses() == [200, 200, 401]
    file.unlink()
    assert statuses() == [401, 401, 401]


def test_many_guesses_at_once_are_counted_before_they_are_checked():
    guard, app = guarded(free=3)
    start, statuses = threading.Barrier(20), []

    def guess(number):
        start.wait()
        statuses.append(ask(guard, HTTP_AUTHORIZATION=basic(NAME, f"guess {number}")).status)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(401) <= 3
    assert set(statuses) == {401, 429}
    assert not app.asked


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "PROPFIND", ""]
)
def test_read_only_refuses_every_change(method):
    app = App()
    guard = Guard(app, read_only=True)
    answer = ask(guard, "/api/studies/1", method, HTTP_X_HTTP_METHOD_OVERRIDE="GET")
    assert answer.status == 403
    assert not app.asked


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_read_only_lets_readers_read(method):
    app = App()
    assert ask(Guard(app, read_only=True), "/api/studies/1", method).status == 200


HOST = "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl and the like
        ({"HTTP_ORIGIN": f"http://{HOST}", "HTTP_SEC_FETCH_SITE": "same-origin"}, 200),
        ({"HTTP_ORIGIN": f"https://{HOST}"}, 200),  # behind TLS
        ({"HTTP_SEC_FETCH_SITE": "none"}, 200),
        ({"HTTP_ORIGIN": "https://evil.example"}, 403),
        ({"HTTP_ORIGIN": "null"}, 403),
        ({"HTTP_ORIGIN": ""}, 403),
        ({"HTTP_ORIGIN": "http://127.0.0.1:9999"}, 403),
        ({"HTTP_ORIGIN": "http://127.0.0.1"}, 403),
        ({"HTTP_ORIGIN": f"http://{HOST}.evil.example"}, 403),
        ({"HTTP_ORIGIN": f"http://{HOST}@evil.example"}, 403),
        ({"HTTP_ORIGIN": "http://[::1"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": f"http://{HOST}"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "same-origin", "HTTP_ORIGIN": "https://evil.example"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_changes_must_come_from_our_own_pages(method, headers, status):
    app = App()
    answer = ask(Guard(app), "/api/studies", method, **headers)
    assert answer.status == status
    assert len(app.asked) == (status == 200)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("localhost.", 200),
        ("[::1]:8080", 200),
        ("", 421),
        ("evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("127.0.0.2:8080", 421),
        ("[::1", 421),
    ],
)
def test_without_login_only_this_machines_names_are_answered(host, status):
    app = App()
    assert ask(Guard(app, hosts=LOCAL_NAMES), "/api/studies", HTTP_HOST=host).status == status
    assert len(app.asked) == (status == 200)


@pytest.mark.parametrize(
    ("path", "policy", "cached"),
    [
        ("/dashboard/studies/1", "script-src 'self' 'unsafe-eval'", False),
        ("/api/studies", "sandbox", False),
        ("/artifacts/1/aa", "sandbox", False),
        ("/\xffartifacts/1/aa", "sandbox", False),
        ("/csv/1", "sandbox", False),
        ("/static/bundle.js", "sandbox", True),
    ],
)
def test_every_answer_carries_the_headers(path, policy, cached):
    for guard in (Guard(App()), Guard(App(), hosts=frozenset())):
        headers = ask(guard, path).headers
        assert policy in headers["Content-Security-Policy"]
        assert "default-src *" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers
        assert ("Cache-Control" not in headers) == cached
