"""`weakspot submit` and its like, without a cluster: mistakes in one line, and a follower that is told the truth."""

from __future__ import annotations

import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from weakspot.cli import submit_command
from weakspot.cli.main import build_parser, main
from weakspot.cluster import submit
from weakspot.cluster.connect import address_of
from weakspot.errors import UserError

REFUSED = "http://127.0.0.1:9"  # the discard port: nobody listens
AUDIT = ["audit", "--defense", "refusal"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "WEAKSPOT_STORAGE"):
        monkeypatch.delenv(name, raising=False)


class Answering(BaseHTTPRequestHandler):
    """A server that says what the test wants to every request."""

    def do_GET(self) -> None:
        status, text = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What passes for a wheel of ours."""
    file = tmp_path_factory.mktemp("wheel") / "weakspot.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weakspot/cluster/arrive.py", "")
    return file


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = HTTPServer(("127.0.0.1", 0), Answering)
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit"], "the following arguments are required: audit ..."),
        (["submit", "defend", "tar"], "only an audit can be submitted, not 'defend'"),
        (["submit", "--frobnicate", "audit"], "arguments"),
        (["submit", "--storage", "/nfs", "audit", "--trials", "many"], "argument --trials: invalid int value: 'many'"),
        (["submit", "audit", "--storage", "/nfs"], "--storage belongs to submit here"),
        (["submit", *AUDIT], "where do the results go? give --storage S:"),
        (["submit", "--storage", "runs", *AUDIT], "--storage runs is a relative path"),
        (["submit", "--storage", "/nfs", *AUDIT, "--resume"], "audit --resume needs --job ID"),
        (["submit", "--storage", "/nfs", "--env", "HF_TOKEN=x", *AUDIT], "--env HF_TOKEN: Ray shows a job's variables"),
        (["submit", "--storage", "/nfs", "--wheel", "no.whl", *AUDIT], "no wheel at no.whl: build one"),
        (["fetch", "runs/x", "--out", "home"], "--storage runs/x is a relative path"),
        (["fetch", "/no/such/place", "--out", "home"], "nothing is stored at /no/such/place"),
        (["jobs", "--address", REFUSED], f"no cluster answers at {REFUSED}: start one, or give --address"),
        (["logs", "x", "--address", REFUSED], "no cluster answers at"),
        (["stop", "x", "--address", REFUSED], "no cluster answers at"),
        (["fetch", "x", "--out", "home", "--address", REFUSED], "no cluster answers at"),
        (["jobs", "--address", "ray://head:10001"], "jobs go to the dashboard over HTTP: give http://HOST:8265"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert message in one_line(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_holds_an_audit_is_told_before_anything_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.journal").write_text("")
    command = ["submit", "--storage", "/nfs", *AUDIT, "--out", str(tmp_path)]
    assert "already holds an audit: add --resume and --job" in one_line(command, capsys)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, json.dumps({"ray_version": "2.9.3"})), "runs Ray 2.9.3 and this machine "),
        ((200, json.dumps({"ray_version": "3.1.0"})), "install the same here (pip install 'ray[default]==3.1.0'), or renew"),
        ((200, "<html>hello</html>"), "is no job server of Ray: give the dashboard's address"),
        ((200, "{}"), "is no job server of Ray: give the dashboard's address"),
        ((404, "not found"), "is no job server of Ray: give the dashboard's address"),
        ((401, "Unauthorized: Missing authentication token"), "refuses the token (RAY_AUTH_MODE here is disabled): put"),
    ],
    ids=["older", "newer", "html", "other JSON", "404", "token"],
)
def test_a_cluster_that_does_not_fit_is_one_line(
    server: Any, answer: tuple[int, str], message: str, wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = answer
    command = ["submit", "--address", server.url, "--wheel", str(wheel), "--storage", "/nfs", *AUDIT]
    assert message in one_line(command, capsys)


def test_another_patch_of_the_same_ray_fits(server: Any) -> None:
    import ray

    from weakspot.cluster.connect import connect

    server.answer = (200, json.dumps({"ray_version": ".".join([*ray.__version__.split(".")[:2], "99"])}))
    connect(server.url, same_version=True)
    server.answer = (200, json.dumps({"ray_version": "2.9.3"}))
    connect(server.url)  # looking at jobs needs no more than the server's interface


def test_the_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_of(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://there:8265/")
    assert address_of(None) == "https://there:8265"
    assert address_of("here:8265") == "http://here:8265"


def test_the_argument_goes_before_rays_own_variables(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client prefers its variables to what it is given (2.60)."""
    from weakspot.cluster.connect import connect

    monkeypatch.setenv("RAY_ADDRESS", REFUSED)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", REFUSED)
    server.answer = (200, json.dumps({"ray_version": "2.60.0"}))
    assert connect(server.url)._address == server.url


