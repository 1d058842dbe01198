"""Videos under given actions: an action decides its frame and later ones, and nothing else does."""

import numpy as np
import pytest
import torch
from small_stores import opened
from small_world import World, make_world

from model.world.config import SamplingConfig
from stages.evaluation.generated_video import Course, GeneratedVideo
from stages.evaluation.pictures import HOLD_FRAMES, animate_generated, draw_generated
from stages.evaluation.predict import Networks, load_networks, read_tokens
from stages.evaluation.video_generation import generate_video, plan_course
from storage.stores.results import open_result
from storage.stores.rows import Rows

ROW = 1


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("generate"))


@pytest.fixture(scope="module")
def rows(world) -> dict[str, Rows]:
    return opened(world.rows)


@pytest.fixture(scope="module")
def networks(world, rows) -> Networks:
    results = {role: open_result(ref) for role, ref in world.results.items()}
    return load_networks(rows, results, torch.device("cpu"))


def own_actions(rows) -> np.ndarray:
    return rows["clip"].read(["actions"], ROW)["actions"]


def video(
    networks, rows, course: Course, sampling: SamplingConfig | None = None, progress=None
) -> GeneratedVideo:
    quiet = progress or (lambda done, total, note="": None)
    true, clip_id = read_tokens(rows, np.array([ROW]), networks), rows["clip"].clip_ids[ROW]
    return generate_video(networks, clip_id, true, course, sampling or SamplingConfig(), 0, quiet)


def same_frames(a: GeneratedVideo, b: GeneratedVideo) -> list[bool]:
    return [torch.equal(x, y) for x, y in zip(a.predicted["rgb"], b.predicted["rgb"], strict=False)]


def test_the_video_holds_true_and_predicted_frames(networks, rows):
    reported = []
    made = video(
        networks,
        rows,
        plan_course(own_actions(rows), None, None, 1),
        progress=lambda *at: reported.append(at[:2]),
    )
    for source in ("rgb", "depth"):
        assert made.predicted[source].shape == made.true[source].shape == (16, 3, 32, 32)
        assert torch.equal(made.predicted[source][0], made.true[source][0]), (
            "frame 0 is the given one"
        )
    assert made.psnr is not None and 0 < made.psnr < 40
    assert reported[0] == (0, 15 + 4 * 16) and reported[-1] == (79, 79), (
        "15 frames made, 4 x 16 decoded"
    )


def test_the_same_actions_from_a_file_give_the_same_video(networks, rows):
    own = own_actions(rows)
    expected = video(networks, rows, plan_course(own, None, None, 1))
    given = video(networks, rows, plan_course(own * 0, own[:, -1:], None, 1))
    assert all(same_frames(expected, given)) and given.psnr is None


def test_an_action_decides_its_frame_and_the_later_ones(networks, rows):
    own = own_actions(rows)
    changed = own.copy()
    changed[9:] += 20
    made = [video(networks, rows, plan_course(own, actions, None, 1)) for actions in (own, changed)]
    assert same_frames(*made) == [True] * 9 + [False] * 7


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(), SamplingConfig(order="confidence", n_steps=3)]
)
def test_a_longer_video_begins_as_the_shorter_one(networks, rows, sampling):
    """Past the window of 16 frames, too; the last action is held from frame 16 on."""
    own = own_actions(rows)
    short, long = (video(networks, rows, plan_course(own, None, n, 1), sampling) for n in (5, 19))
    assert all(same_frames(short, long)) and len(long.predicted["rgb"]) == 19
    still = np.concatenate([own, np.broadcast_to(own[-1:, -1:], (3, *own.shape[1:]))])
    assert all(same_frames(long, video(networks, rows, plan_course(own, still, None, 1), sampling)))


def test_pictures_are_white_where_there_is_no_true_frame(networks, rows):
    made = video(networks, rows, plan_course(own_actions(rows), None, 18, 1))
    strip, frames = draw_generated(made, 2.0, "note"), animate_generated(made, 2.0)
    assert len(frames) == 18 + HOLD_FRAMES and strip.shape[2] == 3
    height, cell = strip.shape[0] // 4, strip.shape[1] // 10
    last_true = strip[height // 2 : height, -cell:]
    assert (
        (last_true == 255).mean()
        > 0.95
        > (strip[height * 3 // 2 : height * 2, -cell:] == 255).mean()
    )


# Which actions are taken


def actions(t: int = 4, s: int = 15, start: float = 0.0) -> np.ndarray:
    return (start + np.arange(t * s * 2)).reshape(t, s, 2).astype(np.float32)


def test_a_course_is_the_clips_own_unless_others_are_given():
    own, given = actions(), actions(start=1000)
    for course, source in (
        (plan_course(own, None, None, 15), own),
        (plan_course(own, given, None, 15), given),
    ):
        np.testing.assert_array_equal(course.actions, source)
        assert course.n_given == 4 and course.own == (source is own)
    np.testing.assert_array_equal(plan_course(own, None, 3, 15).actions, own[:3])


def test_past_its_end_the_last_pose_is_held():
    course = plan_course(actions(), None, 7, 3)
    assert course.n_given == 4 and course.actions.shape == (7, 3, 2)
    np.testing.assert_array_equal(course.actions[4:], np.broadcast_to(actions()[-1, -1], (3, 3, 2)))


def test_sub_steps_are_those_of_training_and_one_stands_for_all():
    np.testing.assert_array_equal(plan_course(actions(), None, None, 1).actions, actions()[:, -1:])
    one = plan_course(actions(), actions(s=1), None, 5).actions
    np.testing.assert_array_equal(one, np.repeat(actions(s=1), 5, axis=1))


@pytest.mark.parametrize(
    ("given", "n_frames", "message"),
    [
        (None, 1, "1 frames: frame 0 is given, so expected 2 or more"),
        (actions(t=1), None, "1 frames"),
        (
            actions(s=4),
            None,
            "the actions have 4 sub-steps a frame, the world model reads 5: give as many, or one",
        ),
    ],
)
def test_impossible_courses_are_refused(given, n_frames, message):
    with pytest.raises(ValueError, match=message):
        plan_course(actions(), given, n_frames, 5)
