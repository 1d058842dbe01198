import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.clips.arm_vectors import ARM_VECTOR, arm_vectors, slerp


def random_track(seed: int, n: int = 12):
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=(1, 2, 4)) + np.cumsum(rng.normal(size=(n, 2, 4)) * 0.15, axis=0)
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    return rng.normal(size=(n, 2, 3)), quaternion, rng.random((n, 2))


@given(seed=st.integers(0, 10**6))
def test_at_whole_rows_it_is_the_track(seed):
    position, quaternion, closed = random_track(seed)
    rows = np.arange(12.0).reshape(3, 4)
    made = arm_vectors(position, quaternion, closed, rows).reshape(12, 2, 8)
    np.testing.assert_array_equal(made[..., :3], position.astype("float32"))
    np.testing.assert_array_equal(made[..., 3:7], quaternion.astype("float32"))
    np.testing.assert_array_equal(made[..., 7], closed.astype("float32"))


def test_names_say_the_order():
    position, quaternion, closed = random_track(0)
    made = arm_vectors(position, quaternion, closed, np.array([[5.0]]))[0, 0]
    value = dict(zip(ARM_VECTOR, made, strict=True))
    assert value["right_y"] == np.float32(position[5, 1, 1])
    assert value["left_qw"] == np.float32(quaternion[5, 0, 3])
    assert value["right_closed"] == np.float32(closed[5, 1])


@given(seed=st.integers(0, 10**6), row=st.floats(0, 11))
@example(seed=510510, row=4.5)  # more than a right angle between two rows
@settings(deadline=None)
def test_between_rows_it_agrees_with_the_slow_way(seed, row):
    position, quaternion, closed = random_track(seed)
    made = arm_vectors(position, quaternion, closed, np.array([[row]])).reshape(2, 8)
    i = min(int(row), 10)
    share = row - i
    for arm in range(2):
        mean = (1 - share) * position[i, arm] + share * position[i + 1, arm]
        np.testing.assert_allclose(made[arm, :3], mean, atol=1e-6)
        # Of the shorter arc
        angle = np.arccos(np.clip(np.abs(quaternion[i, arm] @ quaternion[i + 1, arm]), 0, 1))
        to_start = np.arccos(np.clip(made[arm, 3:7] @ quaternion[i, arm].astype("float32"), -1, 1))
        np.testing.assert_allclose(np.linalg.norm(made[arm, 3:7]), 1, atol=1e-6)
        # At constant speed along the arc
        np.testing.assert_allclose(to_start, share * angle, atol=2e-3)
        np.testing.assert_allclose(
            made[arm, 7], (1 - share) * closed[i, arm] + share * closed[i + 1, arm], atol=1e-6
        )


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_slerp_does_not_care_for_the_end_s_sign(seed, share):
    a, b = random_track(seed)[1][0]
    there = slerp(a, b, np.array(share))
    np.testing.assert_allclose(there, slerp(a, -b, np.array(share)), atol=1e-12)
    np.testing.assert_allclose(slerp(a, a, np.array(share)), a, atol=1e-12)
    assert there @ a >= -1e-9