def test_what_is_sent_is_the_audit_without_its_local_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    words = ["audit", "--testbed", "mine.toml", "--out", "runs/x", "--defense", "tar", "--gate", "--threat", "a=b"]
    audit, home, sent = submit_command.read_audit(words)
    assert (audit.testbed, audit.gate) == ("mine.toml", True)
    assert home == tmp_path / "runs/x"
    assert sent == ["--testbed", str(tmp_path / "mine.toml"), "--defense", "tar", "--gate", "--threat", "a=b"]
    assert submit_command.read_audit(["audit", "--out=y"])[1:] == (tmp_path / "y", [])


def test_options_before_and_after_the_word_audit_are_kept_apart() -> None:
    options = build_parser().parse_args(["submit", "--detach", "--storage", "/nfs", "audit", "--trials", "3", "--gate"])
    assert (options.detach, options.storage) == (True, "/nfs")
    assert options.audit == ["audit", "--trials", "3", "--gate"]


# A follower ------------------------------------------------------------------------------------------------------------------


class Client:
    """A job server whose answers are given: for each question a log and a state, or an error."""

    _address = "http://there"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def get_job_info(self, job: str) -> Any:
        if isinstance(self.answers[0], Exception):
            raise self.answers.pop(0)
        return SimpleNamespace(submission_id=job, metadata={"audit": "ws"}, **self.answers[0][1])

    def get_job_logs(self, job: str) -> str:
        return self.answers.pop(0)[0]


def state(status: str, code: int | None = None, message: str = "") -> dict[str, Any]:
    return {"status": status, "driver_exit_code": code, "message": message}


def followed(*answers: Any) -> tuple[int, str]:
    shown: list[str] = []
    code = submit.follow(Client(*answers), "ws", shown.append)
    return code, "".join(shown)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (state("SUCCEEDED", 0), 0, ""),
        (state("FAILED", 3), 3, ""),
        (state("FAILED", 4), 4, ""),
        (state("FAILED", 2), 2, ""),
        (state("STOPPED"), 130, "was stopped: go on with `weakspot submit --job ws audit ... --resume`"),
        (state("FAILED", -9), 137, "was killed (signal 9): go on with"),
        (state("FAILED", None, "runtime_env setup\nfailed"), 1, "without an exit code (runtime_env setup failed)"),
    ],
)
def test_the_exit_code_is_the_audits(end: dict[str, Any], code: int, said: str) -> None:
    found, shown = followed(("a\n", state("RUNNING")), ("a\nb\n", end))
    assert found == code
    assert shown.startswith("a\nb\n")
    assert said in shown


def test_a_log_is_shown_once_though_the_connection_breaks() -> None:
    gone = ConnectionError("reset")
    found = followed(("a\n", state("RUNNING")), gone, gone, ("a\nb\n", state("RUNNING")), ("a\nb\nc\n", state("SUCCEEDED", 0)))
    assert found == (0, "a\nb\nc\n")


def test_a_cluster_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "LOST_SECONDS", 0)
    with pytest.raises(UserError, match=r"no cluster answers at http://there.*ws may go on without us: `weakspot logs ws`"):
        followed(("a\n", state("RUNNING")), *[ConnectionError("reset")] * 9)


def test_a_stop_waits_until_the_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    client = Client(("", state("RUNNING")), ("", state("RUNNING")), ("", state("STOPPED")))
    client.stop_job = told.append  # type: ignore[attr-defined]
    client.get_job_info = lambda job: SimpleNamespace(**client.answers.pop(0)[1])  # type: ignore[method-assign]
    assert submit.stop(client, "ws") == "STOPPED"
    assert (told, client.answers) == (["ws"], [])
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(submit.time, "monotonic", lambda: next(clock))
    client.answers = [("", state("RUNNING"))] * 100
    with pytest.raises(UserError, match="ws was told to stop and has not ended: see the dashboard at http://there"):
        submit.stop(client, "ws")
    assert client.answers, "it gave up before the answers did"


