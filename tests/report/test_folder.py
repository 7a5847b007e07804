import pytest

from nas.errors import UserError
from nas.report.folder import read_folder


def test_a_run_has_its_searches_and_its_training(run_folder, report):
    found = read_folder(run_folder)
    assert found.searches == {"slim_2": report, "slim_3": report}
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


@pytest.mark.parametrize("line", ["{", '{"loss": 1}', "[1]"])
def test_a_damaged_log_is_told_by_its_line(run_folder, line):
    path = run_folder / "log.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"log\.jsonl:10: is damaged; delete that line"):
        read_folder(run_folder)


def test_a_last_line_that_is_still_being_written_is_left_out(run_folder):
    before = read_folder(run_folder).training
    with (run_folder / "log.jsonl").open("a") as file:
        file.write('{"epoch": 9, "lo')
    assert read_folder(run_folder).training == before


def test_a_damaged_report_is_told_by_its_key(run_folder):
    path = run_folder / "slim_2" / "report.json"
    path.write_text('{"space": "a"}')
    with pytest.raises(UserError, match=r"report\.json.*key 'data' is missing"):
        read_folder(run_folder)
