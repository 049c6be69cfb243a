"""A run from spec to report: check, plan, train under Ray Train, evaluate, track, end honestly."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from orchestrator.control.announce import announce, end_tags, note_begin, write_run
from orchestrator.control.ending import cause_line, deliver_end, reraise, write_end
from orchestrator.control.prepare import prepare
from orchestrator.control.prepared import Prepared, RunOutcome, Status
from orchestrator.control.ray_train.session import Session, ray_session
from orchestrator.control.stop_request import StopRequest
from orchestrator.control.supervision import Follower, see_through
from orchestrator.control.zero_shot import score_epochs, score_final_model
from orchestrator.evaluation.score import Score
from orchestrator.run.folder import check_resumable, clear_left_writes, run_lock
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from orchestrator.tracking.run_tracking import RunTracking, open_tracking
from orchestrator.view.live import LiveView


def run_job(
    job: JobSpec,
    profile: Profile,
    view: LiveView,
    patience_s: float = 0.0,
    on_start: Callable[[], None] | None = None,
    session: Session | None = None,
    began_s: float | None = None,
) -> RunOutcome:
    """Start or resume a run and see it to its end.

    patience_s: how long an earlier controller may take to end. on_start: called when every check has passed and the run
    is locked, before anything is written. session: of an embedded Ray, begun ahead. began_s: seconds since 1970 at
    which the command began that does only this; None: it begins now.

    Raises:
        UserError: bad input; nothing was started.
    """
    began_s = time.time() if began_s is None else began_s
    prepared = prepare(job, profile)
    directory = prepared.directory
    with StopRequest().installed() as stop:
        if not prepared.resumes:
            directory.path.mkdir(parents=True, exist_ok=True)
        with run_lock(directory, patience_s):
            # An earlier controller may have gone on until now, to the end even.
            check_resumable(directory, job, prepared.store.fingerprint)
            if on_start is not None:
                on_start()
            clear_left_writes(directory)
            write_run(prepared)
            tracking = open_tracking(directory, prepared.tracking_uri, job, profile.storage.runs, view.say)
            note_begin(directory, tracking.outbox, profile.launcher, began_s)
            return Controller(prepared, tracking, view, stop, session).run()


class Controller:
    """A run whose folder is there, to its end."""

    def __init__(
        self,
        prepared: Prepared,
        tracking: RunTracking,
        view: LiveView,
        stop: StopRequest,
        session: Session | None = None,
    ) -> None:
        self._prepared, self._tracking, self._view, self._stop = prepared, tracking, view, stop
        self._session = session
        self._directory = prepared.directory
        self._follower = Follower(self._directory, tracking.outbox, view)

    def run(self) -> RunOutcome:
        """The whole run; whatever happens, ``state.json`` and MLflow say how it ended.

        Raises:
            UserError: the run failed of what a user can mend.
            BaseException: a defect.
        """
        try:
            try:
                outcome = self._train_and_evaluate()
            finally:
                # Inside the other one, so that no signal in between is missed and leaves the state at RUNNING.
                self._stop.past_interrupting()
        except KeyboardInterrupt:
            outcome = self._outcome("KILLED", cause="interrupted")
        except BaseException as error:
            self._try(self._follow)
            cause = self._follower.all_causes(cause_line(error, self._follower.last_failure))
            outcome = self._outcome("FAILED", cause=cause)
            self._end(outcome)
            reraise(error, cause)
            return outcome
        return self._end(outcome)

    def _train_and_evaluate(self) -> RunOutcome:
        of, directory = self._prepared, self._directory
        directory.update_state(
            status="RUNNING",
            cause=None,
            store_fingerprint=of.store.fingerprint,
            published_sets=of.on_published_sets,
            caveats=list(of.caveats),
        )
        later = f"tracking is offline: MLflow gets what is kept there by wavetrain sync {of.job.name}"
        where = later if of.job.tracking.offline else f"tracking in {of.tracking_uri}"
        self._view.say(f"run {of.job.name} in {directory.path}; {where}")
        if of.initial is not None:
            self._view.say(of.initial.line)
        with ThreadPoolExecutor(1) as beside:
            announced = beside.submit(self._announce)
            with ray_session(of.job, of.profile, self._session):
                announced.result()
                trained = self._train()
                for path in directory.profile.glob("[!.]*"):
                    self._tracking.outbox.artifact(path, "profile")
                if trained != "finished":
                    return self._outcome("KILLED", cause="stopped by signal; the same command resumes it")
                scores = score_final_model(
                    of, self._tracking.outbox, self._view.say, self._is_stopped, self._follower.left_out
                )
                if scores is None:
                    return self._outcome("KILLED", cause="stopped during evaluation; the same command goes on")
                self._stop.past_sigterm()
        if of.job.tracking.register_model:
            name = f"{of.job.tracking.experiment}-{of.job.model.name}"
            self._tracking.register_model(directory.export, name, of.example_shape)
        return self._outcome("FINISHED", scores=scores)

    def _announce(self) -> None:
        """To MLflow, which takes as long to connect as Ray to start: both go on at a time."""
        # A run that is under way goes on without MLflow; a new one is not started where none answers.
        self._tracking.start(required=not self._prepared.under_way)
        announce(self._prepared, self._tracking.outbox)

    def _train(self) -> str:
        """Run the worker group to its end; ``finished`` or ``stopped``."""
        if self._is_stopped():
            # It was asked to while Ray came up: ranks would only save what they have loaded.
            return "stopped"
        # Importing Ray Train takes seconds that a refused job shall not cost.
        from orchestrator.control.ray_train.trainer import make_worker_group

        see_through(
            make_worker_group(self._prepared.job, self._prepared.profile, self._directory),
            score_epochs(self._prepared, self._tracking.outbox, self._view.say),
            follow=self._follow,
            is_stopped=self._is_stopped,
            can_save=self._follower.can_save,
            stop_request=self._directory.stop_request,
            view=self._view,
        )
        return self._follower.outcome

    def _is_stopped(self) -> bool:
        return self._stop.signal is not None

    def _follow(self) -> None:
        self._follower.follow()
        self._tracking.follow()

    def _outcome(self, status: Status, cause: str | None = None, scores: Sequence[Score] = ()) -> RunOutcome:
        of = self._prepared
        return RunOutcome(
            status,
            self._directory,
            of.tracking_uri,
            cause=cause,
            scores=list(scores),
            shot=of.job.data.shot,
            caveats=of.caveats,
            signal=self._stop.signal,
            is_offline=of.job.tracking.offline,
        )

    def _end(self, outcome: RunOutcome) -> RunOutcome:
        self._try(self._follow)
        self._try(self._follower.close)
        write_end(outcome, self._view)
        self._view.close()
        tags = end_tags(self._prepared, outcome, self._view.progress, self._follower.failures)
        return replace(
            outcome, is_kept=deliver_end(outcome, tags, self._tracking, self._view, lambda: self._stop.is_hurried)
        )

    def _try(self, action: Callable[[], None]) -> None:
        """Do it as far as that goes (the disk may be full): the run ends for another reason."""
        try:
            action()
        except Exception as error:
            self._view.say(f"warning: {cause_line(error)}")
