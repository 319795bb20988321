"""The official scorers of multimodal benchmarks on cases from stdin; run by `diff_scorers.py` in their interpreter.

    INTERPRETER scripts/official_scorers.py FOLDER < cases.json > verdicts.json

FOLDER holds checkouts of the benchmarks' repositories (see `diff_scorers.py`). Their functions are taken out of their
files as they stand there, without the files' imports of model clients, and run: only use folders that you trust. A task
whose files are missing or whose libraries cannot be imported answers {"missing": reason}. What they draw at random is
None here, and what they ask a language model gets the replies that come with the case.
"""

import ast
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import textwrap
import types
from pathlib import Path

FOLDER = Path()
Task = dict


class Scripted:
    """In place of a language model: gives the replies that it was made with, then the last one again."""

    def __init__(self, replies):
        self.replies, self.asked = list(replies) or ["??"], 0

    def generate(self, *arguments, **named):
        self.asked += 1
        return self.replies[min(self.asked, len(self.replies)) - 1]


def functions(file, names, **given):
    """The functions and constants of a file by name, as a namespace; imports that fail are left out."""
    space = {"__name__": "official", **given}
    tree = ast.parse((FOLDER / file).read_text(encoding="utf-8"))
    for node in tree.body:
        wanted = isinstance(node, ast.FunctionDef) and node.name in names
        constant = isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id in names for t in node.targets)
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound = {a.asname or a.name.split(".")[0] for a in node.names}
            if bound & set(given):
                continue
            with contextlib.suppress(ImportError):
                exec(compile(ast.Module([node], []), file, "exec"), space)
        elif wanted or constant:
            if wanted:
                node.decorator_list = []  # timeouts by processes
            exec(compile(ast.Module([node], []), file, "exec"), space)
    absent = [name for name in names if name not in space]
    if absent:
        raise ImportError(f"{file} has no {', '.join(absent)}")
    return types.SimpleNamespace(**{name: space[name] for name in names})


class NoChance:
    """In place of `random`: what is drawn is None."""

    @staticmethod
    def choice(options):
        return None


# --- one function per task: cases to verdicts -------------------------------------------------------------------------


def forgetful(is_equal):
    """`is_equal`, unaware of what earlier answers called x: latex2sympy2 keeps the values of unknowns for ever."""
    import latex2sympy2

    var, variances = dict(latex2sympy2.var), dict(latex2sympy2.variances)

    def fresh(given, reference):
        latex2sympy2.var, latex2sympy2.variances = dict(var), dict(variances)
        return is_equal(given, reference)

    return fresh


def math_vision():
    """Let MATH-Vision's modules be imported."""
    folder = FOLDER / "MATH-V" / "evaluation"
    for name in ("evaluate.py", "utils.py"):
        (folder / name).read_bytes()  # an installed module of that name must not stand in for it
    sys.path.insert(0, str(folder))


def mathvision(cases):
    """The whole of evaluate.py: [correct, answer that was found]."""
    math_vision()
    sys.modules.setdefault("fire", types.ModuleType("fire"))
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as kept:
        os.chdir(kept)
        Path("data").mkdir()
        questions = [{"id": i, "answer": c["answer"], "options": c["options"]} for i, c in enumerate(cases)]
        answers = [{"id": i, "response": c["response"]} for i, c in enumerate(cases)]
        for name, rows in (("data/test.jsonl", questions), ("answers.jsonl", answers)):
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        try:
            import evaluate

            evaluate.is_equal = forgetful(evaluate.is_equal)
            evaluate.evaluate("answers.jsonl", regen_answer=True)
            done = [json.loads(line) for line in Path("answers.jsonl").read_text(encoding="utf-8").splitlines()]
        finally:
            os.chdir(before)
    return [[bool(row["correct"]), row["model_answer"]] for row in done]


def mathvision_equal(cases):
    math_vision()
    from utils import is_equal

    is_equal = forgetful(is_equal)
    return [bool(is_equal(c["given"], c["reference"])) for c in cases]


def mathvista(cases):
    """[extraction, prediction, correct]; the extraction is None where a language model is asked."""
    names = ("get_most_similar", "normalize_extracted_answer", "safe_equal")
    score = functions("MathVista/evaluation/calculate_score.py", names)
    take = functions("MathVista/evaluation/extract_answer.py", ("extract_answer", "create_test_prompt"), demo_prompt="")
    found = []
    for c in cases:
        problem = {**c["problem"], "query": "", "pid": "1"}
        model = types.SimpleNamespace(get_response=lambda **named: None)
        extraction = take.extract_answer(model, c["response"], problem)
        used = c["reply"] if extraction is None or (extraction == "" and c["response"]) else extraction
        kinds = (problem["choices"], problem["question_type"], problem["answer_type"], problem["precision"])
        prediction = score.normalize_extracted_answer(used.strip(), *kinds)
        found.append([used.strip(), prediction, bool(score.safe_equal(prediction, problem["answer"]))])
    return found


