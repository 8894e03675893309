"""How `RewardModelTrainer` publishes: as `rm-toolkit push` does, and never at the cost of the trained model."""

from __future__ import annotations

import shlex
from pathlib import Path

from tqdm.auto import tqdm

from ..errors import InputError


class PublishMixin:
    """`push_to_hub` for [`~rm_toolkit.training.trainer.RewardModelTrainer`]; of a run only its result is published."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        Finds out before the first step whether the token may write to the repository, and makes it.

        Raises:
            `InputError`: if the Hub refuses. A Hub that cannot be reached is no reason not to train.
        """
        from ..hub.repository import Repository, Unreachable

        if self.args.hub_strategy not in ("every_save", "end"):
            raise InputError(
                f"`hub_strategy` is '{self.args.hub_strategy.value}'; checkpoints are not published, only the result of "
                "the run. Leave it out."
            )
        if not self.is_world_process_zero():
            return
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        private = private if private is not None else self.args.hub_private_repo
        try:
            repository = Repository(
                self.hub_model_id, revision=self.args.hub_revision, token=token or self.args.hub_token
            )
            self.hub_model_id = repository.repo_id
            repository.open(private)
        except Unreachable as error:
            tqdm.write(f"Not ready to publish yet, training all the same: {error}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: a checkpoint is there to resume from, and holds pickles."""

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | None:
        """
        Saves the model and its results, and publishes them, see [`publish`].

        Args:
            commit_message, token, revision, private (*optional*): As in [`publish`].
            blocking: Not used; the upload ends before this returns.
        """
        self.save_model(_internal_call=True)
        self.save_results()
        return self.publish(commit_message, token=token, revision=revision, private=private)

    def publish(
        self,
        message: str | None = None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | None:
        """
        Publishes what was saved, as `rm-toolkit push` does.

        Args:
            message (`str`, *optional*): Commit message.
            token, revision, private (*optional*): Default to `hub_token`, `hub_revision`, `hub_private_repo`.

        Returns:
            `str`: Address of the commit, on the main process.

        Raises:
            `InputError`: if it cannot be published; it says where the model is and how to try again.
        """
        if not self.is_world_process_zero():
            return None
        from ..hub import push_model

        repo_id = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        revision = revision or self.args.hub_revision
        private = private if private is not None else self.args.hub_private_repo
        options = {"revision": revision, "token": token or self.args.hub_token, "message": message}
        try:
            return push_model(self.args.output_dir, repo_id, private=private, **options)
        except InputError as error:
            command = ["rm-toolkit", "push", "--model", self.args.output_dir, "--repo-id", repo_id]
            command += ["--private"] if private else []
            command += ["--revision", revision] if revision else []
            raise InputError(
                f"the model is trained and saved in {self.args.output_dir}, but not published: {error}\n"
                f"To try again without training: {shlex.join(command)}"
            ) from error
