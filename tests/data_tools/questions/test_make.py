"""Questions from an endpoint that misbehaves: nothing is lost, repeated or told on the way to them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.questions import make as questions
from tests.made import misbehaving_server as server
from tests.made import processes

pytestmark = pytest.mark.slow

CANARY = "sk-canary-7f3a9e51c2"


def papers(path: Path, count: int) -> Path:
    lines = [
        {"id": f"p{i:03d}", "text": f"PAPER-ID p{i:03d} The source has a flux of {i}.25 mJy and lies near Sagittarius.", "meta": {}}
        for i in reversed(range(count))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(documents: Path, out: Path, url: str, *more: str) -> list[str]:
    given = [str(documents), "--out", str(out), "--base-url", url, "--model", "m", "--backoff", "0.02", "--timeout", "3", *more]
    return [sys.executable, "-m", "data_tools.questions", *given]


def run(*args: object, key: str | None = CANARY) -> subprocess.CompletedProcess:
    env = {**os.environ, "OPENAI_API_KEY": key or ""}
    return processes.run(command(*args), env=env)


def conversations(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "conversations.jsonl").read_text().splitlines()]


@pytest.fixture
def serve(tmp_path):
    started = []

    def begin(mishaps: str = "ok", seconds: float = 0.0, folder: str = "server") -> tuple[str, Path]:
        process, url = server.start(tmp_path / folder, mishaps, seconds)
        started.append(process)
        return url, tmp_path / folder

    yield begin
    for process in started:
        processes.end(process)


def test_every_mishap_of_a_server_is_survived_and_every_paper_answered_once(tmp_path, serve):
    url, folder = serve("ok,ok,429,ok,500,ok,cut,ok,ok,notjson,ok,nochoices,ok,ok,schema,ok,null,ok,ok,list,ok,503,ok")
    out = tmp_path / "out"
    done = run(papers(tmp_path / "p.jsonl", 40), out, url)
    assert done.returncode == 0, done.stderr
    assert "made 40 conversations from 40 papers" in done.stdout.splitlines()[-1]
    got = conversations(out)
    assert [line["id"] for line in got] == [f"p{i:03d}#1" for i in range(40)]
    for i, line in enumerate(got):
        assert [turn["role"] for turn in line["messages"]] == ["user", "assistant"]
        assert f"flux of {i}.25 mJy" in line["messages"][1]["content"]
        assert line["meta"]["paper"] == f"p{i:03d}" and line["meta"]["model"] == "m-served" and "{text}" in line["meta"]["prompt"]
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert [line["paper"] for line in dropped] == [f"p{i:03d}" for i in range(40)]
    assert {(line["reason"], line["detail"]) for line in dropped} == {("number not in the paper", "987654.5")}
    counts = json.loads((out / "counts.json").read_text())
    assert (counts["papers"], counts["conversations"], counts["dropped"]) == (40, 40, {"number not in the paper": 40})
    asked = len(server.requests(folder))
    again = run(tmp_path / "p.jsonl", out, url)
    assert again.returncode == 0 and "40 finished earlier, 0 to ask" in again.stdout
    assert len(server.requests(folder)) == asked > 40 and conversations(out) == got


def test_prepare_chat_reads_what_was_made(tmp_path, serve):
    from tests.made.tiny import write_tokenizer

    url, _ = serve()
    assert run(papers(tmp_path / "p.jsonl", 6), tmp_path / "out", url).returncode == 0
    write_tokenizer(tmp_path / "tokenizer")
    given = [
        tmp_path / "out" / "conversations.jsonl",
        "--tokenizer",
        tmp_path / "tokenizer",
        "--out",
        tmp_path / "shards",
        "--template",
        "chatml",
    ]
    prepare = [sys.executable, "-m", "data_tools.prepare", "chat", *map(str, given), "--workers", "1"]
    done = processes.run(prepare)
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "shards" / "manifest.json").read_text())["counts"]
    assert counts["documents"] == 6 and counts["supervised_tokens"] > 6 * 50


def test_a_slow_server_is_cut_off_and_asked_again(tmp_path, serve):
    url, folder = serve("slow,ok")
    done = run(papers(tmp_path / "p.jsonl", 1), tmp_path / "out", url, "--timeout", "0.5")
    assert done.returncode == 0, done.stderr
    assert server.requests(folder) == ["p000", "p000"]


def test_no_request_starts_before_a_retry_after_is_over(tmp_path, serve):
    url, folder = serve("ok,429,ok,ok")
    assert run(papers(tmp_path / "p.jsonl", 8), tmp_path / "out", url, "--concurrency", "1").returncode == 0
    moments = [line.split()[1:] for line in (folder / "requests.log").read_text().splitlines() if line.startswith("moment")]
    waits = [float(after[0]) - float(before[0]) for before, after in zip(moments, moments[1:]) if before[1] == "429"]
    assert len(waits) >= 2 and min(waits) >= 0.99


def test_requests_keep_the_rate_retries_included(tmp_path, serve):
    url, folder = serve("ok,500")
    assert run(papers(tmp_path / "p.jsonl", 6), tmp_path / "out", url, "--requests-per-minute", "600").returncode == 0
    moments = [float(line.split()[1]) for line in (folder / "requests.log").read_text().splitlines() if line.startswith("moment")]
    assert len(moments) == 11 or len(moments) == 12
    assert moments[-1] - moments[0] >= 0.1 * (len(moments) - 1) - 0.05


def test_a_wrong_key_stops_at_once_with_one_message(tmp_path, serve):
    url, folder = serve("401")
    done = run(papers(tmp_path / "p.jsonl", 30), tmp_path / "out", url, "--concurrency", "1")
    assert done.returncode == 1 and server.requests(folder) == ["p029"]
    assert "HTTP 401" in done.stderr and "OPENAI_API_KEY" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "conversations.jsonl").exists()


def test_a_dead_endpoint_is_given_up_after_five_papers(tmp_path):
    done = run(papers(tmp_path / "p.jsonl", 30), tmp_path / "out", "http://127.0.0.1:9/v1")
    assert done.returncode == 1 and "5 papers in a row" in done.stderr and "Traceback" not in done.stderr


def test_unanswered_papers_are_asked_again_by_the_same_command_or_left_out_by_number(tmp_path, serve):
    url, folder = serve("ok,ok,400")
    documents, out = papers(tmp_path / "p.jsonl", 6), tmp_path / "out"
    first = run(documents, out, url, "--concurrency", "1")
    assert first.returncode == 1 and "2 of 6 papers have no answer" in first.stderr and "HTTP 400" in first.stderr
    assert not (out / "conversations.jsonl").exists()
    allowed = run(documents, out, url, "--concurrency", "1", "--allow-unanswered", "1")
    assert allowed.returncode == 0 or "--allow-unanswered" in allowed.stderr
    assert run(documents, out, url, "--concurrency", "1").returncode == 0
    assert len(conversations(out)) == 6
    asked = server.requests(folder)
    assert all(asked.count(id) == 1 for id in asked[:2] + asked[3:5]) and len(asked) == 8


def test_left_out_papers_are_counted(tmp_path, serve):
    url, _ = serve("ok,ok,400")
    done = run(papers(tmp_path / "p.jsonl", 3), tmp_path / "out", url, "--concurrency", "1", "--allow-unanswered", "1")
    assert done.returncode == 0, done.stderr
    assert "no answer 1" in done.stdout and len(conversations(tmp_path / "out")) == 2
    assert json.loads((tmp_path / "out" / "counts.json").read_text())["dropped"]["no answer"] == 1


def test_a_dry_run_says_cost_and_time_and_asks_and_writes_nothing(tmp_path, serve):
    url, folder = serve()
    documents = papers(tmp_path / "p.jsonl", 40)
    more = ("--price-in", "1000", "--price-out", "2000", "--max-tokens", "100", "--requests-per-minute", "20", "--dry-run")
    done = run(documents, tmp_path / "out", url, *more)
    assert done.returncode == 0, done.stderr
    tokens = round(sum(len(json.loads(line)["text"]) + len(questions.PROMPT) for line in documents.open()) / 3.6)
    assert f"about {tokens:,} in" in done.stdout
    assert f"at most {tokens / 1000 + 8:.2f}" in done.stdout  # 40 answers of 100 tokens at 2000 a million: 8
    assert "time:   about 0:02:00" in done.stdout  # 40 requests at 20 a minute
    assert server.requests(folder) == [] and not (tmp_path / "out").exists()


def test_half_a_line_of_the_journal_is_asked_again_and_nothing_else(tmp_path, serve):
    url, folder = serve()
    documents, out = papers(tmp_path / "p.jsonl", 5), tmp_path / "out"
    assert run(documents, out, url).returncode == 0
    before, journal = (out / "conversations.jsonl").read_bytes(), out / "journal.jsonl"
    last = json.loads(journal.read_text().splitlines()[-1])["paper"]
    journal.write_bytes(journal.read_bytes()[:-20])
    assert run(documents, out, url).returncode == 0
    asked = server.requests(folder)
    assert len(asked) == 6 and asked[-1] == last
    assert run(documents, out, url).returncode == 0 and len(server.requests(folder)) == 6
    assert (out / "conversations.jsonl").read_bytes() == before


def test_a_changed_paper_is_asked_again(tmp_path, serve):
    url, folder = serve()
    documents, out = papers(tmp_path / "p.jsonl", 3), tmp_path / "out"
    assert run(documents, out, url).returncode == 0
    documents.write_text(documents.read_text().replace("1.25 mJy", "8.5 mJy"))
    assert run(documents, out, url).returncode == 0
    assert server.requests(folder)[3:] == ["p001"]
    assert "8.5 mJy" in conversations(out)[1]["messages"][1]["content"]


def test_other_settings_for_the_same_folder_are_refused_by_name(tmp_path, serve):
    url, folder = serve()
    documents, out = papers(tmp_path / "p.jsonl", 2), tmp_path / "out"
    assert run(documents, out, url).returncode == 0
    done = run(documents, out, url, "--per-paper", "5")
    assert done.returncode == 1 and "per_paper was '3', is '5'" in done.stderr and len(server.requests(folder)) == 2


def test_two_runs_never_share_a_folder(tmp_path, serve):
    url, folder = serve("slow")
    documents = papers(tmp_path / "p.jsonl", 1)
    first = processes.start(command(documents, tmp_path / "out", url), **processes.QUIET)
    try:
        processes.wait_until(lambda: server.requests(folder), first)
        done = run(documents, tmp_path / "out", url)
        assert done.returncode == 1 and "another run is writing it" in done.stderr
    finally:
        processes.end(first)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"id": "a"}', "no text in field 'text' (it has: id)"),
        ('{"id": "a", "text": " "}', "no text in field 'text'"),
        ("[1]", "no text in field 'id' (it has: list)"),
        ("{", "not JSON"),
        ('{"id": "p000", "text": "again"}', "was there before"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, line, message):
    documents = papers(tmp_path / "p.jsonl", 1)
    documents.write_text(documents.read_text() + line + "\n")
    done = run(documents, tmp_path / "out", "http://127.0.0.1:9/v1")
    assert done.returncode == 1 and message in done.stderr and f"{documents}:2" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "http://host/v1?key=secret", "host/v1", "ftp://host/v1"])
def test_an_address_that_is_none_or_holds_a_key_is_refused_and_not_repeated(tmp_path, url):
    done = run(papers(tmp_path / "p.jsonl", 1), tmp_path / "out", url)
    assert done.returncode == 1 and "--base-url" in done.stderr and "secret" not in done.stderr + done.stdout


def test_the_key_is_sent_and_told_nowhere(tmp_path, serve):
    """8 ways to tell it: 401, 400, 500 and answer bodies that echo it, log, journal, outputs, argv."""
    hits, looked = [], 0
    for mishaps in ("ok,500,echo,ok", "401", "ok,400"):
        url, folder = serve(mishaps, 0.1, f"server-{mishaps}")
        out = tmp_path / f"out-{mishaps}"
        env = {**os.environ, "OPENAI_API_KEY": CANARY, "HTTPX_LOG_LEVEL": "trace", "PYTHONASYNCIODEBUG": "1"}
        documents = papers(tmp_path / "p.jsonl", 12)
        with open(tmp_path / f"log-{mishaps}", "wb") as log:
            process = processes.start(command(documents, out, url), env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + processes.SECONDS
        while process.poll() is None:
            assert time.monotonic() < deadline
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    hits += [path] if CANARY.encode() in path.read_bytes() else []
                    looked += 1
                except OSError:
                    continue
            time.sleep(0.05)
        assert f"key Bearer {CANARY}" in (folder / "requests.log").read_text()
        written = [path for path in [*out.rglob("*"), tmp_path / f"log-{mishaps}"] if path.is_file()]
        assert len(written) >= 2
        hits += [path for path in written if CANARY.encode() in path.read_bytes()]
    assert hits == [] and looked > 100
    assert b"Bearer ***" in (tmp_path / "out-ok,500,echo,ok" / "journal.jsonl").read_bytes()  # the echo did come back


def kill_at_random(tmp_path: Path, serve, kills: int, count: int) -> None:
    """Kill a run `kills` times at random moments; a paper in the journal at a kill is never asked about again."""
    mishaps = "ok,ok,500,ok,cut,ok,notjson,ok,nochoices,ok,schema,ok," * 3 + "429"
    url, folder = serve(mishaps, 0.1)
    documents, out, dice = papers(tmp_path / "p.jsonl", count), tmp_path / "out", random.Random(7)
    journal = out / "journal.jsonl"
    asked_at_end: dict[str, int] = {}  # finished paper → requests for it when it was first seen finished
    killed = 0
    while killed < kills:
        begun = len(server.requests(folder))
        process = processes.start(command(documents, out, url, "--concurrency", "4"), **processes.QUIET)
        processes.wait_until(lambda begun=begun: len(server.requests(folder)) > begun, process)
        time.sleep(dice.uniform(0.1, 0.7))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        assert process.wait(processes.SECONDS) == -signal.SIGKILL, "the run ended before it was killed: give it more papers"
        time.sleep(0.05)  # what it had sent is written down by the server
        finished = {json.loads(line)["paper"] for line in journal.read_bytes().split(b"\n")[1:-1]}
        requests = server.requests(folder)
        for id in finished:
            assert asked_at_end.setdefault(id, requests.count(id)) == requests.count(id)
        assert not (out / "conversations.jsonl").exists()
    done = run(documents, out, url, "--concurrency", "16")
    assert done.returncode == 0, done.stderr
    assert len(asked_at_end) > kills and all(server.requests(folder).count(id) == n for id, n in asked_at_end.items())
    assert [line["id"] for line in conversations(out)] == [f"p{i:03d}#1" for i in range(count)]
    assert sorted(path.name for path in out.iterdir()) == ["conversations.jsonl", "counts.json", "dropped.jsonl", "journal.jsonl"]


def test_a_run_killed_at_random_repeats_no_finished_paper(tmp_path, serve):
    kill_at_random(tmp_path, serve, kills=4, count=130)


@pytest.mark.soak
def test_a_run_killed_20_times_at_random_repeats_no_finished_paper(tmp_path, serve):
    kill_at_random(tmp_path, serve, kills=20, count=600)


def test_importing_questions_loads_neither_torch_nor_an_http_client():
    script = "import sys, data_tools.questions.make; print([m for m in ('torch', 'httpx2', 'transformers', 'pyarrow') if m in sys.modules])"
    assert processes.run([sys.executable, "-c", script]).stdout.strip() == "[]"
