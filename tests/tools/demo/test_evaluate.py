"""The exam counts exact answers only, and speaks plain chat completions to a server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from baton.tools.demo.evaluate import ServerRefusedError, examine, served_model, server_answerer
from baton.tools.demo.generator import Dialogue, Kind, Turn


def question(code: str) -> Dialogue:
    sentence = f"The code of the red door is {code}."
    turn = Turn(kind=Kind.RECALL, user=f"{sentence} What is the code of the red door?", answer=sentence)
    return Dialogue(system=None, turns=(turn,))


class EchoHandler(BaseHTTPRequestHandler):
    """Answers with the first sentence of the last message; refuses any model but "echo"."""

    def do_GET(self) -> None:
        self._reply(200, {"object": "list", "data": [{"id": "echo"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] != "echo" or body["temperature"] != 0:
            self._reply(404, {"error": {"message": "no such model"}})
            return
        sentence = body["messages"][-1]["content"].split(". ")[0] + "."
        self._reply(200, {"choices": [{"message": {"role": "assistant", "content": sentence}}]})

    def _reply(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), EchoHandler)
    thread = threading.Thread(target=server.serve_forever, name="echo server")
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_is_asked_and_its_answers_counted(url: str) -> None:
    questions = [(30, question("4827")), (150, question("0012"))]

    right, asked = examine(questions, server_answerer(url, served_model(url)), concurrency=2)

    expected = {"all": 2, "recall": 2, "up to  100 tokens": 1, "up to  200 tokens": 1}
    assert (dict(right), dict(asked)) == (expected, expected)


def test_a_wrong_digit_is_wrong_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    right, asked = examine(
        [(30, question("4827"))], lambda _: "The code of the red door is 4828.", concurrency=1
    )

    assert (right["all"], asked["all"]) == (0, 1)
    assert "4828" in capsys.readouterr().out


def test_a_refusal_names_the_status_and_the_servers_words(url: str) -> None:
    with pytest.raises(ServerRefusedError, match=r"404 .*no such model"):
        server_answerer(url, "other")(question("4827"))
