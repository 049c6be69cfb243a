"""A run from spec to report: check, plan, train under Ray Train, evaluate, track, end honestly."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from channels.errors import UserError
from channels.files import write_json
from orchestrator.control import preflight, provenance
from orchestrator.control.background import Background
from orchestrator.control.description import describe_result, describe_run
from orchestrator.control.epoch_scores import EpochScores
from orchestrator.control.failure_policy import describe, describe_all
from orchestrator.control.prepare import prepare
from orchestrator.control.prepared import Prepared, RunOutcome, Status
from orchestrator.control.ray_session import ray_session
from orchestrator.control.ray_train import make_trainer
from orchestrator.control.scoring import Scoring, keep_if_best, start_scoring
from orchestrator.evaluation.score import Score
from orchestrator.evaluation.table import to_metrics
from orchestrator.report.plan import describe_plan
from orchestrator.report.results import write_results
from orchestrator.run.events import read_events
from orchestrator.run.failures import is_fatal, root_cause
from orchestrator.run.folder import check_resumable, run_lock
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from orchestrator.tracking.mlflow_run import artifact_root
from orchestrator.tracking.model_registry import register_model, smallest_shape
from orchestrator.tracking.outbox import Delivery, DeliveryThread, Outbox
from orchestrator.view.live import LiveView

POLL_S = 0.3
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""


class StopRequest:
    """Turns SIGINT and SIGTERM into a request; the second signal interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Handle the signals for the time of a ``with``."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_job(
    job: JobSpec, profile: Profile, view: LiveView, patience_s: float = 0.0, on_start: Callable[[], None] | None = None
) -> RunOutcome:
    """Start or resume a run and see it to its end.

    patience_s: how long an earlier controller may take to end. on_start: called when every check has passed and the run
    is locked, before anything is written.

    Raises:
        UserError: bad input; nothing was started.
    """
    prepared = prepare(job, profile)
    with StopRequest().installed() as stop:
        if not prepared.resumes:
            prepared.directory.path.mkdir(parents=True, exist_ok=True)
        with run_lock(prepared.directory, patience_s):
            # An earlier controller may have gone on until now, to the end even.
            check_resumable(prepared.directory, job, prepared.store.fingerprint)
            if on_start is not None:
                on_start()
            return _Controller(prepared, view, stop).run()


