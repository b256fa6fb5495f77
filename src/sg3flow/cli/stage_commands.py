"""The stages as commands: each parses its options, calls the library and reports.

The scripts in ``stages/`` and the subcommands of ``sg3flow`` run the same functions. The file is
long because every stage is in it, and most of its lines declare options.
"""

import dataclasses
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli import next_steps
from sg3flow.cli.latent_render import ClassOrAll, Network, Outdir, latent_render_app
from sg3flow.cli.spectra_command import Verbose, spectra_app
from sg3flow.cli.stage_options import (
    given_arguments,
    is_given,
    one_line_errors,
    stage_app,
    stage_command,
)
from sg3flow.config import (
    MOST_WORKERS,
    EvaluateConfig,
    EvaluateImagesConfig,
    EvaluateNetworkConfig,
    FetchConfig,
    PackConfig,
    RegisterConfig,
    RenderConfig,
    RenderGridConfig,
    RenderImagesConfig,
    RenderSweepConfig,
    RenderVideoConfig,
    TrainConfig,
    ValidateConfig,
)

code_app = stage_app("")


@code_app.command()
def code(
    dest: Annotated[
        str, typer.Option(help="folder to write <stage>.txt into", metavar="<path>")
    ] = "code",
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Write digests of the code that each stage depends on."""
    with one_line_errors(debug):
        from sg3flow.output_checks import output_folder
        from sg3flow.runs.code_state import write_digests

        write_digests(output_folder(dest, "--dest"), Path.cwd())


fetch_app = stage_app("")


@stage_command(fetch_app, "fetch", FetchConfig)
def fetch(
    config: FetchConfig,
    dest: Annotated[Path, typer.Option(help="folder for the images")] = Path("data/raw"),
) -> None:
    """Fetch raw images into one folder."""
    from sg3flow.addresses import shown_url
    from sg3flow.data.fetching import check_request, fetch_images
    from sg3flow.data.raw_images import SOURCE_NAME, source_metrics
    from sg3flow.data.readers.listing import ignored_words
    from sg3flow.runs.set_names import source_name
    from sg3flow.tracking.upload_process import tracked_stage

    check_request(dest, config)  # before an MLflow run is created
    shown = dataclasses.replace(config, dataset=shown_url(config.dataset))
    set_name = source_name({"dataset": shown.dataset})
    # no password in an address
    with tracked_stage("fetch", shown, set_name=set_name) as tracking:
        source = fetch_images(dest, config)
        tracking.metrics(source_metrics(source))
        tracking.artifact(dest / SOURCE_NAME)
    ignored = f"; {ignored_words(source['ignored']['counts'])}" if "ignored" in source else ""
    print(f"{sum(source['counts'].values())} images of {source['dataset']} in {dest}{ignored}")
    next_steps.after_fetch(dest, config)


pack_app = stage_app("")


@stage_command(pack_app, "pack", PackConfig)
def pack(
    config: PackConfig,
    source: Annotated[
        Path, typer.Option(help="folder, zip, tar, Parquet file or other set of images")
    ],
    dest: Annotated[Path, typer.Option(help="packed set to write: NAME.zip or a folder")],
    manifest: Annotated[
        Path | None, typer.Option(help="manifest to write; default: NAME.manifest.parquet")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=MOST_WORKERS, help="number of processes; 0: one per CPU")
    ] = 0,
) -> None:
    """Pack images from any source."""
    from sg3flow.data.packing import check_request, pack_images
    from sg3flow.runs.set_names import fetched_set
    from sg3flow.tracking.upload_process import tracked_stage

    stem = dest.stem if dest.suffix.lower() == ".zip" else dest.name
    manifest = manifest or dest.with_name(f"{stem}.manifest.parquet")
    check_request(source, dest, manifest, config)  # before an MLflow run is created
    known = fetched_set(source, stem, config.subset)
    with tracked_stage("pack", config, set_name=known.name) as tracking:
        summary = pack_images(source, dest, manifest, config, workers=workers)
        tracking.metrics({"num_source": summary.num_source, "num_packed": summary.num_packed})
        title = known.title(summary.resolution)
        profile = summary.profile() | {"packed": stem}
        tracking.dataset(name=title, digest=summary.digest, source=str(source), profile=profile)
        tracking.artifact(manifest)
        for warning in summary.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(summary.sentence(dest))
    next_steps.after_pack(source, dest, manifest)


validate_app = stage_app("")


@stage_command(validate_app, "validate", ValidateConfig)
def validate(
    config: ValidateConfig,
    manifest: Annotated[Path, typer.Option(help="manifest written by `pack`")],
    packed: Annotated[Path, typer.Option(help="packed set to validate")],
    raw: Annotated[
        Path | None, typer.Option(help="source of the packed set, for thumbnails and its name")
    ] = None,
    report: Annotated[Path, typer.Option(help="JSON report to write")] = Path(
        "reports/validation.json"
    ),
    html: Annotated[
        Path | None, typer.Option(help="HTML report to write; default: --report with suffix .html")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=MOST_WORKERS, help="number of processes; 0: one per CPU")
    ] = 0,
) -> None:
    """Validate a packed set and its manifest."""
    from sg3flow.data.validation.checks import check_inputs, require_success, validate_packed
    from sg3flow.reports.pages import tracking_place
    from sg3flow.reports.validation_page import check_report_paths, write_reports
    from sg3flow.runs.set_names import common_side, fetched_set, pack_subset
    from sg3flow.tracking.upload_process import tracked_stage

    html = html or report.with_suffix(".html")
    check_inputs(manifest, packed, raw)  # before an MLflow run is created
    check_report_paths(report, html)
    known = fetched_set(raw, packed.stem, pack_subset(Path()))
    with tracked_stage("validate", config, set_name=known.name) as tracking:
        result = validate_packed(manifest, packed, raw, config, workers=workers)
        write_reports(result, report, html, tracking_place())
        tracking.artifact(report)
        tracking.artifact(html)
        tracking.metrics(result.metrics())
        tracking.dataset(
            name=known.title(common_side(result.summary["sizes"])),
            digest=result.summary["digest"] or "unreadable",
            source=str(packed),
            profile=result.summary | {"packed": packed.stem},
        )
        print(require_success(result, html))
    next_steps.after_validate(packed, result.summary["sizes"])


train_app = stage_app("")


@stage_command(train_app, "train", TrainConfig)
def train(
    config: TrainConfig,
    data: Annotated[Path, typer.Option(help="packed set: a zip file or a folder")],
    outdir: Annotated[Path | None, typer.Option(help="create a numbered run folder here")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="run folder to write, instead of --outdir")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="print the resolved settings and exit")
    ] = False,
    nobench: Annotated[
        bool | None,
        typer.Option(
            "--nobench/--no-nobench", help="the opposite of --cudnn-benchmark; the default"
        ),
    ] = None,
) -> None:
    """Train a GAN on a packed set."""
    from sg3flow.distributed import is_launched
    from sg3flow.errors import ConfigError
    from sg3flow.metrics.evaluation_run import check_names, snapshot_metrics
    from sg3flow.runs.snapshot_retention import check_retention
    from sg3flow.tracking.upload_process import uploading
    from sg3flow.training.job import dry_run as check
    from sg3flow.training.training_run import check_output
    from sg3flow.training.training_run import train as run_training

    if nobench is not None:
        if config.cudnn_benchmark == nobench and is_given("cudnn_benchmark"):
            raise ConfigError("--nobench and --cudnn-benchmark exclude each other; choose one")
        config = dataclasses.replace(config, cudnn_benchmark=not nobench)
    check_names(config.metrics)
    ranked_by = _ranked_by(config.metrics)
    check_retention(config.keep_snapshots, ranked_by)
    if dry_run:
        print(json.dumps(check(config, data), indent=2))
        return
    if config.gpus > 1 and not is_launched():
        from sg3flow.training.launcher import launch

        # Check here, so that an error appears once and not in every process.
        check_output(run_dir, outdir)
        check(config, data)
        launch(config.gpus, ["-m", "sg3flow", "train", *given_arguments()])
        return
    out = run_training(
        config,
        data,
        run_dir=run_dir,
        outdir=outdir,
        uploading=uploading,
        measure_for=lambda batch_gpu, packed, device: snapshot_metrics(
            config.metrics, packed, batch=batch_gpu, device=device, mirror=config.mirror
        ),
        ranked_by=ranked_by,
    )
    if out is not None:
        print(f"snapshots in {out}")
        next_steps.after_train(out, data)


def _ranked_by(metrics: tuple[str, ...]) -> tuple[str, bool] | None:
    """The value that ranks snapshots during training, and whether higher is better."""
    from sg3flow.metrics.evaluation_run import NONE
    from sg3flow.metrics.names import parse_metrics

    if metrics == (NONE,):
        return None
    return next(iter(parse_metrics(metrics)[0].outputs.items()))


evaluate_app = stage_app("")

Data = Annotated[
    Path | None,
    typer.Option(
        help="packed set to compare with: a zip file or a folder; default: the set of the training"
    ),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        help="images that the training has not seen, for fld: a folder, zip or tar file; default: "
        "every second image of the set to compare with"
    ),
]


@stage_command(evaluate_app, "evaluate", EvaluateConfig, name="snapshots")
def snapshots(
    config: EvaluateConfig,
    run: Annotated[Path, typer.Option(help="folder of the training run")] = Path("runs/train"),
    data: Data = None,
    held_out: HeldOut = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="JSON report to write, with every result; default: reports/evaluation.json"
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            help="JSON file to write with the values of the best snapshot, for dvc metrics; "
            "default: reports/metrics.json, or none with --report"
        ),
    ] = None,
    best: Annotated[
        Path | None,
        typer.Option(help="hard link or copy of the best snapshot to write; default: none"),
    ] = None,
    table: Annotated[Path, typer.Option(help="CSV table to write")] = Path("reports/metrics.csv"),
    chart: Annotated[Path, typer.Option(help="PNG of metrics against kimg to write")] = Path(
        "reports/metrics.png"
    ),
    verbose: Verbose = True,
) -> None:
    """Measure the snapshots of a training run and select the best."""
    from sg3flow.metrics.evaluation_run import Outputs, assist_evaluation, evaluate_run, plan_run
    from sg3flow.progress import progress_shown
    from sg3flow.reports.charts import metrics_chart
    from sg3flow.runs.snapshot_retention import note_best
    from sg3flow.tracking.evaluation_record import record_evaluation
    from sg3flow.tracking.upload_process import tracked_stage

    if _launched_evaluation("snapshots", config):
        return
    with progress_shown(verbose), _stopped_with_launcher():
        if report is None:
            report, summary = (
                Path("reports/evaluation.json"),
                summary or Path("reports/metrics.json"),
            )
        plan = plan_run(config, run, data, Outputs(report, table, chart, summary, best), held_out)
        if not plan.ranks.is_main_process:
            assist_evaluation(plan)
            return
        with tracked_stage("evaluate", config, training_run=run) as tracked:
            text = evaluate_run(plan, tracked, metrics_chart)
            record_evaluation(tracked, run, plan.outputs.report)
            note_best(run, json.loads(report.read_text(encoding="utf-8")))
            print(text)
        next_steps.after_evaluate(run, report)


@stage_command(evaluate_app, "network", EvaluateNetworkConfig, params=False)
def network(
    config: EvaluateNetworkConfig,
    network: Annotated[str, typer.Option(help="network: file, URL, models:/…, runs:/… or name")],
    data: Data = None,
    held_out: HeldOut = None,
    report: Annotated[Path | None, typer.Option(help="JSON report to write")] = None,
    verbose: Verbose = True,
) -> None:
    """Measure one network from a file, URL, registry or run."""
    from sg3flow.metrics.evaluation_run import evaluate_one
    from sg3flow.progress import progress_shown

    if _launched_evaluation("network", config):
        return
    with progress_shown(verbose), _stopped_with_launcher():
        if text := evaluate_one(config, network, data, report, held_out):
            print(text)


def _launched_evaluation(name: str, config: EvaluateNetworkConfig) -> bool:
    """Run the command in several processes if ``gpus`` says so; returns whether it did."""
    from sg3flow.distributed import is_launched
    from sg3flow.metrics.evaluation_run import check_processes

    check_processes(config.gpus, config.device)
    if config.gpus == 1 or is_launched():
        return False
    from sg3flow.training.launcher import launch

    launch(config.gpus, ["-m", "sg3flow", "evaluate", name, *given_arguments()])
    return True


def _stopped_with_launcher() -> AbstractContextManager[None]:
    """End this process with the launcher that started it, if one did."""
    from sg3flow.settings import LAUNCHED

    if not LAUNCHED.is_set():
        return nullcontext()
    from sg3flow.training.launcher import stop_with_parent

    return stop_with_parent()


@stage_command(evaluate_app, "images", EvaluateImagesConfig, params=False)
def image_sets(
    config: EvaluateImagesConfig,
    a: Annotated[Path, typer.Option(help="images to measure: a folder, zip or tar file")],
    b: Annotated[Path, typer.Option(help="images to compare with: a folder, zip or tar file")],
    held_out: HeldOut = None,
    report: Annotated[Path | None, typer.Option(help="JSON report to write")] = None,
    verbose: Verbose = True,
) -> None:
    """Measure one set of images against another, each of any size."""
    from sg3flow.metrics.evaluation_run import evaluate_images
    from sg3flow.progress import progress_shown

    with progress_shown(verbose):
        print(evaluate_images(config, a, b, report, held_out))


evaluate_app.registered_commands += spectra_app.registered_commands

render_app = stage_app("")

ClassOrNone = Annotated[
    int | None, typer.Option("--class", min=0, help="class of a conditional network")
]
ProjectedW = Annotated[
    Path | None,
    typer.Option(
        "--projected-w",
        "--w",
        help="own w instead of seeds: .npz with the key w, as of projection, or .npy; drawn as "
        "they are, without truncation, class or label",
    ),
]


@stage_command(render_app, "images", RenderImagesConfig, params=False)
def images(
    config: RenderImagesConfig,
    network: Network,
    outdir: Outdir,
    class_index: ClassOrNone = None,
    projected_w: ProjectedW = None,
) -> None:
    """Write a PNG per seed or own w.

    Names are seed0002.png and so on for seeds, proj00.png and so on for own w.
    """
    if projected_w is not None:
        from sg3flow.rendering.w_outputs import render_w_images

        paths = render_w_images(network, outdir, config, projected_w, class_index)
    else:
        from sg3flow.rendering.outputs import render_images

        paths = render_images(network, outdir, config, class_index)
    print(f"{len(paths)} images in {outdir}, the last is {paths[-1].name}")


@stage_command(render_app, "grid", RenderGridConfig, params=False)
def grid(
    config: RenderGridConfig,
    network: Network,
    outdir: Outdir,
    class_index: ClassOrAll = None,
    projected_w: ProjectedW = None,
) -> None:
    """Write grid.png: images labeled with their seeds, or of own w."""
    if projected_w is not None:
        from sg3flow.rendering.w_outputs import render_w_grid

        print(render_w_grid(network, outdir, config, projected_w, class_index))
        return
    from sg3flow.rendering.outputs import render_grid

    print(render_grid(network, outdir, config, class_index))


@stage_command(render_app, "sweep", RenderSweepConfig, params=False)
def sweep(
    config: RenderSweepConfig, network: Network, outdir: Outdir, class_index: ClassOrAll = None
) -> None:
    """Write truncation.png: one row per seed, one column per psi."""
    from sg3flow.rendering.outputs import render_sweep

    print(render_sweep(network, outdir, config, class_index))


@stage_command(render_app, "video", RenderVideoConfig, params=False)
def video(
    config: RenderVideoConfig,
    network: Network,
    outdir: Annotated[
        Path | None, typer.Option(help="folder to write interpolation.mp4 into")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="video to write, FILE.mp4, instead of --outdir")
    ] = None,
    class_index: ClassOrAll = None,
    projected_w: ProjectedW = None,
) -> None:
    """Write an MP4 file: a loop through seeds, or through own w."""
    from sg3flow.rendering.outputs import render_video, video_path

    path = video_path(outdir, output)
    if projected_w is not None:
        from sg3flow.rendering.w_outputs import render_w_video

        print(render_w_video(network, path, config, projected_w, class_index))
        return
    print(render_video(network, path, config, class_index))


@stage_command(render_app, "render", RenderConfig, name="best")
def best(
    config: RenderConfig,
    run: Annotated[Path, typer.Option(help="folder of the training run")] = Path("runs/train"),
    metrics: Annotated[
        Path, typer.Option(help="report of `evaluate`, or the summary beside it")
    ] = Path("reports/metrics.json"),
    outdir: Annotated[Path, typer.Option(help="folder to replace")] = Path("renders"),
) -> None:
    """Render all outputs of the stage from the best snapshot of a run."""
    from sg3flow.rendering.outputs import render_best
    from sg3flow.tracking.upload_process import tracked_stage

    with tracked_stage("render", config, training_run=run) as tracking:
        content = render_best(run, metrics, outdir, config)
        for path in sorted(outdir.iterdir()):
            tracking.artifact(path, "renders")
        tracking.training_image(outdir / "grid.png", key="render/grid", kimg=content["kimg"])
    print(f"images of {content['snapshot']} in {outdir}")
    next_steps.after_render(run, metrics)


render_app.registered_commands += latent_render_app.registered_commands

register_app = stage_app("")


@stage_command(register_app, "register", RegisterConfig)
def register(
    config: RegisterConfig,
    run: Annotated[Path, typer.Option(help="folder of the training run")] = Path("runs/train"),
    metrics: Annotated[
        Path, typer.Option(help="report of `evaluate`, or the summary beside it")
    ] = Path("reports/metrics.json"),
    report: Annotated[Path, typer.Option(help="JSON report to write")] = Path(
        "reports/registered.json"
    ),
) -> None:
    """Register the best snapshot as a model that MLflow can serve.

    The alias `champion` changes only if the new version passes the gate against the current
    champion: by default, if it is better.
    """
    from sg3flow.errors import TrackingError
    from sg3flow.registry.registration import register_best
    from sg3flow.runs.snapshot_retention import note_registered

    try:
        content = register_best(run, metrics, report, config)
    except TrackingError as error:  # unlike tracking, registration cannot be deferred
        raise TrackingError(f"{error}; then run the same command again") from error
    note_registered(run, content)
    print(f"{content['name']}: {content['note']}; {content['decision']}")
    if len(content["verdicts"]) > 1:
        for verdict in content["verdicts"]:
            print(f"{'passed' if verdict['passed'] else 'failed'}: {verdict['text']}")
    if content["warning"]:
        print(f"note: {content['warning']}", file=sys.stderr)
    next_steps.after_register(content["name"], str(content["version"]), content["aliases"])
