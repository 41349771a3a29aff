"""The dashboard's server over real sockets: idle, slow, greedy and malformed clients beside one that asks."""

import contextlib
import http.client
import logging
import socket
import struct
import threading

import pytest
from tornado.httputil import HTTPHeaders, RequestStartLine

from hpsearch.results.dashboard.wsgi import Limits, Server, make_environ
from tests.results.requests import until

HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\n"
LARGE = 64 * 2**20  # bytes, more than the kernel buffers for one connection


def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    match environ["PATH_INFO"]:
        case "/bug":
            raise ValueError("a bug")
        case "/large":
            body = bytes(LARGE)
        case "/echo":
            body = repr((environ["REQUEST_METHOD"], environ["QUERY_STRING"], body)).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Two", "1"), ("X-Two", "2")])
    return [body[:5], body[5:]]


def stranger(environ, start_response):
    start_response("401 Unauthorized", [("Content-Type", "text/plain")])
    return [b"who?"]


@contextlib.contextmanager
def serving(screen=lambda environ: None, **limits):
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = Server(application, listener, Limits(**{"body": 1000, **limits}), screen)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def connected(server, sent=b""):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(sent)
        yield connection


def ask(server, path="/", method="GET", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def answered(server):
    try:
        return ask(server)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def told(connection, enough=10**6):
    """Returns what the server says until it ends the connection."""
    parts = b""
    with contextlib.suppress(ConnectionError):
        while len(parts) < enough and (part := connection.recv(65536)):
            parts += part
    return parts


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", HEAD, HEAD + b"X: ", POST + b"Content-Length: 9\r\n\r\nhalf", HEAD + b"\r\n"],
    ids=["nothing", "a letter", "half a head", "half a header", "half a body", "keep-alive"],
)
@pytest.mark.parametrize("places", [None, 400, 50])
def test_300_clients_that_wait_do_not_keep_out_others(sent, places):
    with serving(connections=places, transfer=2.0) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(server, sent)) for _ in range(300)]
        # Those with half a body hold their places until their deadline; all others make room at once.
        until(lambda: answered(server), 30)
        assert len(idle) == 300


@pytest.mark.parametrize(
    ("sent", "drop"),
    [
        (b"", b""),
        (HEAD + b"X: ", b""),
        (HEAD + b"X: ", b"x"),
        (HEAD, b"X: y\r\n"),
        (POST + b"Content-Length: 900\r\n\r\n", b""),
        (POST + b"Content-Length: 900\r\n\r\n", b"x"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"\r\n", b""),
    ],
    ids=[
        "silent",
        "headers",
        "a letter each",
        "a header each",
        "body",
        "a byte each",
        "a chunk each",
        "next",
    ],
)
def test_who_is_slow_to_ask_is_left(sent, drop):
    with serving(idle=0.4, transfer=0.4, slowest=10**6) as server, connected(server, sent) as connection:
        connection.settimeout(0.05)

        def left():
            try:
                connection.sendall(drop)
                return not connection.recv(65536)
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(left, 30)


def test_who_reads_slowly_is_left_and_holds_no_thread():
    asked = HEAD.replace(b"/ ", b"/large ") + b"\r\n"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(connections=3, threads=1, transfer=0.4, slowest=10**9))
        for _ in range(3):
            slow = stack.enter_context(connected(server, asked))
            assert slow.recv(12) == b"HTTP/1.1 200"  # there is but one thread
        until(lambda: answered(server), 30)  # the places are free again
        assert len(told(slow, LARGE)) < LARGE


def test_who_reads_as_fast_as_it_can_gets_all_of_a_large_answer():
    with serving() as server:
        status, body = ask(server, "/large")
        assert (status, len(body)) == (200, LARGE)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"X: " + b"x" * 30_000 + b"\r\n\r\n", b"200"),
        (HEAD + b"X: " + b"x" * 40_000 + b"\r\n\r\n", b"431"),
        (HEAD + b"X: " + b"x" * 500_000 + b"\r\n\r\n", b""),
        (HEAD + b"X: y\r\n" * 90 + b"\r\n", b"200"),
        (HEAD + b"X: y\r\n" * 100 + b"\r\n", b"431"),
        (HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(2000)) + b"\r\n", b"431"),
        (HEAD.replace(b"/ ", b"/" + b"x" * 60_000 + b" ") + b"\r\n", b"431"),
        (POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000, b"200"),
        (POST + b"Content-Length: 1001\r\n\r\n", b"413"),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n", b"413"),
        (POST + b"Content-Length: " + b"9" * 6000 + b"\r\n\r\n", b"413"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n", b"200"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", b"413"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", b"400"),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
        (POST + b"Content-Length: -1\r\n\r\n", b"400"),
        (POST + b"Content-Length: +3\r\n\r\nabc", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (HEAD + b"no colon\r\n\r\n", b"400"),
        (HEAD + b"X: \x00\r\n\r\n", b"400"),
    ],
)
def test_sizes_counts_and_forms_are_limited(request_bytes, status):
    with serving() as server:
        with connected(server) as connection:
            with contextlib.suppress(ConnectionError):  # what is too much is not read to its end
                connection.sendall(request_bytes)
            assert told(connection, 12)[9:12] == status
        assert answered(server)