class _Controller:
    def __init__(self, prepared: Prepared, view: LiveView, stop: StopRequest) -> None:
        self.prepared = prepared
        self.directory = prepared.directory
        self.view = view
        self.stop = stop
        state = self.directory.read_state()
        self.attempts = int(state.get("attempts", 0))
        self.failures: list[dict[str, Any]] = state.get("failures", [])
        self.known_failures = len(self.failures)
        _, self.failures_offset = read_events(self.directory.failures)
        self.machines: list[str] = []
        self.is_tracking = True

    def run(self) -> RunOutcome:
        """The whole run; whatever happens, MLflow and ``state.json`` say how it ended."""
        self._write_run()
        self.outbox = Outbox(self.directory)
        self.tracking = self._start_tracking()
        self.tracking.start()
        self._tell_what_runs()
        _, self.offset = read_events(self.directory.events)
        try:
            outcome = self._train_and_evaluate()
        except KeyboardInterrupt:
            outcome = self._outcome("KILLED", cause="interrupted")
        except BaseException as error:
            cause = root_cause(error)
            self._follow_to_the_end()
            failed = self._outcome("FAILED", cause=self._all_causes(_one_line(cause)))
            self._end(failed)
            if isinstance(cause, UserError):
                raise UserError(str(failed.cause)) from None
            if is_fatal(error) or type(error).__module__.startswith("ray."):
                return failed
            raise
        self._end(outcome)
        return outcome

    def _train_and_evaluate(self) -> RunOutcome:
        job, profile = self.prepared.job, self.prepared.profile
        workers = preflight.local_workers(job, profile)
        gpus = workers if profile.device == "cuda" else 0
        with ray_session(profile, cpus=workers * profile.cpus_per_worker, gpus=gpus):
            ended = self._train()
            for path in self.directory.profile.glob("[!.]*"):
                self.outbox.artifact(path, "profile")
            if ended != "finished":
                return self._outcome("KILLED", cause="stopped by signal; the same command resumes it")
            scores = self._evaluate()
        if scores is None:
            return self._outcome("KILLED", cause="stopped during evaluation; the same command goes on")
        for path in write_results(scores, self.directory.results):
            self.outbox.artifact(path, "results")
        self._register()
        return self._outcome("FINISHED", scores=scores)

    def _write_run(self) -> None:
        self.directory.stop_request.unlink(missing_ok=True)
        write_json(self.directory.spec, self.prepared.job.model_dump(mode="json"))
        prepared = self.prepared
        ranks = prepared.job.scale.most
        description = describe_plan(prepared.catalogue, prepared.schedule.plan, prepared.schedule, ranks)
        write_json(self.directory.plan, description)
        self.directory.update_state(status="RUNNING", cause=None, store_fingerprint=self.prepared.store.fingerprint)

    def _start_tracking(self) -> DeliveryThread:
        prepared, job = self.prepared, self.prepared.job
        self.view.say(f"run {job.name} in {self.directory.path}; tracking in {prepared.tracking_uri}")
        artifacts = artifact_root(prepared.profile.storage.runs, job.tracking.experiment)
        delivery = Delivery(self.directory, prepared.tracking_uri, job.tracking.experiment, artifacts, job.name)
        try:
            tracker = delivery.connect()
            self.directory.update_state(mlflow_run_id=tracker.run_id, mlflow_experiment_id=tracker.experiment_id)
        except UserError as error:
            if not prepared.resumes:
                self.directory.update_state(status="FAILED", cause=str(error))
                raise
            self.view.say(f"{error}; training goes on, what MLflow misses is kept and sent later")
        return DeliveryThread(delivery)

    def _tell_what_runs(self) -> None:
        """Parameters, tags, data and files that are known before training."""
        prepared, job, outbox = self.prepared, self.prepared.job, self.outbox
        outbox.parameters(job.model_dump(mode="json"))
        outbox.tags(provenance.tags(job, prepared.profile, prepared.schedule.plan.fingerprint))
        outbox.tags(provenance.launch_tags(self.directory))
        outbox.tags({NOTE: self._describe("running.")})
        provenance.log_inputs(outbox, job, prepared.store)
        outbox.metrics({"data/plan_padding_ratio": prepared.schedule.plan.padding}, step=0, time_s=time.time())
        script = provenance.launch_script(self.directory)
        written = provenance.write_artifacts(prepared.schedule.plan, prepared.catalogue, self.directory)
        files = [self.directory.spec, self.directory.plan, *written]
        for path in [*files, script] if script else files:
            outbox.artifact(path)

    def _describe(self, result: str) -> str:
        of = self.prepared
        return describe_run(
            of.job, of.profile.device, of.store.path.name, of.catalogue, of.schedule, len(of.zeroshot), result
        )

    def _score(self, export: Path, *, beside_training: bool) -> Scoring:
        of = self.prepared
        return start_scoring(of.job, of.profile, of.store.path, of.zeroshot, export, beside_training=beside_training)

    def _train(self) -> str:
        """Run the worker group to its end; ``finished`` or ``stopped``."""
        trainer = make_trainer(
            self.prepared.job, self.prepared.profile, self.directory, dashboard=self.prepared.profile.launcher == "ray"
        )
        self.ended = "stopped"
        scores = EpochScores(self.directory, partial(self._score, beside_training=True), self.outbox, self.view.say)
        fit = Background(trainer.fit)
        fit.start()
        while fit.is_alive():
            fit.join(POLL_S)
            self._follow()
            scores.poll()
            if self.stop.signal is not None and not self.directory.stop_request.exists():
                self.directory.stop_request.touch()
                self.view.say("stopping: a checkpoint is written after the current step (again to interrupt at once)")
        self._follow()
        self.view.close()
        fit.reraise()
        while self.stop.signal is None and scores.poll(POLL_S):
            pass
        scores.cancel()
        return self.ended

    def _follow(self) -> None:
        events, self.offset = read_events(self.directory.events, self.offset)
        for event in events:
            if event["kind"] == "attempt":
                self.attempts += 1
                self.machines = event["rank_machines"]
                self.directory.update_state(attempts=self.attempts)
                self.outbox.tags(provenance.attempt_tags(event, self.attempts))
            elif event["kind"] == "end":
                self.ended = event["outcome"]
        self.view.update(events)
        self._follow_failures()
        self._follow_tracking()

    def _follow_tracking(self) -> None:
        """Say once that MLflow does not take what it is sent, and once that it does again."""
        problem = self.tracking.problem
        if (problem is None) == self.is_tracking:
            return
        self.is_tracking = problem is None
        self.view.say(
            "MLflow answers again" if problem is None
            else f"MLflow does not answer ({problem}); training goes on, what it misses is kept and sent later"
        )  # fmt: skip

    def _follow_failures(self) -> None:
        events, self.failures_offset = read_events(self.directory.failures, self.failures_offset)
        for event in events:
            failure = event["failure"]
            if failure["rank"] is not None and failure["rank"] < len(self.machines):
                failure["node"] = self.machines[failure["rank"]]
            self.failures.append(failure)
            self.directory.update_state(failures=self.failures)
            then = f"; again in {event['wait_s']:g} s" if event["retry"] else ""
            self.view.say(f"attempt {self.attempts} failed{then}: {describe(failure)}")

    def _all_causes(self, cause: str) -> str:
        """The last cause, and where it was not the first one, those of all attempts."""
        failures = self.failures[self.known_failures :]
        return f"{cause}; all of them: {describe_all(failures)}" if len(failures) > 1 else cause

    def _evaluate(self) -> list[Score] | None:
        """Score every held-out set, one Ray task each; None when asked to stop."""
        prepared = self.prepared
        if not prepared.zeroshot:
            return []
        self.view.say(f"evaluating {len(prepared.zeroshot)} zero-shot sets")
        scoring = self._score(self.directory.export, beside_training=False)
        while (scores := scoring.poll(POLL_S)) is None:
            if self.stop.signal is not None:
                return None
        step = self.prepared.schedule.total_steps
        self.directory.update_state(evaluation_s=round(scoring.seconds, 3))
        seconds = {"time/evaluation_s": scoring.seconds}
        self.outbox.metrics(to_metrics(scores) | seconds, step=step, time_s=time.time())
        if prepared.job.evaluation.every_epochs is not None:
            keep_if_best(self.directory, self.directory.export, scores, step)
        return scores

    def _register(self) -> None:
        """Put the model into the registry; the run's folder has it anyway, so a refusal is told and no more."""
        prepared, job = self.prepared, self.prepared.job
        if not job.tracking.register_model:
            return
        name, shape = f"{job.tracking.experiment}-{job.model.name}", smallest_shape(prepared.store)
        try:
            run_id = self.tracking.delivery.connect().run_id
            version = register_model(prepared.tracking_uri, run_id, self.directory.export, name, shape)
        # MLflow, its database or its artifact store may raise anything here; the trained model is safe by now.
        except Exception as error:
            self.view.say(f"warning: the model is not registered ({_one_line(error)})")
            return
        self.outbox.tags({"model.version": f"{name}/{version}"})

    def _outcome(self, status: Status, cause: str | None = None, scores: list[Score] | None = None) -> RunOutcome:
        return RunOutcome(
            status=status,
            directory=self.directory,
            tracking_uri=self.prepared.tracking_uri,
            cause=cause,
            scores=scores or [],
            signal=self.stop.signal,
        )

    def _follow_to_the_end(self) -> None:
        """Take in what is left; where the disk is full, as far as that goes: the cause of the end is another one."""
        try:
            self._follow()
        except (OSError, UserError) as error:
            self.view.say(f"warning: {error}")

    def _end(self, outcome: RunOutcome) -> None:
        self._follow_to_the_end()
        self.view.close()
        result = describe_result(outcome.status, self.view.progress, outcome.scores, outcome.cause)
        tags = {"wavetrain.cause": outcome.cause or "none", NOTE: self._describe(result)}
        if self.failures:
            tags["wavetrain.failures"] = describe_all(self.failures)
        is_kept = self._keep_end(tags, outcome.status)
        problem = self.tracking.finish()
        if not is_kept:
            problem = self.tracking.end_directly(tags, outcome.status) or problem
        try:
            self.directory.update_state(status=outcome.status, cause=outcome.cause, tracking_problem=problem)
        except (OSError, UserError) as error:
            self.view.say(f"warning: the run's state cannot be written ({error})")
        if problem is not None:
            name = self.directory.path.name
            self.view.say(f"MLflow lacks the end of this run ({problem}); when it answers: wavetrain sync {name}")
        self.directory.stop_request.unlink(missing_ok=True)

    def _keep_end(self, tags: dict[str, str], status: Status) -> bool:
        """Put the end into the outbox; whether the disk had room for it."""
        try:
            self.outbox.tags(tags)
            self.outbox.end(status)
            self.outbox.close()
        except (OSError, UserError) as error:
            self.view.say(f"warning: the end of the run is not kept for MLflow, only told ({error})")
            with suppress(OSError, UserError):
                self.outbox.close()
            return False
        return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"[:2000]
