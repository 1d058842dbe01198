"""Where control is lost: known differences at known frames."""

from dataclasses import replace

from made_scores import made_evaluation

from stages.comparison.control_horizon import control_table
from stages.comparison.pictures import control_panels
from stages.comparison.score_table import ScoreTable
from stages.evaluation.controls import HELD, OTHER_CLIP
from stages.evaluation.scores import CAMERA, FRAME, FREE, MODEL, Cell

CLIPS = [f"c{i}" for i in range(16)]
EPISODES = {clip: f"1/{i // 2}" for i, clip in enumerate(CLIPS)}
RATE_HZ = 2.0


def table(tmp_path, label: str, form: str, means: dict[int, float]) -> ScoreTable:
    """ΔPSNR of each frame: the mean, and of every second episode 0.5 dB more, of the others less.

    So the interval of a mean of 0 holds 0, whichever episodes are drawn.
    """
    made = made_evaluation(tmp_path, dict.fromkeys(CLIPS, 20.0), EPISODES)
    frames = {
        frame: {clip: mean + 0.5 * (-1) ** (i // 2) for i, clip in enumerate(CLIPS)}
        for frame, mean in means.items()
    }
    cell = Cell(FREE, CAMERA, FRAME, MODEL, form)
    return replace(ScoreTable.read(made, label), frames={cell: frames})


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_it_says_from_when_to_when_a_model_is_steered(tmp_path):
    lost = table(tmp_path, "lost", OTHER_CLIP, {t: 2.0 * (3 <= t <= 8) for t in range(1, 16)})
    never = table(tmp_path, "never", HELD, dict.fromkeys(range(1, 16), 0.0))
    against = table(tmp_path, "against", HELD, dict.fromkeys(range(1, 16), -2.0))
    found = rows(control_table([lost, never, against], RATE_HZ))
    assert found["1.5 s"] == ["3.0 s", "4.5 s", "6.0 s", "7.5 s", "steered"]
    steered = found["lost, another clip's actions"]
    assert steered[-1] == "1.5 to 4.0 s"
    assert steered[0].startswith("+2.00 (+1.") and steered[-2].startswith("+0.00 (-0.")
    assert found["never, actions held still"][-1] == "never"
    assert found["against, actions held still"][-1] == "never"
    assert control_panels([lost, never]) == [OTHER_CLIP, HELD]


def test_few_episodes_settle_nothing(tmp_path):
    found = table(tmp_path, "few", HELD, dict.fromkeys(range(1, 5), 9.0))
    few = replace(found, episodes={clip: f"1/{i % 2}" for i, clip in enumerate(CLIPS)})
    assert rows(control_table([few], RATE_HZ))["few, actions held still"][-1] == "too few episodes"


def test_an_evaluation_without_controls_by_frame_has_no_table(tmp_path):
    made = made_evaluation(tmp_path, dict.fromkeys(CLIPS, 20.0), EPISODES)
    plain = ScoreTable.read(made, "plain")
    assert control_table([plain], RATE_HZ) == "" and control_panels([plain]) == []
