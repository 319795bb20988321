"""Video benchmarks: metrics on their edge cases, loaders on rows in the public format, verdicts, tables."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import video.components  # noqa: F401
from mmcredit.components import build, names
from mmcredit.data.dropped import UnusableSample
from mmcredit.evaluate.benchmarks.scoring import Scored
from video.metrics import (
    best_iou_iop,
    first_range,
    hull_iou,
    iou_iop,
    last_joined_range,
    macro_average,
    mlvu_letter,
    moment_retrieval,
    nextgqa,
    seconds,
    span_in_answer,
    video_mme_letter,
)


def test_iou_and_iop_of_nextgqa():
    assert iou_iop((2, 6), (4, 8)) == pytest.approx((2 / 6, 0.5))
    assert iou_iop((0, 2), (4, 8)) == pytest.approx((-2 / 8, -1.0))  # negative, as official code has it
    assert best_iou_iop((0, 2), [(4, 8)]) == (0.0, 0.0)
    assert [iou_iop((x, x), (4, 8)) for x in (4, 8, 9)] == [(0.0, 1.0), (0.0, 1.0), (0.0, 0.0)]
    assert best_iou_iop((0, 10), [(0, 2), (4, 10)]) == (0.6, 0.6)  # the best of several segments
    # IoU and IoP may come from different segments.
    assert best_iou_iop((0, 4), [(0, 100), (3, 5)]) == (pytest.approx(0.2), 1.0)


def test_nextgqa_metrics():
    found = nextgqa([((0, 10), [(0, 5)], True), ((0, 10), [(0, 5)], False), ((0, 10), [(6, 10.0)], True)])
    assert found["Acc@GQA"] == pytest.approx(1 / 3)  # IoP .5 is enough, the answer must be right, .4 is not
    assert found["Acc@QA"] == pytest.approx(2 / 3)
    assert found["IoP@0.5"] == pytest.approx(2 / 3)
    assert found["mIoP"] == pytest.approx((0.5 + 0.5 + 0.4) / 3)
    with pytest.raises(ValueError, match="no questions"):
        nextgqa([])


def test_moment_retrieval_metrics():
    pairs = [((0, 5), (0, 10)), (None, (0, 10)), ((20, 30), (0, 10)), ((0, 10), (0, 10))]
    found = moment_retrieval(pairs)
    assert found == {"R1@0.3": 0.5, "R1@0.5": 0.5, "R1@0.7": 0.25, "mIoU": 0.375}
    assert hull_iou((3, 3), (3, 3)) == 0.0
    assert hull_iou((10, 0), (0, 10)) == 0.0


@pytest.mark.parametrize(
    ("text", "answer", "last", "first"),
    [
        ("<answer>3.2 - 8</answer>", (3.2, 8), None, (3.2, 8)),
        ("<answer>from 3 to 8 seconds</answer>", (3, 8), (3, 8), (3, 8)),
        ("<answer>0:16 - 1:20</answer>", (16, 80), None, (16, 80)),
        ("1 to 2 ... <answer>3 and 8</answer>", (3, 8), (3, 8), (1, 2)),
        ("3 to 8", None, (3, 8), (3, 8)),
        ("<answer>none</answer>", None, None, None),
        ("<answer>3  to 8</answer>", (3, 8), None, (3, 8)),
    ],
)
def test_ranges_in_responses(text, answer, last, first):
    assert (span_in_answer(text), last_joined_range(text), first_range(text)) == (answer, last, first)


def test_letters():
    said = {"C": "C", "The best answer is C": "C", "The answer is (D).": "D", "Answer: C": "A", "none": "", "b": ""}
    said |= {"Best answer: C": "B"}  # the lead-in that a missing comma disables
    assert {text: video_mme_letter(text) for text in said} == said
    assert [mlvu_letter(text) for text in ("(B) red", "B) red", "B", "red")] == ["B", "B", "B", "red"]
    assert macro_average({"a": [True, True, True, True], "b": [False], "c": []}) == 0.5
    assert (seconds("1:02"), seconds("1:00:01.5"), seconds("7")) == (62, 3601.5, 7)


@pytest.fixture
def root(tmp_path):
    for folder in (
        "charades_sta/videos",
        "ActivityNet",
        "NExT-GQA/videos/1164",
        "Video-MME/videos",
        "MLVU/json",
        "LVBench",
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "charades_sta/charades_sta_test.txt").write_text(
        "3MSZA 24.3 30.4##person turn a light on.\n3MSZA 0.0 99.5##a person sits ## down \n"
    )
    (tmp_path / "charades_sta/videos/3MSZA.mp4").write_bytes(b"x")
    entry = {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": [" A woman.", "She dances."],
    }
    (tmp_path / "ActivityNet/val_2.json").write_text(json.dumps({"v_QO": entry}))
    head = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    (tmp_path / "NExT-GQA/test.csv").write_text(
        head + "44,900,640,480,why did she go,rest,2,CW,run,rest,eat,sing,jump\n"
        "44,900,640,480,what then,run,3,TP,run,rest,eat,sing,jump\n44,900,640,480,and,run,4,CH,run,rest,eat,sing,jump\n"
    )
    segments = {"44": {"duration": 40, "location": {"2": [[5, 10], [20, 24]], "3": [[0, 4]]}, "fps": 30}}
    (tmp_path / "NExT-GQA/gsub_test.json").write_text(json.dumps(segments))
    (tmp_path / "NExT-GQA/map_vid_vidorID.json").write_text(json.dumps({"44": "1164/44"}))
    (tmp_path / "NExT-GQA/videos/1164/44.mp4").write_bytes(b"x")
    rows = [
        {
            **{
                "video_id": f"00{i}",
                "duration": d,
                "domain": "Life",
                "sub_category": "Pets",
                "url": "u",
                "videoID": f"v{i}",
            },
            **{"question_id": f"00{i}-1", "task_type": "Counting", "question": "How many?", "answer": "C"},
            "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
        }
        for i, d in enumerate(("short", "medium", "long"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "Video-MME/test-00000-of-00001.parquet")
    for stem in ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning"):
        row = {
            "video": "a.mp4",
            "duration": 480,
            "question": "What?",
            "candidates": ["x", "y", "z", "w"],
            "answer": "y",
        }
        lost = [{**row, "answer": "q", "question_type": "findNeedle"}] if stem == "2_needle" else []
        more = [row, row] if stem == "1_plotQA" else []
        (tmp_path / f"MLVU/json/{stem}.json").write_text(json.dumps([row, *lost, *more]))
    qa = {
        **{
            "uid": "11",
            "answer": "C",
            "question_type": ["entity recognition", "reasoning"],
            "time_reference": "01:15-01:22",
        },
        "question": "What year?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
    }
    line = {"key": "Cm73", "type": "cartoon", "video_info": {"duration_minutes": 65}, "qa": [qa]}
    (tmp_path / "LVBench/video_info.meta.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


VIDEO = ("charades_sta", "activitynet_mr", "nextgqa", "video_mme", "mlvu", "lvbench")


def scored(benchmark, samples, responses):
    items = []
    for i, response in enumerate(responses):
        sample = sample_without_video(benchmark, samples, i)
        items.append(Scored.of(sample, benchmark.score(sample, response)))
    return benchmark.summary(items)


def sample_without_video(benchmark, samples, i):
    from mmcredit.data.sample import Sample

    item = samples.item(i)
    meta = samples.meta(i)
    return Sample(
        samples.id(i), ({"role": "user", "content": "?"},), (), benchmark.reference(item.answer, item.letter), meta
    )


def test_every_benchmark_loads_and_names_its_video(root):
    assert set(VIDEO) <= set(names("benchmark"))
    ids = {}
    for name in VIDEO:
        benchmark = build("benchmark", name)
        samples = benchmark.load(root)
        ids[name] = samples.id(0)
        assert samples.rows() == list(range(len(samples)))
        assert [samples[1:2].id(0)] == [samples.id(1)] if len(samples) > 1 else True
        for wrong in ("rows.txt", "x"):
            with pytest.raises(ValueError, match=name):
                build("benchmark", name).load(root / wrong)
    assert ids["charades_sta"] == "charades_sta/test/1"
    assert ids["nextgqa"] == "nextgqa/test/44_2"
    charades = build("benchmark", "charades_sta").load(root)
    sample = charades[0]
    assert [part["type"] for part in sample.messages[0]["content"]] == ["video", "text"]
    assert sample.media[0].path == (root / "charades_sta/videos/3MSZA.mp4").resolve()
    assert "person turn a light on" in sample.messages[0]["content"][1]["text"]
    assert (sample.answer, sample.meta["span"]) == ("24.30 - 30.40", [24.3, 30.4])
    assert charades[1].meta["span"] == [0.0, 99.5]  # gold beyond the video stays
    assert charades[1].meta["question"] == "a person sits ## down"
    assert build("benchmark", "nextgqa").load(root)[0].media[0].path.name == "44.mp4"
    anet = build("benchmark", "activitynet_mr").load(root)
    assert (anet.item(0).question, anet.meta(0)["duration"]) == ("A woman.", 82.73)
    with pytest.raises(UnusableSample, match=r"video 'v_QO' is not in videos or video") as caught:
        anet[0]
    assert caught.value.reason == "media missing"


def test_questions_with_one_id_stay_apart(root):
    path = root / "NExT-GQA/test.csv"
    path.write_text(path.read_text() + "44,900,640,480,why again,rest,2,CW,run,rest,eat,sing,jump\n")
    samples = build("benchmark", "nextgqa").load(root)
    ids = [samples.id(i) for i in range(len(samples))]
    assert len(set(ids)) == len(ids)
    assert ids[-1] == "nextgqa/test/44_2~2"
    assert samples[len(ids) - 1].id == ids[-1]
    assert samples[1:].id(0) == ids[1]


def test_charades_scores(root):
    benchmark = build("benchmark", "charades_sta")
    samples = benchmark.load(root)
    summary = scored(benchmark, samples, ["<answer>24.3 - 30.4</answer>", "I do not know"])
    assert {k: v.value for k, v in summary.overall.items()} == {
        "R1@0.3": 0.5,
        "R1@0.5": 0.5,
        "R1@0.7": 0.5,
        "mIoU": 0.5,
    }
    assert (summary.headline, summary.unparsed) == ("mIoU", 1)
    turned = ["<answer>30.4 - 24.3</answer>", "<answer>0 - 99.5</answer>"]
    assert scored(benchmark, samples, turned).overall["mIoU"].value == pytest.approx(1.0)
    zero = build("benchmark", {"charades_sta": {"reversed": "zero"}})
    assert scored(zero, samples, turned).overall["mIoU"].value == pytest.approx(0.5)
    time_r1 = build("benchmark", {"charades_sta": {"extraction": "last_joined"}})
    assert scored(time_r1, samples, ["24.3 to 30.4", "no"]).overall["mIoU"].value == pytest.approx(0.5)


def test_nextgqa_scores(root):
    benchmark = build("benchmark", "nextgqa")
    with pytest.warns(UserWarning, match="1 questions of test.csv have no segment"):
        samples = benchmark.load(root)
    assert len(samples) == 2
    assert samples.meta(1)["type"] == "TN"
    call = "<think><span>5 - 10</span><fps>2</fps></think><answer>B</answer>"
    summary = scored(benchmark, samples, [call, "<answer>A</answer>"])
    found = {k: v.value for k, v in summary.overall.items()}
    assert found["Acc@GQA"] == 0.5  # without a call the window is the whole video: IoP .1
    assert found["Acc@QA"] == 1.0
    assert found["mIoP"] == pytest.approx((1.0 + 0.1) / 2)
    assert summary.flags == {"no window: whole video": 1}
    answered = build("benchmark", {"nextgqa": {"window": "answer"}})
    found = scored(answered, samples, ["<answer>C: 21 - 23</answer>", "<answer></answer>"])
    assert found.overall["mIoP"].value == pytest.approx((1.0 + 0.1) / 2)
    assert found.flags["no option"] >= 1


def test_video_mme_scores(root):
    benchmark = build("benchmark", "video_mme")
    samples = benchmark.load(root)
    assert samples.meta(0)["choices"] == ["1.", "2.", "3.", "4."]
    assert "A. 1.\nB. 2." in benchmark.prompt(samples.item(0))
    long = "the thing that is seen there is not one of what was given"
    responses = ["<think>A or B</think><answer>C</answer>", "The best answer is D", long]
    found = scored(benchmark, samples, responses)
    assert found.overall["accuracy"].value == 0.5  # the empty one leaves the denominator
    assert found.flags == {"empty": 1}
    wrong = build("benchmark", {"video_mme": {"empty": "wrong"}})
    assert scored(wrong, samples, responses).overall["accuracy"].value == pytest.approx(1 / 3)
    assert set(found.groups["duration"]) == {"short", "medium", "long"}


def test_mlvu_scores(root):
    benchmark = build("benchmark", "mlvu")
    samples = benchmark.load(root)
    assert len(samples) == 10
    tasks = [samples.meta(i)["task"] for i in range(10)]
    assert tasks[:5] == ["plotQA"] * 3 + ["needle"] * 2
    found = scored(benchmark, samples, ["(B) y"] * 3 + ["(A)"] * 7)
    assert found.overall["M-Avg"].value == pytest.approx(1 / 7)
    assert found.overall["accuracy"].value == pytest.approx(3 / 10)
    found = scored(benchmark, samples, ["B"] * 10)
    assert found.overall["M-Avg"].value == pytest.approx(6.5 / 7)  # the row without a right candidate
    assert found.flags == {"the answer is none of the candidates": 1}


def test_lvbench_scores(root):
    benchmark = build("benchmark", "lvbench")
    samples = benchmark.load(root)
    assert samples.meta(0)["span"] == [75.0, 82.0]
    assert samples.item(0).choices == ("1636", "1366", "1363", "1633")
    found = scored(benchmark, samples, ["C"])
    assert found.overall["accuracy"].value == 1.0
    assert set(found.groups["question_type"]) == {"entity recognition", "reasoning"}
    official = build("benchmark", {"lvbench": {"extraction": "official"}})
    for response, right in [("C", 1.0), ("(C) 1363", 1.0), ("C) 1363", 1.0), ("The answer is C", 0.0), ("", 0.0)]:
        assert scored(official, official.load(root), [response]).overall["accuracy"].value == right
    assert scored(benchmark, samples, ["The answer is C"]).overall["accuracy"].value == 1.0


def test_windows_are_no_boxed_answers():
    for name in ("charades_sta", "activitynet_mr", "nextgqa"):
        with pytest.raises(ValueError, match="set scoring: official"):
            build("benchmark", {name: {"scoring": "rl"}})


@pytest.mark.parametrize(
    ("name", "file", "text", "said"),
    [
        (
            "charades_sta",
            "charades_sta/charades_sta_test.txt",
            "3MSZA 24.3##x\n",
            "charades_sta_test.txt:1: VIDEO start",
        ),
        ("charades_sta", "charades_sta/charades_sta_test.txt", "A 9 3##x\n", "test.txt:1: a window 0 <= start <= end"),
        ("activitynet_mr", "ActivityNet/val_2.json", '{"v": {"duration": 3}}', "val_2.json.'v'.: duration, timestamps"),
        ("activitynet_mr", "ActivityNet/val_2.json", "{", "is not valid JSON"),
        ("mlvu", "MLVU/json/1_plotQA.json", '[{"video": "a"}]', r"1_plotQA.json\[0\]: video, question"),
        ("lvbench", "LVBench/video_info.meta.jsonl", '{"key": "a"}', "video_info.meta.jsonl:1: key and qa"),
        ("nextgqa", "NExT-GQA/test.csv", "video_id,qid\n1,2\n", "test.csv:2: column"),
    ],
)
def test_rows_that_are_none(root, name, file, text, said):
    (root / file).write_text(text)
    with pytest.raises(ValueError, match=said):
        build("benchmark", name).load(root)
