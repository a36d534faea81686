import pytest

from hertzmap.benchmarks.runlog import Run, RunLog


def a_run(seed: int) -> Run:
    return Run(
        world="heidelberg/0",
        seed=seed,
        method="kriging:tuned",
        fingerprint="f",
        config_hash="c",
        truth_mean_db=-100.0,
        reports=9,
        metrics={"psnr_db": 20.0 + seed},
        seconds=0.5,
        cpu_seconds=0.4,
        peak_rss_mib=100.0,
        stopped_by=(),
        commit=None,
        hardware="cpu",
    )


def test_what_was_appended_is_read_back_in_order(tmp_path):
    log = RunLog(tmp_path / "raw" / "default.jsonl")
    assert log.read() == ()
    for seed in range(3):
        log.append(a_run(seed))
    assert log.read() == tuple(a_run(seed) for seed in range(3))


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_cut_by_a_kill_is_dropped_and_the_log_goes_on(tmp_path, kept):
    log = RunLog(tmp_path / "default.jsonl")
    log.append(a_run(0))
    whole = log.path.read_bytes()
    log.append(a_run(1))
    second = log.path.read_bytes()[len(whole) :]
    log.path.write_bytes(whole + second[:kept])
    assert log.read()[:1] == (a_run(0),)
    log.append(a_run(2))
    assert log.read() == (a_run(0), a_run(2))
    assert log.path.read_bytes().count(b"\n") == 2


def test_a_line_of_another_form_is_no_run(tmp_path):
    log = RunLog(tmp_path / "default.jsonl")
    log.path.write_text('{"world": "heidelberg/0"}\n')
    log.append(a_run(0))
    assert log.read() == (a_run(0),)
