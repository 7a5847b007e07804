import base64
import gzip
import html
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nas.errors import UserError
from nas.report import describe_search, write_search
from nas.report.page import read_folder, render_page, write_folder_page, write_page
from nas.report.terminal import STATES_MEAN
from nas.slim.result import FILES, SearchResult

VOID = {"meta", "link", "input", "br"}
PRE = re.compile(r"<pre[^>]*>(.*?)</pre>")
LOADING = {"src", "href", "srcset", "action", "data", "poster", "background"}


class Page(HTMLParser):
    """What a page consists of; an end tag that ends nothing is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.loads, self.tags, self.scripts = [], [], [], [], []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.loads += [attributes[name] for name in LOADING & set(attributes)]
        if tag == "script":
            self.scripts.append((attributes, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.open and self.open[-1] != "style":
            self.text += data

    def json(self, attribute, value):
        (found,) = [text for attrs, text in self.scripts if attrs.get(attribute) == value]
        return json.loads(found)


@pytest.fixture(scope="module")
def page(result):
    return Page(render_page(result))


@pytest.fixture
def folder_page(run_folder):
    write_folder_page(run_folder / "a.html", read_folder(run_folder), title="run", force=False)
    return Page((run_folder / "a.html").read_text())


def test_the_page_is_whole(page):
    assert page.tags[:2] == ["html", "head"]
    assert len(page.ids) == len(set(page.ids))
    figures = [attrs["data-figure"] for attrs, _ in page.scripts if "data-figure" in attrs]
    assert figures == ["search1-frontier", "search1-walk", "search1-latency"]
    assert set(figures) <= set(page.ids)


def test_the_page_loads_nothing(page, result):
    assert page.loads == ["data:,"]
    text = render_page(result)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert not re.search(r"url\(|@import", style)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert "http" not in policy[1]


def test_the_page_carries_plotly_and_stays_small(page, result):
    (packed,) = [text for attrs, text in page.scripts if attrs.get("id") == "plotly"]
    assert b"plotly.js" in gzip.decompress(base64.b64decode(packed))[:200]
    assert len(render_page(result)) < 3e6


def test_the_page_shows_every_network_and_every_layer(page, result):
    for network in result.networks:
        assert f"{100 * network.test_accuracy:.1f} %" in page.text
        for latency in network.latencies:
            assert f"{latency.measured:.3f}" in page.text
            assert f"{latency.low:.3f} to {latency.high:.3f}" in page.text
        if network.of_target:
            assert f"{100 * network.of_target:.1f} %" in page.text
        for layer in network.layers:
            assert layer.slot.partition(".")[2] in page.text
            assert layer.layer.partition(" ")[2] in page.text
    assert page.text.count("share of the latency") == 1


def test_the_page_says_what_warm_and_cold_mean_where_it_shows_both(page, result):
    heads = [f"measured {state} ms" for state in ("warm", "cold")]
    assert heads[0] in page.text
    assert "cold ms" in page.text
    assert STATES_MEAN in page.text
    cold = tuple(it.model_copy(update={"state": "cold"}) for it in result.networks)
    assert heads[1] in Page(render_page(result.model_copy(update={"networks": cold}))).text
    older = tuple(it.model_copy(update={"latencies": it.latencies[:1]}) for it in result.networks)
    text = Page(render_page(result.model_copy(update={"networks": older}))).text
    assert "cold" not in text


def test_a_remark_on_a_network_stands_below_its_table(page, result):
    remark = "no scaled network lies between 0.8 ms and the target"
    assert remark not in page.text
    *others, last = result.networks
    last = last.model_copy(update={"remark": remark})
    changed = result.model_copy(update={"networks": (*others, last)})
    assert f"{last.name}, at most " in Page(render_page(changed)).text
    assert f" ms: {remark}" in Page(render_page(changed)).text


def test_shares_of_a_network_add_up(result):
    text = render_page(result)
    (largest,) = [it for it in re.findall(r"<details.*?</details>", text, re.DOTALL)
                  if "largest</summary>" in it]  # fmt: skip
    for kind in ("ms", "params"):
        shares = re.findall(rf'<span class="{kind}">([\d.]+) %</span>', largest)
        assert len(shares) == len(result.networks[0].layers)
        assert sum(map(float, shares)) == pytest.approx(100, abs=0.05 * len(shares))


def test_the_trace_tells_each_action_and_why_it_was_taken(page, result):
    shown = page.json("data-steps", "search1")
    assert shown["per"] == "MES"
    for step, kept in zip(result.trace, shown["steps"], strict=True):
        assert len(kept["actions"]) == len(step.actions)
        (taken,) = [it for it in kept["actions"] if it["taken"]]
        assert kept["actions"][0] == taken
        action = step.actions[step.taken]
        assert (taken["choice"], taken["option"]) == (action.choice, str(action.option))
        if action.accuracy is not None and step.accuracy is not None:
            rate = 100 * (step.accuracy - action.accuracy) / (action.score - step.score)
            assert taken["rate"] == pytest.approx(rate, rel=1e-4)


def test_a_drop_is_weighed_against_milliseconds_where_importance_slims(result):
    shown = Page(render_page(result.model_copy(update={"strategy": "importance"})))
    steps = shown.json("data-steps", "search1")
    assert steps["per"] == "ms"
    first = steps["steps"][0]["actions"][0]
    assert first["gain"] == first["saved"]


def test_names_are_text_and_never_markup(result):
    evil = '<script>alert("x")</script>'
    networks = [
        it.model_copy(
            update={"layers": (it.layers[0].model_copy(update={"slot": f"stage1.{evil}"}),)}
        )
        for it in result.networks
    ]
    methods = [result.methods[0].model_copy(update={"name": evil}), *result.methods[1:]]
    changed = {"space": evil, "data": evil, "networks": tuple(networks), "methods": tuple(methods)}
    text = render_page(result.model_copy(update=changed))
    assert "<script>alert" not in text
    page = Page(text)
    assert page.text.count(evil) > len(networks)


def test_a_result_without_trace_and_measurements_still_has_a_page(result):
    networks = [
        it.model_copy(update={"latencies": (), "layers": (), "test_accuracy": None})
        for it in result.networks
    ]
    bare = Page(render_page(result.model_copy(update={"trace": (), "networks": tuple(networks)})))
    assert "search1-frontier" in bare.ids
    assert "search1-walk" not in bare.ids
    assert "search1-latency" not in bare.ids
    assert "predicted, not measured" in bare.text


def test_latencies_of_several_tables_stand_by_their_names(result):
    def named(costs):
        rest = {name: cost for name, cost in costs.items() if name != "latency_ms"}
        return {"latency_ms[desk]": costs["latency_ms"], "latency_ms[phone]": 7.125, **rest}

    def relabelled(things):
        return tuple(it.model_copy(update={"costs": named(it.costs)}) for it in things)

    target = {"latency_ms[phone]": 7.25, "params": 1e9}
    networks = [
        it.model_copy(
            update={
                "target": target if it.target else None,
                "layers": relabelled(it.layers),
                "latencies": (it.latencies[0].model_copy(update={"cost": "latency_ms[desk]"}),),
            }
        )
        for it in relabelled(result.networks)
    ]
    methods = [
        it.model_copy(update={"evaluated": relabelled(it.evaluated)}) for it in result.methods
    ]
    changed = {"networks": tuple(networks), "methods": tuple(methods), "targets": (target,)}
    page = Page(render_page(result.model_copy(update={**changed, "trace": ()})))
    assert "≤ 7.25 ms (phone)" in page.text
    assert "7.125phone" in page.text, "predicted"
    assert "-phone" in page.text, "not measured"
    layout = page.json("data-figure", "search1-frontier")["layout"]
    assert layout["xaxis"]["title"]["text"] == "predicted latency (ms, phone)"
    assert layout["shapes"][0]["x0"] == 7.25


def test_a_folder_has_its_searches_and_its_training(folder_page):
    assert {"search1", "search2", "training"} <= set(folder_page.ids)
    assert folder_page.loads == ["data:,", "#search1", "#search2", "#training"]
    assert "setback in epoch 3: the loss is not finite" in folder_page.text
    loss = folder_page.json("data-figure", "training2")
    assert [len(it["y"]) for it in loss["data"]] == [8, 8]


def test_the_same_result_makes_the_same_page(result):
    assert render_page(result) == render_page(result)


def test_pages_are_replaced_and_other_files_are_not(tmp_path, result):
    path = tmp_path / "report.html"
    write_page(path, result)
    first = path.read_text()
    write_page(path, result.model_copy(update={"seed": 7}))
    assert path.read_text() != first
    path.write_text("<html>mine</html>")
    with pytest.raises(UserError, match="exists and is no page of nas report; --force replaces it"):
        write_page(path, result)
    assert path.read_text() == "<html>mine</html>"
    write_page(path, result, force=True)
    assert path.read_text() == first


def test_the_page_shows_the_verdict_of_the_terminal_and_no_other(page, result):
    (verdict,) = result.verdicts
    assert verdict in page.text
    assert result.evidence[1:] in page.text
    assert page.text.count("won") == page.text.count("no method won") == 1


def test_the_page_of_an_older_result_shows_its_verdict_as_it_was_written(result):
    added = {"terms", "comparisons", "walk", "evidence"}
    older = SearchResult.model_validate_json(result.model_dump_json(exclude=added))
    assert older.comparisons == ()
    assert result.verdicts[0] in Page(render_page(older)).text


def test_a_network_that_misses_its_target_when_measured_is_marked(result):
    latency, _ = result.networks[-1].latencies
    slow = latency.model_copy(update={"measured": 1.1 * result.targets[0]["latency_ms"]})
    networks = (result.networks[0], result.networks[-1].model_copy(update={"latencies": (slow,)}))
    assert "missed" not in Page(render_page(result)).text
    assert "missed" in Page(render_page(result.model_copy(update={"networks": networks}))).text


def test_a_search_is_drawn_beside_its_results(tmp_path, result):
    write_search(tmp_path, result)
    described = describe_search(tmp_path, result)
    assert (tmp_path / FILES["page"]).read_text() == render_page(result)
    assert (tmp_path / FILES["picture"]).read_bytes().startswith(b"\x89PNG")
    assert described["paths"]["onnx"] == str(tmp_path / "model.onnx")
    assert described["networks"] == [network.summary() for network in result.networks]


def finished(folder):
    """A folder in which a finished network lies."""
    (folder / "delivered").mkdir(parents=True)
    (folder / "delivered" / "model.onnx").write_text("")


def commands(path):
    return [shlex.split(html.unescape(it)) for it in PRE.findall(path.read_text())]


def test_a_page_names_the_command_that_goes_on(tmp_path, result, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("my runs/r/slim_2")
    folder.mkdir(parents=True)
    known = result.model_copy(update={"run": "my runs/r"})
    known.save(folder)
    write_search(folder, known)
    (words,) = commands(folder / "report.html")
    assert words == ["nas", "retrain", "--architecture", f"{folder}/architecture.json",
                     "--from", "my runs/r", "--run", "my runs/r_slim_2"]  # fmt: skip
    finished(Path("my runs/r_slim_2"))
    write_folder_page(Path("a.html"), read_folder(folder), title="r", force=False)
    assert commands(Path("a.html")) == [
        ["nas", "classify", "my runs/r_slim_2/delivered", "PICTURE.jpg"]
    ]


def test_the_page_of_what_nas_run_has_finished_leads_to_the_network(run_folder, result):
    write_folder_page(run_folder / "a.html", read_folder(run_folder), title="r", force=False)
    assert commands(run_folder / "a.html") == [], "results of before do not know their run"
    delivered = run_folder / "delivered" / result.wanted
    delivered.mkdir(parents=True)
    (delivered / "model.onnx").write_text("")
    write_folder_page(run_folder / "a.html", read_folder(run_folder), title="r", force=False)
    assert (
        commands(run_folder / "a.html") == [["nas", "classify", str(delivered), "PICTURE.jpg"]] * 2
    )


def test_the_page_of_a_network_trained_alone_leads_to_it(run_folder):
    for name in ("slim_2", "slim_3"):
        (run_folder / name / "report.json").unlink()
    finished(run_folder)
    write_folder_page(run_folder / "a.html", read_folder(run_folder), title="r", force=False)
    (words,) = commands(run_folder / "a.html")
    assert words == ["nas", "classify", f"{run_folder}/delivered", "PICTURE.jpg"]


def test_a_run_has_its_searches_and_its_training(run_folder, result):
    found = read_folder(run_folder)
    assert found.searches == {"slim_2": result, "slim_3": result}
    assert found.training is not None
    assert [it["epoch"] for it in found.training.epochs] == list(range(1, 9))
    assert found.training.setbacks[0]["reason"] == "the loss is not finite"


def test_numbers_that_are_not_finite_are_left_out(run_folder):
    (run_folder / "log.jsonl").write_text('{"epoch": 1, "loss/a": NaN, "loss/b": 0.5}\n')
    training = read_folder(run_folder).training
    assert training is not None
    assert training.epochs == ({"epoch": 1, "loss/a": None, "loss/b": 0.5},)


def test_the_folder_of_a_search_is_enough(run_folder):
    found = read_folder(run_folder / "slim_2")
    assert list(found.searches) == ["slim_2"]
    assert found.training is None


def test_nothing_to_report_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nothing to report: neither a search .* nor a training"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "missing")
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing to report"):
        read_folder(tmp_path)


@pytest.mark.parametrize("line", [b"{", b'{"loss": 1}', b"[1]", b"\x80", b'{"epoch": 9, "loss": "high"}', b'{"epoch": 9, "paths": 3}'])  # fmt: skip
def test_a_damaged_log_is_told_by_its_line(run_folder, line):
    path = run_folder / "log.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=r"log\.jsonl:10: is no line of a training; delete that"):
        read_folder(run_folder)


def test_a_damaged_report_is_told_by_its_key(run_folder):
    path = run_folder / "slim_2" / "report.json"
    path.write_text('{"space": "a"}')
    with pytest.raises(UserError, match=r"report\.json.*key 'data' is missing"):
        read_folder(run_folder)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("choices",), [], r"options: must be those of 0 choices"),
        (("choices", 0), "x", r"choices\[0\]: 'x' is the name of no choice"),
        (("options", 0), [], r"options\[0\]: a choice needs at least one option"),
        (("targets",), [], r"targets: "),
        (("targets", 0), {"watts": 1.0}, r"targets\[0\]: must be of latency_ms, macs, params, got wa"),
        (("targets", 0, "latency_ms"), 0.0, r"targets\[0\]\.latency_ms: .* greater than 0, got 0"),
        (("networks",), [], r"networks: "),
        (("networks", 0, "costs"), {}, r"must be of macs, params, got "),
        (("networks", 0, "costs", "params"), 0.0, r"costs\.params: .* greater than 0, got 0"),
        (("networks", 1, "assignment", 0), 99, r"networks\[1\]\.assignment: must have an index below"),
        (("networks", 1, "assignment"), [], r"networks\[1\]\.assignment: must have an index below"),
        (("networks", 1, "search_accuracy"), 7.0, r"search_accuracy: .* less than or equal to 1"),
        (("networks", 1, "state"), "cold", None),
        (("methods", 0, "evaluated", 0, "accuracy"), -1.0, r"accuracy: .* greater than or equal to"),
        (("methods", 0, "evaluated", 0, "costs"), {"params": 1.0}, r"evaluated\[0\]\.costs: must be of"),
        (("methods", 0, "evaluated", 0, "assignment", 0), -1, r"assignment: must have an index below"),
        (("trace", 0, "actions"), [], r"trace\[0\]\.taken: must be the index of an action"),
        (("trace", 0, "taken"), -1, r"trace\[0\]\.taken: must be the index of an action, got -1"),
        (("trace", 0, "costs"), {}, r"trace\[0\]\.costs: must be of"),
        (("trace", 0, "actions", 0, "costs"), {}, r"actions\[0\]\.costs: must be of"),
        (("walk", 0), [0], r"walk\[0\]: must have an index below each of"),
    ],
)  # fmt: skip
def test_a_report_whose_parts_are_not_of_one_search_is_one_line(run_folder, place, value, message):
    path = run_folder / "slim_2" / "report.json"
    data = json.loads(path.read_text())
    *outer, last = place
    part = data
    for key in outer:
        part = part[key]
    part[last] = value
    path.write_text(json.dumps(data))
    if message is None:  # it agrees with the rest
        write_folder_page(run_folder / "p.html", read_folder(run_folder), title="", force=False)
        return
    with pytest.raises(UserError, match=message) as error:
        read_folder(run_folder)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"[]", b"null", b"3", b'{"space": "a", "neu": 1}']
)
def test_a_report_that_is_none_is_one_line(run_folder, content):
    path = run_folder / "slim_2" / "report.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"report\.json:") as error:
        read_folder(run_folder)
    assert "\n" not in str(error.value)


def test_a_last_line_that_is_still_being_written_is_left_out(run_folder):
    before = read_folder(run_folder).training
    with (run_folder / "log.jsonl").open("a") as file:
        file.write('{"epoch": 9, "lo')
    assert read_folder(run_folder).training == before
