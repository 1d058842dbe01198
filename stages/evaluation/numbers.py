"""The numbers of an evaluation's result, by name; contests with the copy of the first frame."""

from dataclasses import dataclass

from stages.evaluation.controls import FORMS
from stages.evaluation.estimated_depth import DEPTH_METRICS, FOUND
from stages.evaluation.objects import OBJECTS
from stages.evaluation.scores import (
    ACTIVE,
    CAMERA,
    CEILING,
    COPY,
    DECODED,
    EDGES,
    ESTIMATED_DEPTH,
    FRAME,
    FREE,
    GRIPPER,
    MODEL,
    MOVING,
    PSEUDO_DEPTH,
    PSEUDO_TRACKS,
    STILL,
    TEACHER,
    TRACKED,
    TRUE_DEPTH,
    Cell,
    Scores,
)


def free(region: str, method: str, metric: str, reference: str = DECODED) -> Cell:
    return Cell(FREE, reference, region, method, metric)


# Name of each number of the result -> its place in the tables
NUMBERS: dict[str, Cell] = {
    "psnr_free": free(FRAME, MODEL, "psnr"),
    "psnr_copy": free(FRAME, COPY, "psnr"),
    "ssim_free": free(FRAME, MODEL, "ssim"),
    "ssim_copy": free(FRAME, COPY, "ssim"),
    "lpips_free": free(FRAME, MODEL, "lpips"),
    "lpips_copy": free(FRAME, COPY, "lpips"),
    "fvd_free": free(FRAME, MODEL, "fvd", CAMERA),
    "fvd_copy": free(FRAME, COPY, "fvd", CAMERA),
    "fvd_tokenizer": free(FRAME, CEILING, "fvd", CAMERA),
    "psnr_free_moving": free(MOVING, MODEL, "psnr"),
    "psnr_copy_moving": free(MOVING, COPY, "psnr"),
    "psnr_teacher": Cell(TEACHER, DECODED, FRAME, MODEL, "psnr"),
    "ssim_teacher": Cell(TEACHER, DECODED, FRAME, MODEL, "ssim"),
    **{form: free(FRAME, MODEL, form) for form in FORMS},
    **{f"{form}_moving": free(MOVING, MODEL, form) for form in FORMS},
    "psnr_free_camera": free(FRAME, MODEL, "psnr", CAMERA),
    "psnr_copy_camera": free(FRAME, COPY, "psnr", CAMERA),
    "ssim_free_camera": free(FRAME, MODEL, "ssim", CAMERA),
    "ssim_copy_camera": free(FRAME, COPY, "ssim", CAMERA),
    "psnr_free_camera_moving": free(MOVING, MODEL, "psnr", CAMERA),
    "psnr_copy_camera_moving": free(MOVING, COPY, "psnr", CAMERA),
    "tokenizer_psnr": free(FRAME, CEILING, "psnr", CAMERA),
    "tokenizer_ssim": free(FRAME, CEILING, "ssim", CAMERA),
    "flicker_free": free(STILL, MODEL, "flicker", CAMERA),
    "flicker_tokenizer": free(STILL, CEILING, "flicker", CAMERA),
    "edge_sharpness_free": free(EDGES, MODEL, "edge_sharpness", CAMERA),
    "edge_sharpness_tokenizer": free(EDGES, CEILING, "edge_sharpness", CAMERA),
    "track_error_free": free(ACTIVE, MODEL, "track_error", PSEUDO_TRACKS),
    "track_error_copy": free(ACTIVE, COPY, "track_error", PSEUDO_TRACKS),
    "track_error_itself": free(ACTIVE, TRACKED, "track_error", PSEUDO_TRACKS),
    "track_within_free": free(ACTIVE, MODEL, "track_within", PSEUDO_TRACKS),
    "track_within_copy": free(ACTIVE, COPY, "track_within", PSEUDO_TRACKS),
    "path_ndtw_free": free(GRIPPER, MODEL, "path_ndtw", PSEUDO_TRACKS),
    "path_ndtw_copy": free(GRIPPER, COPY, "path_ndtw", PSEUDO_TRACKS),
    "psnr_free_objects": free(OBJECTS, MODEL, "psnr", CAMERA),
    "psnr_copy_objects": free(OBJECTS, COPY, "psnr", CAMERA),
    "tokenizer_psnr_objects": free(OBJECTS, CEILING, "psnr", CAMERA),
    "named_free": free(OBJECTS, MODEL, "named", CAMERA),
    "named_tokenizer": free(OBJECTS, CEILING, "named", CAMERA),
    **{name: free(FRAME, MODEL, name, PSEUDO_DEPTH) for name in DEPTH_METRICS},
    **{f"{name}_true": free(FRAME, MODEL, name, TRUE_DEPTH) for name in DEPTH_METRICS},
    **{f"{name}_estimated": free(FRAME, MODEL, name, ESTIMATED_DEPTH) for name in DEPTH_METRICS},
    **{
        f"{metric}_estimated_{name}": free(FRAME, method, metric, ESTIMATED_DEPTH)
        for metric in ("abs_rel", "abs_rel_aligned")
        for name, method in (("copy", COPY), ("tokenizer", CEILING))
    },
    "depth_found_estimated": free(FRAME, MODEL, FOUND, ESTIMATED_DEPTH),
    "abs_rel_copy": free(FRAME, COPY, "abs_rel", PSEUDO_DEPTH),
    "abs_rel_tokenizer": free(FRAME, CEILING, "abs_rel", PSEUDO_DEPTH),
}


@dataclass(frozen=True)
class Contest:
    """The model against the copy of frame 0; larger is better."""

    flag: str
    ours: str  # in NUMBERS
    copied: str
    label: str
    text: str  # format of the values


CAMERA_CONTESTS = (
    Contest("beats_copy_camera_psnr", "psnr_free_camera", "psnr_copy_camera", "PSNR", ".2f"),
    Contest("beats_copy_camera_ssim", "ssim_free_camera", "ssim_copy_camera", "SSIM", ".4f"),
    Contest(
        "beats_copy_camera_moving",
        "psnr_free_camera_moving",
        "psnr_copy_camera_moving",
        "PSNR of the moving region",
        ".2f",
    ),
    Contest(
        "beats_copy_objects",
        "psnr_free_objects",
        "psnr_copy_objects",
        "PSNR inside objects",
        ".2f",
    ),
)


DECODED_CONTESTS = (
    Contest("beats_copy_psnr", "psnr_free", "psnr_copy", "PSNR", ".2f"),
    Contest("beats_copy_ssim", "ssim_free", "ssim_copy", "SSIM", ".4f"),
    Contest(
        "beats_copy_moving",
        "psnr_free_moving",
        "psnr_copy_moving",
        "PSNR of the moving region",
        ".2f",
    ),
)


# Camera frames first: decoded ones lack what the tokenizer lost, so a model may look well there
CONTESTS = {CAMERA: CAMERA_CONTESTS, DECODED: DECODED_CONTESTS}


def report_numbers(means: Scores, n_clips: int) -> dict[str, float]:
    numbers = {name: means[cell] for name, cell in NUMBERS.items() if cell in means}
    for contest in (*CAMERA_CONTESTS, *DECODED_CONTESTS):
        if contest.ours in numbers and contest.copied in numbers:
            numbers[contest.flag] = float(numbers[contest.ours] > numbers[contest.copied])
    return {"clips": float(n_clips), **numbers}