def test_only_weakspots_jobs_are_listed_the_newest_first() -> None:
    def job(name: str | None, start: int, **metadata: str) -> Any:
        return SimpleNamespace(submission_id=name, metadata=metadata, start_time=start)

    jobs = [job("old", 1, weakspot="1"), job("theirs", 2), job(None, 3, weakspot="1"), job("new", 4, weakspot="1")]
    client = SimpleNamespace(_address="http://there", list_jobs=lambda: jobs)
    assert [job.submission_id for job in submit.ours(client)] == ["new", "old"]


def test_ctrl_c_leaves_the_job_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "follow", interrupted)
    assert submit_command.followed(None, "ws") == 130
    assert (
        "no longer following ws, which goes on: `weakspot logs --follow ws` follows it again, `weakspot stop ws` stops it"
        in (capsys.readouterr().err)
    )


def test_the_events_of_an_audit_are_kept_apart_from_the_rest_of_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    """A log comes in pieces, which break lines in two, and holds what driver and libraries have said on standard error."""
    first, second, third = '{"event": "start", "a": 1}\n', '{"event": "done"}\n', "the last line has no end"
    log = f"a library\x1b[2J\n{first}in words\n{second}{third}"
    pieces = [log[:30], log[:41], log[:75], log]
    answers = [*((piece, state("RUNNING")) for piece in pieces), (log, state("FAILED", 3))]
    assert submit_command.followed(Client(*answers), "ws", apart=True) == 3
    printed = capsys.readouterr()
    assert printed.out == first + second
    assert printed.err.splitlines()[1:] == ["in words", third]
    assert "\x1b" not in printed.err


def test_json_and_quiet_are_sent_with_the_audit() -> None:
    audit, _, sent = submit_command.read_audit(["audit", "--json", "--quiet", "--defense", "tar"])
    assert (audit.json, audit.quiet) == (True, True)
    assert sent == ["--json", "--quiet", "--defense", "tar"]


def test_an_audit_under_way_is_not_resumed_and_ids_are_not_taken_twice() -> None:
    def job(name: str, status: str) -> Any:
        return SimpleNamespace(submission_id=name, status=status, metadata={"weakspot": "1", "audit": "ws"}, start_time=1)

    def client(*jobs: Any) -> Any:
        return SimpleNamespace(_address="http://there", list_jobs=lambda: list(jobs))

    assert submit.successor(client(), "ws") == "ws"  # a new cluster
    assert submit.successor(client(job("ws", "FAILED")), "ws") == "ws-2"
    assert submit.successor(client(job("ws", "FAILED"), job("ws-2", "STOPPED")), "ws") == "ws-3"
    with pytest.raises(UserError, match="ws-2 is still RUNNING: follow it with"):
        submit.successor(client(job("ws", "FAILED"), job("ws-2", "RUNNING")), "ws")
    first, second = job("ws", "FAILED"), SimpleNamespace(**{**vars(job("ws-2", "RUNNING")), "start_time": 2})
    assert submit.find(client(first, second), "ws") is first, "Ray's id goes before the audit's name"
    first.submission_id = "ws-1"
    assert submit.find(client(first, second), "ws") is second, "of an audit the latest"
    with pytest.raises(UserError, match="no job 'other' on the cluster at http://there: known are ws"):
        submit.find(client(job("ws", "FAILED")), "other")


def test_options_are_frozen() -> None:
    """A renamed or dropped option breaks somebody's script: these lists only grow."""
    subparsers: Any = build_parser()._subparsers
    commands = subparsers._group_actions[0].choices
    found = {
        name: {option for action in commands[name]._actions for option in action.option_strings} - {"-h", "--help", "--address"}
        for name in ("submit", "jobs", "logs", "stop", "fetch")
    }
    assert found == {
        "submit": {"--storage", "--wheel", "--job", "--env", "--python", "--detach"},
        "jobs": {"--json"},
        "logs": {"--follow"},
        "stop": set(),
        "fetch": {"--out"},
    }


def test_the_port_that_refuses_is_free() -> None:
    """Else the tests above would say something about whatever listens there."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9)) != 0
