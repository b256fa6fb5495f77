"""Settings of all stages and commands: one frozen dataclass each.

This is the only place with a setting's default, range, choices and help. The command line builds
its options from it (``cli/stage_options.py``); ``load_settings`` in ``params_file.py`` reads the
section of the same name from ``params.yaml``. There are no nulls: 0 or an empty string means "not
set", and the help says what happens then. The file is long because all settings belong together.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

CONFIGS = ("stylegan3-t", "stylegan3-r", "stylegan2")
DEVICES = ("auto", "cpu", "cuda")
AUTO = -1  # `batch_gpu: auto`
SWITCH = ("auto", "yes", "no")  # a switch that is off, on, or decided by something else
PROJECTION_SPACES = ("w", "w+")
PROJECTION_LOSSES = ("pixels", "lpips", "vgg")
BETTER, NOT_WORSE = GATE_WORDS = ("better", "not worse")  # what a gate asks of a metric

# Bounds far beyond any use: a value above is a typing error, found before hours of work.
MOST_BATCH = 65_536
MOST_IMAGES = 10**9
MOST_KIMG = 1_000_000
MOST_PIXELS = 1_000_000
MOST_SEED = 2**32 - 1  # of NumPy's generator
MOST_WORKERS = 256


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    ge: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] | None = None,
    words: Mapping[str, int] | None = None,
    pairs: tuple[str, ...] | None = None,
    numbers: bool = False,
    former: str = "",
) -> Any:
    """A dataclass field with the metadata that checks its values and describes its option.

    Args:
        words: words accepted instead of a whole number, each with the number it means.
        pairs: for a list of texts NAME=WORD: the words; a params file may also have a mapping of
            names to words.
        numbers: for a text or a list of texts: a number without quotes in a params file is accepted
            too.
        former: the setting's earlier name, still accepted in params files; empty: none.

    With the choices ``SWITCH`` the option is a flag, and the file may have true or false.
    """
    metadata = {
        "help": help,
        "ge": ge,
        "le": le,
        "choices": choices,
        "words": words,
        "pairs": pairs,
        "numbers": numbers,
        "former": former,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class FetchConfig:
    """Source of the raw images."""

    dataset: str = setting(
        help="data set to fetch: starter, afhq, afhqv2, a folder, a zip, tar or Parquet file, or "
        "the URL of such a file"
    )
    mirrors: tuple[str, ...] = setting(
        (), help="further URLs of the same file, tried in order if the first one fails"
    )
    sha256: str = setting(
        "", help="expected SHA-256 of the file; empty: the published one of a known data set"
    )
    images: int = setting(600, ge=3, le=1_000_000, help="starter: number of images to draw")
    resolution: int = setting(128, ge=16, le=1024, help="starter: side of the images in pixels")
    seed: int = setting(0, ge=0, le=2**63 - 1, help="starter: random seed of the drawings")


@dataclasses.dataclass(frozen=True)
class PackConfig:
    """Which raw images go into the packed set, and how they are converted."""

    subset: str = setting("", help="subfolder of the source to pack; empty: the whole source")
    resolution: str = setting(
        "",
        numbers=True,
        help="size of the packed images as WIDTHxHEIGHT, e.g. 256x256; empty: keep theirs",
    )
    transform: str = setting(
        "none",
        choices=("none", "center-crop", "center-crop-wide"),
        help="crop to apply before scaling; none: stretch to the resolution",
    )
    aspect: str = setting(
        "any", choices=("any", "square"), help="square: leave out images that are not square"
    )
    min_side: int = setting(
        0,
        ge=0,
        le=MOST_PIXELS,
        help="leave out images with a side shorter than this many pixels; 0: keep all",
    )
    mode: str = setting(
        "keep",
        choices=("keep", "rgb", "grey"),
        help="color mode of the packed images; keep: that of the source",
    )
    background: str = setting(
        "white", help="color behind transparent parts: a color name or #RRGGBB"
    )
    max_images: int = setting(
        0, ge=0, le=MOST_IMAGES, help="maximum number of images to pack; 0: no limit"
    )
    labels: str = setting(
        "json",
        choices=("json", "folders", "csv", "none"),
        help="source of the labels; json: the source's own (dataset.json or a Parquet column), "
        "folders: one class per folder, csv: the file labels_csv",
    )
    labels_csv: str = setting(
        "labels.csv",
        help="with labels csv: CSV file with the columns path,label; a path inside the source or "
        "an absolute path",
    )
    label_column: str = setting(
        "", help="label column of Parquet files; empty: label or labels, if present"
    )
    duplicates: str = setting(
        "keep",
        choices=("keep", "leave-out"),
        help="images with identical pixels; keep: pack them all and let validation decide, "
        "leave-out: pack only one, and none that is also in another split",
    )
    max_rejects: int = setting(
        0,
        ge=0,
        le=MOST_IMAGES,
        help="maximum number of images left out as unreadable, too small or not square; more "
        "are an error",
    )


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """Thresholds of the data validation."""

    min_images: int = setting(
        1, ge=1, le=MOST_IMAGES, help="minimum number of images in the packed set"
    )
    min_class_images: int = setting(
        1, ge=1, le=MOST_IMAGES, help="minimum number of images per class in a labeled set"
    )
    classes: int = setting(0, ge=0, le=MOST_IMAGES, help="expected number of classes; 0: any")
    source_counts: tuple[str, ...] = setting(
        (), help="expected number of images in folders of the source, as FOLDER=NUMBER"
    )
    min_contrast: float = setting(
        2.0,
        ge=0,
        le=255,
        help="minimum standard deviation of an image's gray values (0-255); below it the image "
        "counts as blank",
    )
    max_rejects: int = setting(
        0,
        ge=0,
        le=MOST_IMAGES,
        help="maximum number of images that packing left out as unreadable, too small or not "
        "square",
    )
    duplicates: str = setting(
        "fail",
        choices=("fail", "warn"),
        help="what to do about images with identical pixels in the packed set, or in it and in "
        "another split",
    )
    near_duplicates: str = setting(
        "warn",
        choices=("fail", "warn", "off"),
        help="what to do about images that look alike (similar perceptual hashes)",
    )
    near_distance: int = setting(
        12,
        ge=0,
        le=32,
        help="maximum number of bits (of 256) by which the perceptual hashes of near duplicates "
        "differ",
    )
    min_sharpness: float = setting(
        4.0,
        ge=0,
        le=10_000,
        help="warn about images below this sharpness (standard deviation of the Laplacian of the "
        "gray values) as blurred",
    )
    max_bars: float = setting(
        0.1,
        ge=0,
        le=1,
        help="warn about images where uniform bars at the borders cover more than this fraction",
    )
    max_one_color: float = setting(
        0.9,
        ge=0,
        le=1,
        help="warn about images where a single color covers more than this fraction",
        former="max_one_colour",
    )
    reference: str = setting(
        "", help="validation.json of an earlier set to compare with; empty: no comparison"
    )
    max_drift: float = setting(
        0.1,
        ge=0,
        le=1,
        help="maximum Kolmogorov-Smirnov distance to the reference's distributions of "
        "brightness, contrast and sharpness",
    )
    max_class_drift: float = setting(
        0.05,
        ge=0,
        le=1,
        help="maximum total variation distance between the class distributions of the set and "
        "the reference",
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Training settings, with the names and defaults that StyleGAN users know."""

    cfg: str = setting(choices=CONFIGS, help="network architecture")
    gpus: int = setting(
        ge=1,
        le=1024,
        help="number of training processes: one per GPU; on a CPU, they share its cores",
    )
    batch: int = setting(ge=1, le=MOST_BATCH, help="images per training step, over all GPUs")
    gamma: float = setting(
        ge=0,
        le=1_000_000,
        help="weight of the R1 regularization; start with 0.5 at 128 px, 2 at 256, 8 at 512, 32 "
        "at 1024 (for batch 32)",
    )
    cond: bool = setting(False, help="train a class-conditional model; needs a labeled set")
    loss: str = setting(
        "logistic",
        choices=("logistic", "relativistic"),
        help="logistic: D scores each image, with R1; relativistic: D compares real with generated "
        "images in pairs, with R1 and R2 of weight gamma (R3GAN), against lost diversity",
    )
    class_batches: bool = setting(
        False,
        help="give all images of a step the same class, so that D sees the diversity within a "
        "class; needs --cond and classes",
    )
    mirror: bool = setting(False, help="add a horizontally flipped copy of every image")
    aug: str = setting("ada", choices=("noaug", "ada", "fixed"), help="augmentation mode")
    resume: str = setting(
        "",
        help="network to start from: a file, a URL, models:/NAME@ALIAS, runs:/ID/PATH, a name of "
        "`sg3flow networks` such as starter, or latest: the newest snapshot of the newest training "
        "in state/; empty: random weights",
    )
    resume_partial: bool = setting(
        False, help="load only the weights of --resume that fit; initialize the others randomly"
    )
    resume_arch: bool = setting(
        False, help="use the architecture of --resume instead of cbase, cmax and map-depth"
    )
    freezed: int = setting(
        0, ge=0, le=1000, help="number of discriminator layers to freeze, first to last"
    )
    p: float = setting(0.2, ge=0, le=1, help="augmentation probability with --aug fixed")
    target: float = setting(0.6, ge=0, le=1, help="ADA target value with --aug ada")
    batch_gpu: int = setting(
        0,
        ge=0,
        le=MOST_BATCH,
        words={"auto": AUTO},
        help="images per GPU in one forward pass; 0: batch / gpus; auto: as many as fit into "
        "memory",
    )
    cbase: int = setting(32768, ge=1, le=2**20, help="capacity multiplier of the networks")
    cmax: int = setting(512, ge=1, le=8192, help="maximum number of feature maps per layer")
    glr: float = setting(
        0.0, ge=0, le=1, help="generator learning rate; 0: 0.0025 (stylegan2: 0.002)"
    )
    dlr: float = setting(0.002, ge=0, le=1, help="discriminator learning rate")
    map_depth: int = setting(
        0, ge=0, le=100, help="number of mapping network layers; 0: 2 (stylegan2: 8)"
    )
    mbstd_group: int = setting(
        4, ge=1, le=MOST_BATCH, help="minibatch standard deviation group size"
    )
    desc: str = setting("", help="text to include in the run's name")
    kimg: int = setting(
        25000, ge=1, le=MOST_KIMG, help="training length in thousands of real images"
    )
    tick: int = setting(4, ge=1, le=MOST_KIMG, help="thousands of images between two reports")
    snap: int = setting(50, ge=1, le=MOST_KIMG, help="number of ticks between two snapshots")
    keep_snapshots: str = setting(
        "all",
        help="snapshots to keep: all, last N, or best N by the first of metrics; the newest, the "
        "best and registered ones always stay",
    )
    phema: tuple[str, ...] = setting(
        (),
        numbers=True,
        help="relative widths of power-function averages of G to store with each snapshot, such as "
        "0.05,0.10, for `sg3flow average --sigma-rel`; they change no number of the training",
    )
    seed: int = setting(0, ge=0, le=MOST_SEED, help="random seed of the training")
    fp32: bool = setting(False, help="train without half precision on a GPU")
    bf16: bool = setting(False, help="use bfloat16 instead of float16 for half precision")
    tf32: bool = setting(
        False,
        help="compute float32 layers on a GPU faster, with the inputs of convolutions and matrix "
        "products rounded to 10 bits (TF32)",
    )
    cudnn_benchmark: bool = setting(
        False,
        help="let cuDNN time its algorithms on a GPU and use the fastest; a repeated training "
        "may then differ in the last bits",
    )
    optimizer: str = setting(
        "fused",
        choices=("fused", "foreach", "plain"),
        help="implementation of Adam: a fused kernel, one operation at a time over all weights, "
        "or a loop over the weights; results agree up to rounding",
    )
    conv_form: str = setting(
        "auto",
        choices=("auto", "grouped", "shared"),
        help="form of modulated convolutions on a GPU; grouped: with weights of each image, "
        "shared: with scaled activations, auto: the fastest form of each convolution, measured at "
        "the start and kept; results agree up to rounding",
    )
    cuda_graphs: bool = setting(
        False,
        help="replay G and D as CUDA graphs, which saves the time of launching their kernels; "
        "needs a GPU, and more of its memory",
    )
    max_nonfinite_updates: int = setting(
        1000,
        ge=0,
        le=10**9,
        help="updates with non-finite gradients between two reports that end the training; "
        "0: no limit",
        former="max_repairs",
    )
    metrics: tuple[str, ...] = setting(
        ("none",),
        help="metrics to compute for every snapshot during training, e.g. fid50k_full; none: "
        "leave them to the evaluate stage",
    )
    workers: int = setting(
        3,
        ge=0,
        le=MOST_WORKERS,
        help="number of data loading processes, at most one per CPU; 0: load in the training "
        "process",
    )
    grid: str = setting(
        "",
        numbers=True,
        help="size of the sample grid as COLUMNSxROWS; empty: as many images as fit 8K",
    )
    device: str = setting("auto", choices=DEVICES, help="device to train on")
    notify: str = setting(
        "",
        help="http(s) URL that gets a JSON POST when the training ends, fails or raises an early "
        "warning; a URL with a secret, as of a chat webhook, is better given as SG3FLOW_NOTIFY",
    )
    held_out: str = setting(
        "",
        help="packed set of real images that the training does not see; at every tick D is "
        "compared on them and on training images, to warn of overfitting",
    )
    tensorboard: bool = setting(
        False, help="write TensorBoard event files beside the state; needs the package tensorboard"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateNetworkConfig:
    """Which metrics of a network are computed, and how."""

    metrics: tuple[str, ...] = setting(
        ("fid50k_full",),
        help="metrics to compute; each name carries its sample count, which may be any number: "
        "fid50k_full, kid10k_full, pr50k3_full, dc10k5_full, is50k, ppl2_wend, swd8k_full, "
        "mem1k_full, eqt1k_int, eqt1k_frac, eqr1k; against at most 50,000 reals: fid50k, kid50k, "
        "pr50k3; as other tools compute them: clean_fid50k_full, pytorch_fid50k_full, "
        "torch_fidelity_fid50k_full; over other detectors: fd_dinov2_5k_full, kd_dinov2_5k_full, "
        "cmmd_5k, vendi_5k, fld_5k; without pretrained weights: fd_random1k_full, "
        "kid_random1k_full, pr_random1k3_full…",
    )
    mirror: str = setting(
        "auto",
        choices=SWITCH,
        help="whether fid50k, kid50k and pr50k3 compare with flipped images, too; auto: if the "
        "training was mirrored; metrics named _full never do",
    )
    gpus: int = setting(
        1, ge=1, le=1024, help="number of processes: one per GPU; on a CPU, they share its cores"
    )
    seed: int = setting(
        0,
        ge=0,
        le=MOST_SEED,
        help="random seed of the generated images, and of the motions of equivariance metrics",
    )
    batch: int = setting(
        32, ge=1, le=MOST_BATCH, help="images per batch; affects only speed and memory"
    )
    device: str = setting("auto", choices=DEVICES, help="device to compute on")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateImagesConfig:
    """Which metrics between two sets of images are computed, and how."""

    metrics: tuple[str, ...] = setting(
        ("fid",),
        help="metrics to compute: fid, kid, pr3, dc5, is, mem, swd; as other tools compute them: "
        "clean_fid, pytorch_fid, torch_fidelity_fid; over other detectors: fd_dinov2, cmmd, vendi, "
        "fld; without pretrained weights: fd_random, kid_random…",
    )
    seed: int = setting(0, ge=0, le=MOST_SEED, help="random seed of the samples that metrics draw")
    batch: int = setting(
        32, ge=1, le=MOST_BATCH, help="images per batch; affects only speed and memory"
    )
    device: str = setting("auto", choices=DEVICES, help="device to compute on")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluateNetworkConfig):
    """Which snapshots of a run are evaluated, and which metric picks the best one."""

    snapshots: str = setting("all", choices=("all", "last"), help="snapshots to evaluate")
    best_by: str = setting(
        "", help="metric that picks the best snapshot; empty: the first of metrics"
    )


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """What the pipeline renders from the best snapshot."""

    seeds: str = setting("0-23", numbers=True, help="seeds of the image grid, e.g. 0,3-7")
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi of grid, images and video")
    class_index: int = setting(
        -1,
        ge=-1,
        le=MOST_IMAGES,
        help="class to render from a conditional model; -1: all classes in turn",
    )
    label: str = setting(
        "",
        numbers=True,
        help="instead of a class: label of a model trained with vectors, e.g. 0.5,-1; empty: "
        "labels of training images in turn",
    )
    sweep_seeds: str = setting(
        "0-5", numbers=True, help="seeds of the truncation sweep, one per row"
    )
    sweep_truncs: str = setting(
        "0,0.3,0.5,0.7,1",
        numbers=True,
        help="values of psi of the truncation sweep, one per column",
    )
    video_seeds: str = setting(
        "0-3", numbers=True, help="seeds of the keyframes, distributed over the tiles"
    )
    video_grid: str = setting("1x1", numbers=True, help="tiles of the video as COLUMNSxROWS")
    video_frames: int = setting(
        60, ge=1, le=10000, help="number of frames from one keyframe to the next"
    )
    video_fps: int = setting(30, ge=1, le=240, help="frames per second")
    device: str = setting("auto", choices=DEVICES, help="device to render on")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderOptionsConfig:
    """Options that all render commands share."""

    noise_mode: str = setting(
        "const", choices=("const", "random", "none"), help="noise inputs of StyleGAN2 networks"
    )
    translate: str = setting(
        "0,0", help="translation x,y in units of the image width; StyleGAN3 only"
    )
    rotate: float = setting(0.0, ge=-36000, le=36000, help="rotation in degrees; StyleGAN3 only")
    truncation_cutoff: int = setting(
        -1,
        ge=-1,
        le=1000,
        help="number of layers, from the first, that truncation psi applies to; -1: all",
    )
    directions: str = setting("", help="file of directions for --edit, of `sg3flow directions`")
    edit: tuple[str, ...] = setting(
        (), help="NAME=STRENGTH: move w along a direction, in units of w; may be given repeatedly"
    )
    label: str = setting(
        "", help="instead of --class: label of a network trained with vectors, e.g. 0.5,-1"
    )
    device: str = setting("auto", choices=DEVICES, help="device to render on")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderImagesConfig(RenderOptionsConfig):
    """One PNG per seed or w."""

    seeds: str = setting("", help="seeds to render, e.g. 0,3-7,2; required without --projected-w")
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderGridConfig(RenderOptionsConfig):
    """A labeled grid of images."""

    seeds: str = setting(
        "", help="seeds to render, e.g. 0,3-7,2; default: 0-23, or none with --projected-w"
    )
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")
    columns: int = setting(
        0, ge=0, le=1000, help="images per row; 0: choose a grid slightly wider than high"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSweepConfig(RenderOptionsConfig):
    """A grid of seeds and truncation values."""

    seeds: str = setting("0-5", help="seeds, one per row, e.g. 0,3-7,2")
    truncs: str = setting("0,0.3,0.5,0.7,1", help="values of psi, one per column")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderVideoConfig(RenderOptionsConfig):
    """A looping latent interpolation video."""

    seeds: str = setting(
        "",
        help="seeds of the keyframes, distributed over the tiles; default: 0-3, or none with "
        "--projected-w",
    )
    shuffle_seed: int = setting(
        -1,
        ge=-1,
        le=2**32 - 1,
        help="random seed that shuffles the keyframes; -1: keep their order",
    )
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")
    grid: str = setting("1x1", help="tiles of the video as COLUMNSxROWS")
    num_keyframes: int = setting(
        0,
        ge=0,
        le=10000,
        help="number of keyframes per tile, with the seeds repeated or cut off to fit; 0: as many "
        "as there are seeds for",
    )
    w_frames: int = setting(
        120, ge=1, le=10000, help="number of frames from one keyframe to the next"
    )
    fps: int = setting(60, ge=1, le=240, help="frames per second")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderStickingConfig(RenderOptionsConfig):
    """A column of pixels along an interpolation, which shows whether texture sticks."""

    seeds: str = setting("0-3", help="seeds of the interpolation, from the first to the last")
    frames: int = setting(
        512, ge=2, le=100_000, help="number of frames, each a column of the strip"
    )
    column: float = setting(
        0.5, ge=0, le=1, help="which column of pixels; 0: at the left, 1: at the right"
    )
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderMixConfig(RenderOptionsConfig):
    """Style mixing: the layers of rows, with some layers of columns."""

    rows: str = setting(help="seeds of the rows, e.g. 0,3-7; or a file of own w, .npz or .npy")
    cols: str = setting(help="seeds of the columns, which give the styles; or a file of own w")
    styles: str = setting(
        "0-6", help="layers that come from the columns, e.g. 4-7,9; or none, or all"
    )
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi of the seeds; 1: off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderPathConfig(RenderOptionsConfig):
    """A video along a path; other options are those of keyframes that do not give their own."""

    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")
    wrap: bool = setting(False, help="close the path: after the last keyframe, back to the first")
    w_frames: int = setting(
        0,
        ge=0,
        le=10000,
        help="number of frames from one keyframe to the next; 0: 120, or with --curve so many that "
        "the video is as long as the longest curve",
    )
    frames: int = setting(
        0, ge=0, le=1_000_000, help="number of all frames, instead of --w-frames; 0: not given"
    )
    fps: int = setting(60, ge=1, le=240, help="frames per second")


@dataclasses.dataclass(frozen=True)
class DirectionsConfig:
    """Which directions in w to look for, and how to show them."""

    method: str = setting(
        "sefa",
        choices=("sefa", "pca"),
        help="sefa: eigenvectors of the style weights; pca: principal components of w",
    )
    layers: str = setting("all", help="layers of w that the directions edit, e.g. 1-4,7")
    num: int = setting(8, ge=1, le=1024, help="number of directions, the strongest first")
    samples: int = setting(
        50_000, ge=2, le=10**7, help="number of w to sample, for pca and for the natural steps"
    )
    seed: int = setting(0, ge=0, le=MOST_SEED, help="random seed of the samples")
    seeds: str = setting("0-3", help="seeds of the images in the strips, one per row")
    steps: str = setting(
        "-3,-2,-1,0,1,2,3",
        help="strengths in the strips, one per column, in standard deviations of w along the "
        "direction",
    )
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi of the images; 1: off")
    label: str = setting(
        "", help="instead of --class: label of a network trained with vectors, e.g. 0.5,-1"
    )
    device: str = setting("auto", choices=DEVICES, help="device to compute on")


@dataclasses.dataclass(frozen=True)
class SpectraConfig:
    """Which average power spectra to compute."""

    num: int = setting(
        1000, ge=1, le=MOST_IMAGES, help="number of images of each network, and at most of each set"
    )
    beta: float = setting(8.0, ge=0, le=100, help="shape of the Kaiser window; 0: a square window")
    interp: int = setting(
        4, ge=1, le=64, help="how many times finer the frequencies are than those of the pixels"
    )
    seed: int = setting(0, ge=0, le=MOST_SEED, help="random seed of the latents")
    batch: int = setting(
        32, ge=1, le=MOST_BATCH, help="images per batch; affects speed and memory, not the values"
    )
    device: str = setting("auto", choices=DEVICES, help="device to compute on")


@dataclasses.dataclass(frozen=True)
class RegisterConfig:
    """Which registered model receives the best snapshot."""

    name: str = setting("sg3flow-generator", help="name of the registered model")
    metric: str = setting(
        "", help="metric that picks the best snapshot; empty: the choice of the evaluate stage"
    )
    gate: tuple[str, ...] = setting(
        (),
        pairs=GATE_WORDS,
        help="what a version must show to become champion, as NAME=better or NAME='not worse'; in "
        "the params file {fd_random1k_full: better, recall: not worse}; a name may be short if it "
        "fits one measured value; empty: better by the metric that picks the snapshot",
    )
    directions: str = setting(
        "",
        help="file of `sg3flow directions` to register with the model, for edits in requests; "
        "empty: none",
    )


@dataclasses.dataclass(frozen=True)
class ProjectConfig:
    """How photos are projected into the latent space of a network."""

    space: str = setting(
        "w",
        choices=PROJECTION_SPACES,
        help="w: one vector for all layers; w+: one per layer, nearer to the photo and worse to "
        "edit",
    )
    steps: int = setting(1000, ge=1, le=1_000_000, help="steps of the projection")
    lr: float = setting(0.1, ge=1e-6, le=100, help="greatest learning rate of the projection")
    loss: str = setting(
        "pixels",
        choices=PROJECTION_LOSSES,
        help="distance to the photo; pixels: squared error at several resolutions; lpips and vgg: "
        "features of VGG16, whose weights are read from the cache or downloaded (553 MB)",
    )
    noise_reg: float = setting(
        1e5,
        ge=0,
        le=1e12,
        help="weight of the regularization of StyleGAN2's noise maps; 0: do not optimize them",
    )
    pti_steps: int = setting(
        0, ge=0, le=1_000_000, help="steps of pivotal tuning afterwards, e.g. 350; 0: none"
    )
    pti_lr: float = setting(3e-4, ge=1e-9, le=1, help="learning rate of pivotal tuning")
    pti_locality: float = setting(
        0.1,
        ge=0,
        le=1e6,
        help="weight of keeping other images as they are during pivotal tuning; 0: off",
    )
    video: bool = setting(True, help="write proj.mp4, a frame per step of the projection")
    transform: str = setting(
        "center-crop",
        choices=("none", "center-crop", "center-crop-wide"),
        help="crop to apply before scaling, as in pack; none: stretch",
    )
    resolution: str = setting(
        "",
        help="with transform center-crop-wide: WIDTHxHEIGHT that the set was packed with",
    )
    background: str = setting(
        "white", help="color behind transparent parts: a color name or #RRGGBB"
    )
    label: str = setting(
        "", help="instead of --class: label of a network trained with vectors, e.g. 0.5,-1"
    )
    seed: int = setting(0, ge=0, le=MOST_SEED, help="random seed of the samples and the noise of w")
    device: str = setting("auto", choices=DEVICES, help="device to compute on")