def test_a_body_is_not_waited_for_when_its_headers_are_refused():
    with serving(screen=lambda environ: stranger) as server:
        with connected(server, POST + b"Content-Length: 900\r\n\r\n") as connection:
            answer = told(connection)
            assert answer.startswith(b"HTTP/1.1 401")
            assert answer.endswith(b"\r\n\r\nwho?")
        assert ask(server, method="POST", body=b"some")[0] == 401


def test_requests_arrive_whole_on_one_connection_and_answers_carry_all_headers():
    with serving() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            for method, body in (("GET", b""), ("PUT", b"abc"), ("POST", b"x" * 1000), ("DELETE", b"")):
                connection.request(method, "/echo?a=%20b&c", body)
                answer = connection.getresponse()
                assert answer.headers.get_all("X-Two") == ["1", "2"]
                assert answer.read() == repr((method, "a=%20b&c", body)).encode()


def test_a_bug_in_the_application_is_answered_and_told_in_the_log(caplog):
    with serving() as server, caplog.at_level(logging.ERROR):
        assert ask(server, "/bug") == (500, b"500 Internal Server Error\n")
        assert answered(server)
    assert "ValueError: a bug" in caplog.text


def test_a_client_that_leaves_in_the_middle_is_forgotten():
    reset = struct.pack("ii", 1, 0)
    with serving(connections=4) as server:
        for sent in (HEAD, HEAD + b"\r\n", HEAD.replace(b"/ ", b"/large ") + b"\r\n") * 5:
            with connected(server, sent) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        until(lambda: answered(server), 30)


def test_a_server_that_was_closed_before_it_ran_does_not_run():
    server = Server(application, socket.create_server(("127.0.0.1", 0)), Limits(body=0))
    server.close()
    server.run()


PEER = "10.0.0.1"


@pytest.mark.parametrize(
    ("headers", "proxy", "client", "scheme", "host"),
    [
        ({}, None, PEER, "http", "here"),
        ({"X-Forwarded-For": "192.0.2.7"}, None, PEER, "http", "here"),
        ({"X-Forwarded-For": "192.0.2.7"}, "10.0.0.2", PEER, "http", "here"),
        ({"X-Forwarded-For": "192.0.2.7"}, PEER, "192.0.2.7", "http", "here"),
        # What the client itself has sent stands on the left, what the proxy has seen on the right.
        ({"X-Forwarded-For": "1.1.1.1, 192.0.2.7"}, PEER, "192.0.2.7", "http", "here"),
        ({"X-Forwarded-For": "192.0.2.7:4711"}, PEER, "192.0.2.7", "http", "here"),
        ({"X-Forwarded-For": "[2001:db8::7]:4711"}, PEER, "2001:db8::7", "http", "here"),
        ({"X-Forwarded-For": "2001:DB8::7"}, PEER, "2001:db8::7", "http", "here"),
        ({"X-Forwarded-For": "unknown"}, PEER, PEER, "http", "here"),
        ({"X-Forwarded-For": "[::1"}, PEER, PEER, "http", "here"),
        ({"X-Forwarded-For": ""}, PEER, PEER, "http", "here"),
        ({"X_Forwarded_For": "192.0.2.7"}, PEER, PEER, "http", "here"),
        ({"X-Forwarded-Proto": "https"}, PEER, PEER, "https", "here"),
        ({"X-Forwarded-Proto": "https"}, None, PEER, "http", "here"),
        ({"X-Forwarded-Proto": "gopher"}, PEER, PEER, "http", "here"),
        ({"X-Forwarded-Host": "there"}, PEER, PEER, "http", "there"),
        ({"X-Forwarded-Host": "there"}, None, PEER, "http", "here"),
    ],
)
def test_the_named_proxy_alone_says_who_asks_and_how(headers, proxy, client, scheme, host):
    start = RequestStartLine("GET", "/a%2fb?c=d", "HTTP/1.1")
    environ = make_environ(start, HTTPHeaders({"Host": "here", **headers}), PEER, proxy)
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == (
        client,
        scheme,
        host,
    )
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a/b", "c=d")
    assert not [name for name in environ if "FORWARDED" in name]