def mmmu(cases):
    file = functions("MMMU/mmmu/utils/eval_utils.py", ("parse_multi_choice_response",), random=NoChance)
    return [file.parse_multi_choice_response(c["response"], list(c["options"]), c["options"]) for c in cases]


def mmmu_open(cases):
    names = ("check_is_number", "normalize_str", "extract_numbers", "parse_open_response", "eval_open")
    file = functions("MMMU/mmmu/utils/eval_utils.py", names)
    return [bool(file.eval_open(c["answers"], file.parse_open_response(c["response"]))) for c in cases]


def mmmu_pro(cases):
    file = functions("MMMU/mmmu-pro/evaluate.py", ("parse_multi_choice_response",), random=NoChance)
    return [file.parse_multi_choice_response(c["response"], list(c["options"]), c["options"]) for c in cases]


def vlmeval(cases):
    """VLMEvalKit's can_infer: a letter, Z, or None where a language model is asked."""
    names = ("_VERBOSE_ANSWER_RE", "can_infer_option", "can_infer_text", "can_infer")
    file = functions("VLMEvalKit/vlmeval/utils/matching_util.py", names)
    return [file.can_infer(c["response"], dict(c["options"])) or None for c in cases]


def lmms(cases):
    names = ("_DEFAULT_CHOICES", "_ANSWER_PHRASES", "_FORMAT_PRIORITY", "extract_mcq_answer")
    file = functions("lmms-eval/lmms_eval/tasks/_task_utils/mcq_extract.py", names)
    return [file.extract_mcq_answer(c["response"], c["letters"]) or None for c in cases]


def yes_no(cases):
    clean = functions("VLMEvalKit/vlmeval/smp/misc.py", ("process_punctuation",)).process_punctuation
    file = functions("VLMEvalKit/vlmeval/dataset/utils/yorn.py", ("YOrN_Extraction",), process_punctuation=clean)
    said = [file.YOrN_Extraction(c["response"]).lower() for c in cases]
    return [None if word == "unknown" else word for word in said]


def pope(cases):
    """The authors' script, once per case: [readings, accuracy, precision, recall, F1, yes ratio]."""
    code = compile((FOLDER / "POPE" / "evaluate.py").read_text(), "evaluate.py", "exec")
    found = []
    for c in cases:
        answers = "".join(json.dumps({"answer": r}) + "\n" for r in c["responses"])
        labels = "".join(json.dumps({"label": g}) + "\n" for g in c["gold"])
        space = {"open": lambda name, mode, queue=[answers, labels]: io.StringIO(queue.pop(0)), "__name__": "official"}
        try:
            exec(code, space)
        except ZeroDivisionError:
            found.append(None)
            continue
        numbers = [round(space[name], 9) for name in ("acc", "precision", "recall", "f1", "yes_ratio")]
        found.append([["yes" if p else "no" for p in space["pred_list"]], *numbers])
    return found


def pope_exact(cases):
    """lmms-eval: [accuracy, precision, recall, F1]."""
    names = ["pope_process_results", *(f"pope_aggregate_{n}" for n in ("accuracy", "precision", "recall", "f1_score"))]
    space = functions("lmms-eval/lmms_eval/tasks/pope/utils.py", names)
    found = []
    for c in cases:
        rows = [
            space.pope_process_results({"answer": g, "question_id": i}, [r])["pope_accuracy"]
            for i, (g, r) in enumerate(zip(c["gold"], c["responses"], strict=True))
        ]
        found.append([round(float(getattr(space, name)(rows)), 9) for name in names[1:]])
    return found


def chartqa(cases):
    file = functions("lmms-eval/lmms_eval/tasks/chartqa/utils.py", ("relaxed_correctness",))
    return [bool(file.relaxed_correctness(c["response"], c["answer"])) for c in cases]


def dynamath(cases):
    """VLMEvalKit's port; None where it breaks off with an error."""
    names = ("preprocess", "transfer", "parse_answer", "DynaMath_auxeval")
    file = functions("VLMEvalKit/vlmeval/dataset/dynamath.py", names)
    found = []
    for c in cases:
        line = {"prediction": c["response"], "answer": c["answer"], "answer_type": c["kind"]}
        try:
            found.append(bool(file.DynaMath_auxeval(Scripted([c["reply"]]), line)["correct"]))
        except (AttributeError, ValueError, TypeError):
            found.append(None)
    return found


def dynamath_authors(cases):
    """The authors' loop, of whose file only the lines between reply and result are run: as a whole it is no Python."""
    file = "DynaMath/evaluation/opensource_json_eval.py"
    source = (FOLDER / file).read_text(encoding="utf-8")
    top = source[source.index("def preprocess") : source.index("guide = ")]
    space = {"np": __import__("numpy"), "json": json}
    exec(compile(top, file, "exec"), space)
    body = source[source.index("    try:\n        description = preprocess(") : source.index('    data[f"{i}"]')]
    body = textwrap.dedent(body).replace("response.choices[0].message.content", "content")
    code = compile(body, file, "exec")
    found = []
    for c in cases:
        row = {"question": "", "answer": c["answer"], "answer_type": c["kind"]}
        space.update(content=c["response"], json_dict={"1": row}, temp=1, i=1, count=0)
        exec(code, space)
        found.append(space["temp_data"]["result"] == "correct")
    return found


