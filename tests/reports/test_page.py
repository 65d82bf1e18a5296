"""The page: its numbers, what it says is missing, what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tfmpq.api.report import report
from tfmpq.errors import TfmpqError, UsageError


def text_of(page: Path) -> str:
    """The page's words, one space between them."""
    return " ".join(re.sub("<[^>]*>", " ", page.read_text(encoding="utf-8").split("</style>")[1]).split())


def test_a_whole_run_is_shown_with_its_numbers(whole_run: Path, tmp_path: Path) -> None:
    found = report([whole_run], out=tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    for number in ("86.54 ± 1.80 %", "40.5 kB", "3.84", "0.500 of uniform 8 bits", "123 M bit operations",
                   "18,432", "1.25 ms", "3.0%", "77,360", "99.72%", "40,500 of at most 41,000"):  # fmt: skip
        assert number in text
    for words in ("the governor is powersave", "AMD EPYC, local, ai-edge-litert 2.3.0, 1 thread", "proved",
                  "tfmpq run --model resnet8", "keras 3.15.1", "Course of the search"):  # fmt: skip
        assert words in text
    assert found.runs[0]["missing"] == []
    assert found.measured == 3
    assert [row["on_front"] for row in found.networks] == [True, True, True]
    assert found.bytes == (tmp_path / "r.html").stat().st_size
    json.dumps(found.to_json())


def test_the_page_needs_nothing_else(whole_run: Path, tmp_path: Path) -> None:
    report([whole_run], out=tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|<iframe|https?:|url\(|@import|src=|href=", page)
    assert "default-src 'none'" in page
    identities = re.findall(r' id="([^"]*)"', page)
    assert len(identities) == len(set(identities)) > 0
    assert set(re.findall(r'aria-labelledby="([^"]*) ([^"]*)"', page)) <= {
        (a, b) for a in identities for b in identities
    }


def test_what_a_run_lacks_is_one_line(make_run, samples, tmp_path: Path) -> None:
    folder = make_run(search=samples.search_result(), checkpoint=False)
    (folder / "search.csv").unlink()
    found = report([folder], out=tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    assert len(found.runs[0]["missing"]) == 3
    assert "Not in this run: steps of a search" in text
    assert "Nothing was measured: tfmpq measure" in text
    assert "No proof is at hand: tfmpq verify" in text
    assert "Course of" not in text


def test_results_beside_the_runs(make_run, samples, tmp_path: Path) -> None:
    folder = make_run(finetune=samples.finetune_result())
    files = [samples.measured("a/int8.tflite", 2.0), samples.measured("a/mixed.tflite", 1.0)]
    compared = {"path": "a/mixed.tflite", "reference": "a/int8.tflite", "ratio": 0.5, "lowest": 0.48,
                "highest": 0.52, "spread": 0.03, "verdict": "faster"}  # fmt: skip
    (tmp_path / "latency.json").write_text(json.dumps({"files": files, "comparisons": [compared]}))
    failing = samples.verified("a/mixed.tflite", passed=False, failures=["layer conv1 differs"])
    (tmp_path / "verify.json").write_text(json.dumps(failing))
    found = report([folder, tmp_path / "latency.json", tmp_path / "verify.json"], out=tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    assert "a/mixed.tflite takes 0.500 of a/int8.tflite (0.480 to 0.520): faster." in text
    assert "not proved" in text
    assert "layer conv1 differs" in text
    assert found.measured == 2


@pytest.mark.parametrize("kind", ["exported", "verified"])
def test_a_proof_is_that_of_the_bytes_that_were_proved(kind: str, make_run, samples, tmp_path: Path) -> None:
    folder = make_run(finetune=samples.finetune_result())
    file = folder / "small.tflite"
    digest = hashlib.sha256(b"proved").hexdigest()
    result = getattr(samples, kind)("somewhere/a/small.tflite", integers=4321, sha256=digest)
    (folder / "export.small.json").write_text(json.dumps(result))

    def shown() -> str:
        report([folder], out=tmp_path / "r.html")
        return text_of(tmp_path / "r.html").split(" Proof ")[1]

    assert f"{digest}; the file is not at hand." in shown()
    file.write_bytes(b"proved")
    text = shown()
    assert "a/small.tflite: proved" in text
    assert f"The file has the SHA-256 {digest}." in text
    assert "4,321 weight integers" in text
    file.write_bytes(b"another")
    text = shown()
    assert "a/small.tflite: not proved" in text
    assert "it was replaced since" in text
    assert "4,321" not in text
    file.write_bytes(b"proved")
    assert "a/small.tflite: proved" in shown()


def test_a_proof_that_was_kept_twice_is_shown_once(make_run, samples, tmp_path: Path) -> None:
    folder = make_run(finetune=samples.finetune_result())
    for name in ("export.small.json", "mine.json"):
        (folder / name).write_text(json.dumps(samples.exported("a/small.tflite", sha256="0" * 64)))
    report([folder], out=tmp_path / "r.html")
    assert text_of(tmp_path / "r.html").count("4,321 weight integers") == 1


def test_a_latency_is_that_of_the_bytes_that_were_measured(make_run, samples, tmp_path: Path) -> None:
    folder = make_run(finetune=samples.finetune_result())
    file, out = folder / "small.tflite", tmp_path / "r.html"
    digest = hashlib.sha256(b"measured").hexdigest()
    times = samples.measured("somewhere/a/small.tflite", 1.5, sha256=digest)
    (folder / "latency.json").write_text(json.dumps(times))

    def shown() -> tuple[list[float], bool]:
        (row,) = report([folder], out=out).networks
        return list(row["median_ms"].values()), "was replaced since it was measured" in text_of(out)

    for content, expected in ((b"measured", ([1.5], False)), (b"another", ([], True))):
        file.write_bytes(content)
        assert shown() == expected
    # Results of older versions do not say what was measured.
    del times["sha256"]
    (folder / "latency.json").write_text(json.dumps(times))
    assert shown() == ([1.5], False)


def test_a_whole_job_whose_file_was_replaced_has_no_latency_of_it(whole_run: Path, tmp_path: Path) -> None:
    (whole_run / "int8.tflite").write_bytes(b"another")
    rows = report([whole_run], out=tmp_path / "r.html").networks
    assert {row["name"]: bool(row["median_ms"]) for row in rows} == {
        "a, float32": True,
        "a, int8": False,
        "a, mixed": True,
    }


def test_a_whole_job_shows_the_proof_of_its_baseline(whole_run: Path, samples, tmp_path: Path) -> None:
    (whole_run / "int8").mkdir()
    (whole_run / "int8" / "export.int8.json").write_text(json.dumps(samples.exported("runs/a/int8.tflite")))
    report([whole_run], out=tmp_path / "r.html")
    assert "a/int8.tflite: proved" in text_of(tmp_path / "r.html")


def test_time_by_layer(make_run, samples, tmp_path: Path) -> None:
    folder = make_run(finetune=samples.finetune_result())
    layer = {"name": "conv1", "operator": "CONV_2D", "kernel": "Convolution (NHWC, QC8)", "weight_bits": 4}
    rest = {"name": "pad", "operator": "PAD", "kernel": "Pad", "weight_bits": None, "container": None}
    ops = {
        "source": "litert profiler",
        "layers": [layer | {"container": 8, "ms": 0.75, "share": 0.75}, rest | {"ms": 0.25, "share": 0.25}],
        "unattributed": {"Copy": 0.01},
    }
    (folder / "latency.json").write_text(
        json.dumps(samples.measured("a/mixed.tflite", median=1.0, ops=ops, ops_note=None))
    )
    totals = samples.measured(
        "a/int8.tflite", ops=None, ops_note="This runtime tells totals only: it is old."
    )
    (folder / "old.json").write_text(json.dumps(totals))
    report([folder], out=tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    assert "conv1 0.75 ms 75.0% 4 8 CONV_2D Convolution (NHWC, QC8)" in text
    assert "pad 0.25 ms 25.0% - - PAD Pad" in text
    assert "This runtime tells totals only: it is old." in text
    assert "Told by: litert profiler. Beside the layers: Copy 0.01 ms." in text


def test_layers_that_are_too_short_have_no_share(make_run, samples, tmp_path: Path) -> None:
    folder = make_run(finetune=samples.finetune_result())
    layer = {"name": "conv1", "operator": "CONV_2D", "kernel": "IGEMM", "weight_bits": 4, "container": 8}
    ops = {
        "source": "litert profiler",
        "layers": [layer | {"ms": 0.001, "share": None}, layer | {"name": "a", "ms": 0.0, "share": None}],
        # As older files have it: what the profiler itself takes is in no operator either.
        "profiled_total_ms": 0.016,
        "outside_ms": 0.015,
    }
    measured = samples.measured("a/m.tflite", median=0.00189, ops=ops, ops_note="Too short.")
    (folder / "latency.json").write_text(json.dumps(measured))
    report([folder], out=tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    assert "conv1 0.001 ms - 4 8 CONV_2D" in text
    assert "a &lt; 0.001 ms - 4 8 CONV_2D" in text
    assert "Beside the layers: outside of operators 0.00089 ms." in text
    assert "Too short." in text


def test_predicted_latencies_stand_beside_the_measured_ones(make_run, samples, tmp_path: Path) -> None:
    here = "AMD EPYC, local, ai-edge-litert 2.3.0, 1 thread"
    found = samples.search_result(latency={"int8": 2.0, "policy": 1.5}, latency_conditions=here)
    folder = make_run(search=found, finetune=samples.finetune_result())
    (folder / "mixed.tflite").touch()
    times = samples.measured("a/mixed.tflite", 1.625, sha256=hashlib.sha256(b"").hexdigest())
    (folder / "latency.json").write_text(json.dumps(times))
    result = report([folder], out=tmp_path / "r.html")
    assert result.networks[0]["median_ms"] == {here: 1.625}
    assert result.networks[0]["predicted_ms"] == {here: 1.5}
    text = text_of(tmp_path / "r.html")
    assert "front latency predicted 1 a" in text
    assert "1.62 ms 1.5 ms" in text
    assert f"from a table of tfmpq profile: {here}." in text
    assert f"Predicted latency 1.5 ms, 0.750 of uniform 8 bits, on {here}." in text
    # Elsewhere the two say nothing about each other.
    (folder / "latency.json").write_text(json.dumps(times | {"threads": 4}))
    report([folder], out=tmp_path / "r.html")
    assert "front latency A predicted B 1 a" in text_of(tmp_path / "r.html")


def test_an_emulation_shows_no_time(make_run, samples, tmp_path: Path) -> None:
    folder = make_run(finetune=samples.finetune_result())
    (folder / "pi.json").write_text(json.dumps(samples.emulated("a/mixed.tflite")))
    report([folder], out=tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    assert "its times are no latency" in text
    assert "Accuracy against latency" not in text
    assert " ms" not in text


def test_hostile_results_stay_text(make_run, samples, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = make_run(finetune=samples.finetune_result(data=evil, model=evil), search=samples.search_result())
    (folder / "m.json").write_text(json.dumps(samples.measured(f"a/{evil}.tflite", warnings=[evil])))
    report([folder], out=tmp_path / "r.html")
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.add(tag)  # type: ignore[method-assign]
    parser.feed((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "svg" in tags
    assert "script" not in tags
    assert text_of(tmp_path / "r.html").count("&lt;script&gt;") >= 5


def test_drawings_stand_alone(whole_run: Path, tmp_path: Path) -> None:
    found = report([whole_run], out=tmp_path / "r.html", figures=tmp_path / "figures")
    names = {Path(path).name for path in found.figures}
    assert {"size0.svg", "latency0-0.svg", "policy0.svg", "search0-0.svg", "finetune0-0.svg"} <= names
    for path in found.figures:
        root = ElementTree.fromstring(Path(path).read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.find("{*}title").text


def test_runs_of_one_name_are_told_apart(make_run, samples, tmp_path: Path) -> None:
    folders = [make_run(f"{parent}/run", search=samples.search_result()) for parent in ("x", "y")]
    found = report([*folders, folders[0]], out=tmp_path / "r.html")
    assert [run["name"] for run in found.runs] == ["x/run", "y/run"]


def test_a_title_names_a_few_runs(make_run, samples, tmp_path: Path) -> None:
    folders = [make_run(name, search=samples.search_result()) for name in "abcdef"]
    report(folders, out=tmp_path / "r.html")
    assert "<title>tfmpq report: a, b, c, d, 2 more</title>" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("m.tflite", "", "run folders and .json"),
        ("m.json", "{}", "which is neither"),
        ("m.json", "[1, 2]", "which is neither"),
    ],
)
def test_what_is_no_result_is_refused(name: str, content: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=rule):
        report([tmp_path / name], out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_latency_table_is_refused_as_such(whole_run: Path, tmp_path: Path) -> None:
    table = tmp_path / "r8.json"
    table.write_text(json.dumps({"format": "tfmpq-latency/1", "model": "resnet8", "layers": []}))
    with pytest.raises(UsageError, match=r"r8\.json, a latency table of tfmpq profile.* Leave it out\."):
        report([whole_run, table], out=tmp_path / "r.html")
    # In a run folder it is one file among others.
    table.rename(whole_run / "r8.json")
    assert report([whole_run], out=tmp_path / "r.html").measured == 3


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 200_000, b""])
def test_a_named_file_that_is_no_json_is_refused(content: bytes, whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(TfmpqError, match=r"(?s)Received: .*broken\.json: .*Leave it out") as caught:
        report([whole_run, tmp_path / "broken.json"], out=tmp_path / "r.html")
    assert "run folder" not in str(caught.value)


def test_numbers_are_whole_and_one_is_no_plural(make_run, samples, tmp_path: Path) -> None:
    budget = [
        {"key": "size", "asked": "size=0.6x", "limit": 48_076.8, "reached": 48_000.0},
        {"key": "bops", "asked": "bops=0.5x", "limit": 123_456_789.5, "reached": 123_456_001.0},
        {"key": "weight-bits", "asked": "weight-bits=4.25", "limit": 4.25, "reached": 4.0},
    ]
    folder = make_run(
        search=samples.search_result(budget=budget), finetune=samples.finetune_result(epochs=1, steps=1)
    )
    kept = (folder / "finetune.csv").read_text().splitlines()[:4]
    (folder / "finetune.csv").write_text("\n".join(kept))
    report([folder], out=tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    assert "48,000 of at most 48,076." in text
    assert "123,456,001 of at most 123,456,789." in text
    assert "4 of at most 4.25." in text
    assert "for 1 epoch (1 step): top-1" in text
    page = (tmp_path / "r.html").read_text()
    assert '<th scope="row">3</th>' in page
    assert "3 to 3" not in page


def test_empty_folders_and_folders_as_output_are_refused(whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="neither"):
        report([tmp_path / "empty"], out=tmp_path / "r.html")
    for out in (tmp_path / "empty", whole_run / "job.json"):
        with pytest.raises(UsageError, match=r"one \.html file"):
            report([whole_run], out=out)
    with pytest.raises(UsageError, match="nothing"):
        report([], out=tmp_path / "r.html")
    with pytest.raises(TfmpqError, match="has to be written"):
        report([whole_run], out=whole_run / "job.json" / "r.html")


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("search.result.json", "{", "search.result.json"),
        ("search.result.json", '{"model": 3}', "model"),
        ("job.json", '{"table": []}', "measured"),
        ("latency.json", '{"files": 1, "comparisons": []}', "files"),
        ("search.json", "[]", "list"),
        ("search.csv", b"\xff\xfe\x00", "search.csv"),
    ],
)
def test_damaged_files_are_named(
    file: str, content: str | bytes, named: str, whole_run: Path, tmp_path: Path
) -> None:
    (whole_run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TfmpqError, match=re.escape(named)):
        report([whole_run], out=tmp_path / "r.html")


def test_numbers_that_are_none_are_refused_or_skipped(whole_run: Path, tmp_path: Path) -> None:
    lines = (whole_run / "search.csv").read_text().splitlines()
    lines[5] = ",".join("nan" for _ in lines[5].split(","))
    (whole_run / "search.csv").write_text("\n".join([*lines, "300,1"]))
    report([whole_run], out=tmp_path / "r.html")
    assert "nan" not in (tmp_path / "r.html").read_text()
    job = json.loads((whole_run / "job.json").read_text())
    job["table"][0]["top1"] = 1.5
    (whole_run / "job.json").write_text(json.dumps(job))
    with pytest.raises(TfmpqError, match="top1"):
        report([whole_run], out=tmp_path / "r.html")


def test_the_function_is_what_the_package_gives(whole_run: Path, tmp_path: Path) -> None:
    import tfmpq

    assert tfmpq.report is report
    assert tfmpq.report([whole_run], out=tmp_path / "r.html").measured == 3