def wemath(cases):
    """[letters, score strict and loose, IK, IG, CM and RM strict, CM and RM loose] of each set of answers."""
    import pandas as pd

    names = ("load_and_process_data", "process_steps_data", "calculate_metrics", "compute_final_scores")
    file = functions("We-Math/evaluation/four_dimensional_metrics.py", names)
    found = []
    for c in cases:
        with tempfile.TemporaryDirectory() as kept:
            path = Path(kept) / "answers.json"
            path.write_text(json.dumps(c["rows"]))
            data = file.load_and_process_data(path)
        parts = [file.process_steps_data(data[data["key"].str.contains(f"{n}steps")].copy(), n) for n in (2, 3)]
        counts, _ = file.compute_final_scores(file.calculate_metrics(*parts), 525)
        letters = [None if pd.isna(x) else x for x in data["processed_answer"]]
        kinds = ("InsufficientKnowledge", "InadequateGeneralization")
        more = [f"{kind}_{how}" for how in ("strict", "loose") for kind in ("CompleteMastery", "RoteMemorization")]
        found.append([letters, *(counts[key] for key in (*kinds, *more))])
    return found


def hallusionbench(cases):
    """[aAcc, qAcc, fAcc] of each set of verdicts, by the authors' counts."""
    names = ("get_eval_fig", "get_eval_all", "get_eval_pair_all")
    file = functions("HallusionBench/utils.py", names)
    found = []
    for c in cases:
        rows = [{**row, "said": str(row["correct"]), "same": "0"} for row in c["rows"]]
        figure, every = file.get_eval_fig(rows), file.get_eval_all(rows, "said")
        question = file.get_eval_pair_all(rows, "said")
        shares = [stat["correct"] / stat["total"] for stat in (every, question, figure)]
        found.append([round(float(share), 9) for share in shares])
    return found


def logicvista(cases):
    names = ("FAIL_MSG", "build_prompt_logicvista", "LogicVista_auxeval")
    file = functions("VLMEvalKit/vlmeval/dataset/utils/logicvista.py", names)
    found = []
    for c in cases:
        line = {"question": "", "prediction": "", "answer": c["answer"]}
        with contextlib.redirect_stdout(io.StringIO()):
            found.append(bool(file.LogicVista_auxeval(Scripted([c["reply"]]), line)["hit"]))
    return found


def mathverse(cases):
    """The authors': extraction and judgement are replies of a language model."""
    file = functions(
        "MathVerse/evaluation/score_answer_s2.py", ("match_answer", "create_test_prompt"),
        demo_prompt_score="{question}{gt}{extraction}", get_chat_response=lambda prompt, key: key,
    )  # fmt: skip
    found = []
    for c in cases:
        extraction = c["extraction"].replace("Extracted Answer: ", "").strip()
        row = {"question_for_eval": "", "question": "", "answer": c["answer"], "extraction": extraction}
        found.append(file.match_answer(row, c["judgement"]).strip() == "1")
    return found


def mathruler(cases):
    """PAPO-Eval's accuracy function over MathRuler."""
    sys.path.insert(0, str(FOLDER / "MathRuler"))
    from mathruler.grader import extract_boxed_content, grade_answer

    given = {"extract_boxed_content": extract_boxed_content, "grade_answer": grade_answer}
    file = functions("PAPO-Eval/papo_eval/eval_utils.py", ("compute_accuracy_boxed_math",), **given)
    return [file.compute_accuracy_boxed_math(c["response"], c["answer"]) == 1.0 for c in cases]


def mmstar_mean(cases):
    """lmms-eval's mean over the detailed categories."""
    log = types.SimpleNamespace(info=lambda text: None)
    file = functions("lmms-eval/lmms_eval/tasks/mmstar/utils.py", ("mmstar_aggregate_results",), eval_logger=log)
    return [round(file.mmstar_aggregate_results(c["rows"]), 9) for c in cases]


TASKS = {
    f.__name__: f
    for f in (
        *(mathvision, mathvision_equal, mathvista, mathverse, mathruler, mmmu, mmmu_open, mmmu_pro, vlmeval, lmms),
        *(mmstar_mean, yes_no, pope, pope_exact, chartqa, dynamath, dynamath_authors, wemath, logicvista),
        hallusionbench,
    )
}


def main():
    global FOLDER
    FOLDER = Path(sys.argv[1]).resolve()
    sys.setrecursionlimit(10_000)
    verdicts = {}
    for task, cases in json.load(sys.stdin).items():
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                verdicts[task] = TASKS[task](cases)
        except (ImportError, OSError, SyntaxError) as error:
            verdicts[task] = {"missing": re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")}
    json.dump(verdicts, sys.stdout)


if __name__ == "__main__":
    main()
